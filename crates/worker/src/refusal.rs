//! Why a request was not served, in the words of the wire.

use crate::engine::EngineError;
use protocol::output::WireError;
use runtime::request_plane::{self, ErrorClass};

/// Why this worker did not serve a request, or did not end it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request is wrong, here and at every other worker.
    #[error("{0}")]
    Invalid(String),
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine panicked while it took it.
    #[error("the engine panicked while it took the request: {0}")]
    Panicked(String),
    /// The engine's stream ended without saying why.
    #[error("the engine ended the stream without a finish reason")]
    Unfinished,
    /// The worker leaves, and the time for its running streams is over.
    #[error("the worker is stopping; its running streams had {drain_seconds} s to end")]
    Halted {
        /// The bound of the drain.
        drain_seconds: u64,
    },
}

impl Refusal {
    /// A wrong request; `text` names the field and what would be right.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// The typed error that travels. Only a wrong request tells the client why; a retryable one goes to another
    /// worker.
    pub fn wire_error(&self) -> WireError {
        let message = self.to_string();
        let class = self.class();
        let public = (class == ErrorClass::InvalidRequest).then_some(message.as_str());
        request_plane::wire_error(class, &message, public)
    }

    /// The caller's fault: not an error of this worker.
    pub fn is_invalid(&self) -> bool {
        self.class() == ErrorClass::InvalidRequest
    }

    /// What the caller may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid(_) => ErrorClass::InvalidRequest,
            Self::Engine(EngineError::InvalidRequest(_) | EngineError::PromptTooLong { .. }) => {
                ErrorClass::InvalidRequest
            }
            Self::Engine(EngineError::Overloaded { .. }) => ErrorClass::WorkerOverloaded,
            Self::Engine(EngineError::Unavailable(_)) | Self::Halted { .. } => ErrorClass::EngineShutdown,
            Self::Unfinished => ErrorClass::StreamIncomplete,
            Self::Panicked(_) => ErrorClass::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_class_and_only_a_wrong_request_tells_the_client() {
        use ErrorClass as C;
        let table: Vec<(Refusal, ErrorClass, bool)> = vec![
            (Refusal::invalid("n: 0"), C::InvalidRequest, true),
            (EngineError::InvalidRequest("regex: open bracket".into()).into(), C::InvalidRequest, true),
            (EngineError::PromptTooLong { prompt_tokens: 9, context_length: 8 }.into(), C::InvalidRequest, true),
            (EngineError::Overloaded { waiting: 3 }.into(), C::WorkerOverloaded, false),
            (EngineError::Unavailable("gone".into()).into(), C::EngineShutdown, false),
            (Refusal::Halted { drain_seconds: 5 }, C::EngineShutdown, false),
            (Refusal::Unfinished, C::StreamIncomplete, false),
            (Refusal::Panicked("boom".into()), C::Internal, false),
        ];
        for (refusal, class, public) in table {
            let error = refusal.wire_error();
            assert_eq!(ErrorClass::of_wire(&error), class, "{refusal}");
            assert_eq!(error.public.is_some(), public, "{refusal}");
            assert_eq!(error.message, refusal.to_string());
        }
    }
}
