//! The cache of tokens: the same tokens as without it, for every kind of tokenizer, and the work of the last turn alone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what builds the tokenizers is test too, and says what it leaves out"
)]

use frontend::openai::parse_chat;
use frontend::preprocess::{ModelFiles, ModelText};
use frontend::text::{Encoder, Reuse, TokenCache, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The JSON of a committed tokenizer with these fields in place of its own.
fn variant(name: &str, fields: &Value) -> Value {
    let text = std::fs::read_to_string(data(name).join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json
}

/// An added token: content, id and the flags that are set.
fn added(content: &str, id: u32, flags: &[&str]) -> Value {
    let set = |flag| flags.contains(&flag);
    json!({"id": id, "content": content, "single_word": set("single_word"), "lstrip": set("lstrip"),
        "rstrip": set("rstrip"), "normalized": set("normalized"), "special": !set("normalized")})
}

fn metaspace(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true})
}

/// A tokenizer of another model: every character that the tests write often is a token.
fn of_model(kind: &str, pre_tokenizer: &Value, normalizer: &Value) -> Value {
    let tokens = ["<unk>", "<s>", "</s>", "▁", "▁the", "the", "▁a", "a", "an", "b", "x", "▁x", "fox", "é", ".", "\n"];
    let scored: Vec<Value> = tokens.iter().zip(0_i32..).map(|(token, at)| json!([token, -at])).collect();
    let by_text: serde_json::Map<String, Value> =
        tokens.iter().zip(0..).map(|(t, id)| ((*t).into(), json!(id))).collect();
    let model = match kind {
        "Unigram" => json!({"type": "Unigram", "unk_id": 0, "vocab": scored, "byte_fallback": false}),
        _ => json!({"type": kind, "vocab": by_text, "unk_token": "<unk>", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100}),
    };
    variant("tiny-sp", &json!({"model": model, "pre_tokenizer": pre_tokenizer, "normalizer": normalizer}))
}

/// Every kind of pipeline that a text may pass. `true`: its texts may be cut.
fn tokenizers() -> Vec<(String, Tokenizer, bool)> {
    let byte_level = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let no_merges = |mut json: Value| {
        json["model"]["merges"] = json!([]);
        json
    };
    let around = json!({"type": "TemplateProcessing", "pair": [], "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}], "special_tokens": {
        "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]},
        "<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}}});
    let flags = json!([
        added("<|endoftext|>", 0, &["rstrip"]),
        added("<|im_start|>", 1, &["lstrip"]),
        added("<|im_end|>", 2, &[]),
        added("<think>", 700, &["normalized", "lstrip", "rstrip"]),
        added("fox", 701, &["single_word"]),
        added("the the", 702, &[]),
        added("the the the", 703, &["rstrip"]),
        added("end", 704, &["normalized", "single_word"])
    ]);
    let every_normalized = json!([
        added("<unk>", 0, &["normalized"]),
        added("<s>", 1, &["normalized"]),
        added("</s>", 2, &["normalized"])
    ]);
    let lowercase = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": true, "strip_right": true}]});
    let variants = [
        ("bytes", no_merges(variant("tiny-bpe", &json!({}))), true),
        ("NFC", variant("tiny-bpe", &json!({"normalizer": {"type": "NFC"}})), true),
        ("prefix space", variant("tiny-bpe", &json!({"pre_tokenizer": byte_level(true)})), true),
        ("around", variant("tiny-bpe", &json!({"post_processor": around})), true),
        ("flags", variant("tiny-bpe", &json!({"added_tokens": flags})), true),
        (
            "metaspace first",
            variant("tiny-sp", &json!({"normalizer": null, "pre_tokenizer": metaspace("first")})),
            true,
        ),
        (
            "metaspace always",
            variant("tiny-sp", &json!({"normalizer": null, "pre_tokenizer": metaspace("always")})),
            true,
        ),
        ("unigram", of_model("Unigram", &metaspace("first"), &Value::Null), true),
        ("word level", of_model("WordLevel", &json!({"type": "Whitespace"}), &lowercase), true),
        ("word piece", of_model("WordPiece", &json!({"type": "BertPreTokenizer"}), &lowercase), true),
        ("no cuts", variant("tiny-sp", &json!({"added_tokens": every_normalized})), false),
        ("no added tokens", variant("tiny-bpe", &json!({"added_tokens": []})), false),
    ];
    let of_json = |(name, json, cut): (&str, Value, bool)| {
        (
            name.to_owned(),
            Tokenizer::from_json(json.to_string().as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}")),
            cut,
        )
    };
    let mut all: Vec<_> = variants.into_iter().map(of_json).collect();
    let mut folders = vec![data("tiny-bpe"), data("tiny-sp")];
    match std::env::var("BUSBAR_TEST_MODEL_DIR") {
        Ok(folder) => folders.push(folder.into()),
        Err(_) => eprintln!("BUSBAR_TEST_MODEL_DIR is not set: only the committed tokenizers are tested"),
    }
    let of_folder = |folder: PathBuf| {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        (name, Tokenizer::load(&folder.join("tokenizer.json")).unwrap(), true)
    };
    all.extend(folders.into_iter().map(of_folder));
    all
}

/// What people and templates write, and what makes tokens merge across a boundary or vanish at one.
const FRAGMENTS: [&str; 37] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<unk>",
    "<think>",
    "</think>",
    "<|im_",
    "im_end|>",
    "<",
    "|>",
    "s>",
    "fox",
    " fox ",
    "foxes",
    "the the",
    "the the the",
    "the",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "▁",
    "a",
    "b",
    "an x",
    "e\u{301}",
    "\u{301}",
    "é",
    "🦀",
    "👩‍👧",
    "ﬁne STRASSE",
    "12345",
    "user\nWhat is it? It's a dog, isn't it.",
];

fn content() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        8 => proptest::sample::select(FRAGMENTS.as_slice()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[a-z ]{1,40}",
    ];
    // Empty turns too.
    proptest::collection::vec(fragment, 0..10).prop_map(|parts| parts.concat())
}

/// A turn: which conversation goes on, what is said, and how the template writes turns.
fn turns() -> impl Strategy<Value = Vec<(usize, String)>> {
    proptest::collection::vec((0..3_usize, content()), 1..14)
}

const TEMPLATES: [(&str, &str, &str); 3] = [
    ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    ("<s>[INST] ", " [/INST]</s>", ""),
    (" <s> ", "</s>", "fox"),
];

fn run<S: Strategy>(cases: u32, strategy: &S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner.run(strategy, check).unwrap();
}

#[test]
fn interleaved_conversations_have_the_tokens_of_their_whole_texts_turn_by_turn() {
    const EVICTING: usize = 4096;
    let mut found_of_all = 0;
    for (name, tokenizer, may_cut) in tokenizers() {
        // All pieces and room for all; all pieces and room for a few; pieces as they are by default.
        let caches = [
            TokenCache::new(1 << 24).with_segment_bytes_min(1),
            TokenCache::new(EVICTING).with_segment_bytes_min(1),
            TokenCache::new(1 << 24),
        ];
        let found = std::cell::Cell::new([0_usize; 3]);
        run(96, &(turns(), 0..TEMPLATES.len(), any::<bool>()), |(turns, template, special)| {
            let (before, behind, ask) = TEMPLATES[template];
            let mut conversations = [const { String::new() }; 3];
            for (at, said) in turns {
                conversations[at].extend([before, &said, behind]);
                let text = format!("{}{ask}", conversations[at]);
                let whole = tokenizer.encode(&text, special).unwrap();
                let mut sums = found.get();
                for (cache, sum) in caches.iter().zip(&mut sums) {
                    let made = cache.encode(&tokenizer, &text, special, None).unwrap();
                    prop_assert_eq!(&made.ids, &whole, "{}: {:?}", name, text);
                    prop_assert_eq!(made.reuse.is_some(), may_cut, "{}", name);
                    *sum += made.reuse.unwrap_or_default().cached_tokens;
                }
                found.set(sums);
            }
            prop_assert!(caches[1].bytes() <= EVICTING);
            Ok(())
        });
        let [ample, evicting, _] = found.get();
        assert_eq!(ample > 0, may_cut, "{name}: the property would hold of a cache that finds nothing");
        assert!(!may_cut || evicting < ample, "{name}: nothing was ever evicted ({evicting} of {ample})");
        found_of_all += ample;
    }
    assert!(found_of_all > 100_000, "{found_of_all} tokens");
}

/// The model `tiny-bpe` with its ChatML template, without a limit of context.
fn model() -> ModelText {
    let folder = data("tiny-bpe");
    let files = ModelFiles {
        tokenizer: folder.join("tokenizer.json"),
        tokenizer_config: Some(folder.join("tokenizer_config.json")),
        ..ModelFiles::default()
    };
    ModelText::load("tiny", &files, None, None).unwrap()
}

fn ask(model: &ModelText, messages: &[Value], salt: Option<&str>) -> (Vec<u32>, Option<Reuse>) {
    let mut body = json!({"model": "tiny", "messages": messages});
    if let Some(salt) = salt {
        body["nvext"] = json!({"cache_salt": salt});
    }
    let prepared = model.prepare_chat(&parse_chat(body.to_string().as_bytes()).unwrap(), UNIX_EPOCH).unwrap();
    (prepared.request.token_ids, prepared.reuse)
}

#[test]
fn chats_have_the_same_prompts_whatever_control_tokens_their_users_write() {
    let (plain, cached) = (model(), model().with_token_cache(1 << 20));
    let found = std::cell::Cell::new(0);
    run(128, &proptest::collection::vec((content(), 0..40_usize), 1..8), |said| {
        let mut messages = Vec::new();
        for (at, (text, times)) in said.into_iter().enumerate() {
            let role = ["user", "assistant"][at % 2];
            messages.push(json!({"role": role, "content": text.repeat(times)}));
            let ((whole, none), (ids, reuse)) = (ask(&plain, &messages, None), ask(&cached, &messages, None));
            prop_assert_eq!(ids, whole, "{:?}", messages);
            prop_assert_eq!(none, None);
            found.set(found.get() + reuse.unwrap().cached_tokens);
        }
        Ok(())
    });
    assert!(found.get() > 10_000, "{} tokens were found", found.get());
}

#[test]
fn the_second_turn_hands_only_its_tail_to_the_tokenizer() {
    let model = model().with_token_cache(1 << 20);
    let long = "The quick brown fox jumps over the lazy dog. ".repeat(100);
    let mut messages = vec![json!({"role": "system", "content": long}), json!({"role": "user", "content": long})];
    let first = ask(&model, &messages, None).1.unwrap();
    assert_eq!(first.cached_tokens, 0);
    assert!(first.encoded_bytes >= 2 * long.len());
    messages.push(json!({"role": "assistant", "content": "Does it? It was seen asleep."}));
    messages.push(json!({"role": "user", "content": "Then it hops."}));
    let (ids, second) = ask(&model, &messages, None);
    let second = second.unwrap();
    // Behind the first turn's last message: what the template writes, and the two new messages.
    let tail = "<|im_end|>\n<|im_start|>assistant\nDoes it? It was seen asleep.<|im_end|>\n<|im_start|>user\n\
                Then it hops.<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(second.encoded_bytes, tail.len(), "of {} bytes", 2 * long.len());
    assert_eq!(second.cached_tokens + second.encoded_tokens, ids.len());
    let third = ask(&model, &messages, None).1.unwrap();
    assert_eq!(third, second, "a tail too short for a piece of its own is tokenized again, and nothing else is");
}

#[test]
fn a_piece_is_found_behind_another_beginning_too() {
    let model = model().with_token_cache(1 << 20);
    let long = |word: &str| format!("{word} ").repeat(100);
    let chat = |system: &str| {
        [json!({"role": "system", "content": long(system)}), json!({"role": "user", "content": long("question")})]
    };
    let first = ask(&model, &chat("monday"), None).1.unwrap();
    let second = ask(&model, &chat("tuesday"), None).1.unwrap();
    assert_eq!(first.cached_tokens, 0);
    assert!(second.encoded_bytes < long("tuesday").len() + 100, "{second:?}");
    assert!(second.cached_tokens > 100, "{second:?}");
}

#[test]
fn the_same_text_as_a_beginning_and_behind_its_own_first_token_are_two_pieces() {
    let tokenizer = Tokenizer::load(&data("tiny-bpe/tokenizer.json")).unwrap();
    // Of 13 bytes: too many for a cut behind the first token, not for one behind the second and the line break before.
    let cache = TokenCache::new(1 << 20).with_segment_bytes_min(13);
    let text = "<|im_start|>user\nthe same<|im_end|>\n".repeat(3);
    for _ in 0..2 {
        assert_eq!(cache.encode(&tokenizer, &text, false, None).unwrap().ids, tokenizer.encode(&text, false).unwrap());
    }
}

#[test]
fn a_long_message_in_which_a_control_token_is_written_is_found_again_on_both_sides_of_it() {
    let model = model().with_token_cache(1 << 20);
    let long = "The quick brown fox jumps. ".repeat(50);
    let mut messages = vec![json!({"role": "user", "content": format!("{long}<|im_end|>{long}")})];
    ask(&model, &messages, None);
    messages.extend([json!({"role": "assistant", "content": "Yes."}), json!({"role": "user", "content": "No."})]);
    let second = ask(&model, &messages, None).1.unwrap();
    assert!(second.encoded_bytes < 200, "{second:?} of {} bytes", 2 * long.len());
}

#[test]
fn tenants_find_only_what_is_their_own() {
    let model = model().with_token_cache(1 << 20);
    let messages = [json!({"role": "user", "content": "a secret ".repeat(100)})];
    let found = |salt| ask(&model, &messages, salt).1.unwrap().cached_tokens;
    assert_eq!(found(Some("alice")), 0);
    assert!(found(Some("alice")) > 0);
    assert_eq!((found(Some("bob")), found(None), found(Some("alic"))), (0, 0, 0));
}

#[test]
fn the_kinds_of_encoder_are_both_among_the_tokenizers_tested() {
    let fast = tokenizers().into_iter().filter(|(_, tokenizer, _)| *tokenizer.encoder() == Encoder::Fast).count();
    assert!(fast > 4 && fast < tokenizers().len() - 3, "{fast} of {}", tokenizers().len());
}
