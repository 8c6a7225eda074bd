//! Why vLLM is not there, and what to do.

use super::process::SpawnConfig;

/// Why vLLM is not there.
#[derive(Debug, thiserror::Error)]
pub enum VllmError {
    /// The program cannot be started.
    #[error("start `{program}`")]
    Start {
        /// What was started.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("`vllm serve` ended before it was ready ({status}): {why}")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// Its exceptions, or its last lines.
        why: String,
    },
    /// It is not healthy in time.
    #[error("vLLM at {url} is not healthy after {seconds} s: {why}")]
    NotReady {
        /// Where.
        url: String,
        /// How long was waited.
        seconds: u64,
        /// What was seen last.
        why: String,
    },
    /// It is healthy and makes no token.
    #[error("vLLM at {url} says that it is healthy and makes no token: {why}")]
    NoToken {
        /// Where.
        url: String,
        /// What came instead.
        why: String,
    },
    /// It does not answer as vLLM does.
    #[error("ask vLLM at {url}")]
    Http {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// What answers is something else.
    #[error("what answers at {url} is no vLLM: {why}")]
    NotVllm {
        /// What was asked.
        url: String,
        /// How it is seen.
        why: String,
    },
    /// It wants a key.
    #[error("vLLM at {url} wants another API key (HTTP 401)")]
    Refused {
        /// What was asked.
        url: String,
    },
    /// A key that no HTTP header can carry.
    #[error("the API key of vLLM has a character that no HTTP header can carry")]
    Key,
    /// An answer lacks what is needed.
    #[error("vLLM at {url} does not tell {what}")]
    Unknown {
        /// What was asked.
        url: String,
        /// What is missing.
        what: &'static str,
    },
    /// It cannot do what is needed of it.
    #[error("vLLM at {url} is version {version}; 0.10.2 is the oldest whose answers name their tokens")]
    TooOld {
        /// Where.
        url: String,
        /// What it says.
        version: String,
    },
    /// It serves, but not what is wanted.
    #[error("vLLM at {url} serves `{served}`, and not `{wanted}`")]
    OtherModel {
        /// Where.
        url: String,
        /// Its model, under all its names.
        served: String,
        /// What was asked for.
        wanted: String,
    },
    /// A URL that is none.
    #[error("`{0}` is no URL of a vLLM server")]
    Url(String),
}

impl VllmError {
    pub(super) fn start(config: &SpawnConfig, source: std::io::Error) -> Self {
        Self::Start { program: config.program.display().to_string(), source }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Start { .. } => {
                "install vLLM (`pip install vllm`) and put its `vllm` command into PATH, or give its \
                                   path with --vllm-program"
                    .into()
            }
            Self::Ended { .. } => "correct what vLLM complains of; its whole output is in the log above".into(),
            Self::NotReady { .. } => "start that server, or correct the URL; a large model may still be loading".into(),
            Self::NoToken { .. } => "see the server's own log, and start it again".into(),
            Self::Refused { .. } | Self::Key => "set VLLM_API_KEY to the key that it was started with".into(),
            Self::Http { .. } | Self::NotVllm { .. } | Self::Unknown { .. } => {
                "check that the URL is that of `vllm serve`, with its /metrics and /version".into()
            }
            Self::TooOld { .. } => "upgrade it: `pip install --upgrade vllm`".into(),
            Self::OtherModel { served, .. } => {
                format!("give --model with the files of what it serves (`{served}`), or attach to another server")
            }
            Self::Url(_) => "write http://HOST:PORT".into(),
        }
    }

    /// Whether the same call fails again until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        /// What argparse ends with: a flag or a value that vLLM does not take.
        const USAGE: i32 = 2;
        match self {
            Self::Start { .. } | Self::TooOld { .. } | Self::OtherModel { .. } | Self::Url(_) => true,
            Self::Refused { .. } | Self::Key => true,
            // What its configuration refuses once, it refuses again.
            Self::Ended { status, why } => status.code() == Some(USAGE) || why.contains("ValidationError: "),
            Self::NotReady { .. } | Self::NoToken { .. } => false,
            Self::Http { .. } | Self::NotVllm { .. } | Self::Unknown { .. } => false,
        }
    }
}
