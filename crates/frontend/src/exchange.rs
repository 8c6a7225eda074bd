//! All choices of one HTTP request as one stream of parts, with its deadline and its account.
//!
//! No task is spawned: the parts are polled by whoever writes the answer, so a client that leaves drops all of it, down
//! to the engine.

use crate::dispatch::{Dispatcher, Failure};
use crate::metrics::{Account, Metrics, Outcome};
use crate::migrate::{Answer, AnswerLimits};
use crate::models::ServedModel;
use crate::openai::ApiError;
use crate::openai::response::{WorkerIds, usage_of_choices};
use crate::postprocess::{Finish, Raised, Raiser};
use crate::preprocess::Prepared;
use crate::server::failure;
use futures::stream::{BoxStream, SelectAll, StreamExt};
use protocol::ids::WorkerRank;
use protocol::output::CompletionUsage;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Longest wait for a worker's end mark once the answer is complete.
const END_MARK_WAIT: Duration = Duration::from_millis(200);

/// The next part of an answer.
pub(crate) enum Part {
    /// What one choice got.
    Raised { index: u32, raised: Raised, worker: Option<WorkerIds> },
    /// The whole answer failed; nothing follows.
    Failed(ApiError),
}

/// Where all choices come from.
pub(crate) struct Exchange {
    choices: Choices,
    deadline: Pin<Box<Sleep>>,
    request_timeout: Duration,
    overload_status: u16,
    /// By choice: the usage so far.
    usages: Vec<CompletionUsage>,
    choices_per_prompt: usize,
    over: bool,
    /// Share of the first prompt that the router expected in the cache.
    pub(crate) hit_rate: f64,
    pub(crate) account: Account,
    last_worker: Option<(WorkerRank, Arc<crate::metrics::WorkerMetrics>)>,
}

enum Choices {
    One(BoxStream<'static, Step>),
    Many(SelectAll<BoxStream<'static, Step>>),
}

struct Step {
    index: u32,
    result: Result<Raised, Failure>,
    usage: CompletionUsage,
    worker: Option<(WorkerRank, Arc<crate::metrics::WorkerMetrics>)>,
}

/// What an exchange is opened with.
pub(crate) struct Order {
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) model: Arc<ServedModel>,
    pub(crate) prepared: Vec<Prepared>,
    /// Answers to each prompt.
    pub(crate) n: u32,
    /// Id of the first choice's request; the others get ids of their own.
    pub(crate) request_id: uuid::Uuid,
    pub(crate) limits: AnswerLimits,
    pub(crate) request_timeout: Duration,
    pub(crate) overload_status: u16,
    pub(crate) account: Account,
}

impl Exchange {
    /// Sends every choice to a worker; resolves when all were taken, so that a refusal still has its HTTP status.
    ///
    /// # Errors
    /// The first choice that found no worker; the others are cancelled.
    pub(crate) async fn open(order: Order) -> Result<Self, ApiError> {
        let Order { dispatcher, model, prepared, n, request_id, limits, request_timeout, overload_status, mut account } =
            order;
        let deadline = account.started() + request_timeout;
        for prompt in &prepared {
            account.prompt(prompt.prompt_tokens);
        }
        let open_all = async {
            let opens = prepared.iter().flat_map(|prompt| (0..n).map(move |choice| (prompt, choice)));
            let opens =
                opens.enumerate().map(|(index, (prompt, choice))| {
                    let id = if index == 0 { request_id } else { uuid::Uuid::new_v4() };
                    let raiser = Raiser::new(model.text.tokenizer(), prompt);
                    let request = prompt.request_for_choice(choice);
                    let answer = Answer::open(dispatcher.clone(), model.clone(), limits, id.to_string(), request);
                    let metrics = dispatcher.metrics().clone();
                    let index = index as u32;
                    async move {
                        answer.await.map(|answer| Choice { index, answer, raiser, metrics, state: State::Running })
                    }
                });
            futures::future::try_join_all(opens).await
        };
        let opened = tokio::time::timeout_at(deadline, open_all).await;
        let choices = match opened {
            Ok(Ok(choices)) => choices,
            Ok(Err(failure)) => {
                let error = failure::to_api(&failure, overload_status);
                account.close(Outcome::Failed(error.status), None);
                return Err(error);
            }
            Err(_) => {
                account.close(Outcome::Failed(504), None);
                return Err(failure::deadline(request_timeout));
            }
        };
        let hit_rate = choices.first().and_then(|choice| choice.answer.live()).map_or(0.0, |live| live.hit_rate);
        let usages = choices.iter().map(|choice| choice.raiser.usage()).collect();
        Ok(Self {
            choices: Choices::of(choices),
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            request_timeout,
            overload_status,
            usages,
            choices_per_prompt: n.max(1) as usize,
            over: false,
            hit_rate,
            account,
            last_worker: None,
        })
    }

    /// The next part, or `None` when every choice is over. Counts tokens as they come.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        if self.over {
            return Poll::Ready(None);
        }
        match self.choices.poll_next(cx) {
            Poll::Ready(Some(step)) => Poll::Ready(Some(self.take(step))),
            Poll::Ready(None) => {
                self.over = true;
                let usage = self.usage();
                self.note_worker_latency();
                self.account.close(Outcome::Success, Some(&usage));
                Poll::Ready(None)
            }
            Poll::Pending => {
                if self.deadline.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let error = failure::deadline(self.request_timeout);
                Poll::Ready(Some(self.fail(error)))
            }
        }
    }

    /// Usage of all choices so far.
    pub(crate) fn usage(&self) -> CompletionUsage {
        let by_prompt: Vec<Vec<CompletionUsage>> =
            self.usages.chunks(self.choices_per_prompt).map(<[CompletionUsage]>::to_vec).collect();
        usage_of_choices(&by_prompt)
    }

    /// Usage of the prompt that choice `index` answers, its own tokens only.
    pub(crate) fn usage_of(&self, index: u32) -> Option<CompletionUsage> {
        self.usages.get(index as usize).copied()
    }

    fn take(&mut self, step: Step) -> Part {
        let index = step.index;
        if let Some(slot) = self.usages.get_mut(index as usize) {
            *slot = step.usage;
        }
        let raised = match step.result {
            Ok(raised) => raised,
            Err(failure) => return self.fail(failure::to_api(&failure, self.overload_status)),
        };
        if raised.new_tokens > 0 {
            let first = self.account.first_token().is_none();
            self.account.tokens(raised.new_tokens, Instant::now());
            if let (true, Some((_, metrics))) = (first, &step.worker) {
                let ttft = self.account.first_token().map_or(0.0, |at| (at - self.account.started()).as_secs_f64());
                metrics.last_ttft.set(ttft);
                metrics.last_input_tokens.set(i64::from(step.usage.prompt_tokens));
            }
        }
        if let Some(Finish::Error(text)) = &raised.finish {
            tracing::warn!(error = text, "an engine failed an answer");
            return self.fail(failure::engine_failed());
        }
        if step.worker.is_some() {
            self.last_worker = step.worker;
        }
        if let (Some(_), Some((_, worker))) = (&raised.finish, &self.last_worker) {
            let details = step.usage.prompt_tokens_details;
            let reused = details.and_then(|details| details.cached_tokens).unwrap_or(0);
            worker.router.reused_tokens.inc_by(u64::from(reused));
        }
        let worker = self.last_worker.as_ref().map(|(worker, _)| WorkerIds {
            prefill_worker_id: worker.worker_id.0,
            prefill_dp_rank: worker.dp_rank,
            decode_worker_id: worker.worker_id.0,
            decode_dp_rank: worker.dp_rank,
        });
        Part::Raised { index, raised, worker }
    }

    fn fail(&mut self, error: ApiError) -> Part {
        self.over = true;
        // Cancels what still runs.
        self.choices = Choices::Many(SelectAll::new());
        let usage = self.usage();
        self.account.close(Outcome::Failed(error.status), Some(&usage));
        Part::Failed(error)
    }

    fn note_worker_latency(&self) {
        if let (Some((_, metrics)), Some(gap)) = (&self.last_worker, self.account.mean_gap_seconds()) {
            metrics.last_itl.set(gap);
        }
    }
}

impl Choices {
    fn of(mut choices: Vec<Choice>) -> Self {
        match (choices.pop(), choices.is_empty()) {
            (Some(only), true) => Self::One(only.into_stream()),
            (last, _) => {
                choices.extend(last);
                Self::Many(choices.into_iter().map(Choice::into_stream).collect())
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        match self {
            Self::One(stream) => stream.poll_next_unpin(cx),
            Self::Many(streams) => streams.poll_next_unpin(cx),
        }
    }
}

/// One choice: its answer and the text it becomes.
struct Choice {
    index: u32,
    answer: Answer,
    raiser: Raiser,
    metrics: Arc<Metrics>,
    state: State,
}

impl Drop for Choice {
    fn drop(&mut self) {
        let (took, tokens) = self.raiser.work();
        if tokens > 0 {
            self.metrics.detokenizing_took(took, tokens);
        }
    }
}

enum State {
    Running,
    /// The text is complete; the worker's end mark is awaited, so that it is not sent a needless "kill".
    Complete,
    Over,
}

impl Choice {
    fn into_stream(self) -> BoxStream<'static, Step> {
        // Boxed, because the state moves through each step: a pointer, not a kilobyte.
        futures::stream::unfold(Box::new(self), |mut choice| async move {
            let step = choice.step().await?;
            Some((step, choice))
        })
        .boxed()
    }

    async fn step(&mut self) -> Option<Step> {
        match self.state {
            State::Over => return None,
            State::Complete => {
                let end = async { while matches!(self.answer.next().await, Some(Ok(_))) {} };
                // Whether the mark came in time or not, the answer is complete.
                let _ = tokio::time::timeout(END_MARK_WAIT, end).await;
                self.state = State::Over;
                return None;
            }
            State::Running => {}
        }
        let result = match self.answer.next().await {
            Some(Ok(output)) => Ok(self.raiser.push(&output)),
            Some(Err(failure)) => {
                self.state = State::Over;
                Err(failure)
            }
            None => {
                self.state = State::Over;
                Ok(self.raiser.end())
            }
        };
        if let Ok(raised) = &result {
            if raised.cancel {
                self.state = State::Over;
            } else if raised.finish.is_some() && !matches!(self.state, State::Over) {
                self.state = State::Complete;
            }
        }
        let worker = self.answer.live().map(|live| (live.booking.worker, live.booking.metrics.clone()));
        Some(Step { index: self.index, result, usage: self.raiser.usage(), worker })
    }
}
