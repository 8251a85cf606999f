//! Arguments of `llada serve`.

use std::net::IpAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use llada_hub::HubId;

use super::{IdArgs, PrecisionArgs, QuantArgs};

#[derive(Debug, Args)]
#[command(
    long_about = "Answers over HTTP: /v1/chat/completions, /v1/completions, /v1/models, /generate, \
                  /tokenize, /detokenize, /health, /ready, /metrics, /openapi.json, and a page at /. It \
                  listens as soon as all models are at hand, and answers 503 until one is loaded. A \
                  checkpoint that names a MASK token is decoded by block diffusion, any other one token \
                  by token.",
    after_help = "Examples:\n  llada serve assets/stories-child --port 8080\n  llada serve assets/stories-child:story assets/tinystories-656k:parent --port 8080\n  llada serve assets/stories-child:story --lora tuned=runs/stories/lora/final/adapter\n  llada serve inclusionAI/LLaDA2.0-mini:mini --quant q4_0\n  curl localhost:8080/v1/completions --json '{\"model\": \"story\", \"prompt\": \"Once upon a time\"}'"
)]
pub(crate) struct ServeArgs {
    /// Checkpoint directories, GGUF files or Hub ids, each with the name that requests call it
    /// [default: that of the directory or repository].
    #[arg(value_name = "MODEL[:NAME]", required = true)]
    pub models: Vec<ModelName>,
    /// Adapters (LoRA), each under a name of its own beside the model whose weights it shares; may be
    /// repeated. Of several models, the name after `@` says which.
    #[arg(long = "lora", value_name = "NAME[@MODEL]=DIR")]
    pub adapters: Vec<AdapterName>,
    /// Address to listen on. Others than the loopback let the network in.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// File to write the port to, once it is listened on.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// File with the keys that open the server, one per line [default: everybody may ask].
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Requests of a model that run together; further ones wait.
    #[arg(long, default_value = "64", value_name = "N")]
    pub max_concurrent: NonZeroUsize,
    /// Requests of a model that may wait; a further one is told to come again (429).
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub queue: usize,
    /// Memory for keys and values of a model, such as 512M or 2G
    /// [default: a gibibyte, or one context if that is more].
    #[arg(long, value_name = "BYTES")]
    pub kv_memory: Option<ByteSize>,
    /// Longest text in tokens, prompt and answer together [default: the checkpoint's].
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<NonZeroUsize>,
    /// Seconds after which a request is ended (504).
    #[arg(long, default_value = "600", value_name = "S")]
    pub request_timeout: NonZeroU64,
    /// Seconds that requests may go on after SIGTERM or Ctrl-C.
    #[arg(long, default_value_t = 30, value_name = "S")]
    pub shutdown_timeout: u64,
    /// Form of the log on stderr, which never holds the text of a request.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    #[command(flatten)]
    pub weights: QuantArgs,
    #[command(flatten)]
    pub ids: IdArgs,
}

/// A checkpoint and what requests call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelName {
    pub dir: PathBuf,
    pub name: String,
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (dir, name) = match text.rsplit_once(':') {
            // A name has no slash, so that a colon in a directory's name can be told apart.
            Some((dir, name)) if !name.contains('/') => (dir, name.to_owned()),
            _ => (text, directory_name(text)?),
        };
        match is_name(&name) {
            true => Ok(Self {
                dir: dir.into(),
                name,
            }),
            false => Err(no_name(&name, "MODEL:NAME")),
        }
    }
}

/// An adapter and what requests call the model with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdapterName {
    pub dir: PathBuf,
    pub name: String,
    /// Name of its model; may be left out where there is one.
    pub base: Option<String>,
}

impl FromStr for AdapterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (names, dir) = text.split_once('=').unwrap_or((text, ""));
        let (name, base) = match names.split_once('@') {
            Some((name, base)) => (name, Some(base)),
            None => (names, None),
        };
        match is_name(name) && base.is_none_or(is_name) && !dir.is_empty() {
            true => Ok(Self {
                dir: dir.into(),
                name: name.into(),
                base: base.map(str::to_owned),
            }),
            false => Err(no_name(names, "NAME=DIR or NAME@MODEL=DIR")),
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.chars().all(is_plain)
}

fn no_name(name: &str, form: &str) -> String {
    format!("`{name}` is no name; expected letters, digits, `-`, `_` and `.`, as {form}")
}

fn directory_name(dir: &str) -> Result<String, String> {
    let repo = dir.parse::<HubId>().map(|id| id.repo().to_owned());
    let dir = repo.as_deref().unwrap_or(dir); // a revision is no part of the name
    let name = Path::new(dir).file_name().and_then(|name| name.to_str());
    let name = name.map(str::to_owned);
    name.ok_or_else(|| format!("`{dir}` has no name of its own; give one, as {dir}:NAME"))
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub usize);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => Some(0),
            "k" | "kib" => Some(10),
            "m" | "mib" => Some(20),
            "g" | "gib" => Some(30),
            _ => None,
        };
        let bytes = digits.parse::<usize>().ok().zip(shift);
        let bytes = bytes.and_then(|(number, shift)| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| {
            format!("`{text}` is no size; expected bytes, such as 1000000, 512M or 2G")
        })
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_by_its_directory_or_after_a_colon() {
        let parse = |text: &str| {
            text.parse::<ModelName>()
                .map(|model| (model.dir, model.name))
        };
        let named = |dir: &str, name: &str| Ok((dir.into(), name.to_owned()));
        assert_eq!(parse("a/b"), named("a/b", "b"));
        assert_eq!(parse("a/b/"), named("a/b/", "b"));
        assert_eq!(parse("a/b:c"), named("a/b", "c"));
        assert_eq!(parse("a:b/c"), named("a:b/c", "c"));
        assert_eq!(parse("a/b@v1"), named("a/b@v1", "b"));
        assert_eq!(parse("a/b@v1:c"), named("a/b@v1", "c"));
        for wrong in ["a/b:", "a/..", "a/b:c d", "/"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_adapter_has_a_name_before_its_directory() {
        let parse = |text: &str| text.parse::<AdapterName>().map(|a| (a.name, a.base, a.dir));
        let named = |base: Option<&str>, dir: &str| {
            Ok(("a".to_owned(), base.map(str::to_owned), dir.into()))
        };
        assert_eq!(parse("a=b/c=d"), named(None, "b/c=d"));
        assert_eq!(parse("a@b=c@d"), named(Some("b"), "c@d"));
        let message = parse("a/b").unwrap_err();
        assert!(message.contains("as NAME=DIR"), "{message}");
        for wrong in ["=a", "a=", "a b=c", "a@=c", "@b=c"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        let parse = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(parse("1000"), Ok(1000));
        assert_eq!(parse("2k"), Ok(2048));
        assert_eq!(parse("3GiB"), Ok(3 << 30));
        for wrong in ["", "G", "1.5G", "1T", "99999999999999999999", "-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
