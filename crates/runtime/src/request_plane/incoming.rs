//! A request as a worker gets it, and who answers it.

use super::error::{ErrorClass, wire_error};
use super::responder::Responder;
use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::discovery::Codec;
use protocol::dynamo::{DecodeError, Headers};
use serde::de::DeserializeOwned;

/// A request.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Chosen by the frontend; the same again when a request moves to another worker.
    pub id: String,
    /// `{instance:x}/{namespace}/{component}/{endpoint}`.
    pub path: String,
    /// As sent: `request-id`, `x-frontend-send-ts-ns`, `traceparent`, …
    pub headers: Headers,
    /// How the body is written, and how the answer will be.
    pub codec: Codec,
    /// Not decoded yet.
    pub body: Bytes,
}

impl Incoming {
    /// Decodes the body with the codec that the request names.
    ///
    /// # Errors
    /// When the body is not a `T`. Such a request must be answered: see [`decode_or_refuse`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.codec.decode(&self.body)
    }
}

/// Answers requests of one path. A future that returns without [`Responder::finish`] or [`Responder::refuse`], or
/// panics, cuts the stream; the frontend may then try another worker.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It must end soon after [`Responder::cancelled`] fires.
    fn handle(&self, request: Incoming, out: Responder) -> BoxFuture<'static, ()>;
}

impl<F> Handler for F
where
    F: Fn(Incoming, Responder) -> BoxFuture<'static, ()> + Send + Sync + 'static,
{
    fn handle(&self, request: Incoming, out: Responder) -> BoxFuture<'static, ()> {
        self(request, out)
    }
}

/// The body, or `None` after the request was refused as invalid. Stock workers leave such a request without any
/// answer; ours say why.
pub async fn decode_or_refuse<T: DeserializeOwned>(request: &Incoming, out: Responder) -> Option<(T, Responder)> {
    match request.decode() {
        Ok(body) => Some((body, out)),
        Err(error) => {
            let text = format!("the request body {error}");
            tracing::warn!(request = %request.id, path = %request.path, body_bytes = request.body.len(), "{text}");
            out.refuse(wire_error(ErrorClass::InvalidRequest, text.as_str(), Some(&text))).await;
            None
        }
    }
}
