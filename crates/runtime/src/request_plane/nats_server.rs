//! The worker's side of requests over NATS: a subscription for each path, an empty acknowledgement for each request,
//! and the answer over a connection that the worker dials, as always.
//!
//! A request that cannot be taken is acknowledged too, and refused over that connection: a refusal there has a type
//! that every frontend knows, while nobody has said how one looks in an acknowledgement over NATS.
//!
//! Source: Dynamo 1.6.1 on the wire, §6.

use super::connection;
use super::error::{ErrorClass, wire_error};
use super::nats_service::{EndpointStats, NatsService, ServiceName};
use super::server::{RequestServer, Shared};
use crate::nats::{Nats, Session, next_session};
use crate::tasks::Tasks;
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::dynamo::{Ack, Headers, RequestFrame};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Workers of one subject would share its requests; a subject names one instance, so there is one.
const QUEUE_GROUP: &str = "q";

/// Refusals under way at once; each dials a frontend. Beyond it a request is left unacknowledged, and its frontend
/// tries elsewhere after its time-out.
const REFUSALS_MAX: usize = 256;

/// How long a worker that leaves still hears, and refuses, what frontends send that have not heard of it.
const LEAVE_LINGER: Duration = Duration::from_secs(1);

/// Pause before a subscription that the client refused is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What of a request server listens on NATS.
#[derive(Default)]
pub(super) struct NatsListeners {
    tasks: Tasks,
    /// Fires when nothing new is taken: subscriptions end, and what is under way is refused.
    leaving: CancellationToken,
    services: Mutex<Vec<NatsService>>,
    /// Subscriptions that the server knows of.
    subscribed: Arc<watch::Sender<usize>>,
}

/// One path on one subject.
struct Listener {
    shared: Arc<Shared>,
    path: String,
    subject: String,
    refusals: Arc<Semaphore>,
    stats: Arc<EndpointStats>,
    leaving: CancellationToken,
    subscribed: Arc<watch::Sender<usize>>,
}

impl RequestServer {
    /// Serves `path` also on `subject`: requests that come there find the handler of [`RequestServer::serve`]. The
    /// subscription is made in the background, and again in each new connection, until
    /// [`RequestServer::stop_accepting`]. `service` is what NATS's own tools show of it.
    pub fn serve_over_nats(&self, nats: &Nats, service: &ServiceName, subject: &str, path: &str) {
        let listeners = &self.nats;
        let stats = listeners.service(nats, service).endpoint(path, subject, QUEUE_GROUP);
        let listener = Listener {
            shared: self.shared.clone(),
            path: path.to_owned(),
            subject: subject.to_owned(),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            stats,
            leaving: listeners.leaving.clone(),
            subscribed: listeners.subscribed.clone(),
        };
        listeners.tasks.spawn("nats requests", listener.run(nats.sessions()));
    }

    /// Resolves when `count` paths have their subscription at the NATS server.
    pub async fn subscribed_over_nats(&self, count: usize) {
        // The sender lives as long as this server.
        let _ = self.nats.subscribed.subscribe().wait_for(|&made| made >= count).await;
    }
}

impl NatsListeners {
    pub(super) fn stop(&self) {
        self.leaving.cancel();
        self.services.lock().clear();
    }

    /// The service of that name, registered when new.
    fn service(&self, nats: &Nats, name: &ServiceName) -> NatsService {
        let mut services = self.services.lock();
        if let Some(known) = services.iter().find(|service| service.name() == name) {
            return known.clone();
        }
        let service = NatsService::start(nats, name.clone());
        services.push(service.clone());
        service
    }
}

impl Listener {
    async fn run(self, mut sessions: watch::Receiver<Option<Session>>) {
        loop {
            let next = tokio::select! {
                session = next_session(&mut sessions) => session,
                () = self.leaving.cancelled() => return,
            };
            // None means that the connection's owner is gone, and this server with it.
            let Some(session) = next else { return };
            tokio::select! {
                over = self.listen_in(&session) => if over { return },
                changed = sessions.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Takes requests until the connection ends (`false`), or all that was under way when this server leaves (`true`).
    async fn listen_in(&self, session: &Session) -> bool {
        let client = session.client();
        let mut requests = match client.queue_subscribe(self.subject.clone(), QUEUE_GROUP.into()).await {
            Ok(requests) => requests,
            Err(error) => {
                tracing::warn!(subject = self.subject, %error, "subscribe to requests; trying again");
                tokio::time::sleep(RETRY).await;
                return false;
            }
        };
        let _known = match client.flush().await {
            Ok(()) => Known::new(&self.subscribed),
            Err(_) => return false,
        };
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = self.leaving.cancelled() => return self.leave(requests, session).await,
            };
            match request {
                Some(request) => self.take(request, session).await,
                None => {
                    tokio::time::sleep(RETRY).await;
                    return false;
                }
            }
        }
    }

    /// Ends the subscription, a moment after the worker's records went: what frontends send meanwhile is refused,
    /// which tells them at once, while a request that nobody takes is only noticed by its silence.
    async fn leave(&self, mut requests: Subscriber, session: &Session) -> bool {
        let refuse_rest = async {
            while let Some(request) = requests.next().await {
                self.take(request, session).await;
            }
        };
        let _ = tokio::time::timeout(LEAVE_LINGER, refuse_rest).await;
        if requests.drain().await.is_ok() {
            while let Some(request) = requests.next().await {
                self.take(request, session).await;
            }
        }
        true
    }

    async fn take(&self, request: Message, session: &Session) {
        let Some(reply) = request.reply else {
            tracing::warn!(subject = self.subject, "skipped a request that says not where it is acknowledged");
            return;
        };
        self.stats.count(request.payload.len());
        let payload = request.payload.clone();
        let headers = request.headers.as_ref().map(texts).unwrap_or_default();
        let frame = RequestFrame { path: self.path.clone(), headers, payload: request.payload };
        let acknowledge = session.client().publish(reply, Bytes::new());
        match connection::admit(&self.shared, frame) {
            Ok(job) => {
                // An acknowledgement that is lost costs nothing: the call-home says the same.
                let _ = acknowledge.await;
                connection::start(&self.shared, job);
            }
            Err(refusal) => {
                self.stats.failed(&refusal.text());
                let Ok(place) = self.refusals.clone().try_acquire_owned() else { return };
                if acknowledge.await.is_ok() {
                    let shared = self.shared.clone();
                    self.shared.requests.spawn("refusal", async move {
                        refuse(&shared, payload, &refusal).await;
                        drop(place);
                    });
                }
            }
        }
    }
}

/// Tells the frontend over the connection for its answer.
async fn refuse(shared: &Shared, payload: Bytes, refusal: &Ack) {
    let (class, why) = match refusal {
        Ack::Overloaded(why) => (ErrorClass::WorkerOverloaded, why),
        Ack::Taken | Ack::Unavailable(_) | Ack::Other(_) => (ErrorClass::WorkerUnavailable, &refusal.text()),
    };
    let error = wire_error(class, why.as_str(), None);
    if let Err(error) = connection::refuse_at_home(shared, payload, error).await {
        tracing::debug!(error, "a refusal did not reach its frontend");
    }
}

/// The first text under each name.
fn texts(headers: &HeaderMap) -> Headers {
    let first = headers.iter().filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())));
    first.collect()
}

/// Counts a subscription for as long as it stands.
struct Known<'a>(&'a watch::Sender<usize>);

impl<'a> Known<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
