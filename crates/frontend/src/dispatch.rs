//! From a lowered request to a running stream on one worker: choose, book, send. What fails is told of the worker.

use crate::health::Fault;
use crate::metrics::{Histogram, Metrics};
use crate::models::ServedModel;
use crate::status::{Route, RouteBoard};
use crate::suspicion::{PoisonTable, Suspicion};
use crate::vigil::Vigil;
use crate::workers::{Ask, Booked, Chosen, WorkerSet};
use protocol::ids::InstanceId;
use protocol::request::PreprocessedRequest;
use protocol::space::Space;
use router::{Prompt, SelectError};
use runtime::request_plane::{ErrorClass, RequestClient, RequestError, ResponseStream, Traffic};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Chooses, books and sends for every request of this frontend.
pub(crate) struct Dispatcher {
    client: RequestClient,
    metrics: Arc<Metrics>,
    board: Arc<RouteBoard>,
    poison: PoisonTable,
    route_seconds: Histogram,
    roundtrip_seconds: Histogram,
    queue_seconds: Histogram,
    send_seconds: Histogram,
    hashing_ms: Histogram,
    seq_hashing_ms: Histogram,
    matching_ms: Histogram,
    scheduling_ms: Histogram,
    total_ms: Histogram,
}

/// A stream that runs on a worker, with its booking.
pub(crate) struct Live {
    pub(crate) stream: ResponseStream,
    pub(crate) booking: Booked,
    pub(crate) vigil: Vigil,
    /// Share of the prompt's tokens that the router expected in the worker's cache.
    pub(crate) hit_rate: f64,
}

/// Why there is no stream, or no more.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No worker can be chosen.
    #[error("no worker: {0}")]
    Unplaced(SelectError),
    /// Workers died on it.
    #[error("workers died on this request; it is refused for {} s", left.as_secs())]
    Poison { left: Duration },
    /// A constrained answer was begun, and no worker can go on in the middle of one.
    #[error("no worker can go on in the middle of a constrained answer")]
    Unresumable,
    /// A worker failed or refused.
    #[error("worker {worker}: {error}")]
    Worker { worker: InstanceId, error: RequestError },
}

/// One attempt.
pub(crate) struct Attempt<'a> {
    pub(crate) request_id: &'a str,
    /// Which attempt of this request it is, from 1.
    pub(crate) number: u32,
    pub(crate) avoid: &'a [InstanceId],
    /// Wait before a worker that failed this request is asked again, because there is no other.
    pub(crate) wait_if_again: Duration,
    /// Longest wait for the worker to take the request.
    pub(crate) timeout: Duration,
}

impl Dispatcher {
    pub(crate) fn new(client: RequestClient, metrics: Arc<Metrics>, board: Arc<RouteBoard>) -> Arc<Self> {
        let router_id = metrics.router_id.to_string();
        let router_id = [router_id.as_str()];
        Arc::new(Self {
            client,
            board,
            poison: PoisonTable::default(),
            route_seconds: metrics.stage_duration.with(&["route"]),
            roundtrip_seconds: metrics.stage_duration.with(&["transport_roundtrip"]),
            queue_seconds: metrics.plane_queue.with(&[]),
            send_seconds: metrics.plane_send.with(&[]),
            seq_hashing_ms: metrics.router_overhead_seq_hashing_ms.with(&router_id),
            matching_ms: metrics.router_overhead_matching_ms.with(&router_id),
            hashing_ms: metrics.router_overhead_hashing_ms.with(&router_id),
            scheduling_ms: metrics.router_overhead_scheduling_ms.with(&router_id),
            total_ms: metrics.router_overhead_total_ms.with(&router_id),
            metrics,
        })
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The requests on which workers died.
    pub(crate) fn poison(&self) -> &PoisonTable {
        &self.poison
    }

    /// What went over the request connections.
    pub(crate) fn traffic(&self) -> &Traffic {
        self.client.traffic()
    }

    /// Sends `request` to a chosen worker. Dropping the future frees the booking and cancels the worker.
    pub(crate) async fn open(
        self: &Arc<Self>,
        model: &ServedModel,
        request: &mut PreprocessedRequest,
        attempt: &Attempt<'_>,
        suspicion: &mut Suspicion,
    ) -> Result<Live, Failure> {
        let entered = Instant::now();
        model.metrics.received.inc();
        let mut chosen = self.place(model, request, attempt).map_err(|error| {
            if error == SelectError::AllBusy {
                model.metrics.all_busy.inc();
            }
            match error {
                SelectError::NoneAllowed if needs_resume_of_guided(request) => Failure::Unresumable,
                error => Failure::Unplaced(error),
            }
        })?;
        suspicion.placed(&chosen.booking);
        if chosen.again {
            tokio::time::sleep(attempt.wait_if_again).await;
        }
        let worker = chosen.placement.worker;
        request.routing.get_or_insert_default().dp_rank = Some(worker.dp_rank);
        let sent = Instant::now();
        self.queue_seconds.observe((sent - entered).as_secs_f64());
        chosen.booking.meter.sent(sent);
        let cut = chosen.booking.cut();
        let result = tokio::select! {
            biased;
            result = self.client.send(&chosen.endpoint, attempt.request_id, &*request) => result,
            () = cut.cancelled() => Err(hung()),
            () = tokio::time::sleep(attempt.timeout) => Err(silent(attempt.timeout)),
        };
        match result {
            Ok(stream) => {
                self.send_seconds.observe(stream.sent_in().as_secs_f64());
                self.roundtrip_seconds.observe(sent.elapsed().as_secs_f64());
                let hit_rate = chosen.placement.cached_tokens as f64 / request.token_ids.len().max(1) as f64;
                let booking = chosen.booking;
                let vigil = booking.vigil(stream.beat_every(), attempt.timeout);
                Ok(Live { stream, booking, vigil, hit_rate })
            }
            Err(error) => Err(Failure::Worker { worker: worker.worker_id, error }),
        }
    }

    fn place(
        &self,
        model: &ServedModel,
        request: &PreprocessedRequest,
        attempt: &Attempt<'_>,
    ) -> Result<Chosen, SelectError> {
        let start = Instant::now();
        let routing = request.routing.as_ref();
        let block_size = model.workers.block_size;
        let tokens_hashes = Prompt::hash_tokens(&request.token_ids, block_size, &Space::of(routing));
        let tokens_hashed = Instant::now();
        let prompt = Prompt::of_hashes(request.token_ids.len(), block_size, tokens_hashes);
        let hashed = Instant::now();
        let pin = |worker_id: u64| router::select::Pin {
            worker_id: InstanceId(worker_id),
            dp_rank: routing.and_then(|routing| routing.dp_rank),
        };
        // A pin that failed is no longer obeyed: the client asked for an answer first, for a place second.
        let pinned = routing.and_then(|routing| routing.backend_instance_id).filter(|_| attempt.number == 1).map(pin);
        let allowed = routing.and_then(|routing| routing.allowed_worker_ids.as_deref());
        let resumes_guided = needs_resume_of_guided(request);
        let ask = Ask {
            request_id: attempt.request_id,
            prompt: &prompt,
            allowed,
            pinned,
            avoid: attempt.avoid,
            resumes_guided,
        };
        let chosen = model.workers.choose(&ask);
        let end = Instant::now();
        let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        self.hashing_ms.observe(milliseconds(start, tokens_hashed));
        self.seq_hashing_ms.observe(milliseconds(tokens_hashed, hashed));
        let matched_in = chosen.as_ref().map_or(Duration::ZERO, |chosen| chosen.matched_in);
        self.matching_ms.observe(matched_in.as_secs_f64() * 1e3);
        self.scheduling_ms.observe(((end - hashed).saturating_sub(matched_in)).as_secs_f64() * 1e3);
        self.total_ms.observe(milliseconds(start, end));
        self.route_seconds.observe((end - start).as_secs_f64());
        let chosen = chosen?;
        self.board.record(Route::new(model, attempt.request_id, attempt.number, prompt.tokens, &chosen.placement));
        Ok(chosen)
    }

    /// Tells the worker set of a failure; a lost worker is out until it answers its sentry.
    pub(crate) fn note_failure(&self, workers: &WorkerSet, worker: InstanceId, error: &RequestError) {
        let fault = match error.class {
            ErrorClass::CannotConnect | ErrorClass::Disconnected | ErrorClass::StreamIncomplete => Fault::Lost,
            ErrorClass::ConnectionTimeout
            | ErrorClass::ResponseTimeout
            | ErrorClass::EngineShutdown
            | ErrorClass::WorkerUnavailable
            // What it sends does not decode: it answers others no better.
            | ErrorClass::BackendProtocol => Fault::Failing,
            // A full worker is well, and a refusal is the request's own fault.
            _ => return,
        };
        self.note_fault(workers, worker, fault, error);
    }

    /// The same, for a fault that is known.
    pub(crate) fn note_fault(&self, workers: &WorkerSet, worker: InstanceId, fault: Fault, error: &RequestError) {
        // A worker that dies fails all its requests; one line says it.
        if workers.fault(worker, fault) || fault == Fault::Failing {
            tracing::warn!(worker_id = %worker, model = workers.model, %error, "a worker failed a request");
        }
    }
}

/// Whether the worker has to advance a grammar over tokens that another one made.
fn needs_resume_of_guided(request: &PreprocessedRequest) -> bool {
    request.resumed_tokens() > 0 && request.sampling_options.guided_decoding.is_some()
}

/// A stream of a worker that is found to hang.
pub(crate) fn hung() -> RequestError {
    RequestError::new(ErrorClass::Disconnected, "the worker hangs: it answers no ping, and nothing came on its streams")
}

fn silent(timeout: Duration) -> RequestError {
    RequestError::new(ErrorClass::ResponseTimeout, format!("the worker said nothing for {} s", timeout.as_secs()))
}
