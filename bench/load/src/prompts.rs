//! Prompts that no other request shares a block with.

use crate::Options;
use serde_json::{Value, json};

/// Words of long prompts: ordinary ones of one or two tokens.
const WORDS: [&str; 16] = [
    "river", "stone", "market", "quiet", "seven", "window", "garden", "letter", "winter", "bridge", "number", "silver",
    "morning", "engine", "paper", "harbour",
];

/// A chat of eight words and `--prompt-words` more.
pub fn chat(options: &Options, number: usize) -> Value {
    let mut content = format!("{} {number} tell me of rivers and of hills", options.seed);
    for pick in tokens(options.seed * 1_000_003 + number as u64, options.prompt_words) {
        content.push(' ');
        content.push_str(WORDS[pick as usize % WORDS.len()]);
    }
    let mut body = json!({
        "model": options.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": options.max_tokens,
        "ignore_eos": true,
    });
    if options.stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// A streamed completion of exactly `prompt_tokens` tokens, greedy, that does not end early.
pub fn completion(options: &Options, number: u64, prompt_tokens: usize, max_tokens: usize) -> Value {
    json!({
        "model": options.model,
        "prompt": tokens(options.seed * 1000 + number, prompt_tokens),
        "max_tokens": max_tokens,
        "ignore_eos": true,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

/// Ids of ordinary tokens: above the special ones and within 49,152, the vocabulary of the default model.
fn tokens(number: u64, len: usize) -> Vec<u64> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = || {
        // xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled".
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        500 + (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % 40_000
    };
    (0..len).map(|_| next()).collect()
}
