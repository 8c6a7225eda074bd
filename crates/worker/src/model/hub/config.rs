//! Which hub, with whose token, and where its cache is.

use crate::model::cache::cache_home;
use std::path::PathBuf;

/// The hub, unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";
/// Bytes of a token file; a token has about 40.
const TOKEN_LEN_MAX: u64 = 4096;

/// A user's secret for the hub. Nothing shows it: not `Debug`, not an error, not a log line.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token; `None` where there is nothing in it, or something that no header can carry.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        good.then(|| Token(text.to_owned()))
    }

    /// For the one header that carries it.
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(***)")
    }
}

/// Which hub, with whose token, and where its cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// `https://HOST`, without a slash at the end.
    pub endpoint: String,
    /// The user's token, if there is one.
    pub token: Option<Token>,
    /// Never ask the network.
    pub offline: bool,
    /// The hub's own cache (`…/huggingface/hub`), if there is a home.
    pub cache: Option<PathBuf>,
}

impl HubConfig {
    /// What the environment says, in the variables of `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HUGGING_FACE_HUB_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `HF_HUB_CACHE`, `HF_HOME`.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> HubConfig {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| Some(cache_home(variable)?.join("huggingface")));
        let token_file = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join("token")));
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let path = token_file?;
            let small = path.metadata().ok()?.len() <= TOKEN_LEN_MAX;
            small.then(|| std::fs::read_to_string(path).ok()).flatten()
        });
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        HubConfig {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.as_deref().and_then(Token::new),
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            cache: set("HF_HUB_CACHE").map(PathBuf::from).or_else(|| home.map(|home| home.join("hub"))),
        }
    }
}

/// The values that `huggingface_hub` takes for true.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> HubConfig {
        HubConfig::from_environment(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_hub_is_configured_by_the_variables_of_its_own_library() {
        let config = with(&[("HOME", "/h")]);
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert_eq!(config.cache, Some("/h/.cache/huggingface/hub".into()));
        assert_eq!((config.token, config.offline), (None, false));
        let config = with(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!((config.endpoint.as_str(), config.offline), ("http://mirror", true));
        assert_eq!(config.cache, Some("/hf/hub".into()));
        let config = with(&[("HF_HUB_CACHE", "/c"), ("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN", " new\n")]);
        assert_eq!((config.cache, config.token), (Some("/c".into()), Token::new("new")));
    }

    #[test]
    fn a_token_is_read_from_its_file_and_never_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "hf_secret\n").expect("a file");
        let config = with(&[("HF_TOKEN_PATH", &path.to_string_lossy())]);
        assert_eq!(config.token, Token::new("hf_secret"));
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        assert_eq!(Token::new("two words"), None);
    }
}
