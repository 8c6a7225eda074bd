//! One request at a worker: `generate`, and the recovery query of the KV indexer.

use crate::engine::Engine;
use crate::fanout::{self, CompactOutput, UsageSum};
use crate::indexer::Mirror;
use crate::metrics::{HandlerError, InHandler, WorkerMetrics};
use crate::publish::PrefillDone;
use crate::refusal::Refusal;
use crate::vitals::{BEAT_EVERY, Vitals};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::events::RecoveryQuery;
use protocol::output::{Annotated, EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use runtime::request_plane::{Handler, Incoming, Responder, StreamClosed, decode_or_refuse};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Answers `generate`.
pub(crate) struct GenerateHandler {
    /// The engine.
    pub(crate) engine: Arc<dyn Engine>,
    /// Whether it goes forward.
    pub(crate) vitals: Arc<Vitals>,
    /// Where prompts that are computed are announced.
    pub(crate) prefills: mpsc::Sender<PrefillDone>,
    /// Counters.
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Rung when a request begins or ends: the engine's load may have changed.
    pub(crate) load_changed: Arc<Notify>,
    /// Name of the endpoint, for the counters.
    pub(crate) endpoint: String,
    /// Fires when running streams have no time left: each ends with an error that lets the caller go on elsewhere.
    pub(crate) halt: CancellationToken,
    /// The drain's bound in seconds, for that error's text.
    pub(crate) drain_seconds: u64,
}

impl GenerateHandler {
    /// The handler as the request server takes it.
    pub(crate) fn shared(self) -> Arc<dyn Handler> {
        shared(self, Self::answer)
    }

    async fn answer(self: Arc<Self>, incoming: Incoming, mut out: Responder) {
        let counted = begin(&self.metrics, &self.endpoint, &incoming, &mut out);
        let Some((request, mut out)) = decode_or_refuse::<PreprocessedRequest>(&incoming, out).await else {
            counted.failed(HandlerError::Deserialization);
            return;
        };
        let lora_name = request.routing.as_ref().and_then(|routing| routing.lora_name.clone());
        let sequences = match self.start(request) {
            Ok(sequences) => sequences,
            Err(refusal) => {
                if !refusal.is_invalid() {
                    counted.failed(HandlerError::Generate);
                    tracing::warn!(request_id = incoming.id, %refusal, "a request was refused");
                }
                out.refuse(refusal.wire_error()).await;
                return;
            }
        };
        self.load_changed.notify_one();
        counted.responded();
        out.promise_beats(BEAT_EVERY);
        if let Err(closed) = out.accept().await {
            note_closed(&counted, &incoming.id, &closed);
            return;
        }
        let prefill = PrefillDone { request_id: incoming.id.clone(), lora_name };
        self.stream(sequences, out, prefill, &counted).await;
        self.load_changed.notify_one();
    }

    /// Starts all sequences of a request, or none: what was started is cancelled by dropping it.
    fn start(&self, request: PreprocessedRequest) -> Result<Vec<Receiver<EngineOutput>>, Refusal> {
        let begun = request.resumed_tokens();
        if begun > 0 && request.sampling_options.guided_decoding.is_some() && !self.engine.resumes_guided() {
            return Err(Refusal::invalid(format!(
                "extra_args.busbar.resumed_tokens: {begun} tokens of a constrained answer come from another worker, and \
                 this engine cannot advance its grammar over them; send the request again from its beginning"
            )));
        }
        let start = |sequence| {
            // A guest that panics must not take its host down.
            catch_unwind(AssertUnwindSafe(|| self.engine.generate(sequence)))
                .map_err(|panic| Refusal::Panicked(runtime::tasks::panic_text(&*panic).to_owned()))?
                .map_err(Refusal::from)
        };
        fanout::sequences(request)?.into_iter().map(start).collect()
    }

    /// Passes the engine's outputs on until every sequence has ended, or one cannot.
    async fn stream(
        &self,
        receivers: Vec<Receiver<EngineOutput>>,
        mut out: Responder,
        prefill: PrefillDone,
        counted: &InHandler,
    ) {
        let request_id = prefill.request_id.clone();
        let cancelled = out.cancelled();
        let mut prefill = Some(prefill);
        let mut sequences = Sequences::new(receivers);
        let mut quiet_since = Instant::now();
        // One timer for the whole stream: an item does not touch it.
        let beat = tokio::time::sleep(BEAT_EVERY);
        tokio::pin!(beat);
        loop {
            let event = tokio::select! {
                biased;
                () = cancelled.cancelled() => Event::Cancelled,
                () = self.halt.cancelled() => Event::Broken(Refusal::Halted { drain_seconds: self.drain_seconds }),
                event = sequences.next() => event,
                () = &mut beat, if out.beats() => Event::Quiet,
            };
            let sent = match event {
                Event::Output(output) => {
                    if let Some(prefill) = prefill.take() {
                        // Full: see PREFILL_QUEUE_LEN. The routers learn it when the request ends.
                        let _ = self.prefills.try_send(prefill);
                    }
                    if let Some(FinishReason::Error(text)) = &output.finish_reason {
                        counted.failed(HandlerError::Generate);
                        tracing::warn!(request_id, error = text, "the engine failed a sequence");
                    }
                    quiet_since = Instant::now();
                    out.item(&Annotated::of(CompactOutput::from(&output))).await
                }
                Event::Quiet => {
                    let (now, due) = (Instant::now(), quiet_since + BEAT_EVERY);
                    beat.as_mut().reset(if due > now { due } else { now + BEAT_EVERY });
                    match due <= now && self.vitals.goes_forward(quiet_since, now) {
                        true => out.beat().await,
                        false => Ok(()),
                    }
                }
                Event::AllEnded => return out.finish().await,
                Event::Broken(refusal) => {
                    counted.failed(HandlerError::Generate);
                    tracing::warn!(request_id, %refusal, "a stream was ended by an error");
                    drop(sequences);
                    let error = Annotated::<CompactOutput<'_>> {
                        data: None,
                        id: None,
                        event: Some("error".into()),
                        comment: None,
                        error: Some(refusal.wire_error()),
                    };
                    if out.item(&error).await.is_ok() {
                        out.finish().await;
                    }
                    return;
                }
                Event::Cancelled => Err(StreamClosed::Cancelled),
            };
            if let Err(closed) = sent {
                // Dropping the sequences is what stops the engine.
                note_closed(counted, &request_id, &closed);
                return;
            }
        }
    }
}

/// One of our handlers as the request server takes it: each request holds it until it is answered.
fn shared<H, F>(handler: H, answer: fn(Arc<H>, Incoming, Responder) -> F) -> Arc<dyn Handler>
where
    H: Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |request: Incoming, out: Responder| -> BoxFuture<'static, ()> {
        Box::pin(answer(handler.clone(), request, out))
    })
}

/// Counts a request in, with the time it waited and every byte of its answer.
fn begin(metrics: &Arc<WorkerMetrics>, endpoint: &str, incoming: &Incoming, out: &mut Responder) -> InHandler {
    let counted = metrics.begin(endpoint, &incoming.headers, incoming.body.len());
    if let Some(waited) = out.waited() {
        counted.waited(waited);
    }
    out.count_sent(counted.sent());
    counted
}

fn note_closed(counted: &InHandler, request_id: &str, closed: &StreamClosed) {
    counted.cancelled();
    if *closed != StreamClosed::Cancelled {
        counted.failed(HandlerError::PublishResponse);
        tracing::warn!(request_id, error = %closed, "an answer could not be sent; its sequences are cancelled");
    }
}

/// What can happen to a running request.
#[allow(clippy::large_enum_variant, reason = "taken as soon as made; a box would cost an allocation a token")]
enum Event {
    /// New tokens, an end, or both, of one sequence.
    Output(EngineOutput),
    /// The timer of beats: perhaps nothing came for a while.
    Quiet,
    /// Every sequence has ended well.
    AllEnded,
    /// The request cannot go on here.
    Broken(Refusal),
    /// Its caller does not want it any more.
    Cancelled,
}

/// The running sequences of one request, read as one stream.
struct Sequences {
    /// `None` when ended; the position is the index.
    receivers: Vec<Option<Receiver<EngineOutput>>>,
    usage: UsageSum,
    /// An output that was read but could not be merged, with its sequence.
    held: Option<(usize, EngineOutput)>,
    /// Where the next look begins, so that a busy sequence does not hide the others.
    turn: usize,
}

impl Sequences {
    fn new(receivers: Vec<Receiver<EngineOutput>>) -> Self {
        let usage = UsageSum::new(receivers.len());
        Self { receivers: receivers.into_iter().map(Some).collect(), usage, held: None, turn: 0 }
    }

    /// The next output, with all that is ready of the same sequence merged into it: one item per engine step while
    /// the caller keeps up, fewer and larger ones when it does not.
    async fn next(&mut self) -> Event {
        if self.held.is_none() && self.receivers.iter().all(Option::is_none) {
            return Event::AllEnded;
        }
        let (index, mut output) = match self.held.take() {
            Some(held) => held,
            None => match poll_fn(|cx| self.poll(cx)).await {
                (index, Some(output)) => (index, output),
                (_, None) => return Event::Broken(Refusal::Unfinished),
            },
        };
        if let Some(receiver) = self.receivers[index].as_mut() {
            while let Ok(next) = receiver.try_recv() {
                if let Some(next) = fanout::merge(&mut output, next) {
                    self.held = Some((index, next));
                    break;
                }
            }
        }
        if output.finish_reason.is_some() {
            self.receivers[index] = None;
            // Nothing may follow an end; an engine that says more is not heard.
            self.held = None;
        }
        if self.receivers.len() > 1 {
            output.index = u32::try_from(index).ok();
        }
        output.completion_usage = output.completion_usage.map(|usage| self.usage.add(index, usage));
        Event::Output(output)
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<(usize, Option<EngineOutput>)> {
        let count = self.receivers.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let Some(receiver) = &mut self.receivers[index] else { continue };
            if let Poll::Ready(output) = receiver.poll_recv(cx) {
                self.turn = index + 1;
                return Poll::Ready((index, output));
            }
        }
        Poll::Pending
    }
}

/// Answers recovery queries from the mirror.
pub(crate) struct QueryHandler {
    /// What is stored.
    pub(crate) mirror: Arc<Mutex<Mirror>>,
    /// Counters.
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Name of the endpoint, for the counters.
    pub(crate) endpoint: String,
}

impl QueryHandler {
    /// The handler as the request server takes it.
    pub(crate) fn shared(self) -> Arc<dyn Handler> {
        shared(self, Self::answer)
    }

    async fn answer(self: Arc<Self>, incoming: Incoming, mut out: Responder) {
        let counted = begin(&self.metrics, &self.endpoint, &incoming, &mut out);
        let Some((query, mut out)) = decode_or_refuse::<RecoveryQuery>(&incoming, out).await else {
            counted.failed(HandlerError::Deserialization);
            return;
        };
        let answer = self.mirror.lock().answer(&query);
        counted.responded();
        match out.raw_item(&answer).await {
            Ok(()) => out.finish().await,
            Err(closed) => note_closed(&counted, &incoming.id, &closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::output::CompletionUsage;

    fn tokens(ids: &[u32]) -> EngineOutput {
        EngineOutput::of_tokens(ids.to_vec())
    }

    fn end(completion: u32) -> EngineOutput {
        EngineOutput::finished(FinishReason::Length, CompletionUsage::new(4, completion, 0))
    }

    fn ready(outputs: Vec<EngineOutput>) -> Receiver<EngineOutput> {
        let (sender, receiver) = mpsc::channel(outputs.len().max(1));
        for output in outputs {
            sender.try_send(output).unwrap();
        }
        receiver
    }

    async fn output(sequences: &mut Sequences) -> EngineOutput {
        match sequences.next().await {
            Event::Output(output) => output,
            _ => panic!("an output"),
        }
    }

    #[tokio::test]
    async fn all_that_is_ready_travels_as_one_item_and_an_end_ends() {
        let mut sequences = Sequences::new(vec![ready(vec![tokens(&[1]), tokens(&[2, 3]), end(3), tokens(&[9])])]);
        let all = output(&mut sequences).await;
        assert_eq!((all.token_ids, all.finish_reason, all.index), (vec![1, 2, 3], Some(FinishReason::Length), None));
        assert!(matches!(sequences.next().await, Event::AllEnded));
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_a_reason_is_broken() {
        let mut sequences = Sequences::new(vec![ready(vec![tokens(&[1])])]);
        assert_eq!(output(&mut sequences).await.token_ids, [1]);
        assert!(matches!(sequences.next().await, Event::Broken(Refusal::Unfinished)));
    }

    #[tokio::test]
    async fn an_output_that_does_not_merge_comes_next_and_in_order() {
        let with_log_probs = EngineOutput { log_probs: Some(vec![-1.0]), ..tokens(&[2]) };
        let mut sequences = Sequences::new(vec![ready(vec![tokens(&[1]), with_log_probs, end(2)])]);
        assert_eq!(output(&mut sequences).await.token_ids, [1]);
        let second = output(&mut sequences).await;
        assert_eq!((second.token_ids, second.finish_reason), (vec![2], Some(FinishReason::Length)));
        assert!(matches!(sequences.next().await, Event::AllEnded));
    }

    #[tokio::test]
    async fn sequences_take_turns_and_their_usage_is_the_requests() {
        let mut sequences =
            Sequences::new(vec![ready(vec![tokens(&[1]), end(1)]), ready(vec![tokens(&[2, 3]), end(2)])]);
        let (first, second) = (output(&mut sequences).await, output(&mut sequences).await);
        assert_eq!((first.index, second.index), (Some(0), Some(1)));
        assert_eq!(second.completion_usage, Some(CompletionUsage::new(4, 3, 0)));
        assert!(matches!(sequences.next().await, Event::AllEnded));
    }
}
