//! What clients get back: whole answers, chunks, and the list of models. Field order is the stock order.

use crate::postprocess::{Finish, Raised};
use protocol::output::{CompletionUsage, PromptTokensDetails};
use serde::Serialize;

/// A token of the answer with its log-probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The token's text; a part of a character is shown as U+FFFD, see `bytes`.
    pub token: String,
    /// Natural logarithm of its probability; -9999 stands for what is not finite.
    pub logprob: f64,
    /// The token's bytes.
    pub bytes: Option<Vec<u8>>,
    /// The most likely alternatives, best first.
    pub top_logprobs: Vec<Alternative>,
    /// Characters of the answer before this token (completions show it).
    #[serde(skip)]
    pub text_offset: usize,
}

/// An alternative to a token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// The token's text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// The token's bytes.
    pub bytes: Option<Vec<u8>>,
}

/// Log-probabilities of a chat's choice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatLogprobs<'a> {
    /// One per token.
    pub content: &'a [TokenLogprob],
    /// Always null.
    pub refusal: Option<()>,
}

impl<'a> ChatLogprobs<'a> {
    /// `None` when there are none: the answer then has `"logprobs":null`.
    pub fn of(content: &'a [TokenLogprob]) -> Option<Self> {
        (!content.is_empty()).then_some(Self { content, refusal: None })
    }
}

/// Log-probabilities of a completion's choice, in the older form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionLogprobs<'a> {
    /// Token texts.
    pub tokens: Vec<&'a str>,
    /// One per token.
    pub token_logprobs: Vec<f64>,
    /// One map per token.
    pub top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    /// Characters before each token.
    pub text_offset: Vec<usize>,
}

impl<'a> CompletionLogprobs<'a> {
    /// `None` when there are none.
    pub fn of(entries: &'a [TokenLogprob]) -> Option<Self> {
        let top = |entry: &TokenLogprob| {
            entry.top_logprobs.iter().map(|alt| (alt.token.clone(), alt.logprob.into())).collect()
        };
        (!entries.is_empty()).then(|| Self {
            tokens: entries.iter().map(|entry| entry.token.as_str()).collect(),
            token_logprobs: entries.iter().map(|entry| entry.logprob).collect(),
            top_logprobs: entries.iter().map(top).collect(),
            text_offset: entries.iter().map(|entry| entry.text_offset).collect(),
        })
    }
}

/// The answer's `nvext`, only what the request asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NvextResponse {
    /// Which workers made the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerIds>,
    /// How long the parts took; on the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
}

/// Workers of one answer; the same twice unless disaggregated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerIds {
    /// Instance that computed the prompt.
    pub prefill_worker_id: u64,
    /// Its rank.
    pub prefill_dp_rank: u32,
    /// Instance that made the tokens.
    pub decode_worker_id: u64,
    /// Its rank.
    pub decode_dp_rank: u32,
}

/// Times of one answer, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// Unix time of arrival.
    pub request_received_ms: u64,
    /// Arrival to the worker's first work.
    pub prefill_wait_time_ms: f64,
    /// First work to the first token.
    pub prefill_time_ms: f64,
    /// Arrival to the first token.
    pub ttft_ms: f64,
    /// Arrival to the end.
    pub total_time_ms: f64,
    /// Share of the prompt that the router expected in the worker's cache, 0 to 1.
    pub kv_hit_rate: f64,
    /// Requests that waited in the router.
    pub router_queue_depth: u64,
}

/// The answer to a chat.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatCompletion {
    id: String,
    choices: Vec<ChatChoice>,
    created: u64,
    model: String,
    object: &'static str,
    usage: ChatUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvext: Option<NvextResponse>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ChatChoice {
    index: usize,
    message: AssistantMessage,
    finish_reason: &'static str,
    logprobs: Option<OwnedChatLogprobs>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct AssistantMessage {
    content: String,
    refusal: Option<()>,
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct OwnedChatLogprobs {
    content: Vec<TokenLogprob>,
    refusal: Option<()>,
}

/// The answer to a completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Completion {
    id: String,
    choices: Vec<CompletionChoice>,
    created: u64,
    model: String,
    system_fingerprint: Option<()>,
    object: &'static str,
    usage: CompletionUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvext: Option<NvextResponse>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct CompletionChoice {
    text: String,
    index: usize,
    logprobs: Option<serde_json::Value>,
    finish_reason: &'static str,
}

/// One choice of a unary answer, collected from what its raiser gave.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    text: String,
    logprobs: Vec<TokenLogprob>,
    finish: Option<Finish>,
}

impl Collected {
    /// Adds the next part.
    pub fn add(&mut self, raised: Raised) {
        self.text.push_str(&raised.text);
        self.logprobs.extend(raised.logprobs);
        if raised.finish.is_some() {
            self.finish = raised.finish;
        }
    }

    /// Why the choice ended, when it has.
    pub fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// A choice without a reason was cut by us: `stop` is the closest word that clients know.
    fn finish_reason(&self) -> &'static str {
        self.finish.as_ref().map_or("stop", Finish::as_str)
    }
}

/// All that a whole answer is made of, whichever endpoint asked for it.
#[derive(Clone, Debug)]
pub struct WholeAnswer {
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// The served name.
    pub model: String,
    /// Unix seconds.
    pub created: u64,
    /// In order of their index: prompt by prompt, `n` for each.
    pub choices: Vec<Collected>,
    /// Of all choices.
    pub usage: CompletionUsage,
    /// What the request asked for.
    pub nvext: Option<NvextResponse>,
}

impl WholeAnswer {
    /// The answer to a chat.
    pub fn into_chat(self) -> ChatCompletion {
        let choice = |(index, collected): (usize, Collected)| ChatChoice {
            index,
            finish_reason: collected.finish_reason(),
            logprobs: (!collected.logprobs.is_empty())
                .then_some(OwnedChatLogprobs { content: collected.logprobs, refusal: None }),
            message: AssistantMessage { content: collected.text, refusal: None, role: "assistant" },
        };
        ChatCompletion {
            id: self.id,
            choices: self.choices.into_iter().enumerate().map(choice).collect(),
            created: self.created,
            model: self.model,
            object: "chat.completion",
            usage: self.usage.into(),
            nvext: self.nvext,
        }
    }

    /// The answer to a completion.
    pub fn into_completion(self) -> Completion {
        let choice = |(index, collected): (usize, Collected)| CompletionChoice {
            finish_reason: collected.finish_reason(),
            logprobs: CompletionLogprobs::of(&collected.logprobs)
                .and_then(|logprobs| serde_json::to_value(logprobs).ok()),
            text: collected.text,
            index,
        };
        Completion {
            id: self.id,
            choices: self.choices.into_iter().enumerate().map(choice).collect(),
            created: self.created,
            model: self.model,
            system_fingerprint: None,
            object: "text_completion",
            usage: self.usage,
            nvext: self.nvext,
        }
    }
}

/// Tokens of a chat's answer: what [`CompletionUsage`] says, without the audio tokens, which the stock leaves out of
/// chats and writes as null in completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ChatUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<ChatPromptDetails>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct ChatPromptDetails {
    cached_tokens: Option<u32>,
}

impl From<CompletionUsage> for ChatUsage {
    fn from(usage: CompletionUsage) -> Self {
        let details = |details: PromptTokensDetails| ChatPromptDetails { cached_tokens: details.cached_tokens };
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens,
            prompt_tokens_details: usage.prompt_tokens_details.map(details),
        }
    }
}

/// Usage of a whole answer: each prompt counts once, every choice's tokens count.
///
/// `by_prompt` holds, prompt by prompt, the usages of its choices. Cached tokens are those of the prompt's first
/// choice: its siblings share that prompt, and would count the same tokens again.
pub fn usage_of_choices(by_prompt: &[Vec<CompletionUsage>]) -> CompletionUsage {
    let mut total = CompletionUsage::default();
    let mut cached = None;
    for choices in by_prompt {
        let Some(first) = choices.first() else { continue };
        total.prompt_tokens += first.prompt_tokens;
        total.completion_tokens += choices.iter().map(|usage| usage.completion_tokens).sum::<u32>();
        if let Some(tokens) = first.prompt_tokens_details.and_then(|details| details.cached_tokens) {
            cached = Some(cached.unwrap_or(0) + tokens);
        }
    }
    total.total_tokens = total.prompt_tokens + total.completion_tokens;
    total.prompt_tokens_details =
        cached.map(|tokens| PromptTokensDetails { audio_tokens: None, cached_tokens: Some(tokens) });
    total
}

/// `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelObject>,
}

impl ModelList {
    /// A list of these.
    pub fn of(data: Vec<ModelObject>) -> Self {
        Self { object: "list", data }
    }
}

/// `GET /v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelObject {
    /// The served name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Unix seconds since when it is served.
    pub created: u64,
    /// Who serves it.
    pub owned_by: &'static str,
    /// Context, tokens; 0 when unknown.
    pub context_window: u32,
}

impl ModelObject {
    /// A model as the list shows it.
    pub fn new(id: impl Into<String>, created: u64, context_window: u32) -> Self {
        // Clients of the stock frontend see `nvidia` here; nobody is known to read it.
        Self { id: id.into(), object: "model", created, owned_by: "busbar", context_window }
    }
}
