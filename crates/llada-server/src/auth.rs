//! API keys.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::{Choice, ConstantTimeEq};

use crate::refusal::{Kind, Refusal};

/// The keys that open the server; with none of them it is open.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<String>);

impl ApiKeys {
    /// Reads keys, one per line; empty lines are skipped.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        Self(
            lines
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Returns whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the header `Authorization: Bearer KEY`. How long that takes tells nothing of a key but
    /// its length.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
        let Some(given) = given else {
            return Err(refusal(
                "no API key; send the header `Authorization: Bearer KEY`",
            ));
        };
        let equal = |key: &String| key.as_bytes().ct_eq(given);
        let known = self.0.iter().map(equal).fold(Choice::from(0), |a, b| a | b);
        match bool::from(known) {
            true => Ok(()),
            false => Err(refusal("the API key is not known")),
        }
    }
}

fn refusal(message: &str) -> Refusal {
    Refusal::new(Kind::Unauthorized, message)
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_a_whole_key_opens() {
        let keys = ApiKeys::parse("first\n\n second \n");
        assert!(keys.check(&headers("Bearer first")).is_ok());
        assert!(keys.check(&headers("Bearer second")).is_ok());
        for wrong in [
            "Bearer firs",
            "Bearer firstt",
            "Bearer ",
            "first",
            "Basic first",
        ] {
            assert!(keys.check(&headers(wrong)).is_err(), "{wrong}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
        assert!(!format!("{keys:?}").contains("first"));
    }

    #[test]
    fn without_keys_everybody_may_ask() {
        assert!(ApiKeys::default().check(&HeaderMap::new()).is_ok());
    }
}
