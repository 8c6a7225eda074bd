//! The frontend's side of requests over NATS: the request goes through the server to whoever listens on the worker's
//! subject, and an empty reply says that it was taken. The answer comes over TCP as always.
//!
//! A server that is away is no worker's fault: a request waits for it, and is sent again in the next connection when
//! the last one was lost before its acknowledgement. Sent twice is answered once: the second call-home finds nobody
//! waiting, and its worker stops.
//!
//! Source: Dynamo 1.6.1 on the wire, §6.

use super::call_home::{Arrival, Expected};
use super::client::{self, RequestClient};
use super::error::{ErrorClass, RequestError};
use super::response_stream::ResponseStream;
use crate::nats::{Nats, Session, next_session};
use crate::tasks::Tasks;
use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::discovery::EndpointRecord;
use protocol::dynamo::{Ack, Headers};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// How long a worker may take to acknowledge: longer than a server that stands still is noticed (6 s), or its silence
/// would be blamed on the worker.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait of a request for a server that is away. A restart takes seconds; a client is better told after that.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(30);

/// After a lost connection a server knows our subscriptions again before those of workers whose pause was longer
/// (2.5 s at most): for so long "nobody listens" is no verdict on a worker.
const RETURN_GRACE: Duration = Duration::from_secs(4);

/// Pause before a subject is tried again on which nobody listened within [`RETURN_GRACE`].
const RETURN_RETRY: Duration = Duration::from_millis(100);

/// How long a call-home may still come after the connection was lost under a request.
const LOST_GRACE: Duration = Duration::from_millis(500);

/// Pause before a subscription that the client refused is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// One inbox for the acknowledgements of all requests.
pub(super) struct NatsLine {
    inbox: String,
    waiting: Arc<Waiting>,
    /// The connection in which the inbox is subscribed.
    ready: watch::Receiver<Option<Session>>,
    nats: Nats,
    _tasks: Tasks,
}

/// Who waits for an acknowledgement, by the last token of its reply subject. Bounded by the listener for call-homes,
/// where each of them has its place first.
#[derive(Default)]
struct Waiting(Mutex<HashMap<String, oneshot::Sender<Reply>>>);

enum Reply {
    Ack(Ack),
    NobodyListens,
}

/// How the wait for an acknowledgement ended.
enum Outcome {
    Reply(Reply),
    /// The worker called home; that says more than an acknowledgement.
    Arrived(Arrival),
    /// The connection was lost: nobody knows whether the request arrived.
    ConnectionLost,
    Silence,
}

impl NatsLine {
    pub(super) fn new(nats: &Nats) -> Self {
        let inbox = format!("_INBOX.{}", uuid::Uuid::new_v4().simple());
        let waiting = Arc::new(Waiting::default());
        let (ready_sender, ready) = watch::channel(None);
        let tasks = Tasks::new();
        let listening = listen(nats.sessions(), format!("{inbox}.*"), waiting.clone(), ready_sender);
        tasks.spawn("nats inbox", listening);
        Self { inbox, waiting, ready, nats: nats.clone(), _tasks: tasks }
    }

    /// Sends a request to `subject` until it is acknowledged. Gives the worker's call-home when that came first.
    ///
    /// # Errors
    /// [`ErrorClass::CannotConnect`] when nobody listens, [`ErrorClass::ResponseTimeout`] when whoever does is silent,
    /// [`ErrorClass::PayloadTooLarge`] over the server's `max_payload`, [`ErrorClass::Unavailable`] when the server is
    /// away for [`AWAY_MAX`].
    pub(super) async fn submit(
        &self,
        subject: &str,
        headers: &HeaderMap,
        payload: &Bytes,
        expected: &mut Expected,
    ) -> Result<Option<Arrival>, RequestError> {
        let failed = |class, why: &str| RequestError::new(class, format!("worker at {subject}: {why}"));
        let deadline = Instant::now() + AWAY_MAX;
        let mut ready = self.ready.clone();
        loop {
            let Ok(Some(session)) = tokio::time::timeout_at(deadline, next_session(&mut ready)).await else {
                return Err(self.away());
            };
            fits(&session, headers, payload)?;
            let sent = self.send(&session, (subject, headers, payload), expected, &mut ready);
            match tokio::time::timeout(ACK_TIMEOUT, sent).await.unwrap_or(Outcome::Silence) {
                Outcome::Reply(Reply::Ack(Ack::Overloaded(why))) => {
                    return Err(failed(ErrorClass::WorkerOverloaded, &why));
                }
                Outcome::Reply(Reply::Ack(Ack::Unavailable(why))) => {
                    return Err(failed(ErrorClass::WorkerUnavailable, &why));
                }
                Outcome::Reply(Reply::Ack(Ack::Taken | Ack::Other(_))) => return Ok(None),
                Outcome::Reply(Reply::NobodyListens) if is_returning(&session) && Instant::now() < deadline => {
                    tokio::time::sleep(RETURN_RETRY).await;
                }
                Outcome::Reply(Reply::NobodyListens) => {
                    return Err(failed(ErrorClass::CannotConnect, "nobody listens on its subject"));
                }
                Outcome::Arrived(arrival) => return Ok(Some(arrival)),
                Outcome::ConnectionLost => {
                    if let Ok(arrival) = tokio::time::timeout(LOST_GRACE, expected.arrival()).await {
                        return Ok(Some(arrival));
                    }
                    tracing::debug!(subject, "the connection to NATS was lost under a request; sending it again");
                }
                Outcome::Silence => {
                    let why = format!("no acknowledgement through NATS in {} s", ACK_TIMEOUT.as_secs());
                    return Err(failed(ErrorClass::ResponseTimeout, &why));
                }
            }
        }
    }

    async fn send(
        &self,
        session: &Session,
        (subject, headers, payload): (&str, &HeaderMap, &Bytes),
        expected: &mut Expected,
        ready: &mut watch::Receiver<Option<Session>>,
    ) -> Outcome {
        let (place, reply) = self.waiting.expect();
        let reply_to = format!("{}.{}", self.inbox, place.token);
        let acknowledged = async {
            let client = session.client();
            let (subject, headers, payload) = (subject.to_owned(), headers.clone(), payload.clone());
            match client.publish_with_reply_and_headers(subject, reply_to, headers, payload).await {
                Ok(()) => reply.await.ok(),
                Err(_) => None,
            }
        };
        let lost = async {
            let other = |now: &Option<Session>| now.as_ref().is_none_or(|now| now.number() != session.number());
            let _ = ready.wait_for(other).await;
        };
        tokio::select! {
            biased;
            arrival = expected.arrival() => Outcome::Arrived(arrival),
            reply = acknowledged => reply.map_or(Outcome::ConnectionLost, Outcome::Reply),
            () = lost => Outcome::ConnectionLost,
        }
    }

    fn away(&self) -> RequestError {
        let why = format!("NATS at {} is away for {} s by now", self.nats.address(), AWAY_MAX.as_secs());
        let public = Some("the service cannot reach its workers at the moment".to_owned());
        RequestError { class: ErrorClass::Unavailable, message: why, public }
    }
}

impl std::fmt::Debug for NatsLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsLine").field("nats", &self.nats).finish_non_exhaustive()
    }
}

impl RequestClient {
    /// As [`RequestClient::send_with`], to a worker whose record names a NATS subject.
    pub(super) async fn send_over_nats<B: Serialize + ?Sized>(
        &self,
        target: &EndpointRecord,
        subject: &str,
        request_id: &str,
        headers: &[(&str, &str)],
        body: &B,
    ) -> Result<ResponseStream, RequestError> {
        let Some(nats) = &self.shared.nats else {
            let why = format!("requests to {subject} go over NATS, and this client was given no connection to it");
            return Err(RequestError::new(ErrorClass::NotImplemented, why));
        };
        let line = self.shared.nats_line.get_or_init(|| NatsLine::new(nats));
        let codec = target.codec();
        let call_home = self.call_home(request_id);
        let payload = client::payload(codec, &call_home, body)?;
        let headers = header_map(&self.shared.headers(headers, None, request_id));
        let mut expected = self.shared.expect(call_home.subject)?;
        let sending = Instant::now();
        let early = line.submit(subject, &headers, &payload, &mut expected).await;
        let early = early.inspect_err(|_| self.shared.traffic.failed())?;
        let sent_in = sending.elapsed();
        let limit = self.shared.config.call_home_timeout;
        let arrival = match early {
            Some(arrival) => arrival,
            None => tokio::time::timeout(limit, expected.arrival()).await.map_err(|_| {
                let why = format!(
                    "worker at {subject} acknowledged, but did not call home to {} in {} s: it cannot reach that \
                     address, it could not decode the request, or it died",
                    self.response_address(),
                    limit.as_secs_f32()
                );
                RequestError::new(ErrorClass::ResponseTimeout, why)
            })?,
        };
        let mut stream = ResponseStream::new(arrival, codec, format!("at {subject}"), sent_in);
        stream.accepted().await?;
        Ok(stream)
    }
}

/// The same texts in the library's type. One that NATS cannot carry is left out: none of ours is.
fn header_map(headers: &Headers) -> HeaderMap {
    let parsed = headers
        .iter()
        .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?)));
    parsed.collect()
}

/// Whether others may not have come back to this server yet.
fn is_returning(session: &Session) -> bool {
    session.number() > 1 && session.since().elapsed() < RETURN_GRACE
}

/// The server drops the whole connection of a client that sends more.
fn fits(session: &Session, headers: &HeaderMap, payload: &Bytes) -> Result<(), RequestError> {
    /// `NATS/1.0`, the empty line, and for each header colon, space and line end.
    const FRAME_BYTES: usize = 16;
    const HEADER_BYTES: usize = 4;
    let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let header_bytes: usize =
        lines.map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len() + HEADER_BYTES).sum();
    let (bytes, bytes_max) = (payload.len() + header_bytes + FRAME_BYTES, session.client().max_payload());
    if bytes <= bytes_max {
        return Ok(());
    }
    let message = format!(
        "the request has {bytes} bytes and the NATS server takes {bytes_max}; raise max_payload in the server's \
         configuration, or start the workers with --request-plane tcp"
    );
    let public = Some(format!("the request is larger than the {bytes_max} bytes that can be sent to a worker"));
    Err(RequestError { class: ErrorClass::PayloadTooLarge, message, public })
}

/// A place among those who wait, given up on drop.
struct Place<'a> {
    waiting: &'a Waiting,
    token: String,
}

impl Waiting {
    fn expect(&self) -> (Place<'_>, oneshot::Receiver<Reply>) {
        let (sender, reply) = oneshot::channel();
        let token = uuid::Uuid::new_v4().simple().to_string();
        self.0.lock().insert(token.clone(), sender);
        (Place { waiting: self, token }, reply)
    }

    fn take(&self, message: &Message) {
        let token = message.subject.as_str().rsplit('.').next().unwrap_or_default();
        let Some(waiter) = self.0.lock().remove(token) else { return };
        let reply = if message.status == Some(StatusCode::NO_RESPONDERS) {
            Reply::NobodyListens
        } else {
            Reply::Ack(Ack::of_text(&String::from_utf8_lossy(&message.payload)))
        };
        // Whoever left meanwhile needs no reply.
        let _ = waiter.send(reply);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.0.lock().remove(&self.token);
    }
}

/// Keeps the inbox subscribed in each connection that comes.
async fn listen(
    mut sessions: watch::Receiver<Option<Session>>,
    inbox: String,
    waiting: Arc<Waiting>,
    ready: watch::Sender<Option<Session>>,
) {
    loop {
        let Some(session) = next_session(&mut sessions).await else { return };
        let heard = async {
            if let Ok(mut messages) = session.client().subscribe(inbox.clone()).await {
                ready.send_replace(Some(session.clone()));
                while let Some(message) = messages.next().await {
                    waiting.take(&message);
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            () = heard => {}
            changed = sessions.changed() => if changed.is_err() { return },
        }
        ready.send_replace(None);
    }
}
