//! `nvext`: NVIDIA's extension object of a request. An unknown field is an error, as in the stock frontend.

use serde::Deserialize;
use serde_json::Value;

/// `nvext.extra_fields` that are known. Only `worker_id` and `timing` are answered; the others are for engines.
const EXTRA_FIELDS: [&str; 10] = [
    "worker_id",
    "timing",
    "token_ids",
    "routed_experts",
    "engine_data",
    "stop_reason",
    "detailed_finish_reason",
    "completion_token_ids",
    "prompt_token_ids",
    "prompt_logprobs",
];

/// Extensions of one request; every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nvext {
    /// Take the most likely token at each step.
    pub greed_sampling: Option<bool>,
    /// Take the only user message as the prompt, without the chat template.
    pub use_raw_prompt: Option<bool>,
    /// Annotations wanted as SSE events: `token_ids`, `formatted_prompt`.
    pub annotations: Option<Vec<String>>,
    /// Send to this instance and no other.
    pub backend_instance_id: Option<u64>,
    /// The prompt as token ids, in place of the text.
    pub token_data: Option<Vec<u32>>,
    /// Most tokens of reasoning.
    pub max_thinking_tokens: Option<u32>,
    /// Only requests of the same salt share cached blocks.
    pub cache_salt: Option<String>,
    /// Extra fields wanted in the answer's `nvext`.
    pub extra_fields: Option<Vec<String>>,
    /// Multimodal; carried to the engine, not read.
    pub metadata_upload: Option<Value>,
    /// Prefill worker, when disaggregated.
    pub prefill_worker_id: Option<u64>,
    /// Decode worker, when disaggregated.
    pub decode_worker_id: Option<u64>,
    /// Data-parallel rank.
    pub dp_rank: Option<u32>,
    /// Data-parallel rank at the prefill worker.
    pub prefill_dp_rank: Option<u32>,
    /// What an agent knows about the request.
    pub agent_hints: Option<AgentHints>,
    /// When the client sent it; carried, not read.
    pub request_timestamp_ms: Option<Value>,
    /// Constraints by taint; carried to the router.
    pub routing_constraints: Option<Value>,
    /// Router settings of this request alone; carried to the router.
    pub router: Option<Value>,
}

/// What an agent knows about its request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentHints {
    /// Higher goes first.
    pub priority: Option<i32>,
    /// Priority class that is never mixed with another.
    pub strict_priority: Option<u32>,
    /// Expected output length, tokens.
    pub osl: Option<u32>,
    /// Start the prefill of the next turn early; carried, not read.
    pub speculative_prefill: Option<bool>,
    /// Seconds that this request may jump ahead in the queue.
    pub latency_sensitivity: Option<f64>,
}

impl Nvext {
    /// Whether the answer tells which worker made it.
    pub fn wants_worker_id(&self) -> bool {
        self.wants("worker_id")
    }

    /// Whether the last chunk tells how long the parts took.
    pub fn wants_timing(&self) -> bool {
        self.wants("timing")
    }

    /// Whether the annotation `name` is wanted.
    pub fn wants_annotation(&self, name: &str) -> bool {
        self.annotations.iter().flatten().any(|wanted| wanted == name)
    }

    fn wants(&self, field: &str) -> bool {
        self.extra_fields.iter().flatten().any(|wanted| wanted == field)
    }

    /// Extra fields that nobody knows.
    pub(crate) fn unknown_extra_fields(&self) -> Vec<&str> {
        let fields = self.extra_fields.iter().flatten().map(String::as_str);
        fields.filter(|field| !EXTRA_FIELDS.contains(field)).collect()
    }
}
