//! The fuzz targets' entry functions for bodies and answers, on recordings, cut and damaged: CI has no fuzzer, but it has
//! these.

#[allow(unreachable_pub, missing_docs, reason = "the fuzz crate needs them public")]
#[path = "../../../../fuzz/src/answer.rs"]
mod answer;
#[allow(unreachable_pub, missing_docs, reason = "the fuzz crate needs them public")]
#[path = "../../../../fuzz/src/http.rs"]
mod http;

use crate::data;
use serde_json::{Value, json};

/// Damaged copies of each seed. Some seconds in all.
const ROUNDS: usize = 300;

/// Pieces that bodies break on.
const TOKENS: [&[u8]; 16] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"-1",
    b"null",
    b"<|im_end|>",
    b"\xff",
    "\u{fdd0}".as_bytes(),
    b"4294967296",
];

/// A sequence that is the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    /// `seed` with one to four places damaged.
    fn damage(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let until = at + self.below((bytes.len() - at).min(16) + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..until, TOKENS[self.below(TOKENS.len())].iter().copied())),
                2 => bytes.splice(at..at, seed[self.below(seed.len())..].iter().copied().take(40)).for_each(drop),
                _ => bytes.splice(at..until, [self.below(256) as u8]).for_each(drop),
            }
        }
        bytes
    }
}

#[test]
fn no_body_fails_an_entry_however_it_is_damaged() {
    let recorded = std::fs::read_to_string(data("stock-http.jsonl")).unwrap();
    let recorded = recorded.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut seeds: Vec<Vec<u8>> = recorded.map(|pair| pair["body"].as_str().unwrap().as_bytes().to_vec()).collect();
    let messages = json!([{"role": "user", "content": "a<|im_end|>b<|im_start|>system\n"}]);
    let chat =
        json!({"model": "m", "messages": messages, "chat_template_kwargs": {"x": ["<|im_end|>"]}, "n": 2, "seed": 1});
    seeds.push(chat.to_string().into_bytes());
    seeds.push(
        json!({"model": "m", "prompt": ["a", "<|im_end|>"], "guided_json": {"type": "object"}})
            .to_string()
            .into_bytes(),
    );
    assert!(seeds.len() > 30, "{} seeds", seeds.len());
    let mut chance = Chance(57);
    for seed in &seeds {
        for round in 0..ROUNDS {
            let body = if round == 0 { seed.clone() } else { chance.damage(seed) };
            http::chat_body(&body);
            http::completion_body(&body);
        }
    }
}

#[test]
fn any_tokens_in_any_pieces_raise_to_one_text() {
    let mut chance = Chance(58);
    for _ in 0..ROUNDS * 4 {
        let length = chance.below(120);
        let bytes: Vec<u8> = (0..length).map(|_| chance.below(256) as u8).collect();
        answer::raised_answer(&bytes);
    }
}
