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
    let corpus = corpus();
    let slices =
        corpus.as_bytes().chunks_exact(QUESTION_BYTES + ANSWER_BYTES).map(|slice| std::str::from_utf8(slice).unwrap());
    let mut slices = slices.collect::<Vec<_>>().into_iter();
    let conversations: Vec<_> = std::iter::from_fn(|| conversation(&mut slices)).collect();
    println!("{} conversations", conversations.len());
    let slow = tempfile::tempdir().unwrap();
    measure("fast encoder", &files, &conversations);
    // It is so much slower that fewer of them say enough.
    measure("reference encoder", &of_slow_encoder(&files, slow.path()), &conversations[..conversations.len() / 4]);
}

fn measure(encoder: &str, files: &ModelFiles, conversations: &[Vec<ChatCompletionRequest>]) {
    let of = |bytes_max| ModelText::load("m", files, None, None).unwrap().with_token_cache(bytes_max);
    // A cache of one byte looks everything up and never has it: what a prompt pays that is new from end to end.
    let sides = [("whole", of(0)), ("cached", of(TOKENIZER_CACHE_BYTES)), ("looked up in vain", of(1))];
    let mut sums = [Sum::default(); 3];
    for (at, block) in conversations.chunks(conversations.len().div_ceil(BLOCKS)).enumerate() {
        for side in (0..sides.len()).map(|side| (side + at) % sides.len()) {
            let model = &sides[side].1;
            // The first turn has nothing to find; it is asked, not counted.
            block.iter().for_each(|turns| drop(model.prepare_chat(&turns[0], UNIX_EPOCH).unwrap()));
            sums[side].measure(model, block.iter().map(|turns| &turns[1..]));
        }
    }
    for ((name, _), sum) in sides.iter().zip(sums) {
        println!("{encoder}, {name}, turns 2 to 10: {sum}");
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
fn conversation<'t>(slices: &mut impl Iterator<Item = &'t str>) -> Option<Vec<ChatCompletionRequest>> {
    let mut messages: Vec<Value> = vec![json!({"role": "system", "content": "You are a helpful assistant."})];
    let mut requests = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let (question, answer) = slices.next()?.split_at_checked(QUESTION_BYTES)?;
        messages.push(json!({"role": "user", "content": question}));
        let body = json!({"model": "m", "messages": messages}).to_string();
        messages.push(json!({"role": "assistant", "content": answer}));
        requests.push(parse_chat(body.as_bytes()).unwrap());
    }
    Some(requests)
}

/// The sources and pages of this project: prose and code, none of it twice. Without what looks like a control token, and
/// without what is not ASCII, so that it can be cut anywhere.
fn corpus() -> String {
    let mut text = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && !["target", ".git", "data"].map(Some).contains(&name.to_str()) {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs" || ending == "md") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    text.retain(|char| char.is_ascii());
    text.replace("<|", "< |")
}

/// The model's files with a normalizer that does nothing and that the fast encoder does not know.
fn of_slow_encoder(files: &ModelFiles, folder: &Path) -> ModelFiles {
    let mut json: Value = serde_json::from_slice(&std::fs::read(&files.tokenizer).unwrap()).unwrap();
    json["normalizer"] = json!({"type": "Strip", "strip_left": false, "strip_right": false});
    let tokenizer = folder.join("tokenizer.json");
    std::fs::write(&tokenizer, json.to_string()).unwrap();
    ModelFiles { tokenizer, ..files.clone() }
}
