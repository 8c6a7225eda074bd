//! What a request asks of the mock engine, checked once.

use super::super::EngineError;
use protocol::request::{GuidedDecoding, PreprocessedRequest, StopConditions};

/// Most alternatives a token may be asked for; OpenAI's limit.
const LOGPROBS_MAX: u32 = 20;

/// When a sequence ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StopRules {
    /// Most new tokens.
    pub(super) max_tokens: u32,
    /// No stop before this many.
    min_tokens: u32,
    /// Tokens that end a sequence as its end.
    eos: Vec<u32>,
    /// Tokens that stop it.
    stop: Vec<u32>,
}

/// How a sequence ends at a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Eos,
    Stop(u32),
    Length,
}

impl StopRules {
    /// `room` is the number of new tokens that the context has room for.
    pub(super) fn of(request: &PreprocessedRequest, room: u32) -> Self {
        let stops = &request.stop_conditions;
        let listed = |list: &Option<Vec<u32>>| list.clone().unwrap_or_default();
        let mut eos = if stops.ignore_eos == Some(true) { Vec::new() } else { request.eos_token_ids.clone() };
        let mut stop = [listed(&stops.stop_token_ids), listed(&stops.stop_token_ids_visible)].concat();
        // The hidden ones are the model's ends, for a frontend that sends no list of them.
        let hidden = listed(&stops.stop_token_ids_hidden);
        if stops.ignore_eos != Some(true) {
            eos.extend(hidden.iter().filter(|token| !eos.contains(token)).copied().collect::<Vec<u32>>());
        }
        stop.retain(|token| !eos.contains(token));
        let max_tokens = stops.max_tokens.unwrap_or(room).min(room);
        Self { max_tokens, min_tokens: stops.min_tokens.unwrap_or(0), eos, stop }
    }

    /// The end of sequence that may come as new token number `number` (from 1).
    pub(super) fn eos_at(&self, number: u32) -> Option<u32> {
        self.eos.first().copied().filter(|_| number >= self.min_tokens)
    }

    /// Whether new token number `number` (from 1) is the last.
    pub(super) fn end_at(&self, number: u32, token: u32) -> Option<End> {
        if number >= self.min_tokens {
            if self.eos.contains(&token) {
                return Some(End::Eos);
            }
            if self.stop.contains(&token) {
                return Some(End::Stop(token));
            }
        }
        (number >= self.max_tokens).then_some(End::Length)
    }
}

/// Refuses what this engine cannot do, by the name of the field.
pub(super) fn check(request: &PreprocessedRequest, context_length: u32) -> Result<(), EngineError> {
    let prompt_tokens = u32::try_from(request.token_ids.len()).unwrap_or(u32::MAX);
    if prompt_tokens == 0 {
        return Err(invalid("token_ids is empty; a prompt has at least one token"));
    }
    if prompt_tokens >= context_length {
        return Err(EngineError::PromptTooLong { prompt_tokens, context_length });
    }
    let StopConditions { max_tokens, min_tokens, .. } = request.stop_conditions;
    if max_tokens == Some(0) {
        return Err(invalid("stop_conditions.max_tokens is 0; it must be at least 1"));
    }
    if let (Some(most), Some(least)) = (max_tokens, min_tokens)
        && least > most
    {
        return Err(invalid(&format!("stop_conditions.min_tokens is {least}, over max_tokens, which is {most}")));
    }
    if request.sampling_options.use_beam_search == Some(true) {
        return Err(invalid("sampling_options.use_beam_search is not there in the mock engine; leave it out"));
    }
    if request.output_options.prompt_logprobs.is_some() {
        return Err(invalid("output_options.prompt_logprobs is not there in the mock engine; leave it out"));
    }
    if let Some(count) = request.output_options.logprobs.filter(|&count| count > LOGPROBS_MAX) {
        return Err(invalid(&format!("output_options.logprobs is {count}; it is at most {LOGPROBS_MAX}")));
    }
    match request.sampling_options.guided_decoding.as_ref().and_then(guided_field) {
        Some(field) => Err(invalid(&format!(
            "sampling_options.guided_decoding.{field} needs an engine with a tokenizer; the mock engine has none"
        ))),
        None => Ok(()),
    }
}

fn guided_field(guided: &GuidedDecoding) -> Option<&'static str> {
    let fields = [
        ("json", guided.json.is_some()),
        ("regex", guided.regex.is_some()),
        ("choice", guided.choice.is_some()),
        ("grammar", guided.grammar.is_some()),
    ];
    fields.into_iter().find(|&(_, set)| set).map(|(field, _)| field)
}

fn invalid(text: &str) -> EngineError {
    EngineError::InvalidRequest(text.into())
}
