//! Raising: tokens to text, stop rules, reasons, usage, log-probabilities.

use crate::tiny_model;
use frontend::openai::{parse_chat, parse_completion};
use frontend::postprocess::{Finish, Raised, Raiser};
use frontend::preprocess::{ModelText, Prepared};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use protocol::output::{CompletionUsage, EngineOutput, FinishReason, TopLogprob};
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;

fn prepare(model: &ModelText, fields: Value) -> Prepared {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    model.prepare_chat(&parse_chat(body.to_string().as_bytes()).unwrap(), UNIX_EPOCH).unwrap()
}

fn raiser(model: &ModelText, fields: Value) -> Raiser {
    Raiser::new(model.tokenizer(), &prepare(model, fields))
}

fn tokens(model: &ModelText, text: &str) -> Vec<u32> {
    model.tokenizer().encode(text, false).unwrap()
}

/// Pushes one output per token until the answer is over, then the end; everything put together.
fn raise(raiser: &mut Raiser, ids: &[u32]) -> Raised {
    let mut all = Raised::default();
    for &id in ids {
        let raised = raiser.push(&EngineOutput::of_tokens(vec![id]));
        add(&mut all, raised);
        if all.finish.is_some() {
            return all;
        }
    }
    add(&mut all, raiser.end());
    all
}

fn add(all: &mut Raised, next: Raised) {
    all.text.push_str(&next.text);
    all.logprobs.extend(next.logprobs);
    all.new_tokens += next.new_tokens;
    all.cancel |= next.cancel;
    all.finish = next.finish.or(all.finish.take());
}

#[test]
fn text_is_that_of_the_tokens() {
    let model = tiny_model();
    let text = "Hello 🦀 naïve 你好 world, 3.14!\n";
    let raised = raise(&mut raiser(&model, json!({})), &tokens(&model, text));
    assert_eq!((raised.text.as_str(), raised.finish), (text, None));
}

#[test]
fn a_stop_string_ends_the_answer_and_cancels_the_stream() {
    let model = tiny_model();
    let ids = tokens(&model, "Hello world, lazy dog");
    let mut one = raiser(&model, json!({"stop": ["lazy"]}));
    let raised = raise(&mut one, &ids);
    assert_eq!((raised.text.as_str(), raised.finish, raised.cancel), ("Hello world, ", Some(Finish::Stop), true));
    assert!(one.push(&EngineOutput::of_tokens(ids)).is_empty(), "nothing comes after the end");
    let kept = raise(
        &mut raiser(&model, json!({"stop": "lazy", "include_stop_str_in_output": true})),
        &tokens(&model, "Hello world, lazy dog"),
    );
    assert_eq!(kept.text, "Hello world, lazy");
}

#[test]
fn an_end_token_is_hidden_and_not_taken_before_min_tokens() {
    let model = tiny_model();
    let mut ids = tokens(&model, "fox");
    ids.push(2);
    ids.extend(tokens(&model, "dog"));
    let raised = raise(&mut raiser(&model, json!({})), &ids);
    assert_eq!((raised.text.as_str(), raised.finish, raised.cancel), ("fox", Some(Finish::Stop), true));
    let longer = raise(&mut raiser(&model, json!({"min_tokens": ids.len()})), &ids);
    assert_eq!((longer.text.as_str(), longer.finish), ("foxdog", None));
    let ignoring = raise(&mut raiser(&model, json!({"ignore_eos": true})), &ids);
    assert_eq!((ignoring.text.as_str(), ignoring.finish), ("foxdog", None));
}

#[test]
fn what_was_held_back_comes_out_with_the_engines_reason() {
    let model = tiny_model();
    for (reason, finish) in [
        (FinishReason::Eos, Finish::Stop),
        (FinishReason::Stop, Finish::Stop),
        (FinishReason::Cancelled, Finish::Stop),
        (FinishReason::Length, Finish::Length),
        (FinishReason::ContentFilter, Finish::ContentFilter),
        (FinishReason::Error("no memory".into()), Finish::Error("no memory".into())),
    ] {
        let mut one = raiser(&model, json!({"stop": ["END of it"]}));
        let first = one.push(&EngineOutput::of_tokens(tokens(&model, "the END of")));
        assert_eq!(first.text, "the ");
        let last = one.push(&EngineOutput::finished(reason, CompletionUsage::new(9, 3, 4)));
        assert_eq!((last.text.as_str(), last.finish, last.cancel), ("END of", Some(finish), false));
    }
}

#[test]
fn usage_counts_our_tokens_and_the_first_streams_cache_even_after_a_migration() {
    let model = tiny_model();
    let prepared = prepare(&model, json!({}));
    let mut one = Raiser::new(model.tokenizer(), &prepared);
    let with_usage =
        |id: u32, usage| EngineOutput { completion_usage: Some(usage), ..EngineOutput::of_tokens(vec![id]) };
    one.push(&with_usage(70, CompletionUsage::new(prepared.prompt_tokens, 1, 8)));
    one.push(&EngineOutput::of_tokens(vec![71, 72]));
    // The worker is lost; the next one sees prompt and answer so far as its prompt.
    one.push(&with_usage(73, CompletionUsage::new(prepared.prompt_tokens + 3, 1, 16)));
    one.push(&EngineOutput::finished(FinishReason::Length, CompletionUsage::new(prepared.prompt_tokens + 3, 1, 16)));
    assert_eq!(one.usage(), CompletionUsage::new(prepared.prompt_tokens, 4, 8));
}

#[test]
fn tokens_behind_a_stop_string_in_the_same_output_do_not_count() {
    let model = tiny_model();
    let mut one = raiser(&model, json!({"stop": ["dog"]}));
    let ids = tokens(&model, "fox dog jumps over the lazy");
    let needed = (1..=ids.len()).find(|&n| model.tokenizer().decode(&ids[..n], false).contains("dog")).unwrap();
    let raised = one.push(&EngineOutput::of_tokens(ids.clone()));
    assert_eq!((raised.text.as_str(), raised.new_tokens as usize), ("fox ", needed));
    assert!(needed < ids.len());
    assert_eq!(one.usage().completion_tokens as usize, needed);
}

#[test]
fn an_engines_own_text_is_used_as_it_is_and_still_never_leaks_a_stop_string() {
    let model = tiny_model();
    let says = |text: &str| EngineOutput { text: Some(text.into()), ..EngineOutput::of_tokens(vec![9]) };
    let mut one = raiser(&model, json!({"stop": ["END"]}));
    assert_eq!(one.push(&says("some text E")).text, "some text ");
    let last = one.push(&says("ND more"));
    assert_eq!((last.text.as_str(), last.finish, last.cancel), ("", Some(Finish::Stop), true));
    assert_eq!(one.usage().completion_tokens, 2);
}

#[test]
fn echo_puts_the_prompt_first_and_stop_strings_in_it_do_not_count() {
    let model = tiny_model();
    let body = json!({"model": "tiny", "prompt": "lazy dog", "echo": true, "stop": ["lazy"]});
    let request = parse_completion(body.to_string().as_bytes()).unwrap();
    let prepared = model.prepare_completion(&request).unwrap();
    let raised = raise(&mut Raiser::new(model.tokenizer(), &prepared[0]), &tokens(&model, " fox"));
    assert_eq!((raised.text.as_str(), raised.finish), ("lazy dog fox", None));
}

/// An output with a log-probability and two alternatives for each token.
fn with_logprobs(ids: &[u32]) -> EngineOutput {
    let top = |rank, token_id, logprob| TopLogprob { rank, token_id, token: None, logprob, bytes: None };
    EngineOutput {
        log_probs: Some(ids.iter().map(|&id| -f64::from(id)).collect()),
        top_logprobs: Some(ids.iter().map(|&id| vec![top(1, id, -0.5), top(2, 70, f64::NEG_INFINITY)]).collect()),
        ..EngineOutput::of_tokens(ids.to_vec())
    }
}

#[test]
fn log_probabilities_follow_the_text_and_stop_with_it() {
    let model = tiny_model();
    let ids = tokens(&model, "fox 🦀 the END");
    let fields = json!({"logprobs": true, "top_logprobs": 2, "stop": ["END"]});
    let mut one = raiser(&model, fields.clone());
    let mut all = Raised::default();
    for &id in &ids {
        let raised = one.push(&with_logprobs(&[id]));
        // No token is told whose text is still held back.
        add(&mut all, raised);
        let told: Vec<u8> = all.logprobs.iter().flat_map(|entry| entry.bytes.clone().unwrap()).collect();
        assert!(all.finish.is_some() || told.len() <= all.text.len() + 3, "{told:?} {:?}", all.text);
    }
    assert_eq!(all.text, "fox 🦀 the ");
    let told: Vec<u8> = all.logprobs.iter().flat_map(|entry| entry.bytes.clone().unwrap()).collect();
    assert!(told.starts_with(b"fox ") && told.len() < "fox 🦀 the END".len(), "{told:?}");
    let first = &all.logprobs[0];
    assert_eq!((first.logprob, first.top_logprobs.len()), (-f64::from(ids[0]), 2));
    assert_eq!(first.top_logprobs[1].logprob, -9999.0);

    let plain =
        raiser(&model, json!({"logprobs": true, "return_tokens_as_token_ids": true})).push(&with_logprobs(&ids));
    assert_eq!(plain.logprobs.len(), ids.len());
    assert_eq!(plain.logprobs[0].token, format!("token_id:{}", ids[0]));
    assert!(plain.logprobs[0].top_logprobs.is_empty(), "logprobs alone asks for no alternatives");
    let none = raiser(&model, json!({})).push(&with_logprobs(&ids));
    assert!(none.logprobs.is_empty());
}

#[test]
fn offsets_of_log_probabilities_are_characters_of_the_answer() {
    let model = tiny_model();
    let ids = tokens(&model, "你fox dog");
    let raised = raiser(&model, json!({"logprobs": true})).push(&with_logprobs(&ids));
    for (at, entry) in raised.logprobs.iter().enumerate() {
        let before = model.tokenizer().decode(&ids[..at], false);
        assert_eq!(entry.text_offset, before.trim_end_matches('\u{fffd}').chars().count(), "token {at}");
    }
}

/// Where a plain search of the whole text cuts it: at the stop string that is complete first, the longest of those.
fn plain_cut(text: &str, stops: &[String]) -> Option<usize> {
    (1..=text.len()).find_map(|end| {
        let here = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
        here.map(|stop| stop.len()).max().map(|longest| end - longest)
    })
}

#[test]
fn any_text_in_any_chunks_is_cut_where_a_plain_search_cuts_it() {
    let model = tiny_model();
    let words = prop_oneof![
        Just("fox"),
        Just(" the"),
        Just("🦀"),
        Just("é"),
        Just("dog\n"),
        Just("</"),
        Just("end>"),
        Just(" ")
    ];
    let text = proptest::collection::vec(words.clone(), 1..20).prop_map(|words| words.concat());
    let stops =
        proptest::collection::vec(proptest::collection::vec(words, 1..4).prop_map(|words| words.concat()), 0..4);
    let chunks = proptest::collection::vec(1_usize..5, 60);
    let mut runner = TestRunner::new(Config { cases: 1000, failure_persistence: None, ..Config::default() });
    runner
        .run(&(text, stops, chunks), |(text, stops, chunks)| {
            let ids = tokens(&model, &text);
            let mut one = raiser(&model, json!({"stop": stops}));
            let mut all = Raised::default();
            let mut rest = ids.as_slice();
            for size in chunks {
                let (now, later) = rest.split_at(size.min(rest.len()));
                add(&mut all, one.push(&EngineOutput::of_tokens(now.to_vec())));
                prop_assert!(text.starts_with(&all.text), "{:?} of {:?}", all.text, text);
                rest = later;
                if all.finish.is_some() || rest.is_empty() {
                    break;
                }
            }
            if all.finish.is_none() {
                add(&mut all, one.end());
            }
            let cut = plain_cut(&text, &stops);
            prop_assert_eq!(&all.text, &text[..cut.unwrap_or(text.len())]);
            prop_assert_eq!(all.finish.is_some(), cut.is_some());
            Ok(())
        })
        .unwrap();
}
