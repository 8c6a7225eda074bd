//! Lowering: template, limits, stop rules, what the worker gets.

use crate::{data, tiny_model};
use frontend::openai::{ApiError, parse_chat, parse_completion};
use frontend::preprocess::{ModelFiles, ModelText, Prepared, TemplateFile};
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;

fn chat(model: &ModelText, fields: Value) -> Result<Prepared, ApiError> {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    model.prepare_chat(&parse_chat(body.to_string().as_bytes()).unwrap(), UNIX_EPOCH)
}

fn completion(model: &ModelText, fields: Value) -> Result<Vec<Prepared>, ApiError> {
    let mut body = json!({"model": "tiny"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    model.prepare_completion(&parse_completion(body.to_string().as_bytes()).unwrap())
}

fn prompt_text(model: &ModelText, prepared: &Prepared) -> String {
    model.tokenizer().decode(&prepared.request.token_ids, false)
}

#[test]
fn a_plain_chat_is_the_body_that_the_stock_frontend_sends() {
    let model = tiny_model();
    let prepared = chat(&model, json!({"max_tokens": 4})).unwrap();
    let mut body = serde_json::to_value(&prepared.request).unwrap();
    let ids = body["token_ids"].take();
    assert_eq!(ids.as_array().unwrap().len(), prepared.prompt_tokens as usize);
    // As recorded from stock 1.6.1, but for the ids and the router's choice.
    let expected = json!({"model": "tiny", "token_ids": null,
        "stop_conditions": {"max_tokens": 4, "stop": null, "stop_token_ids": null, "stop_token_ids_visible": null,
            "stop_token_ids_hidden": [2, 0], "min_tokens": null, "ignore_eos": null, "max_thinking_tokens": null},
        "sampling_options": {"n": null, "best_of": null, "presence_penalty": null, "frequency_penalty": null,
            "repetition_penalty": null, "temperature": null, "top_p": null, "top_k": null, "min_p": null,
            "use_beam_search": null, "length_penalty": null, "seed": null, "include_stop_str_in_output": null,
            "guided_decoding": null},
        "output_options": {"logprobs": null, "prompt_logprobs": null, "skip_special_tokens": null,
            "formatted_prompt": null, "return_tokens_as_token_ids": null},
        "eos_token_ids": [2, 0], "mdc_sum": "sum", "annotations": [], "router_config_override": null});
    assert_eq!(body, expected);
}

#[test]
fn the_template_makes_the_prompt_and_parts_are_joined_by_a_line_break() {
    let model = tiny_model();
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    let messages = json!([{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]);
    let prepared = chat(&model, json!({"messages": messages})).unwrap();
    let expected =
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(prompt_text(&model, &prepared), expected);
}

#[test]
fn a_final_message_is_continued_where_it_ends() {
    let model = tiny_model();
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]);
    let prepared = chat(&model, json!({"messages": messages, "continue_final_message": true})).unwrap();
    assert!(prompt_text(&model, &prepared).ends_with("<|im_start|>assistant\nWell, "));
}

#[test]
fn extensions_replace_the_prompt_and_reach_the_router() {
    let model = tiny_model();
    let raw = chat(&model, json!({"nvext": {"use_raw_prompt": true}})).unwrap();
    assert_eq!(prompt_text(&model, &raw), "hi");
    let nvext = json!({"token_data": [5, 6, 7], "backend_instance_id": u64::MAX, "cache_salt": "s", "dp_rank": 1,
        "agent_hints": {"osl": 9, "priority": 2}, "greed_sampling": true, "annotations": ["token_ids"]});
    let prepared = chat(&model, json!({"nvext": nvext})).unwrap();
    assert_eq!(prepared.request.token_ids, [5, 6, 7]);
    let routing = prepared.request.routing.clone().unwrap();
    assert_eq!((routing.backend_instance_id, routing.dp_rank), (Some(u64::MAX), Some(1)));
    assert_eq!(
        (routing.cache_salt.as_deref(), routing.expected_output_tokens, routing.priority),
        (Some("s"), Some(9), Some(2))
    );
    assert_eq!(prepared.request.sampling_options.temperature, Some(0.0));
    assert_eq!(prepared.request.extra_args, Some(json!({"nvext": nvext})));
    assert_eq!(prepared.annotations, [("token_ids".to_owned(), "[5,6,7]".to_owned())]);
}

#[test]
fn annotations_carry_the_prompt_as_the_template_wrote_it() {
    let model = tiny_model();
    let prepared = chat(&model, json!({"nvext": {"annotations": ["formatted_prompt", "unheard-of"]}})).unwrap();
    let [(name, text)] = prepared.annotations.as_slice() else { panic!("{:?}", prepared.annotations) };
    assert_eq!((name.as_str(), text.as_str()), ("formatted_prompt", prompt_text(&model, &prepared).as_str()));
}

#[test]
fn the_rest_of_the_context_is_the_limit_unless_one_is_given() {
    let model = tiny_model();
    let prepared = completion(&model, json!({"prompt": [[3, 4, 5]]})).unwrap();
    assert_eq!(prepared[0].request.stop_conditions.max_tokens, Some(125));
    let prepared = completion(&model, json!({"prompt": [3, 4, 5], "max_tokens": 125})).unwrap();
    assert_eq!(prepared[0].request.stop_conditions.max_tokens, Some(125));
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let model = tiny_model();
    let error = completion(&model, json!({"prompt": [3, 4, 5], "max_tokens": 126})).unwrap_err();
    assert_eq!((error.param.as_deref(), error.code), (Some("max_tokens"), Some("context_length_exceeded")));
    assert!(error.message.contains("128 tokens") && error.message.contains("129 tokens"), "{error}");
    assert!(error.message.contains("(3 in the prompt, 126 in the completion)"), "{error}");

    let error = completion(&model, json!({"prompt": [vec![3; 128]]})).unwrap_err();
    assert!(error.message.contains("the prompt has 128 tokens"), "{error}");

    let words = json!([{"role": "user", "content": "word ".repeat(200)}]);
    let error = chat(&model, json!({"messages": words})).unwrap_err();
    assert_eq!((error.status, error.param.as_deref()), (400, Some("messages")), "{error}");
}

#[test]
fn a_text_that_cannot_fit_is_refused_before_it_is_tokenized() {
    let model = tiny_model();
    let error = completion(&model, json!({"prompt": "x".repeat(1_000_000)})).unwrap_err();
    assert!(error.message.contains("the prompt has 1000000 bytes"), "{error}");
}

#[test]
fn ids_that_are_no_tokens_of_the_model_are_refused() {
    let model = tiny_model();
    assert!(completion(&model, json!({"prompt": [767]})).is_ok());
    let error = completion(&model, json!({"prompt": [[1, 768]]})).unwrap_err();
    assert_eq!(error.message, "Token 1 is 768; this model's tokens go from 0 to 767");
}

#[test]
fn ignoring_the_end_of_sequence_takes_its_tokens_out_of_the_stop_rules() {
    let model = tiny_model();
    let prepared = chat(&model, json!({"ignore_eos": true, "stop_token_ids": [7]})).unwrap();
    let stops = &prepared.request.stop_conditions;
    assert_eq!((stops.ignore_eos, stops.stop_token_ids_hidden.as_ref()), (Some(true), None));
    assert_eq!(prepared.plan.stop_token_ids, [7]);
    let prepared = chat(&model, json!({"stop_token_ids": [7]})).unwrap();
    assert_eq!(prepared.plan.stop_token_ids, [7, 2, 0]);
}

#[test]
fn seeded_answers_differ_in_their_seed_only() {
    let model = tiny_model();
    let prepared = chat(&model, json!({"seed": 7, "n": 3})).unwrap();
    let mut third = prepared.request_for_choice(2);
    assert_eq!((third.sampling_options.seed, third.sampling_options.n), (Some(9), None));
    third.sampling_options.seed = Some(7);
    assert_eq!(third, prepared.request_for_choice(0));
}

#[test]
fn batches_keep_their_order_and_log_probabilities_reach_the_engine() {
    let model = tiny_model();
    let prepared =
        completion(&model, json!({"prompt": ["a", "b"], "logprobs": 3, "skip_special_tokens": false})).unwrap();
    let texts: Vec<String> = prepared.iter().map(|p| prompt_text(&model, p)).collect();
    assert_eq!(texts, ["a", "b"]);
    assert_eq!(prepared[1].request.output_options.logprobs, Some(3));
    assert_eq!(prepared[1].request.output_options.skip_special_tokens, Some(false));
}

#[test]
fn a_completion_begins_with_the_models_own_begin_token_and_a_chat_does_not() {
    let files = ModelFiles { tokenizer: data("tiny-sp/tokenizer.json"), ..ModelFiles::default() };
    let model = ModelText::load("sp", &files, None, None).unwrap();
    let prepared = completion(&model, json!({"prompt": "a"})).unwrap();
    assert_eq!(prepared[0].request.token_ids[0], 1);
    // Without a known context nothing is cut and nothing is refused.
    assert_eq!(prepared[0].request.stop_conditions.max_tokens, None);
    let error = chat(&model, json!({})).unwrap_err();
    assert!(error.message.contains("no chat template: use /v1/completions"), "{error}");
}

#[test]
fn a_refusal_of_the_template_is_the_clients_error_in_the_templates_words() {
    let dir = data("tiny-bpe");
    let files = ModelFiles {
        tokenizer: dir.join("tokenizer.json"),
        chat_template: Some(TemplateFile::Jinja(data("templates/alternating.jinja"))),
        ..ModelFiles::default()
    };
    let model = ModelText::load("strict", &files, None, None).unwrap();
    let error = chat(&model, json!({"messages": [{"role": "system", "content": "x"}]})).unwrap_err();
    assert_eq!((error.status, error.param.as_deref()), (400, Some("messages")));
    assert_eq!(error.message, "The model's chat template refuses these messages: System role not supported");
}

#[test]
fn files_that_are_not_there_are_named() {
    let files = ModelFiles {
        tokenizer: data("tiny-bpe/tokenizer.json"),
        config: Some(data("absent.json")),
        ..ModelFiles::default()
    };
    let error = ModelText::load("x", &files, None, None).unwrap_err();
    assert!(error.to_string().contains("absent.json"), "{error}");
}

#[test]
fn a_template_in_a_json_file_is_read_as_json_whatever_the_file_is_called() {
    // A kept copy of a card's file is named by its hash and has no ending.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("6f1ed002ab5595859014ebf0951522d9");
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
    std::fs::write(&path, json!({"chat_template": template}).to_string()).unwrap();
    let load = |file: TemplateFile| {
        let files = ModelFiles {
            tokenizer: data("tiny-bpe/tokenizer.json"),
            chat_template: Some(file),
            ..ModelFiles::default()
        };
        ModelText::load("json", &files, None, None)
    };
    let model = load(TemplateFile::Json(path.clone())).unwrap();
    let prepared = chat(&model, json!({"messages": [{"role": "user", "content": "x"}]})).unwrap();
    assert_eq!(prompt_text(&model, &prepared), "[user] x");
    std::fs::write(&path, "{}").unwrap();
    let error = load(TemplateFile::Json(path)).unwrap_err().to_string();
    assert!(error.contains("no text in `chat_template`"), "{error}");
}
