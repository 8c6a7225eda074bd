//! What the text side of a conversation's prompt costs, turn by turn, with and without the cache of tokens.
//!
//! Conversations of ten turns that end at about 8 k tokens, of text that occurs once; each request is prepared as the
//! server does it (template, search for control tokens, tokens, limits). CPU time of the process, which counts the threads
//! of the encoder.
//!
//! Run: `BUSBAR_TEST_MODEL_DIR=FOLDER cargo bench -p frontend --bench turns` (`tokenizer.json`, `tokenizer_config.json`).

// The figures are this program's output.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use frontend::config::TOKENIZER_CACHE_BYTES;
use frontend::openai::{ChatCompletionRequest, parse_chat};
use frontend::preprocess::{ModelFiles, ModelText};
use serde_json::{Value, json};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Blocks of conversations. The sides take turns at each, so that neither always finds the machine as the other left it.
const BLOCKS: usize = 4;
/// Conversations of a block, on either side once, because the fast encoder remembers words too. CPU time is told in
/// steps of 10 ms: a block takes some hundred.
const CONVERSATIONS: usize = 200;
/// Ticks of `/proc/self/stat` a second, on every Linux that runs here.
const TICKS: u64 = 100;
const TURNS: usize = 10;
/// Bytes of one question and its answer: ten turns are some 8 k tokens.
const QUESTION_BYTES: usize = 800;
const ANSWER_BYTES: usize = 2_400;

fn main() {
    let folder = std::env::var("BUSBAR_TEST_MODEL_DIR")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-bpe"), PathBuf::from);
    let files = ModelFiles {
        tokenizer: folder.join("tokenizer.json"),
        tokenizer_config: Some(folder.join("tokenizer_config.json")),
        ..ModelFiles::default()
    };
    let load = || ModelText::load("m", &files, None, None).unwrap();
    let sides = [("whole", load()), ("cached", load().with_token_cache(TOKENIZER_CACHE_BYTES))];
    let mut words = Words(1);
    // By side: of the first turn, and of the nine others.
    let mut sums = [[Sum::default(); 2]; 2];
    for block in 0..BLOCKS {
        let conversations: Vec<_> = (0..CONVERSATIONS).map(|_| conversation(&mut words)).collect();
        for side in [block % 2, 1 - block % 2] {
            let [first, later] = &mut sums[side];
            first.measure(&sides[side].1, conversations.iter().map(|turns| &turns[..1]));
            later.measure(&sides[side].1, conversations.iter().map(|turns| &turns[1..]));
        }
    }
    for (side, (name, _)) in sides.iter().enumerate() {
        for (of, sum) in ["turn 1", "turns 2 to 10"].iter().zip(sums[side]) {
            println!("{name}, {of}: {sum}");
        }
    }
}

/// Prompts, and what they cost.
#[derive(Clone, Copy, Default)]
struct Sum {
    prompts: usize,
    tokens: usize,
    encoded_bytes: usize,
    cpu: Duration,
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tokens, prompts, cpu) = (self.tokens as f64, self.prompts as f64, self.cpu.as_secs_f64());
        write!(
            f,
            "{:.4} us a prompt token, {:.0} us a prompt of {:.0} tokens, {:.0} bytes of it handed to the tokenizer",
            cpu * 1e6 / tokens,
            cpu * 1e6 / prompts,
            tokens / prompts,
            self.encoded_bytes as f64 / prompts
        )
    }
}

impl Sum {
    fn measure<'r>(&mut self, model: &ModelText, all: impl Iterator<Item = &'r [ChatCompletionRequest]>) {
        let started = cpu_time();
        for request in all.flatten() {
            let prepared = black_box(model.prepare_chat(request, UNIX_EPOCH).unwrap());
            let text = || request.messages.iter().filter_map(|m| m.content.as_ref()).map(|c| c.text_len()).sum();
            self.prompts += 1;
            self.tokens += prepared.prompt_tokens as usize;
            self.encoded_bytes += prepared.reuse.map_or_else(text, |reuse| reuse.encoded_bytes);
        }
        self.cpu += cpu_time() - started;
    }
}

/// CPU time of this process and its threads.
fn cpu_time() -> Duration {
    let told = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the name, which ends with the last `)`: the state is the first field, user and system time the 12th and 13th.
    let fields: Vec<&str> = told[told.rfind(')').unwrap() + 1..].split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// The requests of one conversation's turns.
fn conversation(words: &mut Words) -> Vec<ChatCompletionRequest> {
    let mut messages: Vec<Value> = vec![json!({"role": "system", "content": "You are a helpful assistant."})];
    (0..TURNS)
        .map(|_| {
            messages.push(json!({"role": "user", "content": words.text(QUESTION_BYTES)}));
            let body = json!({"model": "m", "messages": messages}).to_string();
            messages.push(json!({"role": "assistant", "content": words.text(ANSWER_BYTES)}));
            parse_chat(body.as_bytes()).unwrap()
        })
        .collect()
}

/// Text of common words in a random order, with marks, numbers and line breaks. The state of its generator.
struct Words(u64);

impl Words {
    fn text(&mut self, bytes: usize) -> String {
        let common = include_str!("../../../ARCHITECTURE.md");
        let common: Vec<&str> = common.split_whitespace().collect();
        let mut text = String::with_capacity(bytes + 64);
        while text.len() < bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (self.0 >> 33) as usize;
            text.push_str(common[at % common.len()]);
            match at / common.len() % 24 {
                0 => text.push_str(",\n"),
                1 => text.extend([" ", &at.to_string(), " "]),
                2 => text.push_str(". "),
                _ => text.push(' '),
            }
        }
        text
    }
}
