//! Ranges and contradictions. Every violation is told, in one message.

use crate::openai::ApiError;
use crate::openai::body::Body;
use crate::openai::guided;
use crate::openai::message::{Content, Message, Role};
use crate::openai::request::{Common, MAX_CHOICES, MAX_MESSAGES, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS};
use protocol::request::SamplingOptions;
use std::fmt::Display;

/// Most violations told: a list of bad messages must not become a long answer.
const MAX_VIOLATIONS: usize = 16;

/// What is wrong with a request so far.
#[derive(Default)]
pub(crate) struct Violations(Vec<(String, String)>);

impl Violations {
    pub(crate) fn add(&mut self, param: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < MAX_VIOLATIONS {
            self.0.push((param.into(), message.into()));
        }
    }

    /// `value`, when given, must be from `low` to `high`.
    fn check_range<T: PartialOrd + Display + Copy>(
        &mut self,
        param: &str,
        name: &str,
        value: Option<T>,
        low: T,
        high: T,
    ) {
        let Some(value) = value else { return };
        if !(low <= value && value <= high) {
            self.add(param, format!("{name} must be between {low} and {high}, got {value}"));
        }
    }

    /// The error that tells all of them; its `param` is the first one's.
    pub(crate) fn into_result(self) -> Result<(), ApiError> {
        let Some((param, _)) = self.0.first() else { return Ok(()) };
        let messages: Vec<&str> = self.0.iter().map(|(_, message)| message.as_str()).collect();
        Err(ApiError::invalid(param.clone(), format!("Validation: {}", messages.join("; "))))
    }
}

/// Checks and lowers what both endpoints take. `choices_per_n` is the number of prompts.
pub(crate) fn common(body: &mut Body, prompts: usize, violations: &mut Violations) -> Common {
    check_sampling(body, violations);
    check_lengths(body, violations);
    let n = body.n.unwrap_or(1);
    violations.check_range("n", "n", Some(n), 1, MAX_CHOICES);
    if n as usize * prompts > MAX_CHOICES as usize && n <= MAX_CHOICES {
        violations.add("prompt", format!("Prompts times n must be at most {MAX_CHOICES}, got {prompts} × {n}"));
    }
    let stop = check_stops(body, violations);
    let stream = body.stream.unwrap_or(false);
    if body.stream_options.is_some() && !stream {
        violations.add("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled");
    }
    let nvext = body.nvext.take().unwrap_or_default();
    for field in nvext.unknown_extra_fields() {
        let shown: String = field.chars().take(64).collect();
        violations.add("nvext.extra_fields", format!("Unknown nvext.extra_fields entry `{shown}`"));
    }
    let options = body.stream_options.unwrap_or_default();
    let mut sampling = sampling(body);
    sampling.guided_decoding = guided::constraint(body, violations);
    if nvext.greed_sampling == Some(true) {
        sampling.temperature = Some(0.0);
    }
    Common {
        stream,
        include_usage: options.include_usage,
        continuous_usage: options.continuous_usage_stats,
        n,
        max_tokens: body.max_completion_tokens.or(body.max_tokens),
        min_tokens: body.min_tokens,
        stop,
        stop_token_ids: body.stop_token_ids.take().unwrap_or_default(),
        sampling,
        ignore_eos: body.ignore_eos.unwrap_or(false),
        skip_special_tokens: body.skip_special_tokens,
        return_tokens_as_token_ids: body.return_tokens_as_token_ids.unwrap_or(false),
        max_thinking_tokens: body.thinking_token_budget.or(nvext.max_thinking_tokens),
        user: body.user.take(),
        nvext,
        nvext_raw: None,
    }
}

fn sampling(body: &Body) -> SamplingOptions {
    SamplingOptions {
        presence_penalty: body.presence_penalty,
        frequency_penalty: body.frequency_penalty,
        repetition_penalty: body.repetition_penalty,
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        min_p: body.min_p,
        seed: body.seed,
        include_stop_str_in_output: body.include_stop_str_in_output.or(body.no_stop_trim),
        ..SamplingOptions::default()
    }
}

fn check_sampling(body: &Body, violations: &mut Violations) {
    violations.check_range("temperature", "Temperature", body.temperature, 0.0, 2.0);
    violations.check_range("top_p", "Top_p", body.top_p, 0.0, 1.0);
    violations.check_range("min_p", "Min_p", body.min_p, 0.0, 1.0);
    violations.check_range("presence_penalty", "Presence penalty", body.presence_penalty, -2.0, 2.0);
    violations.check_range("frequency_penalty", "Frequency penalty", body.frequency_penalty, -2.0, 2.0);
    if let Some(penalty) = body.repetition_penalty
        && !(penalty > 0.0 && penalty <= 2.0)
    {
        let message = format!("Repetition penalty must be greater than 0 and at most 2, got {penalty}");
        violations.add("repetition_penalty", message);
    }
    if let Some(top_k) = body.top_k
        && top_k < -1
    {
        violations.add("top_k", format!("Top_k must be -1 or 0 (all tokens) or greater, got {top_k}"));
    }
    if body.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()) {
        violations.add("logit_bias", "logit_bias is not supported: leave it out");
    }
    if body.prompt_logprobs.is_some() {
        violations.add("prompt_logprobs", "prompt_logprobs is not supported: leave it out");
    }
}

fn check_lengths(body: &Body, violations: &mut Violations) {
    for (param, name, value) in [
        ("max_tokens", "Max tokens", body.max_tokens),
        ("max_completion_tokens", "Max completion tokens", body.max_completion_tokens),
    ] {
        if value == Some(0) {
            violations.add(param, format!("{name} must be greater than 0, got 0"));
        }
    }
    let max = body.max_completion_tokens.or(body.max_tokens);
    if let (Some(min), Some(max)) = (body.min_tokens, max)
        && min > max
    {
        violations.add("min_tokens", format!("Min tokens must be at most max tokens ({max}), got {min}"));
    }
    if let Some(ids) = &body.stop_token_ids
        && ids.len() > MAX_STOP_TOKEN_IDS
    {
        let count = ids.len();
        violations.add("stop_token_ids", format!("Maximum of {MAX_STOP_TOKEN_IDS} stop tokens allowed, got {count}"));
    }
}

fn check_stops(body: &mut Body, violations: &mut Violations) -> Vec<String> {
    let stops = body.stop.take().unwrap_or_default().0;
    if stops.len() > MAX_STOP_STRINGS {
        let count = stops.len();
        violations.add("stop", format!("Maximum of {MAX_STOP_STRINGS} stop sequences allowed, got {count}"));
    }
    if stops.iter().any(String::is_empty) {
        violations.add("stop", "Stop sequence cannot be empty");
    }
    if let Some(long) = stops.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
        let size = long.len();
        violations.add("stop", format!("A stop sequence may have at most {MAX_STOP_BYTES} bytes, got {size}"));
    }
    stops
}

/// Checks the messages of a chat.
pub(crate) fn messages(messages: &[Message], violations: &mut Violations) {
    if messages.is_empty() {
        violations.add("messages", "The 'messages' field cannot be empty. At least one message is required.");
    }
    if messages.len() > MAX_MESSAGES {
        let count = messages.len();
        violations.add("messages", format!("Maximum of {MAX_MESSAGES} messages allowed, got {count}"));
    }
    for (at, message) in messages.iter().enumerate() {
        check_message(at, message, violations);
    }
}

fn check_message(at: usize, message: &Message, violations: &mut Violations) {
    let param = format!("messages[{at}].content");
    match &message.content {
        None => {
            let may_be_silent = message.role == Role::Assistant
                && (message.tool_calls.is_some() || message.refusal.is_some() || message.reasoning_content.is_some());
            if !may_be_silent {
                violations.add(&param, format!("{param} must be a string or a list of text parts, got null"));
            }
        }
        Some(Content::Text(_)) => {}
        Some(Content::Parts(parts)) => {
            for (part_at, part) in parts.iter().enumerate() {
                let param = format!("{param}[{part_at}]");
                if part.kind != "text" {
                    let kind: String = part.kind.chars().take(64).collect();
                    violations.add(
                        format!("{param}.type"),
                        format!("{param}: content of type `{kind}` is not supported, only `text` is"),
                    );
                } else if part.text.is_none() {
                    violations.add(format!("{param}.text"), format!("{param}: a part of type `text` needs `text`"));
                }
            }
        }
    }
}
