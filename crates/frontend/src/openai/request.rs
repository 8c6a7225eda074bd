//! Requests after parsing and validation: ranges hold, contradictions are out.

use crate::openai::fields::Prompt;
use crate::openai::message::Message;
use crate::openai::nvext::Nvext;
use protocol::request::SamplingOptions;
use serde_json::{Map, Value};

/// Most answers to one request, over all its prompts. As in the stock frontend.
pub const MAX_CHOICES: u32 = 128;
/// Most stop strings. As in the stock frontend.
pub const MAX_STOP_STRINGS: usize = 32;
/// Longest stop string, bytes: what may be held back from a client while it could still become a stop.
pub const MAX_STOP_BYTES: usize = 4096;
/// Most stop tokens: they are searched at every token.
pub const MAX_STOP_TOKEN_IDS: usize = 256;
/// Most messages: each costs the template time, and no context holds more.
pub const MAX_MESSAGES: usize = 16_384;
/// Largest schema, regular expression, grammar or list of choices, bytes: engines compile it while others wait.
pub const MAX_GUIDED_BYTES: usize = 256 * 1024;

/// A request to `/v1/chat/completions`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatCompletionRequest {
    /// The model's name, as written.
    pub model: String,
    /// At least one; parts are text.
    pub messages: Vec<Message>,
    /// Alternatives to report for each token; 0 is the chosen token alone, `None` is no log-probabilities.
    pub logprobs: Option<u32>,
    /// Variables for the chat template (`chat_template_kwargs`).
    pub template_args: Map<String, Value>,
    /// Whether the prompt ends with the head of an assistant's message.
    pub add_generation_prompt: bool,
    /// Whether the last message is to be continued, not answered.
    pub continue_final_message: bool,
    /// Everything that completions have too.
    pub common: Common,
}

/// A request to `/v1/completions`.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// The model's name, as written.
    pub model: String,
    /// At least one, none of them empty.
    pub prompts: Vec<Prompt>,
    /// Whether each answer begins with its prompt.
    pub echo: bool,
    /// Alternatives to report for each token; 0 is the chosen token alone, `None` is no log-probabilities.
    pub logprobs: Option<u32>,
    /// Everything that chats have too.
    pub common: Common,
}

/// What both endpoints take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Common {
    /// Server-sent events, or one answer.
    pub stream: bool,
    /// One more chunk at the end with the usage.
    pub include_usage: bool,
    /// Usage so far on every chunk (vLLM's `continuous_usage_stats`).
    pub continuous_usage: bool,
    /// Answers per prompt, 1 to [`MAX_CHOICES`].
    pub n: u32,
    /// Most new tokens; the rest of the context when absent.
    pub max_tokens: Option<u32>,
    /// No stop before this many new tokens.
    pub min_tokens: Option<u32>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Tokens that end the answer.
    pub stop_token_ids: Vec<u32>,
    /// How to choose tokens; `n` is always `None` here.
    pub sampling: SamplingOptions,
    /// Go on after an end-of-sequence token.
    pub ignore_eos: bool,
    /// Leave special tokens out of the text; true unless told.
    pub skip_special_tokens: Option<bool>,
    /// Token texts in log-probabilities are `token_id:N`.
    pub return_tokens_as_token_ids: bool,
    /// Most tokens of reasoning.
    pub max_thinking_tokens: Option<u32>,
    /// The client's name for its user; only logged.
    pub user: Option<String>,
    /// NVIDIA's extensions.
    pub nvext: Nvext,
    /// `nvext` as it came, for the engine.
    pub nvext_raw: Option<Value>,
}

impl Common {
    /// Whether a found stop string stays in the text.
    pub fn includes_stop(&self) -> bool {
        self.sampling.include_stop_str_in_output.unwrap_or(false)
    }
}
