//! Lowering: a request and its prompt become what a worker takes, and the rules for what comes back.

use crate::openai::fields::Prompt;
use crate::openai::nvext::Nvext;
use crate::openai::request::Common;
use crate::openai::{ApiError, ChatCompletionRequest, CompletionRequest};
use crate::preprocess::ModelText;
use crate::preprocess::prompt::{self, TextTiming, TokenizedPrompt};
use crate::text::Reuse;
use protocol::request::{OutputOptions, PreprocessedRequest, RoutingHints, StopConditions};
use serde_json::json;
use std::sync::Arc;
use std::time::SystemTime;

/// A request as a worker takes it, and how to raise its answer.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What is sent; [`Prepared::request_for_choice`] makes the copy for each of `n` answers.
    pub request: PreprocessedRequest,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How to raise the answer.
    pub plan: Arc<OutputPlan>,
    /// Annotations that the client asked for: event name and value.
    pub annotations: Vec<(String, String)>,
    /// How long it took to make the prompt.
    pub timing: TextTiming,
    /// What of the prompt's tokens was known already; `None` where nothing was looked up.
    pub reuse: Option<Reuse>,
}

impl Prepared {
    /// The request of answer `choice`. Seeds differ, so that seeded answers do.
    pub fn request_for_choice(&self, choice: u32) -> PreprocessedRequest {
        let mut request = self.request.clone();
        let seed = &mut request.sampling_options.seed;
        *seed = seed.map(|seed| seed.wrapping_add(i64::from(choice)));
        request
    }
}

/// How an answer is raised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputPlan {
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Whether the found one stays in the text.
    pub include_stop: bool,
    /// Tokens that end the answer: the request's, and the model's unless `ignore_eos`.
    pub stop_token_ids: Vec<u32>,
    /// No stop before more tokens than this.
    pub min_tokens: u32,
    /// Special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Alternatives to report for each token; `None` is no log-probabilities.
    pub logprobs: Option<u32>,
    /// Token texts in log-probabilities are `token_id:N`.
    pub tokens_as_ids: bool,
    /// What the answer begins with (`echo`).
    pub echo: Option<String>,
}

impl ModelText {
    /// Lowers a chat. `now` is what the template's `strftime_now` says.
    ///
    /// # Errors
    /// 400: the template refuses the messages, or the prompt does not fit.
    pub fn prepare_chat(&self, request: &ChatCompletionRequest, now: SystemTime) -> Result<Prepared, ApiError> {
        let prompt = prompt::of_chat(self, request, now)?;
        self.lower(&request.common, request.logprobs, prompt, false, "messages")
    }

    /// Lowers a completion: one [`Prepared`] per prompt, in order.
    ///
    /// # Errors
    /// 400: a prompt does not fit, or is none for this model.
    pub fn prepare_completion(&self, request: &CompletionRequest) -> Result<Vec<Prepared>, ApiError> {
        let lower =
            |prompt: TokenizedPrompt| self.lower(&request.common, request.logprobs, prompt, request.echo, "prompt");
        if let Some(ids) = &request.common.nvext.token_data {
            return Ok(vec![lower(prompt::of_tokens(self, ids, "nvext.token_data")?)?]);
        }
        let salt = request.common.nvext.cache_salt.as_deref();
        let tokenize = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => prompt::of_text(self, text.clone(), true, salt, "prompt"),
            Prompt::Tokens(ids) => prompt::of_tokens(self, ids, "prompt"),
        };
        request.prompts.iter().map(|prompt| lower(tokenize(prompt)?)).collect()
    }

    fn lower(
        &self,
        common: &Common,
        logprobs: Option<u32>,
        prompt: TokenizedPrompt,
        echo: bool,
        param: &str,
    ) -> Result<Prepared, ApiError> {
        let prompt_tokens = u32::try_from(prompt.token_ids.len()).unwrap_or(u32::MAX);
        let max_tokens = self.max_tokens(prompt_tokens, common.max_tokens, param)?;
        let annotations = annotations(&common.nvext, &prompt);
        let (timing, reuse) = (prompt.timing, prompt.reuse);
        let echo = echo.then(|| prompt.text.unwrap_or_else(|| self.tokenizer.decode(&prompt.token_ids, false)));
        let eos: &[u32] = if common.ignore_eos { &[] } else { &self.eos_token_ids };
        let request = PreprocessedRequest {
            model: self.name.clone(),
            token_ids: prompt.token_ids,
            stop_conditions: stop_conditions(common, max_tokens, eos),
            sampling_options: common.sampling.clone(),
            output_options: OutputOptions {
                logprobs,
                skip_special_tokens: common.skip_special_tokens,
                return_tokens_as_token_ids: common.return_tokens_as_token_ids.then_some(true),
                ..OutputOptions::default()
            },
            eos_token_ids: self.eos_token_ids.clone(),
            mdc_sum: self.mdc_sum.clone(),
            annotations: common.nvext.annotations.clone().unwrap_or_default(),
            routing: routing(&common.nvext),
            router_config_override: None,
            extra_args: common.nvext_raw.as_ref().map(|nvext| json!({"nvext": nvext})),
            ..PreprocessedRequest::default()
        };
        let plan = OutputPlan {
            stop: common.stop.clone(),
            include_stop: common.includes_stop(),
            stop_token_ids: common.stop_token_ids.iter().chain(eos).copied().collect(),
            min_tokens: common.min_tokens.unwrap_or(0),
            skip_special_tokens: common.skip_special_tokens.unwrap_or(true),
            logprobs,
            tokens_as_ids: common.return_tokens_as_token_ids,
            echo,
        };
        Ok(Prepared { request, prompt_tokens, plan: Arc::new(plan), annotations, timing, reuse })
    }

    /// The limit of new tokens: what was asked for, or the rest of the context.
    fn max_tokens(&self, prompt_tokens: u32, asked: Option<u32>, param: &str) -> Result<Option<u32>, ApiError> {
        let Some(context) = self.context_length else { return Ok(asked) };
        let room = context.saturating_sub(prompt_tokens);
        let exceeded =
            |message: String, param: &str| Err(ApiError::invalid(param, message).with_code("context_length_exceeded"));
        match asked {
            _ if room == 0 => exceeded(
                format!(
                    "This model's maximum context length is {context} tokens. However, the prompt has {prompt_tokens} \
                     tokens, which leaves no room for an answer. Please reduce the length of the prompt."
                ),
                param,
            ),
            Some(asked) if asked > room => exceeded(
                format!(
                    "This model's maximum context length is {context} tokens. However, you requested {} tokens \
                     ({prompt_tokens} in the prompt, {asked} in the completion). Please reduce the prompt or max_tokens.",
                    u64::from(prompt_tokens) + u64::from(asked)
                ),
                "max_tokens",
            ),
            Some(asked) => Ok(Some(asked)),
            None => Ok(Some(room)),
        }
    }
}

fn stop_conditions(common: &Common, max_tokens: Option<u32>, eos: &[u32]) -> StopConditions {
    let unless_empty = |ids: &[u32]| (!ids.is_empty()).then(|| ids.to_vec());
    StopConditions {
        max_tokens,
        stop: (!common.stop.is_empty()).then(|| common.stop.clone()),
        stop_token_ids: unless_empty(&common.stop_token_ids),
        stop_token_ids_visible: None,
        stop_token_ids_hidden: unless_empty(eos),
        min_tokens: common.min_tokens,
        ignore_eos: common.ignore_eos.then_some(true),
        max_thinking_tokens: common.max_thinking_tokens,
    }
}

fn annotations(nvext: &Nvext, prompt: &TokenizedPrompt) -> Vec<(String, String)> {
    let mut annotations = Vec::new();
    if nvext.wants_annotation("token_ids") {
        let ids = serde_json::to_string(&prompt.token_ids).unwrap_or_default();
        annotations.push(("token_ids".to_owned(), ids));
    }
    if nvext.wants_annotation("formatted_prompt")
        && let Some(text) = &prompt.text
    {
        annotations.push(("formatted_prompt".to_owned(), text.clone()));
    }
    annotations
}

/// The client's wishes for the router; `None` when there are none, so that the wire stays as small as the stock's.
fn routing(nvext: &Nvext) -> Option<RoutingHints> {
    let hints = nvext.agent_hints.clone().unwrap_or_default();
    let routing = RoutingHints {
        backend_instance_id: nvext.backend_instance_id,
        prefill_worker_id: nvext.prefill_worker_id,
        decode_worker_id: nvext.decode_worker_id,
        dp_rank: nvext.dp_rank,
        prefill_dp_rank: nvext.prefill_dp_rank,
        expected_output_tokens: hints.osl,
        lora_name: None,
        cache_salt: nvext.cache_salt.clone(),
        priority_jump: hints.latency_sensitivity,
        strict_priority: hints.strict_priority,
        priority: hints.priority,
        allowed_worker_ids: None,
        routing_constraints: nvext.routing_constraints.clone(),
    };
    (routing != RoutingHints::default()).then_some(routing)
}
