//! The frontend's end of a response stream.

use super::call_home::Arrival;
use super::error::{ErrorClass, RequestError};
use crate::world::Stream;
use bytes::BytesMut;
use protocol::discovery::Codec;
use protocol::dynamo::two_part::encode_control;
use protocol::dynamo::{ControlWord, Prologue, TwoPart};
use protocol::output::{Annotated, StreamFrame};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Read at once: some 50 token items, so that a burst costs one call.
const READ_BYTES: usize = 8 * 1024;

/// The items of one answer. Dropping it before the end tells the worker to stop ("kill", then FIN).
#[derive(Debug)]
pub struct ResponseStream {
    stream: Stream,
    inbox: BytesMut,
    codec: Codec,
    worker: String,
    sent_in: Duration,
    beat_every: Option<Duration>,
    /// The end has been told, as `complete_final` or as an error.
    ended: bool,
    /// The last item came in the frame that ends the stream.
    completed: bool,
}

impl ResponseStream {
    pub(super) fn new(arrival: Arrival, codec: Codec, worker: String, sent_in: Duration) -> Self {
        let Arrival { stream, inbox } = arrival;
        Self { stream, inbox, codec, worker, sent_in, beat_every: None, ended: false, completed: false }
    }

    /// How long it took to send the request, up to the worker's acknowledgement.
    pub fn sent_in(&self) -> Duration {
        self.sent_in
    }

    /// The worker's promise: something comes at least so often while its engine goes forward, if only an item without
    /// content. `None` from a stranger.
    pub fn beat_every(&self) -> Option<Duration> {
        self.beat_every
    }

    /// The next item. `None` only after the worker said that the answer is whole; a stream that breaks off is a
    /// [`ErrorClass::StreamIncomplete`], which is retryable. An item that carries an error comes as that error. After
    /// an error there is `None`. Cancel-safe.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<Annotated<T>, RequestError>> {
        let item = self.next_raw().await?;
        Some(self.unwrap_error(item))
    }

    /// The next item if it is here already; `None` when it is not, or there are no more. It lets a caller put what
    /// came in one read into one write of its own.
    pub fn try_next<T: DeserializeOwned>(&mut self) -> Option<Result<Annotated<T>, RequestError>> {
        let item = self.buffered()?;
        Some(self.unwrap_error(item))
    }

    /// Like [`ResponseStream::next`], for items without the annotation layer.
    pub async fn next_raw<T: DeserializeOwned>(&mut self) -> Option<Result<T, RequestError>> {
        loop {
            if let Some(item) = self.buffered() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.fill().await {
                return Some(self.fail(ErrorClass::StreamIncomplete, &error));
            }
        }
    }

    /// Waits for the prologue: whether the worker takes the request.
    pub(super) async fn accepted(&mut self) -> Result<(), RequestError> {
        let prologue = loop {
            match TwoPart::decode(&mut self.inbox) {
                Ok(Some(message)) => break serde_json::from_slice::<Prologue>(&message.header),
                Ok(None) => {}
                Err(error) => return self.fail(ErrorClass::BackendProtocol, &error.to_string()),
            }
            if let Err(error) = self.fill().await {
                return self.fail(ErrorClass::StreamIncomplete, &error);
            }
        };
        match prologue {
            Ok(Prologue { error: None, typed_error: None, beat_ms }) => {
                self.beat_every = beat_ms.map(Duration::from_millis);
                Ok(())
            }
            Ok(Prologue { typed_error: Some(error), .. }) => {
                self.ended = true;
                let mut error = RequestError::of_wire(&error);
                error.message = format!("worker {} refused the request: {}", self.worker, error.message);
                Err(error)
            }
            // A stranger that says no more than a text: nothing was computed, another worker may do.
            Ok(Prologue { error: Some(text), typed_error: None, .. }) => {
                self.fail(ErrorClass::WorkerUnavailable, &text)
            }
            Err(error) => self.fail(ErrorClass::BackendProtocol, &format!("the prologue does not decode: {error}")),
        }
    }

    /// More bytes, or why there are none.
    async fn fill(&mut self) -> Result<(), String> {
        self.inbox.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.inbox).await {
            Ok(0) => Err("closed its stream before the end".into()),
            Ok(_) => Ok(()),
            // Whatever came before a reset has been read: the kernel gives it first.
            Err(error) => Err(format!("broke off its stream: {error}")),
        }
    }

    /// The next item of what is in the buffer.
    fn buffered<T: DeserializeOwned>(&mut self) -> Option<Result<T, RequestError>> {
        while !self.ended {
            if self.completed {
                self.ended = true;
                return None;
            }
            let message = match TwoPart::decode(&mut self.inbox) {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(error) => return Some(self.fail(ErrorClass::BackendProtocol, &error.to_string())),
            };
            if message.body.is_empty() {
                if ControlWord::of_header(&message.header) == Some(ControlWord::Sentinel) {
                    return Some(self.fail(ErrorClass::StreamIncomplete, "ended its stream without complete_final"));
                }
                continue;
            }
            match self.codec.decode::<StreamFrame<T>>(&message.body) {
                Ok(StreamFrame { data, complete_final }) => {
                    self.completed = complete_final;
                    if let Some(item) = data {
                        return Some(Ok(item));
                    }
                }
                Err(error) => return Some(self.fail(ErrorClass::BackendProtocol, &format!("an item {error}"))),
            }
        }
        None
    }

    fn unwrap_error<T>(&mut self, item: Result<Annotated<T>, RequestError>) -> Result<Annotated<T>, RequestError> {
        let item = item?;
        if item.error.is_none() && item.event.as_deref() != Some("error") {
            return Ok(item);
        }
        self.ended = true;
        Err(match &item.error {
            Some(error) => RequestError::of_wire(error),
            None => {
                let text = item.comment.map_or_else(|| "an error without text".to_owned(), |lines| lines.join("; "));
                RequestError::new(ErrorClass::Internal, format!("worker {}: {text}", self.worker))
            }
        })
    }

    fn fail<T>(&mut self, class: ErrorClass, why: &str) -> Result<T, RequestError> {
        self.ended = true;
        Err(RequestError::new(class, format!("worker {}: {why}", self.worker)))
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        if self.ended || self.completed {
            return;
        }
        let mut kill = BytesMut::new();
        if encode_control(&ControlWord::Kill, &mut kill).is_ok() {
            // If it does not fit into an empty send buffer the peer is gone, and the FIN says the same.
            let _ = self.stream.try_write(&kill);
        }
    }
}
