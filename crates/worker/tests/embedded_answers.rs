//! The embedded engine answers: a real model through the public interface.
#![cfg(feature = "engine-llama")]

mod embedded_support;

use embedded_support::{ask, engine, greedy, model, read};
use protocol::output::FinishReason;
use protocol::request::{GuidedDecoding, OutputOptions, PreprocessedRequest, RoutingHints};
use serde_json::{Value, json};
use worker::engine::EngineError;
use worker::engine::embedded::{EmbeddedConfig, requantize_q8_0, start};

#[test]
fn the_capital_of_france_is_paris() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let prompt = text.chat("What is the capital of France? Answer in one short sentence.");
    let answer = ask(&*started.engine, greedy(prompt.clone(), 32));
    assert!(text.text(&answer.tokens).contains("The capital of France is Paris"), "{}", text.text(&answer.tokens));
    assert_eq!(answer.finish, FinishReason::Eos);
    assert_eq!(answer.usage.prompt_tokens as usize, prompt.len());
    assert_eq!(answer.usage.completion_tokens as usize, answer.tokens.len(), "the end token is given and counted");
    assert_eq!(answer.cached(), 0);
}

#[test]
fn eight_at_once_answer_as_each_does_alone() {
    // Rows of a batch are computed by kernels that depend on the number of rows, so logits differ in their last bits
    // and a near tie may fall the other way: the promise is a common start, not equal answers. These have no ties.
    let Some((started, text)) = engine(|config| config.kv_pool_tokens = Some(4096)) else { return };
    let questions = ["the capital of France", "the color of the sky", "the largest planet", "2 plus 2"];
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| text.chat(&format!("{i}: What is {}?", questions[i % 4]))).collect();
    let alone: Vec<Vec<u32>> = prompts.iter().map(|p| ask(&*started.engine, greedy(p.clone(), 12)).tokens).collect();
    let together: Vec<_> = prompts.iter().map(|p| started.engine.generate(greedy(p.clone(), 12)).unwrap()).collect();
    let together: Vec<Vec<u32>> = together.into_iter().map(|receiver| read(receiver).tokens).collect();
    let same = alone.iter().zip(&together).filter(|(a, b)| a == b).count();
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(alone[..4], together[..4], "{:?} / {:?}", text.text(alone), text.text(together));
    }
    assert!(same >= 6, "{same} of 8 answers are equal");
}

#[test]
fn a_prompt_asked_again_comes_from_the_cache_and_starts_the_same_answer() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let prompt = text.chat("Name three primary colors. Answer with a list.");
    let first = ask(&*started.engine, greedy(prompt.clone(), 16));
    let again = ask(&*started.engine, greedy(prompt.clone(), 16));
    let block = started.engine.profile().block_size;
    assert_eq!(first.cached(), 0);
    assert_eq!(again.cached(), (prompt.len() as u32 - 1) / block * block);
    assert_eq!(again.tokens[..8], first.tokens[..8]);
    assert_eq!(again.outputs[0].completion_usage.unwrap().prompt_tokens_details, again.usage.prompt_tokens_details);

    // The answer is cached too: a next turn of the conversation finds it.
    let turn = [&prompt[..], &first.tokens, &text.tokens("<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n")].concat();
    let next = ask(&*started.engine, greedy(turn, 2));
    let computed = prompt.len() as u32 + first.usage.completion_tokens - 1;
    assert_eq!(next.cached(), computed / block * block);
}

#[test]
fn a_salt_shares_blocks_only_with_itself() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let prompt = text.chat("Name three primary colors. Answer with a list.");
    let cached = |salt: Option<&str>| {
        let routing = Some(RoutingHints { cache_salt: salt.map(Into::into), ..RoutingHints::default() });
        ask(&*started.engine, PreprocessedRequest { routing, ..greedy(prompt.clone(), 2) }).cached()
    };
    assert_eq!(cached(None), 0);
    assert_eq!(cached(Some("a")), 0);
    assert_eq!(cached(Some("b")), 0);
    assert!(cached(Some("a")) > 0);
    assert!(cached(None) > 0);
}

#[test]
fn a_seed_repeats_an_answer_and_without_one_answers_differ() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let answer = |seed: Option<i64>| {
        let mut request = greedy(text.chat("Tell me a short story."), 24);
        (request.sampling_options.temperature, request.sampling_options.seed) = (Some(1.2), seed);
        ask(&*started.engine, request).tokens
    };
    answer(None); // The cold prefill has its own rounding; compare answers that start from the cache.
    assert_eq!(answer(Some(5)), answer(Some(5)));
    assert_ne!(answer(None), answer(None));
}

#[test]
fn logprobs_tell_the_chosen_token_and_the_best_alternatives() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let mut request = greedy(text.chat("What is the capital of France?"), 4);
    request.output_options = OutputOptions { logprobs: Some(3), ..OutputOptions::default() };
    let answer = ask(&*started.engine, request);
    let mut sum = 0.0;
    for output in &answer.outputs {
        let (chosen, top) = (output.log_probs.as_ref().unwrap()[0], &output.top_logprobs.as_ref().unwrap()[0]);
        sum += chosen;
        assert_eq!(top.len(), 3);
        assert_eq!((top[0].token_id, top[0].logprob), (output.token_ids[0], chosen), "greedy takes the best");
        assert!(top[0].logprob >= top[1].logprob && top[1].logprob >= top[2].logprob && chosen <= 0.0);
        assert!((output.cum_log_probs.unwrap() - sum).abs() < 1e-9);
    }
}

#[test]
fn stop_rules_end_where_they_say() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let prompt = text.chat("What is the capital of France? Answer in one short sentence.");
    let plain = ask(&*started.engine, greedy(prompt.clone(), 32)).tokens;
    let with = |change: &dyn Fn(&mut PreprocessedRequest)| {
        let mut request = greedy(prompt.clone(), 32);
        change(&mut request);
        ask(&*started.engine, request)
    };
    let stopped = with(&|r| r.stop_conditions.stop_token_ids = Some(vec![plain[3]]));
    assert_eq!((stopped.tokens.len(), &stopped.finish), (4, &FinishReason::Stop));
    assert_eq!(stopped.outputs.last().unwrap().stop_reason, Some(Value::from(plain[3])));

    let ignoring = with(&|r| r.stop_conditions.ignore_eos = Some(true));
    assert_eq!((ignoring.tokens.len(), &ignoring.finish), (32, &FinishReason::Length));
    assert!(ignoring.tokens.contains(plain.last().unwrap()), "the end token came and was passed over");

    let longer = with(&|r| r.stop_conditions.min_tokens = Some(20));
    assert!(longer.tokens.len() >= 20);
    assert!(!longer.tokens[..19].contains(plain.last().unwrap()), "it cannot come before");
}

#[test]
fn penalties_keep_a_token_from_coming_back() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let mut request = greedy(text.tokens("one one one one one one one one"), 12);
    request.stop_conditions.ignore_eos = Some(true);
    let repeats = |answer: &[u32]| answer.len() - answer.iter().collect::<std::collections::HashSet<_>>().len();
    let free = repeats(&ask(&*started.engine, request.clone()).tokens);
    request.sampling_options.frequency_penalty = Some(2.0);
    request.sampling_options.presence_penalty = Some(2.0);
    request.sampling_options.repetition_penalty = Some(1.5);
    let held = repeats(&ask(&*started.engine, request).tokens);
    assert!(free > held, "{free} repeats without penalties, {held} with");
}

fn guided(text: &embedded_support::Text, question: &str, guide: GuidedDecoding) -> PreprocessedRequest {
    let mut request = greedy(text.chat(question), 120);
    request.sampling_options.guided_decoding = Some(guide);
    request
}

/// A seam as a migration makes it: the request again, with `cut` tokens of the answer at the end of its prompt.
fn resumed(request: &PreprocessedRequest, answer: &[u32], cut: usize) -> PreprocessedRequest {
    let mut rest = request.clone();
    rest.token_ids.extend(&answer[..cut]);
    rest.set_resumed_tokens(cut);
    rest.stop_conditions.max_tokens = rest.stop_conditions.max_tokens.map(|most| most - cut as u32);
    rest
}

#[test]
fn a_constrained_answer_that_another_worker_began_goes_on_within_its_grammar() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["city", "river"],
        "properties": {"city": {"type": "string", "maxLength": 12}, "river": {"type": "string", "maxLength": 12}}});
    let guide = GuidedDecoding { json: Some(schema), ..Default::default() };
    let mut request = guided(&text, "Describe Paris as JSON.", guide);
    request.stop_conditions.max_tokens = Some(64);
    let whole = ask(&*started.engine, request.clone());
    let parsed: Value = serde_json::from_str(&text.text(&whole.tokens)).expect("the undisturbed answer is JSON");
    assert!(parsed["city"].is_string() && parsed["river"].is_string(), "{parsed}");
    for cut in (1..whole.tokens.len() - 1).step_by(4) {
        let rest = ask(&*started.engine, resumed(&request, &whole.tokens, cut));
        let both = [&whole.tokens[..cut], &rest.tokens].concat();
        let read: Value =
            serde_json::from_str(&text.text(&both)).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert!(read["city"].is_string() && read["river"].is_string(), "cut at {cut}: {read}");
    }
    // Without the word on where the answer began the grammar starts anew, in the middle of the text.
    let mut ignorant = resumed(&request, &whole.tokens, 3);
    ignorant.extra_args = None;
    let rest = ask(&*started.engine, ignorant);
    let both = [&whole.tokens[..3], &rest.tokens].concat();
    assert!(serde_json::from_str::<Value>(&text.text(&both)).is_err(), "{}", text.text(&both));
}

#[test]
fn an_answer_that_does_not_fit_its_grammar_is_refused_by_the_name_of_the_field() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let guide = GuidedDecoding { regex: Some("[0-9]+".into()), ..Default::default() };
    let request = resumed(&guided(&text, "Say a number.", guide), &text.tokens("hello"), 1);
    let error = started.engine.generate(request).expect_err("letters are no digits");
    assert!(error.to_string().starts_with("extra_args.busbar.resumed_tokens: "), "{error}");
}

#[test]
fn a_seeded_answer_with_penalties_goes_on_with_the_draws_that_would_have_come() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let mut request = greedy(text.chat("Tell me a short story."), 24);
    let options = &mut request.sampling_options;
    (options.temperature, options.seed) = (Some(1.2), Some(5));
    (options.presence_penalty, options.frequency_penalty) = (Some(0.5), Some(0.5));
    ask(&*started.engine, request.clone()); // The cold prefill has its own rounding.
    let whole = ask(&*started.engine, request.clone()).tokens;
    let mut equal = 0;
    for cut in [1, 5, 9, 16] {
        let rest = ask(&*started.engine, resumed(&request, &whole, cut)).tokens;
        equal += usize::from(rest == whole[cut..]);
    }
    // A resumed prompt is computed in other batches, and a near tie may fall the other way; the draws are the same.
    assert!(equal >= 3, "{equal} of 4");
}

#[test]
fn a_json_schema_holds() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["city", "population", "tags"],
        "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer", "maximum": 99999999},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3}}});
    let guide = GuidedDecoding { json: Some(schema), ..GuidedDecoding::default() };
    let answer = ask(&*started.engine, guided(&text, "Describe Paris as JSON.", guide));
    let value: Value = serde_json::from_str(&text.text(&answer.tokens)).expect("the text is JSON");
    assert!(value["city"].is_string() && value["population"].is_i64() && value["tags"].is_array(), "{value}");
    assert!(matches!(answer.finish, FinishReason::Stop | FinishReason::Eos), "{:?}", answer.finish);
}

#[test]
fn a_choice_a_regex_and_a_grammar_hold_at_any_temperature() {
    let Some((started, text)) = engine(|_| ()) else { return };
    let choices = vec!["yes".to_owned(), "no \"never\"".to_owned()];
    let choice = GuidedDecoding { choice: Some(choices.clone()), ..GuidedDecoding::default() };
    let regex = GuidedDecoding { regex: Some(r"[0-9]{4}-[0-9]{2}".into()), ..GuidedDecoding::default() };
    let grammar = "start: greeting \" \" name\ngreeting: \"Hello\" | \"Bye\"\nname: /[A-Z][a-z]{2,6}/";
    let grammar = GuidedDecoding { grammar: Some(grammar.into()), ..GuidedDecoding::default() };
    for temperature in [0.0, 1.5] {
        let answer = |guide: &GuidedDecoding| {
            let mut request = guided(&text, "Is the sky blue? When was it? Say hello.", guide.clone());
            request.sampling_options.temperature = Some(temperature);
            let answer = ask(&*started.engine, request);
            assert!(matches!(answer.finish, FinishReason::Stop | FinishReason::Eos), "{answer:?}");
            text.text(&answer.tokens)
        };
        assert!(choices.contains(&answer(&choice)));
        let date = answer(&regex);
        assert!(
            date.len() == 7 && date.as_bytes()[4] == b'-' && date.replace('-', "").parse::<u32>().is_ok(),
            "{date}"
        );
        let greeting = answer(&grammar);
        assert!(greeting.starts_with("Hello ") || greeting.starts_with("Bye "), "{greeting}");
    }
}

#[test]
fn what_cannot_run_is_refused_with_its_field() {
    let Some((started, text)) = engine(|config| config.context_length = Some(64)) else { return };
    let refusal = |change: &dyn Fn(&mut PreprocessedRequest)| {
        let mut request = greedy(text.tokens("Hello"), 4);
        change(&mut request);
        started.engine.generate(request).expect_err("it is refused")
    };
    let too_long = EngineError::PromptTooLong { prompt_tokens: 64, context_length: 64 };
    assert_eq!(refusal(&|r| r.token_ids = vec![1; 64]), too_long);
    let schema = json!({"type": "object", "properties": {"a": {"type": "nonsense"}}});
    let bad_schema = refusal(&|r| {
        r.sampling_options.guided_decoding = Some(GuidedDecoding { json: Some(schema.clone()), ..Default::default() });
    });
    assert!(bad_schema.to_string().starts_with("guided_decoding.json: "), "{bad_schema}");
    let bad_regex = refusal(&|r| {
        r.sampling_options.guided_decoding = Some(GuidedDecoding { regex: Some("(".into()), ..Default::default() });
    });
    assert!(bad_regex.to_string().starts_with("guided_decoding.regex: "), "{bad_regex}");
    assert!(refusal(&|r| r.sampling_options.top_p = Some(7.0)).to_string().starts_with("sampling_options.top_p: 7"));

    // One token of room is enough, and the context ends the answer.
    let answer = ask(&*started.engine, greedy(vec![1; 60], 1000));
    assert_eq!((answer.tokens.len(), answer.finish), (4, FinishReason::Length));
}

#[test]
fn a_model_file_that_is_no_model_is_named_with_the_reason() {
    let Some(path) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let refusal = |bytes: &[u8]| {
        let broken = folder.path().join("broken.gguf");
        std::fs::write(&broken, bytes).unwrap();
        let error = start(EmbeddedConfig::of(&broken)).err().expect("it does not load").to_string();
        assert!(error.contains("broken.gguf"), "{error}");
        error
    };
    let whole = std::fs::read(path).unwrap();
    let truncated = refusal(&whole[..whole.len() / 2]);
    assert!(truncated.contains("not within the file bounds") || truncated.contains("corrupted"), "{truncated}");
    // The architecture is the first word of the metadata: another word of the same length is one nobody knows.
    let at = whole.windows(5).position(|bytes| bytes == b"llama").unwrap();
    let mut unknown = whole.clone();
    unknown[at..at + 5].copy_from_slice(b"lxxma");
    let unknown = refusal(&unknown);
    assert!(unknown.contains("unknown model architecture: 'lxxma'"), "{unknown}");
}

#[test]
fn a_requantised_model_loads_and_knows_paris_and_a_bad_source_is_named() {
    let Some(path) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("q8_0.gguf");
    let missing = requantize_q8_0(&folder.path().join("none.gguf"), &to).unwrap_err().to_string();
    assert!(missing.contains("none.gguf") && !to.exists(), "{missing}");
    requantize_q8_0(&path, &to).unwrap();
    let unwritable = requantize_q8_0(&path, &folder.path().join("no/such/folder.gguf")).unwrap_err().to_string();
    assert!(unwritable.contains("no/such/folder.gguf"), "{unwritable}");

    let Some((started, text)) = engine(|config| config.model = to) else { return };
    let prompt = text.chat("What is the capital of France? Answer in one short sentence.");
    let answer = ask(&*started.engine, greedy(prompt, 32));
    assert!(text.text(&answer.tokens).contains("Paris"));
}
