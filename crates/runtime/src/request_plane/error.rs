//! Errors of the request plane: ours, and the typed errors that travel on the wire.
//!
//! Source: Dynamo 1.6.1 on the wire, §4.6 and §4.7; the dotted reasons are those of its binary.

use protocol::output::WireError;
use serde_json::{Value, json};
use std::fmt;

/// Why a request failed, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request is at fault; no worker will take it.
    InvalidRequest,
    /// What the request names is not there.
    NotFound,
    /// The request is over a size limit.
    PayloadTooLarge,
    /// The caller is over its rate.
    RateLimited,
    /// The caller is not known.
    Unauthenticated,
    /// The caller is known and not allowed.
    PermissionDenied,
    /// The peer does not do this.
    NotImplemented,
    /// This worker is full; another may have room.
    WorkerOverloaded,
    /// All are full.
    CapacityExhausted,
    /// The service as a whole cannot answer now.
    Unavailable,
    /// This worker cannot answer now; another may.
    WorkerUnavailable,
    /// No connection to the worker could be made.
    CannotConnect,
    /// The connection was lost before the answer began.
    Disconnected,
    /// Making the connection took too long.
    ConnectionTimeout,
    /// The worker did not answer in time.
    ResponseTimeout,
    /// The answer broke off before its end.
    StreamIncomplete,
    /// The worker's engine is shutting down.
    EngineShutdown,
    /// The request's own deadline is over.
    DeadlineExceeded,
    /// The caller cancelled.
    Cancelled,
    /// The peer broke the protocol.
    BackendProtocol,
    /// Anything else; a bug, most likely.
    Internal,
}

use ErrorClass as C;

/// Class, name on the wire (`Backend/` = the inner name of a `{"Backend": …}`), dotted reason.
const CLASSES: [(ErrorClass, &str, &str); 21] = [
    (C::InvalidRequest, "InvalidRequest", "request.invalid"),
    (C::NotFound, "NotFound", "request.not_found"),
    (C::PayloadTooLarge, "PayloadTooLarge", "request.payload_too_large"),
    (C::RateLimited, "RateLimited", "request.rate_limited"),
    (C::Unauthenticated, "Unauthenticated", "request.unauthenticated"),
    (C::PermissionDenied, "PermissionDenied", "request.permission_denied"),
    (C::NotImplemented, "NotImplemented", "runtime.not_implemented"),
    (C::WorkerOverloaded, "WorkerOverloaded", "capacity.worker_overloaded"),
    (C::CapacityExhausted, "CapacityExhausted", "capacity.exhausted"),
    (C::Unavailable, "Unavailable", "backend.unavailable"),
    (C::WorkerUnavailable, "WorkerUnavailable", "backend.worker_unavailable"),
    (C::CannotConnect, "CannotConnect", "transport.cannot_connect"),
    (C::Disconnected, "Disconnected", "transport.disconnected"),
    (C::ConnectionTimeout, "ConnectionTimeout", "transport.connection_timeout"),
    (C::ResponseTimeout, "ResponseTimeout", "backend.response_timeout"),
    (C::StreamIncomplete, "Backend/StreamIncomplete", "backend.stream_incomplete"),
    (C::EngineShutdown, "Backend/EngineShutdown", "backend.engine_shutdown"),
    (C::DeadlineExceeded, "DeadlineExceeded", "request.deadline_exceeded"),
    (C::Cancelled, "Cancelled", "request.cancelled"),
    (C::BackendProtocol, "BackendProtocol", "runtime.invalid_error"),
    (C::Internal, "Internal", "runtime.unclassified"),
];

impl ErrorClass {
    /// Whether another worker may be tried: the table of Dynamo's migration.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            C::CannotConnect
                | C::Disconnected
                | C::ConnectionTimeout
                | C::ResponseTimeout
                | C::EngineShutdown
                | C::StreamIncomplete
                | C::WorkerUnavailable
                | C::WorkerOverloaded
        )
    }

    /// The dotted reason, such as `transport.disconnected`.
    pub fn reason(self) -> &'static str {
        self.row().2
    }

    /// The class as it is written on the wire: a string, or `{"Backend": string}`.
    pub fn to_wire(self) -> Value {
        let name = self.row().1;
        name.strip_prefix("Backend/").map_or_else(|| json!(name), |inner| json!({ "Backend": inner }))
    }

    /// The class of a typed error. The reason is asked first because it says more (`capacity.worker_overloaded` and
    /// `capacity.exhausted` may share a class), then the class, then the older `error_type`. A name that we do not
    /// know is `Internal`.
    pub fn of_wire(error: &WireError) -> Self {
        Self::of_reason(&error.reason)
            .or_else(|| Self::of_name(&error.class))
            .or_else(|| Self::of_name(&error.error_type))
            .unwrap_or(C::Internal)
    }

    fn row(self) -> &'static (ErrorClass, &'static str, &'static str) {
        CLASSES.iter().find(|row| row.0 == self).expect("CLASSES has a row for every class; a test holds it")
    }

    fn of_reason(reason: &str) -> Option<Self> {
        if let Some(row) =
            CLASSES.iter().find(|row| row.2 == reason && row.0 != C::Internal && row.0 != C::BackendProtocol)
        {
            return Some(row.0);
        }
        Some(match reason {
            "request.invalid_argument" | "backend.invalid_argument" | "request.unsupported_media" => C::InvalidRequest,
            "backend.cannot_connect" => C::CannotConnect,
            "backend.disconnected" => C::Disconnected,
            "backend.connection_timeout" => C::ConnectionTimeout,
            "backend.cancelled" => C::Cancelled,
            "capacity.pool_exhausted" => C::CapacityExhausted,
            _ => return None,
        })
    }

    fn of_name(class: &Value) -> Option<Self> {
        let backend = class.get("Backend").and_then(Value::as_str);
        let name = backend.or_else(|| class.as_str())?;
        let own = CLASSES.iter().find(|row| row.1.strip_prefix("Backend/").unwrap_or(row.1) == name).map(|row| row.0);
        own.or(match name {
            "InvalidArgument" | "UnsupportedMedia" => Some(C::InvalidRequest),
            "ResourceExhausted" => Some(C::CapacityExhausted),
            _ => None,
        })
    }

    /// The nearest name in the older, smaller set that old peers know.
    fn older_name(self) -> Value {
        match self {
            C::InvalidRequest | C::NotFound | C::PayloadTooLarge => json!("InvalidArgument"),
            C::WorkerOverloaded | C::CapacityExhausted | C::RateLimited => json!("ResourceExhausted"),
            C::Unavailable | C::WorkerUnavailable => json!("Unavailable"),
            C::CannotConnect => json!("CannotConnect"),
            C::Disconnected => json!("Disconnected"),
            C::ConnectionTimeout => json!("ConnectionTimeout"),
            C::ResponseTimeout | C::DeadlineExceeded => json!("ResponseTimeout"),
            C::Cancelled => json!("Cancelled"),
            C::EngineShutdown | C::StreamIncomplete => self.to_wire(),
            _ => json!("Unknown"),
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// A typed error to send: `message` is for operators, `public` is all that a client may see.
pub fn wire_error(class: ErrorClass, message: impl Into<String>, public: Option<&str>) -> WireError {
    WireError {
        error_type: class.older_name(),
        class: class.to_wire(),
        reason: class.reason().to_owned(),
        message: message.into(),
        diagnostic: None,
        public: public.map(|text| json!({ "type": "message", "message": text })),
        caused_by: None,
    }
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}")]
pub struct RequestError {
    /// What to do about it.
    pub class: ErrorClass,
    /// For operators: who, what, after how long.
    pub message: String,
    /// What the client may be told, when the worker gave it.
    pub public: Option<String>,
}

impl RequestError {
    /// An error of our own.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), public: None }
    }

    /// The error that a worker sent.
    pub fn of_wire(error: &WireError) -> Self {
        let public = error.public.as_ref().and_then(|public| {
            let text = public.get("message").unwrap_or(public);
            text.as_str().map(str::to_owned)
        });
        Self { class: ErrorClass::of_wire(error), message: error.message.clone(), public }
    }

    /// Whether another worker may be tried.
    pub fn is_retryable(&self) -> bool {
        self.class.is_retryable()
    }
}

/// The answer stream cannot be written any more; the handler should stop its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamClosed {
    /// The frontend sent `kill` or `stop`, or closed its side.
    #[error("the frontend cancelled the request")]
    Cancelled,
    /// The connection broke.
    #[error("the connection to the frontend broke: {0}")]
    Disconnected(String),
    /// The frontend has not read for the time named by `WRITE_STALL_MAX`.
    #[error("the frontend has read nothing for {0} s")]
    Stalled(u64),
    /// The item could not be encoded, or is over the frame limit; nothing of it was sent.
    #[error("the item cannot be sent: {0}")]
    Encode(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_survives_the_wire() {
        for (class, _, _) in CLASSES {
            let error = wire_error(class, "why", Some("what the client sees"));
            let json = serde_json::to_string(&error).unwrap();
            let back = RequestError::of_wire(&serde_json::from_str(&json).unwrap());
            let expected = RequestError { class, message: "why".into(), public: Some("what the client sees".into()) };
            assert_eq!(back, expected, "{json}");
        }
    }

    #[test]
    fn the_retry_table_is_dynamos() {
        let retried: Vec<_> = CLASSES.iter().filter(|row| row.0.is_retryable()).map(|row| row.2).collect();
        assert_eq!(
            retried,
            [
                "capacity.worker_overloaded",
                "backend.worker_unavailable",
                "transport.cannot_connect",
                "transport.disconnected",
                "transport.connection_timeout",
                "backend.response_timeout",
                "backend.stream_incomplete",
                "backend.engine_shutdown",
            ]
        );
    }

    #[test]
    fn strangers_errors_find_their_class() {
        let class_of = |json: &str| ErrorClass::of_wire(&serde_json::from_str(json).unwrap());
        assert_eq!(class_of(r#"{"class":"InvalidArgument"}"#), C::InvalidRequest);
        assert_eq!(class_of(r#"{"class":{"Backend":"EngineShutdown"}}"#), C::EngineShutdown);
        assert_eq!(class_of(r#"{"class":{"Backend":"Disconnected"}}"#), C::Disconnected);
        assert_eq!(
            class_of(r#"{"class":"CapacityExhausted","reason":"capacity.worker_overloaded"}"#),
            C::WorkerOverloaded
        );
        assert_eq!(class_of(r#"{"error_type":"Cancelled"}"#), C::Cancelled, "an old peer sends only error_type");
        assert_eq!(class_of(r#"{"class":"SomethingNew"}"#), C::Internal);
        assert_eq!(class_of("{}"), C::Internal);
    }
}
