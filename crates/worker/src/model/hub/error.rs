//! Why the hub did not give a file.

use std::time::Duration;

/// Why the hub did not give a repository or a file. Never holds the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// `HF_HUB_OFFLINE` is set and the model is in no cache.
    #[error("it is in no cache, and HF_HUB_OFFLINE forbids to ask the hub")]
    Offline,
    /// No answer.
    #[error("the hub at {endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// The hub.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// No such repository, revision or file; or one that is hidden from this user.
    #[error("the hub at {endpoint} has no such {what}")]
    NotFound {
        /// The hub.
        endpoint: String,
        /// Repository, revision or file.
        what: String,
    },
    /// The repository's owner wants terms accepted, or the token is missing or wrong.
    #[error("the hub at {endpoint} does not give it to {who} (HTTP {status}): the model is gated or private")]
    Gated {
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// `an anonymous user` or `the owner of this token`.
        who: &'static str,
    },
    /// Too many requests, again and again.
    #[error("the hub at {endpoint} has too many requests from here (HTTP 429)")]
    Busy {
        /// The hub.
        endpoint: String,
        /// Seconds that it asks to wait (`Retry-After`).
        wait_secs: Option<u64>,
    },
    /// Another answer than asked for.
    #[error("the hub at {endpoint} answered {what}")]
    Answer {
        /// The hub.
        endpoint: String,
        /// What it answered.
        what: String,
    },
    /// The repository has nothing that the engine can load.
    #[error("the repository has {has}, the {engine} engine needs {needs}")]
    NoFormat {
        /// What it has.
        has: String,
        /// The engine.
        engine: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// The bytes are not the published ones, again and again.
    #[error("{file} has sha256 {found}, the hub publishes {expected}")]
    Checksum {
        /// File.
        file: String,
        /// Found.
        found: String,
        /// Published.
        expected: String,
    },
}

/// Longest wait that a hub is granted; one that asks for more is given up sooner.
const WAIT_SECS_MAX: u64 = 60;

impl HubError {
    /// How long to wait before the next attempt, where `usual` is the wait of one's own.
    pub(super) fn pause(&self, usual: Duration) -> Duration {
        match self {
            HubError::Busy { wait_secs: Some(seconds), .. } => Duration::from_secs((*seconds).min(WAIT_SECS_MAX)),
            _ => usual,
        }
    }

    /// What to do about it, for the repository `OWNER/NAME`.
    pub(in crate::model) fn remedy(&self, repository: &str) -> String {
        match self {
            HubError::Offline => "unset HF_HUB_OFFLINE, or fetch the model once where the hub is reachable".into(),
            HubError::Unreachable { .. } => {
                "check the network and the proxy, or set HF_ENDPOINT to a mirror that this machine reaches".into()
            }
            HubError::NotFound { .. } => {
                format!("check the spelling of `{repository}` and of the revision; if it is private, set HF_TOKEN")
            }
            HubError::Gated { endpoint, .. } => format!(
                "accept the model's terms at {endpoint}/{repository} and set HF_TOKEN to a token of that account that \
                 may read it"
            ),
            HubError::Busy { .. } => {
                "wait some minutes; set HF_TOKEN, which has a limit of its own; or fetch the model once into a shared \
                 folder: `busbar model fetch --into FOLDER`"
                    .into()
            }
            HubError::Answer { .. } => "try again later, or set HF_ENDPOINT to a mirror".into(),
            HubError::NoFormat { engine: "embedded", .. } => format!(
                "name a repository with GGUF files (often `hf:{repository}-GGUF`), or install vLLM on a machine with a \
                 GPU and use `--engine vllm`"
            ),
            HubError::NoFormat { .. } => "name a repository with config.json, tokenizer.json and safetensors".into(),
            HubError::Checksum { .. } => "start again; the damaged file has been removed".into(),
        }
    }
}
