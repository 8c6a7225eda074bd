//! How text is cut into words before byte-level BPE merges inside them, by llama.cpp's name for it.
//!
//! Source: `llm_tokenizer_bpe` and `llama_vocab::impl::load` in llama.cpp's `src/llama-vocab.cpp`; the patterns are the
//! ones of the models' own `tokenizer.json`, which llama.cpp quotes there and approximates where `std::regex` cannot
//! say them (`tekken` and `gpt-4o`: its upper and lower case are ASCII's; here they are Unicode's, as in the models).

use super::HfFilesError;
use serde_json::{Value, json};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEFAULT_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const FALCON_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";

/// A way to cut, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    steps: &'static [Step],
    /// A word that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether a BOS token is put first unless the metadata says otherwise.
    pub(super) add_bos_default: bool,
}

/// One cut; each works inside the pieces of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Every match is a piece, and so is what lies between matches.
    Split(&'static str),
    /// Every digit by itself.
    Digits,
    /// GPT-2's own pattern, which Hugging Face's `ByteLevel` has built in (and fast tokenizers know).
    Gpt2,
}

/// The pre-tokenizer that `tokenizer.ggml.pre` names; a missing key means `default`, as in llama.cpp.
pub(super) fn by_name(name: Option<&str>) -> Result<PreTokenizer, HfFilesError> {
    let plain = |steps| PreTokenizer { steps, ignore_merges: false, add_bos_default: false };
    Ok(match name.unwrap_or("default") {
        "default" => plain(&[
            Step::Split(DEFAULT_PUNCTUATION),
            Step::Split(GPT2),
            Step::Split(r"\p{N}+"),
            Step::Split("[0-9][0-9][0-9]"),
        ]),
        "falcon" => plain(&[Step::Split(FALCON_PUNCTUATION), Step::Split(GPT2), Step::Split("[0-9][0-9][0-9]")]),
        "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4" | "mpt" | "olmo" | "jais" | "trillion"
        | "granite-docling" => plain(&[Step::Gpt2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
            plain(&[Step::Digits, Step::Gpt2])
        }
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            PreTokenizer { steps: &[Step::Split(LLAMA3)], ignore_merges: true, add_bos_default: true }
        }
        "glm4" | "glm5" => PreTokenizer { steps: &[Step::Split(LLAMA3)], ignore_merges: true, add_bos_default: false },
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => plain(&[Step::Split(LLAMA3)]),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan" | "solar-open"
        | "grok-2" => plain(&[Step::Split(QWEN2)]),
        "qwen35" => plain(&[Step::Split(QWEN35)]),
        "seed-coder" => plain(&[Step::Split(SEED_CODER)]),
        "tekken" => PreTokenizer { steps: &[Step::Split(TEKKEN)], ignore_merges: true, add_bos_default: true },
        "gpt-4o" | "llama4" | "kanana2" | "talkie" => plain(&[Step::Split(GPT4O)]),
        other => return Err(HfFilesError::PreTokenizerKind { kind: other.to_owned() }),
    })
}

impl PreTokenizer {
    /// As `tokenizer.json` has it. `unwritable` are the characters of GPT-2's alphabet that the vocabulary lacks.
    pub(super) fn json(&self, unwritable: &str) -> Value {
        let mut steps: Vec<Value> = Vec::new();
        for step in self.steps {
            steps.push(match step {
                Step::Split(pattern) => split(pattern),
                Step::Digits => json!({"type": "Digits", "individual_digits": true}),
                Step::Gpt2 => byte_level(true),
            });
        }
        if self.steps.last() != Some(&Step::Gpt2) {
            steps.push(byte_level(false));
        }
        if !unwritable.is_empty() {
            // A byte without a token is dropped. Hugging Face's BPE then merges across the gap, llama.cpp does not;
            // a cut at the byte makes them agree.
            steps.push(split(&format!("[{}]", escape_class(unwritable))));
        }
        if steps.len() == 1 {
            return steps.remove(0);
        }
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// Hugging Face's `ByteLevel`, with or without its built-in GPT-2 pattern.
pub(super) fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn escape_class(characters: &str) -> String {
    let mut class = String::new();
    for c in characters.chars() {
        if c.is_ascii_punctuation() {
            class.push('\\');
        }
        class.push(c);
    }
    class
}
