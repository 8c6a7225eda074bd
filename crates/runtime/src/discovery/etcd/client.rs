//! The real etcd: one connection at a time, to one member after another.
//!
//! A member that fails or does not answer is left, and the next call goes to the next one. Whoever drops a call that
//! is under way says that it took too long: that, too, leaves the member.
//!
//! Source: etcd 3.5's API and error texts; its answers were looked at in the tests against the real server.

use super::super::RECORDS_MAX;
use super::api::{Etcd, Events, Listing, PREFIX, RawRecord, WatchEvent};
use super::config::EtcdConfig;
use super::connect::{connect, error_of, wants_token};
use super::error::{EtcdError, EtcdFault};
use super::rpc::{self, path};
use futures::{StreamExt, stream};
use hyper::http::uri::PathAndQuery;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Longest wait for a connection with TLS and login: some round trips and one bcrypt. A member that needs longer is
/// passed over.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Longest wait for a page of a list, at a member that hangs.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// Records of one page of a list.
const PAGE_RECORDS: i64 = 128;

/// Bytes of one answer: a page of records of etcd's own largest request, 1.5 MiB.
const ANSWER_BYTES_MAX: usize = PAGE_RECORDS as usize * (3 << 19);

/// A connection that is in use.
#[derive(Clone, Debug)]
struct Line {
    generation: u64,
    endpoint: Arc<str>,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

/// The connection in use, if any, and the member that is next.
#[derive(Debug)]
struct Seat {
    line: Option<Line>,
    generation: u64,
    next: usize,
}

type SharedSeat = Arc<Mutex<Seat>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    config: EtcdConfig,
    seat: SharedSeat,
}

/// A call under way. Dropped before it is told how it ended, it leaves the member that did not answer.
struct Attempt {
    seat: SharedSeat,
    generation: u64,
    answered: bool,
}

impl Attempt {
    fn ended<T>(&mut self, outcome: &Result<T, EtcdError>) {
        self.answered = !matches!(outcome, Err(error) if error.fault == EtcdFault::Unavailable);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut seat = self.seat.lock();
        if !self.answered && seat.line.as_ref().is_some_and(|line| line.generation == self.generation) {
            seat.line = None;
        }
    }
}

impl Client {
    /// Connects when it is first asked.
    pub(super) fn new(config: EtcdConfig) -> Self {
        // Fleets spread over the members.
        let next = rand::random_range(0..config.endpoints.len().max(1));
        Self { config, seat: Arc::new(Mutex::new(Seat { line: None, generation: 0, next })) }
    }

    /// The connection in use, or a new one to the first member that lets us in.
    async fn line(&self) -> Result<Line, EtcdError> {
        let mut failed: Option<EtcdError> = None;
        for _ in 0..self.config.endpoints.len() {
            let index = {
                let mut seat = self.seat.lock();
                if let Some(line) = &seat.line {
                    return Ok(line.clone());
                }
                let index = seat.next % self.config.endpoints.len();
                // Now and not after the failure: a caller may give up while we wait.
                seat.next = index + 1;
                index
            };
            let endpoint = &self.config.endpoints[index];
            let dialled = tokio::time::timeout(CONNECT_MAX, self.dial(endpoint)).await;
            match dialled.unwrap_or_else(|_| Err(late(endpoint, "no connection", CONNECT_MAX))) {
                Ok(line) => return Ok(self.take_seat(line)),
                Err(error) => failed = Some(graver(failed, error)),
            }
        }
        Err(failed.unwrap_or_else(|| EtcdError::new(EtcdFault::Config, "", "no endpoint is given")))
    }

    async fn dial(&self, endpoint: &str) -> Result<Line, EtcdError> {
        let channel = connect(&self.config, endpoint).await?;
        let mut line = Line { generation: 0, endpoint: endpoint.into(), channel, token: None };
        line.token = self.authenticate(&line).await?;
        Ok(line)
    }

    /// Someone else may have been faster; one connection is enough.
    fn take_seat(&self, mut line: Line) -> Line {
        let mut seat = self.seat.lock();
        if let Some(line) = &seat.line {
            return line.clone();
        }
        seat.generation += 1;
        line.generation = seat.generation;
        tracing::debug!(endpoint = %line.endpoint, "connected to etcd");
        seat.line = Some(line.clone());
        line
    }

    async fn authenticate(&self, line: &Line) -> Result<Option<MetadataValue<Ascii>>, EtcdError> {
        let Some(user) = &self.config.user else { return Ok(None) };
        let question = rpc::AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
        let anonymous = Line { token: None, ..line.clone() };
        let answer: Result<rpc::AuthenticateResponse, _> = unary(&anonymous, path::AUTHENTICATE, question).await;
        match answer {
            Ok(answer) => Ok(answer.token.parse().ok()),
            Err(status) if status.message().contains("authentication is not enabled") => {
                tracing::debug!(endpoint = %line.endpoint, "etcd asks for no login; the user is not used");
                Ok(None)
            }
            Err(status) => Err(error_of(&line.endpoint, &status)),
        }
    }

    /// A token ends after a while, with a restart of the server, and with every change of its users.
    async fn renew(&self, line: &Line) -> Result<Line, EtcdError> {
        let renewed = Line { token: self.authenticate(line).await?, ..line.clone() };
        let mut seat = self.seat.lock();
        if let Some(line) = seat.line.as_mut().filter(|line| line.generation == renewed.generation) {
            line.token.clone_from(&renewed.token);
        }
        Ok(renewed)
    }

    fn attempt(&self, line: &Line) -> Attempt {
        Attempt { seat: self.seat.clone(), generation: line.generation, answered: false }
    }

    async fn call<Q, A>(&self, path: &'static str, question: Q) -> Result<A, EtcdError>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut line = self.line().await?;
        let mut attempt = self.attempt(&line);
        let mut answer = unary(&line, path, question.clone()).await;
        if answer.as_ref().is_err_and(|status| self.config.user.is_some() && wants_token(status)) {
            line = self.renew(&line).await?;
            answer = unary(&line, path, question).await;
        }
        let outcome = answer.map_err(|status| self.explained(error_of(&line.endpoint, &status)));
        attempt.ended(&outcome);
        outcome
    }

    /// A server that wants a client certificate closes the connection after the handshake, and its alert may be lost.
    fn explained(&self, mut error: EtcdError) -> EtcdError {
        let bare = error.endpoint.starts_with("https:") && self.config.tls.client.is_none();
        if bare && error.fault == EtcdFault::Unavailable {
            error.cause += " (if it wants a client certificate, give ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY)";
        }
        error
    }

    async fn begin_watch(&self, line: &Line, revision: i64) -> Result<Streaming<rpc::WatchResponse>, EtcdError> {
        let create = rpc::WatchCreateRequest {
            key: PREFIX.into(),
            range_end: range_end(),
            start_revision: revision,
            fragment: true,
        };
        let question = rpc::WatchRequest { create: Some(create) };
        // The stream of questions stays open: its end would be the end of the watch.
        let questions = stream::once(std::future::ready(question)).chain(stream::pending());
        let mut request = with_token(line, questions);
        // A member without a leader then ends the watch instead of telling nothing for ever.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let failed = |status: Status| error_of(&line.endpoint, &status);
        let mut answers: Streaming<rpc::WatchResponse> = streaming(line, path::WATCH, request).await.map_err(failed)?;
        let first = answers.message().await.map_err(failed)?;
        let Some(answer) = first else {
            return Err(EtcdError::new(EtcdFault::Unavailable, &*line.endpoint, "the watch ended at once"));
        };
        if !answer.created || answer.canceled {
            return Err(cancelled(&line.endpoint, &answer));
        }
        // It lost its data between the list and now: a watch from its future would be silent.
        let newest = answer.header.map_or(0, |header| header.revision);
        if newest + 1 < revision {
            let cause = format!("it is at revision {newest} and was past {revision}: its data is new");
            return Err(EtcdError::new(EtcdFault::Compacted, &*line.endpoint, cause));
        }
        Ok(answers)
    }
}

fn late(endpoint: &str, what: &str, longest: Duration) -> EtcdError {
    EtcdError::new(EtcdFault::Unavailable, endpoint, format!("{what} within {} s", longest.as_secs()))
}

/// Of several members' errors the one to report: what the whole cluster says (a login) before what may heal, and that
/// before what one member alone has wrong.
fn graver(known: Option<EtcdError>, new: EtcdError) -> EtcdError {
    let weight = |error: &EtcdError| match error.fault {
        EtcdFault::Login | EtcdFault::Denied | EtcdFault::Config => 2,
        EtcdFault::Tls => 0,
        _ => 1,
    };
    match known {
        Some(known) if weight(&known) >= weight(&new) => known,
        _ => new,
    }
}

/// The first key after all that begin with [`PREFIX`].
fn range_end() -> Vec<u8> {
    let mut end = PREFIX.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn with_token<T>(line: &Line, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = &line.token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}

async fn ready(line: &Line) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(line.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    Ok(grpc)
}

async fn unary<Q, A>(line: &Line, path: &'static str, question: Q) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let path = PathAndQuery::from_static(path);
    let answer = ready(line).await?.unary(with_token(line, question), path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

async fn streaming<Q, A>(
    line: &Line,
    path: &'static str,
    questions: Request<impl futures::Stream<Item = Q> + Send + 'static>,
) -> Result<Streaming<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let path = PathAndQuery::from_static(path);
    Ok(ready(line).await?.streaming(questions, path, ProstCodec::default()).await?.into_inner())
}

/// One renewal of a lease. The call is a stream in both directions; one question and one answer of it are enough.
async fn renewal(line: &Line, lease: i64) -> Result<Option<rpc::LeaseKeepAliveResponse>, Status> {
    let question = with_token(line, stream::iter([rpc::LeaseRequest { id: lease }]));
    let mut answers: Streaming<rpc::LeaseKeepAliveResponse> = streaming(line, path::LEASE_KEEP_ALIVE, question).await?;
    answers.message().await
}

fn cancelled(endpoint: &str, answer: &rpc::WatchResponse) -> EtcdError {
    let reason = if answer.cancel_reason.is_empty() { "the watch was cancelled" } else { &answer.cancel_reason };
    let fault = match reason {
        _ if answer.compact_revision > 0 => EtcdFault::Compacted,
        reason if reason.contains("permission denied") => EtcdFault::Denied,
        _ => EtcdFault::Unavailable,
    };
    EtcdError::new(fault, endpoint, reason)
}

fn watch_events(answer: rpc::WatchResponse) -> Vec<WatchEvent> {
    let event = |event: rpc::WatchEvent| {
        let kv = event.kv?;
        Some(if event.kind == rpc::WatchEvent::DELETE {
            WatchEvent::Delete { key: kv.key }
        } else {
            WatchEvent::Put(RawRecord { key: kv.key, value: kv.value })
        })
    };
    answer.events.into_iter().filter_map(event).collect()
}

impl Etcd for Client {
    async fn list(&self) -> Result<Listing, EtcdError> {
        let endpoint = self.line().await?.endpoint;
        let mut listing = Listing::default();
        let mut question =
            rpc::RangeRequest { key: PREFIX.into(), range_end: range_end(), limit: PAGE_RECORDS, revision: 0 };
        loop {
            let asked = tokio::time::timeout(PAGE_MAX, self.call(path::RANGE, question.clone())).await;
            let page: rpc::RangeResponse = asked.unwrap_or_else(|_| Err(late(&endpoint, "no list", PAGE_MAX)))?;
            if listing.revision == 0 {
                // All pages show the store as it was at the first.
                listing.revision = page.header.map_or(0, |header| header.revision);
                question.revision = listing.revision;
            }
            listing.records.extend(page.kvs.into_iter().map(|kv| RawRecord { key: kv.key, value: kv.value }));
            match listing.records.last() {
                Some(last) if page.more && listing.records.len() < RECORDS_MAX => {
                    question.key.clone_from(&last.key);
                    question.key.push(0);
                }
                _ => {
                    listing.cut = page.more;
                    return Ok(listing);
                }
            }
        }
    }

    async fn watch(&self, revision: i64) -> Result<Events, EtcdError> {
        let line = self.line().await?;
        let mut attempt = self.attempt(&line);
        let begun = self.begin_watch(&line, revision).await;
        attempt.ended(&begun);
        // From here on the attempt is the watch itself: whatever ends it leaves the member, unless that answered.
        attempt.answered = begun.is_err() && attempt.answered;
        let answers = begun?;
        let endpoint = line.endpoint.clone();
        let events = stream::unfold(Some((answers, attempt)), move |open| {
            let endpoint = endpoint.clone();
            async move {
                let (mut answers, mut attempt) = open?;
                let outcome = match answers.message().await {
                    Ok(Some(answer)) if answer.canceled => Err(cancelled(&endpoint, &answer)),
                    Ok(Some(answer)) => return Some((Ok(watch_events(answer)), Some((answers, attempt)))),
                    Ok(None) => Err(EtcdError::new(EtcdFault::Unavailable, &*endpoint, "the watch ended")),
                    Err(status) => Err(error_of(&endpoint, &status)),
                };
                attempt.ended(&outcome);
                Some((outcome, None))
            }
        });
        Ok(events.boxed())
    }

    async fn grant(&self, lease: i64, ttl: Duration) -> Result<(), EtcdError> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        self.call(path::LEASE_GRANT, rpc::LeaseGrantRequest { ttl, id: lease }).await.map(|rpc::Done {}| ())
    }

    async fn keep_alive(&self, lease: i64) -> Result<(), EtcdError> {
        let mut line = self.line().await?;
        let mut attempt = self.attempt(&line);
        let mut answer = renewal(&line, lease).await;
        if answer.as_ref().is_err_and(|status| self.config.user.is_some() && wants_token(status)) {
            line = self.renew(&line).await?;
            answer = renewal(&line, lease).await;
        }
        let outcome = match answer {
            Ok(Some(answer)) if answer.ttl > 0 => Ok(()),
            Ok(Some(_)) => Err(EtcdError::new(EtcdFault::LeaseGone, &*line.endpoint, "the lease has ended")),
            Ok(None) => Err(EtcdError::new(EtcdFault::Unavailable, &*line.endpoint, "no answer to the renewal")),
            Err(status) => Err(error_of(&line.endpoint, &status)),
        };
        attempt.ended(&outcome);
        outcome
    }

    async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let outcome = self.call(path::LEASE_REVOKE, rpc::LeaseRequest { id: lease }).await.map(|rpc::Done {}| ());
        outcome.or_else(|error| if error.fault == EtcdFault::LeaseGone { Ok(()) } else { Err(error) })
    }

    async fn put(&self, key: &str, value: &[u8], lease: i64) -> Result<(), EtcdError> {
        let question = rpc::PutRequest { key: key.into(), value: value.into(), lease };
        self.call(path::PUT, question).await.map(|rpc::Done {}| ())
    }

    async fn delete(&self, key: &str) -> Result<(), EtcdError> {
        self.call(path::DELETE_RANGE, rpc::DeleteRangeRequest { key: key.into() }).await.map(|rpc::Done {}| ())
    }
}
