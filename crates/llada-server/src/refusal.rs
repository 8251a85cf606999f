//! Why a request is not answered, and the status codes: here and nowhere else.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A request that is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    message: String,
    /// The field at fault.
    param: Option<String>,
    code: Option<&'static str>,
}

/// What sort of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Invalid,
    Unauthorized,
    NotFound,
    WrongMethod,
    SlowBody,
    TooLarge,
    NotJson,
    Busy,
    Fault,
    Unavailable,
    Timeout,
}

impl Kind {
    /// Returns the status and OpenAI's word for the type of error.
    fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid => (StatusCode::BAD_REQUEST, "invalid_request_error"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "authentication_error"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found_error"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error"),
            Self::SlowBody => (StatusCode::REQUEST_TIMEOUT, "invalid_request_error"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
            Self::Fault => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable_error"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout_error"),
        }
    }

    /// Returns after how many seconds it is worth to come again.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::Busy => Some(1),
            Self::Unavailable => Some(2),
            _ => None,
        }
    }
}

impl Refusal {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// A field that cannot be honoured; `problem` goes on after its name.
    pub(crate) fn field(param: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self {
            param: Some(param.clone()),
            ..Self::new(Kind::Invalid, format!("`{param}` {problem}"))
        }
    }

    pub(crate) fn about(self, param: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..self
        }
    }

    fn coded(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    pub(crate) fn fault() -> Self {
        Self::new(
            Kind::Fault,
            "the engine failed while it wrote this answer; it starts anew, so try again",
        )
        .coded("engine_failed")
    }

    pub(crate) fn timeout() -> Self {
        Self::new(
            Kind::Timeout,
            "the answer took longer than the server allows; ask for fewer tokens",
        )
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(Kind::Unavailable, "the server is shutting down").coded("shutting_down")
    }

    pub(crate) fn busy() -> Self {
        Self::new(
            Kind::Busy,
            "too many requests wait for this model; come again later",
        )
        .coded("queue_full")
    }

    pub(crate) fn loading(name: &str, stage: &str) -> Self {
        let message = format!("model `{name}` is not ready: {stage}");
        Self::new(Kind::Unavailable, message).coded("model_loading")
    }

    pub(crate) fn lost(name: &str, reason: &str) -> Self {
        let message = format!("model `{name}` cannot be served: {reason}");
        Self::new(Kind::Unavailable, message).coded("model_failed")
    }

    pub(crate) fn no_model(name: &str, known: &[&str]) -> Self {
        let known = known.join("`, `");
        let message = format!("`model` names `{name}`, which is not served; expected `{known}`");
        Self::new(Kind::NotFound, message)
            .about("model")
            .coded("model_not_found")
    }

    /// Returns the object that clients read.
    pub(crate) fn body(&self) -> Value {
        let (_, word) = self.kind.status();
        json!({ "error": {
            "message": self.message,
            "type": word,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, _) = self.kind.status();
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.kind.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<llada_request::Error> for Refusal {
    fn from(error: llada_request::Error) -> Self {
        let refusal = Self::new(Kind::Invalid, error.to_string());
        match error {
            llada_request::Error::Field { field, .. } => refusal.about(field),
            _ => refusal,
        }
    }
}

impl From<llada_text::Error> for Refusal {
    fn from(error: llada_text::Error) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}

impl From<llada_engine::Error> for Refusal {
    fn from(error: llada_engine::Error) -> Self {
        use llada_engine::Error;
        let refusal = Self::new(Kind::Invalid, error.to_string());
        match error {
            Error::Field { field, .. } | Error::UnknownId { field, .. } => refusal.about(field),
            Error::EmptyPrompt => refusal.about("prompt"),
            Error::Context { .. } => refusal.about("max_tokens").coded("context_length_exceeded"),
            Error::Memory(_) | Error::Recorded { .. } => Self {
                kind: Kind::Fault,
                ..refusal
            },
            // Whatever else there is, the request asked for: penalties beyond all numbers, a grammar
            // that leaves no token, a text longer than the memory for it.
            _ => refusal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_in_the_message_and_beside_it() {
        let refusal = Refusal::field("top_p", "is 7; expected at most 1");
        let body = refusal.body();
        assert_eq!(body["error"]["param"], "top_p");
        assert_eq!(body["error"]["message"], "`top_p` is 7; expected at most 1");
    }

    #[test]
    fn only_those_who_may_succeed_later_are_told_when() {
        let retry = |refusal: Refusal| {
            let response = refusal.into_response();
            response.headers().contains_key(header::RETRY_AFTER)
        };
        assert!(retry(Refusal::busy()));
        assert!(retry(Refusal::loading("a", "reading weights")));
        assert!(!retry(Refusal::field("n", "is 0")));
    }
}
