//! A request, checked: what can be refused is refused here, before it costs a step.

use super::config::Limits;
use super::guided::{Guide, Guides};
use super::namespace::Namespace;
use super::penalties::{Penalties, PenaltyRule};
use super::sampling::{Sampler, SamplingRule};
use super::stop::StopRule;
use crate::engine::EngineError;
use protocol::request::{PreprocessedRequest, SamplingOptions};

/// Most alternatives a token; OpenAI's limit.
const MAX_TOP_LOGPROBS: u32 = 20;

/// What a model's vocabulary says about requests.
pub(super) struct Vocabulary {
    /// Tokens in all.
    pub(super) n_tokens: u32,
    /// Tokens that end a text.
    pub(super) end_tokens: Vec<u32>,
}

/// A request that can run.
pub(super) struct Job {
    /// The prompt; at least one token, all in the vocabulary, shorter than the context.
    pub(super) prompt: Vec<u32>,
    /// Most new tokens; at least 1, and the context holds them.
    pub(super) max_new_tokens: u32,
    /// What ends it.
    pub(super) stop: StopRule,
    /// How its tokens are chosen.
    pub(super) sampler: Sampler,
    /// Its constraint.
    pub(super) guide: Option<Guide>,
    /// Alternatives to report with each token's log-probability; `None` reports nothing.
    pub(super) top_logprobs: Option<u32>,
    /// With whom it shares blocks.
    pub(super) namespace: Namespace,
}

impl Job {
    /// Checks a request. `seed` is used when the request has none.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] names the first field that cannot be, [`EngineError::PromptTooLong`] both lengths.
    pub(super) fn of(
        request: PreprocessedRequest,
        limits: &Limits,
        vocabulary: &Vocabulary,
        guides: &Guides,
        seed: u64,
    ) -> Result<Self, EngineError> {
        refuse_unsupported(&request)?;
        check_prompt(&request.token_ids, limits, vocabulary)?;
        let prompt_tokens = u32::try_from(request.token_ids.len()).unwrap_or(u32::MAX);
        let room = limits.context_length - prompt_tokens;
        let max_new_tokens = match request.stop_conditions.max_tokens {
            Some(0) => return Err(invalid("stop_conditions.max_tokens", "it must be at least 1")),
            wish => wish.unwrap_or(u32::MAX).min(room),
        };
        let stop = StopRule::of(&request, &vocabulary.end_tokens);
        let options = &request.sampling_options;
        let rule = sampling_rule(options)?;
        // What another worker has answered already is output, though it comes as the end of the prompt.
        let (own_prompt, resumed) = request.token_ids.split_at(request.token_ids.len() - request.resumed_tokens());
        let penalties = Penalties::new(penalty_rule(options)?, own_prompt);
        let seed = options.seed.map_or(seed, i64::cast_unsigned);
        let mut guide = match &options.guided_decoding {
            Some(guided) => guides.compile(guided)?,
            None => None,
        };
        if let Some(guide) = &mut guide {
            guide.resume(resumed).map_err(|why| invalid("extra_args.busbar.resumed_tokens", &why))?;
        }
        let mut sampler = Sampler::new(rule, penalties, seed);
        sampler.resume(resumed);
        Ok(Self {
            max_new_tokens,
            stop,
            sampler,
            guide,
            top_logprobs: request.output_options.logprobs,
            namespace: Namespace::of(request.routing.as_ref()),
            prompt: request.token_ids,
        })
    }
}

fn refuse_unsupported(request: &PreprocessedRequest) -> Result<(), EngineError> {
    let options = &request.sampling_options;
    if options.use_beam_search == Some(true) {
        return Err(invalid("sampling_options.use_beam_search", "this engine has no beam search"));
    }
    if options.best_of.is_some_and(|best_of| best_of > 1) {
        return Err(invalid("sampling_options.best_of", "this engine takes 1 only"));
    }
    if request.output_options.prompt_logprobs.is_some() {
        return Err(invalid("output_options.prompt_logprobs", "this engine does not report them"));
    }
    if let Some(lora) = request.routing.as_ref().and_then(|hints| hints.lora_name.as_ref()) {
        return Err(invalid("routing.lora_name", &format!("this engine has no adapter `{lora}`")));
    }
    match request.output_options.logprobs {
        Some(top) if top > MAX_TOP_LOGPROBS => {
            Err(invalid("output_options.logprobs", &format!("{top} alternatives; at most {MAX_TOP_LOGPROBS}")))
        }
        _ => Ok(()),
    }
}

fn check_prompt(prompt: &[u32], limits: &Limits, vocabulary: &Vocabulary) -> Result<(), EngineError> {
    if prompt.is_empty() {
        return Err(invalid("token_ids", "the prompt is empty"));
    }
    // A context that is full of prompt leaves no room for an answer.
    if prompt.len() >= limits.context_length as usize {
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        return Err(EngineError::PromptTooLong { prompt_tokens, context_length: limits.context_length });
    }
    match prompt.iter().find(|&&token| token >= vocabulary.n_tokens) {
        Some(token) => {
            Err(invalid("token_ids", &format!("{token} is not one of the model's {} tokens", vocabulary.n_tokens)))
        }
        None => Ok(()),
    }
}

fn sampling_rule(options: &SamplingOptions) -> Result<SamplingRule, EngineError> {
    let temperature = options.temperature.unwrap_or(1.0);
    in_range("temperature", temperature, 0.0, 100.0, "it must be 0 (greedy) to 100")?;
    let top_p = options.top_p.unwrap_or(1.0);
    in_range("top_p", top_p, f32::MIN_POSITIVE, 1.0, "it must be over 0, to 1")?;
    let min_p = options.min_p.unwrap_or(0.0);
    in_range("min_p", min_p, 0.0, 1.0, "it must be 0 to 1")?;
    let top_k = match options.top_k {
        None | Some(-1) => 0,
        Some(k) => usize::try_from(k)
            .map_err(|_| invalid("sampling_options.top_k", &format!("{k}; it must be −1 or 0 (all) or over 0")))?,
    };
    Ok(SamplingRule { temperature, top_p, top_k, min_p })
}

fn penalty_rule(options: &SamplingOptions) -> Result<PenaltyRule, EngineError> {
    let presence = options.presence_penalty.unwrap_or(0.0);
    in_range("presence_penalty", presence, -2.0, 2.0, "it must be −2 to 2")?;
    let frequency = options.frequency_penalty.unwrap_or(0.0);
    in_range("frequency_penalty", frequency, -2.0, 2.0, "it must be −2 to 2")?;
    let repetition = options.repetition_penalty.unwrap_or(1.0);
    in_range("repetition_penalty", repetition, f32::MIN_POSITIVE, 100.0, "it must be over 0, to 100")?;
    Ok(PenaltyRule { presence, frequency, repetition })
}

fn in_range(field: &str, value: f32, least: f32, most: f32, rule: &str) -> Result<(), EngineError> {
    // Written so that a NaN is out of range.
    if value >= least && value <= most {
        return Ok(());
    }
    Err(invalid(&format!("sampling_options.{field}"), &format!("{value}; {rule}")))
}

fn invalid(field: &str, reason: &str) -> EngineError {
    EngineError::InvalidRequest(format!("{field}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut SamplingOptions)) -> String {
        let mut options = SamplingOptions::default();
        change(&mut options);
        let checked = sampling_rule(&options).and_then(|_| penalty_rule(&options));
        checked.map_or_else(|e| e.to_string(), |_| "fine".into())
    }

    #[test]
    fn every_sampling_option_out_of_range_is_named() {
        assert_eq!(refusal(|_| ()), "fine");
        assert_eq!(refusal(|o| (o.top_k, o.top_p) = (Some(-1), Some(1.0))), "fine");
        assert_eq!(refusal(|o| o.top_p = Some(0.0)), "sampling_options.top_p: 0; it must be over 0, to 1");
        assert!(refusal(|o| o.temperature = Some(-0.1)).starts_with("sampling_options.temperature: -0.1"));
        assert!(refusal(|o| o.temperature = Some(f32::NAN)).starts_with("sampling_options.temperature: NaN"));
        assert!(refusal(|o| o.top_k = Some(-2)).starts_with("sampling_options.top_k: -2"));
        assert!(refusal(|o| o.min_p = Some(1.5)).starts_with("sampling_options.min_p: 1.5"));
        assert!(refusal(|o| o.presence_penalty = Some(3.0)).starts_with("sampling_options.presence_penalty: 3"));
        assert!(refusal(|o| o.repetition_penalty = Some(0.0)).starts_with("sampling_options.repetition_penalty: 0"));
    }

    #[test]
    fn a_prompt_that_fills_the_context_or_has_a_foreign_token_is_refused() {
        let limits = Limits::of(&super::super::EmbeddedConfig::of("m.gguf")).unwrap().with_model(4, 256);
        let vocabulary = Vocabulary { n_tokens: 10, end_tokens: vec![] };
        let refusal = |prompt: &[u32]| check_prompt(prompt, &limits, &vocabulary).err();
        assert_eq!(refusal(&[1, 2, 9]), None);
        assert_eq!(refusal(&[1; 4]), Some(EngineError::PromptTooLong { prompt_tokens: 4, context_length: 4 }));
        assert_eq!(refusal(&[]).unwrap().to_string(), "token_ids: the prompt is empty");
        assert_eq!(refusal(&[10]).unwrap().to_string(), "token_ids: 10 is not one of the model's 10 tokens");
    }
}
