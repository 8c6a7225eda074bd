//! One answer, over as many workers as it takes: a broken stream goes on elsewhere with prompt and emitted tokens.
//!
//! What the client has seen is never changed: the text side keeps its state, this side keeps the tokens.

use crate::dispatch::{Attempt, Dispatcher, Failure, Live};
use crate::models::ServedModel;
use crate::poison::CLEARED_BY;
use crate::retries::{is_a_loss, may_be_tried_again};
use crate::suspicion::Suspicion;
use protocol::ids::InstanceId;
use protocol::output::{EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use runtime::request_plane::ErrorClass;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Wait before the only worker is asked again; four times as long with each try: 0.1, 0.4, 1.6 s.
const AGAIN_FIRST: Duration = Duration::from_millis(100);

/// Limits of one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerLimits {
    /// Longest silence of a worker.
    pub(crate) token_timeout: Duration,
    /// No migration once prompt and answer have more tokens than this.
    pub(crate) migration_max_seq_len: Option<u32>,
}

/// One answer. Dropping it cancels the worker and frees the booking.
pub(crate) struct Answer {
    dispatcher: Arc<Dispatcher>,
    model: Arc<ServedModel>,
    limits: AnswerLimits,
    request_id: String,
    /// As it was last sent: after a migration the prompt has the emitted tokens at its end.
    request: PreprocessedRequest,
    /// Tokens since the last (re)start; they go to the prompt when the stream breaks.
    emitted: Vec<u32>,
    live: Option<Live>,
    failed_on: Vec<InstanceId>,
    migrations: u32,
    started: bool,
    finished: bool,
    /// False once an engine sent text without its tokens: such an answer cannot be replayed.
    replayable: bool,
    suspicion: Suspicion,
}

/// A stream or a try that broke.
struct Broken {
    failure: Failure,
    /// Its worker is gone or hangs, as opposed to one that refuses.
    lost: bool,
    /// The request ran there, and the worker may have died.
    died: bool,
}

impl Answer {
    /// Sends the request to a worker, or to another when that one fails.
    pub(crate) async fn open(
        dispatcher: Arc<Dispatcher>,
        model: Arc<ServedModel>,
        limits: AnswerLimits,
        request_id: String,
        request: PreprocessedRequest,
    ) -> Result<Self, Failure> {
        let suspicion = Suspicion::of(dispatcher.poison().clone(), &request).inspect_err(|_| {
            model.metrics.poison_refused.inc();
        })?;
        let mut answer = Self {
            dispatcher,
            model,
            limits,
            request_id,
            request,
            emitted: Vec::new(),
            live: None,
            failed_on: Vec::new(),
            migrations: 0,
            started: false,
            finished: false,
            replayable: true,
            suspicion,
        };
        answer.model.workers.count_request();
        if let Err(failure) = answer.attempt().await {
            answer.recover(Broken::of(failure)).await?;
        }
        Ok(answer)
    }

    /// The next output; `None` at the end. An error is the end too.
    pub(crate) async fn next(&mut self) -> Option<Result<EngineOutput, Failure>> {
        loop {
            let live = self.live.as_mut()?;
            let worker = live.booking.worker.worker_id;
            let item = tokio::select! {
                biased;
                item = live.stream.next::<EngineOutput>() => item.map(|item| item.map_err(|error| (error, false))),
                given_up = live.vigil.broken() => {
                    self.dispatcher.note_fault(&self.model.workers, worker, given_up.fault, &given_up.error);
                    Some(Err((given_up.error, true)))
                }
            };
            match item {
                Some(Ok(item)) => {
                    live.vigil.hear(item.data.is_some());
                    if let Some(output) = item.data {
                        self.note(&output);
                        return Some(Ok(output));
                    }
                }
                None => {
                    self.live = None;
                    return None;
                }
                Some(Err(_)) if self.finished => {
                    // The answer is whole; only its end mark is missing.
                    self.live = None;
                    return None;
                }
                Some(Err((error, given_up))) => {
                    let mut broken = Broken::of(Failure::Worker { worker, error });
                    (broken.lost, broken.died) = (broken.lost || given_up, broken.died && !given_up);
                    if let Err(failure) = self.recover(broken).await {
                        return Some(Err(failure));
                    }
                    if self.live.is_none() {
                        // The tokens that were lost were none: the limit had been reached.
                        self.finished = true;
                        let length = FinishReason::Length;
                        return Some(Ok(EngineOutput {
                            finish_reason: Some(length),
                            ..EngineOutput::of_tokens(vec![])
                        }));
                    }
                }
            }
        }
    }

    /// The booking of the running stream.
    pub(crate) fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    fn note(&mut self, output: &EngineOutput) {
        self.emitted.extend_from_slice(&output.token_ids);
        self.replayable &= !(output.token_ids.is_empty() && output.text.as_ref().is_some_and(|text| !text.is_empty()));
        self.finished |= output.finish_reason.is_some();
        if let Some(live) = &mut self.live {
            if !self.started && !output.token_ids.is_empty() {
                self.started = true;
            }
            if !output.token_ids.is_empty() {
                live.booking.prefill_completed();
                live.booking.grown_to(self.emitted.len() as u64);
            }
        }
        if self.finished || self.emitted.len() >= CLEARED_BY {
            self.suspicion.clear(&self.request);
        }
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        self.suspicion.wait_for_turn(&self.model.workers).await;
        let attempt = Attempt {
            request_id: &self.request_id,
            number: self.migrations + 1,
            avoid: &self.failed_on,
            wait_if_again: AGAIN_FIRST * 4u32.pow(self.migrations.saturating_sub(1).min(4)),
            timeout: self.limits.token_timeout,
        };
        let opened = self.dispatcher.open(&self.model, &mut self.request, &attempt, &mut self.suspicion).await;
        self.live = Some(opened?);
        Ok(())
    }

    /// Goes on elsewhere until it works, the limit is reached, or no retry can help. On `Ok` the stream runs again, or
    /// there was nothing left to generate.
    async fn recover(&mut self, broken: Broken) -> Result<(), Failure> {
        let (began, before) = (Instant::now(), self.migrations);
        let kind = if self.started { "ongoing_request" } else { "new_request" };
        let result = self.recover_from(broken, kind).await;
        if self.migrations > before {
            let outcome = if result.is_ok() { "success" } else { "failure" };
            let labels = [self.model.name.as_str(), kind, outcome];
            let seconds = began.elapsed().as_secs_f64();
            self.dispatcher.metrics().migration_duration.with(&labels).observe(seconds);
        }
        result
    }

    async fn recover_from(&mut self, mut broken: Broken, kind: &'static str) -> Result<(), Failure> {
        loop {
            self.live = None;
            let Broken { failure, lost, died } = broken;
            let Failure::Worker { worker, error } = &failure else { return Err(failure) };
            let worker = *worker;
            self.dispatcher.note_failure(&self.model.workers, worker, error);
            if died && let Err(poison) = self.suspicion.judge(worker, &self.request).await {
                self.model.metrics.poison_refused.inc();
                return Err(poison);
            }
            if !may_be_tried_again(error.class) || !self.replayable || self.migrations >= self.model.migration_limit {
                return Err(failure);
            }
            if self.is_too_long() {
                self.dispatcher.metrics().migration_too_long.with(&[&self.model.name]).inc();
                return Err(failure);
            }
            // A worker can be lost once; a second time it is a retry like any other.
            let free = lost && !self.failed_on.contains(&worker);
            if !free && !self.model.workers.pay_for_retry() {
                self.model.metrics.retries_refused.inc();
                tracing::warn!(request_id = self.request_id, error = %failure, "too many retries: it is not tried again");
                return Err(failure);
            }
            self.failed_on.push(worker);
            if !continue_after(&mut self.request, &mut self.emitted) {
                return Ok(());
            }
            self.migrations += 1;
            match self.attempt().await {
                // Nobody is left: the first reason says more than "no worker". And nothing went anywhere.
                Err(Failure::Unplaced(_)) => {
                    self.migrations -= 1;
                    return Err(failure);
                }
                Err(Failure::Unresumable) => {
                    self.migrations -= 1;
                    return Err(Failure::Unresumable);
                }
                result => {
                    self.dispatcher.metrics().migrations.with(&[&self.model.name, kind]).inc();
                    tracing::info!(
                        request_id = self.request_id,
                        attempt = self.migrations + 1,
                        resumed = self.request.resumed_tokens(),
                        "a broken answer goes on at another worker"
                    );
                    match result {
                        Ok(()) => return Ok(()),
                        Err(next) => broken = Broken::of(next),
                    }
                }
            }
        }
    }

    fn is_too_long(&self) -> bool {
        let length = self.request.token_ids.len() + self.emitted.len();
        self.limits.migration_max_seq_len.is_some_and(|most| length > most as usize)
    }
}

impl Broken {
    fn of(failure: Failure) -> Self {
        let class = if let Failure::Worker { error, .. } = &failure { Some(error.class) } else { None };
        let died = matches!(class, Some(ErrorClass::Disconnected | ErrorClass::StreamIncomplete));
        Self { failure, lost: class.is_some_and(is_a_loss), died }
    }
}

/// Makes `request` the rest of itself: the emitted tokens join the prompt, and count against the limits. `false` when
/// nothing is left to generate.
fn continue_after(request: &mut PreprocessedRequest, emitted: &mut Vec<u32>) -> bool {
    #[cfg(test)]
    if crate::simulation::planted(crate::simulation::Bug::TokenTwice) {
        emitted.pop();
    }
    let made = u32::try_from(emitted.len()).unwrap_or(u32::MAX);
    if made > 0 {
        request.set_resumed_tokens(request.resumed_tokens() + emitted.len());
    }
    request.token_ids.append(emitted);
    let stop = &mut request.stop_conditions;
    stop.min_tokens = stop.min_tokens.map(|least| least.saturating_sub(made));
    stop.max_tokens = stop.max_tokens.map(|most| most.saturating_sub(made));
    stop.max_tokens != Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::request::StopConditions;

    fn request(max_tokens: Option<u32>, min_tokens: Option<u32>) -> PreprocessedRequest {
        let stop_conditions = StopConditions { max_tokens, min_tokens, ..StopConditions::default() };
        PreprocessedRequest { token_ids: vec![1, 2, 3], stop_conditions, ..PreprocessedRequest::default() }
    }

    #[test]
    fn emitted_tokens_join_the_prompt_and_count_against_both_limits() {
        let (mut request, mut emitted) = (request(Some(10), Some(5)), vec![7, 8]);
        assert!(continue_after(&mut request, &mut emitted));
        assert_eq!(request.token_ids, [1, 2, 3, 7, 8]);
        assert_eq!((request.stop_conditions.max_tokens, request.stop_conditions.min_tokens), (Some(8), Some(3)));
        assert!(emitted.is_empty(), "a second migration must not add them again");
        emitted.extend([9, 9, 9, 9]);
        assert!(continue_after(&mut request, &mut emitted));
        assert_eq!((request.stop_conditions.max_tokens, request.stop_conditions.min_tokens), (Some(4), Some(0)));
        assert_eq!(request.resumed_tokens(), 6, "an engine with a grammar needs to know where the answer began");
    }

    #[test]
    fn an_answer_that_was_complete_but_for_its_end_needs_no_worker() {
        assert!(!continue_after(&mut request(Some(2), None), &mut vec![7, 8]));
        assert!(continue_after(&mut request(None, None), &mut vec![7, 8]));
    }
}
