//! One answer: engine outputs in, text deltas out.

use crate::openai::response::{Alternative, TokenLogprob};
use crate::postprocess::stop_strings::{StopFinder, Verdict};
use crate::preprocess::{OutputPlan, Prepared};
use crate::text::{Detokenizer, Tokenizer};
use protocol::output::{CompletionUsage, EngineOutput, FinishReason, PromptTokensDetails, TopLogprob};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What stands for a log-probability that is not finite: JSON has no infinity. OpenAI's value.
const LOGPROB_FLOOR: f64 = -9999.0;

/// What one engine output becomes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raised {
    /// Text that may be shown: whole characters, no part of a stop string.
    pub text: String,
    /// One per token whose text is out, if the request asked for them.
    pub logprobs: Vec<TokenLogprob>,
    /// Why the answer is over, when it is.
    pub finish: Option<Finish>,
    /// The answer ended here and not at the engine: cancel its stream.
    pub cancel: bool,
    /// Tokens taken from this output.
    pub new_tokens: u32,
}

impl Raised {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_empty() && self.finish.is_none()
    }
}

/// Why an answer is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence token, a stop string or token, or a cancelled stream.
    Stop,
    /// The limit of new tokens, or of the context.
    Length,
    /// A filter.
    ContentFilter,
    /// The engine failed; its words, for the log.
    Error(String),
}

impl Finish {
    /// `finish_reason` in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::Error(_) => "error",
        }
    }

    fn of_engine(reason: &FinishReason) -> Self {
        match reason {
            FinishReason::Eos | FinishReason::Stop | FinishReason::Cancelled => Self::Stop,
            FinishReason::Length => Self::Length,
            FinishReason::ContentFilter => Self::ContentFilter,
            FinishReason::Error(message) => Self::Error(message.clone()),
        }
    }
}

/// Raises one answer (one choice). It outlives its engine stream: after a migration the same raiser goes on.
#[derive(Debug)]
pub struct Raiser {
    tokenizer: Arc<Tokenizer>,
    plan: Arc<OutputPlan>,
    detokenizer: Detokenizer,
    stops: StopFinder,
    /// The prompt of `echo`, until it is out.
    echo: Option<String>,
    prompt_tokens: u32,
    new_tokens: u32,
    cached_tokens: Option<u32>,
    /// Tokens by the engine's own count, for outputs that carry text without ids.
    engine_tokens: u32,
    /// Bytes and characters of text so far, and the bytes of it that are out.
    text_bytes: usize,
    text_chars: usize,
    shown_bytes: usize,
    /// Log-probabilities of tokens whose text is held back.
    waiting: VecDeque<WaitingLogprob>,
    over: bool,
    took: Duration,
}

#[derive(Debug)]
struct WaitingLogprob {
    /// Where the token's text begins and ends in the answer, bytes.
    start: usize,
    end: usize,
    entry: TokenLogprob,
}

impl Raiser {
    /// For one answer to this request.
    pub fn new(tokenizer: &Arc<Tokenizer>, prepared: &Prepared) -> Self {
        let plan = Arc::clone(&prepared.plan);
        Self {
            tokenizer: Arc::clone(tokenizer),
            detokenizer: Detokenizer::new(tokenizer, plan.skip_special_tokens),
            stops: StopFinder::new(&plan.stop, plan.include_stop),
            echo: plan.echo.clone(),
            prompt_tokens: prepared.prompt_tokens,
            new_tokens: 0,
            cached_tokens: None,
            engine_tokens: 0,
            text_bytes: 0,
            text_chars: 0,
            shown_bytes: 0,
            waiting: VecDeque::new(),
            over: false,
            took: Duration::ZERO,
            plan,
        }
    }

    /// Takes the next output of the engine. After the end it takes nothing more.
    pub fn push(&mut self, output: &EngineOutput) -> Raised {
        let start = Instant::now();
        let raised = self.raise(output);
        self.took += start.elapsed();
        raised
    }

    /// Time spent in [`Raiser::push`] so far, and the tokens that went through it.
    pub fn work(&self) -> (Duration, u32) {
        (self.took, self.new_tokens)
    }

    fn raise(&mut self, output: &EngineOutput) -> Raised {
        let mut raised = Raised::default();
        if self.over {
            return raised;
        }
        if let Some(echo) = self.echo.take() {
            raised.text = echo;
        }
        self.note_usage(output);
        let stopped = match &output.text {
            Some(text) => self.push_text(output, text, &mut raised),
            None => self.push_tokens(output, &mut raised),
        };
        if stopped {
            self.over = true;
            raised.finish = Some(Finish::Stop);
            raised.cancel = output.finish_reason.is_none();
        } else if let Some(reason) = &output.finish_reason {
            self.flush(&mut raised);
            raised.finish = Some(Finish::of_engine(reason));
        }
        raised
    }

    /// Takes the end of a stream that gave no reason: what was held back comes out.
    pub fn end(&mut self) -> Raised {
        let mut raised = Raised { text: self.echo.take().unwrap_or_default(), ..Raised::default() };
        if !self.over {
            self.flush(&mut raised);
        }
        raised
    }

    /// Tokens so far. Cached ones are those that the first engine stream told.
    pub fn usage(&self) -> CompletionUsage {
        let completion_tokens = if self.new_tokens == 0 { self.engine_tokens } else { self.new_tokens };
        CompletionUsage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            total_tokens: self.prompt_tokens + completion_tokens,
            prompt_tokens_details: self
                .cached_tokens
                .map(|tokens| PromptTokensDetails { audio_tokens: None, cached_tokens: Some(tokens) }),
        }
    }

    fn note_usage(&mut self, output: &EngineOutput) {
        let Some(usage) = &output.completion_usage else { return };
        self.engine_tokens = self.engine_tokens.max(usage.completion_tokens);
        let told = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
        // After a migration the prompt holds our own tokens: the second count says nothing about the client's prompt.
        self.cached_tokens = self.cached_tokens.or(told);
    }

    /// Raises token by token; true when the answer is over.
    fn push_tokens(&mut self, output: &EngineOutput, raised: &mut Raised) -> bool {
        let mut piece = String::new();
        for (at, &id) in output.token_ids.iter().enumerate() {
            self.count_token(raised);
            let armed = self.new_tokens > self.plan.min_tokens;
            let stops_here = armed && self.plan.stop_token_ids.contains(&id);
            piece.clear();
            if !stops_here || self.plan.include_stop {
                let start = (self.text_bytes, self.text_chars);
                self.detokenizer.push(id, &mut piece);
                self.note_logprob(output, at, id, start, piece.len());
            }
            if self.show(&piece, armed, raised) == Verdict::Stopped {
                return true;
            }
            if stops_here {
                self.flush(raised);
                return true;
            }
        }
        false
    }

    /// Raises the engine's own text; true when the answer is over.
    fn push_text(&mut self, output: &EngineOutput, text: &str, raised: &mut Raised) -> bool {
        for (at, &id) in output.token_ids.iter().enumerate() {
            self.count_token(raised);
            let start = (self.text_bytes, self.text_chars);
            // The engine does not say which part of its text is which token's: the output is one unit.
            self.note_logprob(output, at, id, start, text.len());
        }
        let armed = self.new_tokens > self.plan.min_tokens;
        self.show(text, armed, raised) == Verdict::Stopped
    }

    fn count_token(&mut self, raised: &mut Raised) {
        self.new_tokens += 1;
        raised.new_tokens += 1;
    }

    /// Passes text through the stop strings; log-probabilities follow the text that is out.
    fn show(&mut self, text: &str, armed: bool, raised: &mut Raised) -> Verdict {
        self.text_bytes += text.len();
        self.text_chars += text.chars().count();
        let before = raised.text.len();
        let verdict = self.stops.push(text, armed, &mut raised.text);
        self.shown_bytes += raised.text.len() - before;
        let shown = self.shown_bytes;
        while let Some(first) = self.waiting.front() {
            let out = first.end <= shown || (verdict == Verdict::Stopped && first.start < shown);
            if !out {
                break;
            }
            raised.logprobs.extend(self.waiting.pop_front().map(|waiting| waiting.entry));
        }
        verdict
    }

    /// Everything held back comes out: the answer is over.
    fn flush(&mut self, raised: &mut Raised) {
        self.over = true;
        let mut rest = String::new();
        self.detokenizer.finish(&mut rest);
        let armed = self.new_tokens > self.plan.min_tokens;
        if self.show(&rest, armed, raised) == Verdict::Stopped {
            return;
        }
        self.stops.finish(&mut raised.text);
        raised.logprobs.extend(self.waiting.drain(..).map(|waiting| waiting.entry));
    }

    /// Queues the log-probability of token `id`, the `at`-th of this output, whose text is `len` bytes from `start`
    /// (bytes and characters).
    fn note_logprob(&mut self, output: &EngineOutput, at: usize, id: u32, start: (usize, usize), len: usize) {
        let Some(count) = self.plan.logprobs else { return };
        let Some(&logprob) = output.log_probs.as_ref().and_then(|logprobs| logprobs.get(at)) else { return };
        let tops = output.top_logprobs.as_ref().and_then(|tops| tops.get(at));
        let alternatives = tops.into_iter().flatten().take(count as usize).map(|top| self.alternative(top));
        let (token, bytes) = self.spelling(id);
        let entry = TokenLogprob {
            token,
            logprob: finite(logprob),
            bytes: Some(bytes),
            top_logprobs: alternatives.collect(),
            text_offset: start.1,
        };
        self.waiting.push_back(WaitingLogprob { start: start.0, end: start.0 + len, entry });
    }

    fn alternative(&self, top: &TopLogprob) -> Alternative {
        let (token, bytes) = self.spelling(top.token_id);
        Alternative { token, logprob: finite(top.logprob), bytes: Some(bytes) }
    }

    /// A token's text, as the request wants it, and its bytes.
    fn spelling(&self, id: u32) -> (String, Vec<u8>) {
        let bytes = self.tokenizer.token_bytes(id).into_owned();
        let token = match self.plan.tokens_as_ids {
            true => format!("token_id:{id}"),
            false => String::from_utf8_lossy(&bytes).into_owned(),
        };
        (token, bytes)
    }
}

fn finite(logprob: f64) -> f64 {
    if logprob.is_finite() { logprob } else { LOGPROB_FLOOR }
}
