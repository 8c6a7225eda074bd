//! What `hf_files` writes tokenizes as llama.cpp does with the same GGUF, on texts of every kind.
//!
//! The vocabularies are trained here on the texts themselves, one for each way to cut text into words; with
//! `BUSBAR_TEST_GGUF` a real model's is compared too.
#![cfg(feature = "engine-llama")]

mod model_parts;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use model_parts::{GgufWriter, corpus};
use std::path::Path;
use std::sync::OnceLock;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use worker::model::gguf::GgufHeader;
use worker::model::hf_files::HfFiles;

/// Tokens of a trained vocabulary, the bytes included.
const TRAINED_TOKENS: usize = 900;
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        let mut backend = LlamaBackend::init().expect("llama.cpp starts");
        backend.void_logs();
        backend
    })
}

/// Both tokenizers of one GGUF.
struct Pair {
    llama: LlamaModel,
    hf: Tokenizer,
}

impl Pair {
    fn of(path: &Path) -> Pair {
        let header = GgufHeader::open(path).expect("a GGUF");
        let folder = tempfile::tempdir().expect("a folder");
        HfFiles::from_gguf(&header).expect("a known tokenizer").write(folder.path()).expect("written");
        let hf = Tokenizer::from_file(folder.path().join("tokenizer.json")).expect("tokenizers reads it");
        let params = LlamaModelParams::default().with_vocab_only(true);
        let llama = LlamaModel::load_from_file(backend(), path, &params).expect("llama.cpp reads it");
        Pair { llama, hf }
    }

    fn of_bytes(bytes: &[u8]) -> Pair {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("vocabulary.gguf");
        std::fs::write(&path, bytes).expect("written");
        Pair::of(&path)
    }

    /// Ids by llama.cpp and by us. `special`: tokens with a role are found in the text, and BOS and EOS are put.
    fn encode(&mut self, text: &str, special: bool) -> (Vec<u32>, Vec<u32>) {
        let theirs = self.llama.vocab().tokenize(text.as_bytes(), special, special);
        let theirs = theirs.into_iter().map(|token| token.0 as u32).collect();
        self.hf.set_encode_special_tokens(!special);
        let ours = self.hf.encode_fast(text, special).expect("encodes");
        (theirs, ours.get_ids().to_vec())
    }

    /// The first texts on which the two differ, shown.
    fn differences(&mut self, texts: impl Iterator<Item = String>) -> Vec<String> {
        let mut found = Vec::new();
        for text in texts {
            for special in [true, false] {
                let (theirs, ours) = self.encode(&text, special);
                if theirs != ours {
                    let at = theirs.iter().zip(&ours).take_while(|(a, b)| a == b).count();
                    let show = |ids: &[u32]| {
                        let some = &ids[at.min(ids.len())..(at + 6).min(ids.len())];
                        some.iter().map(|id| format!("{id}={:?}", self.hf.id_to_token(*id))).collect::<Vec<_>>()
                    };
                    let short: String = text.chars().take(80).collect();
                    found.push(format!(
                        "{short:?} special={special} at {at}:\n    llama.cpp {:?}\n    ours      {:?}",
                        show(&theirs),
                        show(&ours)
                    ));
                }
            }
            if found.len() > 5 {
                break;
            }
        }
        found
    }
}

fn all_texts(random: u64) -> impl Iterator<Item = String> {
    let named = corpus::groups().into_iter().flat_map(|(_, texts)| texts);
    named.chain((0..random).map(|seed| corpus::random(seed, 60)))
}

/// Vocabulary and merges of a byte-level BPE that is trained on the texts.
fn trained() -> &'static (Vec<String>, Vec<String>) {
    static TRAINED: OnceLock<(Vec<String>, Vec<String>)> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        let alphabet = ByteLevel::alphabet().into_iter().collect();
        let trainer = BpeTrainer::builder()
            .vocab_size(TRAINED_TOKENS)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(alphabet)
            .build();
        let mut trainer = tokenizers::models::TrainerWrapper::from(trainer);
        tokenizer.train(&mut trainer, std::iter::once(corpus::whole())).expect("trains");
        let json: serde_json::Value =
            serde_json::from_str(&tokenizer.to_string(false).expect("serialises")).expect("JSON");
        let mut vocab: Vec<(String, u64)> = json["model"]["vocab"]
            .as_object()
            .expect("a map")
            .iter()
            .map(|(text, id)| (text.clone(), id.as_u64().expect("an id")))
            .collect();
        vocab.sort_by_key(|(_, id)| *id);
        let merges = json["model"]["merges"].as_array().expect("a list").iter();
        let pair = |merge: &serde_json::Value| {
            format!("{} {}", merge[0].as_str().expect("text"), merge[1].as_str().expect("text"))
        };
        (vocab.into_iter().map(|(text, _)| text).collect(), merges.map(pair).collect())
    })
}

/// A GGUF of a byte-level vocabulary; `without` are bytes' characters that it lacks.
fn byte_level_gguf(pre: &str, without: &str) -> Vec<u8> {
    let (tokens, merges) = trained();
    let lacks = |text: &str| text.chars().any(|c| without.contains(c));
    let mut tokens: Vec<&str> = tokens.iter().map(String::as_str).filter(|text| !lacks(text)).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).filter(|text| !lacks(text)).collect();
    let mut types = vec![1; tokens.len()];
    let first_special = tokens.len() as u32;
    tokens.extend(SPECIAL);
    types.extend([3; SPECIAL.len()]);
    tokens.push("<custom> ");
    types.push(4);
    GgufWriter::llama()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &tokens)
        .integers("tokenizer.ggml.token_type", &types)
        .texts("tokenizer.ggml.merges", &merges)
        .number("tokenizer.ggml.bos_token_id", first_special + 1)
        .number("tokenizer.ggml.eos_token_id", first_special + 2)
        .bytes()
}

/// The same vocabulary in SentencePiece's form: `▁` for a space, bytes as `<0x..>`, scores for ranks.
fn sentence_piece_gguf(add_space_prefix: bool) -> Vec<u8> {
    let alphabet = model_parts::byte_alphabet();
    let plain = |text: &str| {
        let bytes = text.chars().map(|c| alphabet.iter().position(|a| *a == c).map(|at| at as u8));
        let text = String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?;
        Some(text.replace(' ', "▁"))
    };
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    let mut types = vec![2, 3, 3];
    let mut scores = vec![0.0f32; 3];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
        scores.push(0.0);
    }
    // llama.cpp reads a token up to its first NUL, so there is none with one.
    let pieces: Vec<String> =
        trained().0.iter().filter_map(|text| plain(text)).filter(|text| !text.contains('\0')).collect();
    // As in every SentencePiece vocabulary, each character of a piece is a piece too; those have the worst scores.
    let characters = pieces.iter().flat_map(|text| text.chars()).map(String::from);
    for text in pieces.iter().cloned().chain(characters.collect::<Vec<_>>()) {
        if !text.is_empty() && !tokens.contains(&text) {
            scores.push(-(tokens.len() as f32));
            tokens.push(text);
            types.push(1);
        }
    }
    GgufWriter::llama()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .integers("tokenizer.ggml.token_type", &types)
        .floats("tokenizer.ggml.scores", &scores)
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2)
        .flag("tokenizer.ggml.add_space_prefix", add_space_prefix)
        .bytes()
}

#[test]
fn every_known_pre_tokenizer_cuts_text_as_llama_cpp_does() {
    let mut report = String::new();
    for pre in [
        "default",
        "gpt-2",
        "smollm",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "falcon",
        "glm4",
        "chatglm-bpe",
        "dbrx",
        "seed-coder",
        "starcoder",
        "mpt",
        "deepseek-r1-qwen",
        "command-r",
        "olmo",
        "hunyuan",
        "stablelm2",
        "falcon3",
        "pixtral",
    ] {
        let differences = Pair::of_bytes(&byte_level_gguf(pre, "")).differences(all_texts(150));
        if !differences.is_empty() {
            report.push_str(&format!("\n{pre}:\n  {}", differences.join("\n  ")));
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn where_llama_cpp_approximates_letter_case_the_two_agree_on_text_without_foreign_case() {
    // llama.cpp knows ASCII's upper and lower case only; ours is the models' own pattern.
    let caseless = |c: char| {
        c.is_ascii()
            || matches!(c, '\u{2000}'..='\u{206F}' | '\u{3041}'..='\u{3096}' | '\u{4E00}'..='\u{9FA5}' | '\u{AC00}'..='\u{D7A3}')
    };
    let is_caseless = |text: &String| text.chars().all(caseless);
    let mut report = String::new();
    for pre in ["tekken", "gpt-4o", "llama4"] {
        let differences = Pair::of_bytes(&byte_level_gguf(pre, "")).differences(all_texts(300).filter(is_caseless));
        if !differences.is_empty() {
            report.push_str(&format!("\n{pre}:\n  {}", differences.join("\n  ")));
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn a_byte_without_a_token_is_dropped_and_nothing_merges_across_the_gap() {
    // The bytes that SmolLM2's vocabulary lacks, and `!`.
    let mut pair = Pair::of_bytes(&byte_level_gguf("smollm", "ĄĆēĔĖĝñò!"));
    assert_eq!(pair.differences(all_texts(150)), Vec::<String>::new());
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes_as_llama_cpp_does() {
    for add_space_prefix in [true, false] {
        let mut pair = Pair::of_bytes(&sentence_piece_gguf(add_space_prefix));
        assert_eq!(pair.differences(all_texts(300)), Vec::<String>::new(), "add_space_prefix {add_space_prefix}");
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same_text() {
    for bytes in [byte_level_gguf("gpt-2", ""), byte_level_gguf("llama-bpe", ""), sentence_piece_gguf(true)] {
        let mut pair = Pair::of_bytes(&bytes);
        for text in all_texts(100) {
            let (_, ours) = pair.encode(&text, false);
            assert_eq!(pair.hf.decode(&ours, false).expect("decodes"), text);
        }
    }
}

#[test]
fn the_real_model_tokenizes_as_llama_cpp_does() {
    let Some(path) = std::env::var_os("BUSBAR_TEST_GGUF") else {
        println!("not compared: BUSBAR_TEST_GGUF names no model");
        return;
    };
    let mut pair = Pair::of(Path::new(&path));
    assert_eq!(pair.differences(all_texts(3000)), Vec::<String>::new());
}
