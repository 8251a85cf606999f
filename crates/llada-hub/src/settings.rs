//! Where the Hub is, and where its files are kept, as the environment of its tools says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";
/// Pause before the second try; every further one is twice as long.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// A way to the Hub, and the cache of what came from it.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Directory with `models--org--name` and the like.
    pub cache: PathBuf,
    /// Where the Hub is, without a slash at the end.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<Token>,
    /// Uses the cache alone.
    pub offline: bool,
    /// Pause before a transfer that broke off is continued; every further one is twice as long.
    pub retry_wait: Duration,
}

/// A secret, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Hub {
    /// Reads `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_TOKEN` and
    /// `HF_HUB_OFFLINE` as other tools of the Hub do. The cache is `~/.cache/huggingface/hub` without
    /// them, and the token that which `hf auth login` has left beside it.
    ///
    /// # Errors
    /// If nothing says where the cache is.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&|name| std::env::var(name).ok())
    }

    fn from_vars(var: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let home = match (var("HF_HOME"), var("XDG_CACHE_HOME")) {
            (Some(home), _) => Some(PathBuf::from(home)),
            (None, Some(caches)) => Some(Path::new(&caches).join("huggingface")),
            (None, None) => dirs::home_dir().map(|home| home.join(".cache/huggingface")),
        };
        let cache = var("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub")));
        let saved = || std::fs::read_to_string(home.as_ref()?.join("token")).ok();
        let token = var("HF_TOKEN").or_else(saved);
        let token = token.map(|token| token.trim().to_owned());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Ok(Self {
            cache: cache.ok_or(Error::NoHome)?,
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()).map(Token),
            offline: var("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            retry_wait: RETRY_WAIT,
        })
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(vars: &[(&str, &str)]) -> Hub {
        // Never the home directory of whoever runs the tests.
        let default = ("HF_HOME", "/nowhere");
        let find = |name: &str| {
            let found = vars
                .iter()
                .chain([&default])
                .find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Hub::from_vars(&find).unwrap()
    }

    #[test]
    fn the_narrower_variable_decides_where_the_cache_is() {
        let cache = |vars: &[(&str, &str)]| hub(vars).cache;
        let (home, xdg) = (("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x"));
        assert_eq!(
            cache(&[xdg, ("HF_HOME", "")]),
            Path::new("/x/huggingface/hub")
        );
        assert_eq!(cache(&[xdg, home]), Path::new("/h/hub"));
        let all = [xdg, home, ("HF_HUB_CACHE", "/c")];
        assert_eq!(cache(&all), Path::new("/c"));
    }

    #[test]
    fn the_token_is_that_of_the_environment_or_the_saved_one_and_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        assert_eq!(hub(&[home]).token, None);
        std::fs::write(dir.path().join("token"), "saved\n").unwrap();
        assert_eq!(hub(&[home]).token, Some(Token("saved".into())));
        let given = hub(&[home, ("HF_TOKEN", "secret")]);
        assert_eq!(given.token, Some(Token("secret".into())));
        assert!(!format!("{given:?}").contains("secret"));
    }

    #[test]
    fn endpoint_and_offline_are_read_as_people_write_them() {
        let found = hub(&[
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "TRUE"),
        ]);
        assert_eq!(
            (found.endpoint.as_str(), found.offline),
            ("http://mirror", true)
        );
        let found = hub(&[("HF_ENDPOINT", ""), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!((found.endpoint.as_str(), found.offline), (ENDPOINT, false));
    }
}
