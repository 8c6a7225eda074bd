//! What the text side costs: encode, detokenize, SSE chunk, template. Plain timing loops; the best of several rounds.
//!
//! Run: `BUSBAR_TEST_MODEL_DIR=FOLDER cargo bench -p frontend --bench text` (a folder with `tokenizer.json`; without it
//! the small committed tokenizer is measured, whose figures say little).

// The figures are this program's output.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use bytes::BytesMut;
use frontend::openai::sse::ChunkWriter;
use frontend::postprocess::Raised;
use frontend::text::template::TemplateMessage;
use frontend::text::{ChatTemplate, Detokenizer, TemplateInput, Tokenizer};
use serde_json::Map;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Rounds of each measurement; the best one is told.
const ROUNDS: usize = 5;
/// Bytes of text per encoding, about 1 k and 8 k tokens.
const TEXT_LENS: [usize; 2] = [4_000, 32_000];

fn main() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let dir = std::env::var("BUSBAR_TEST_MODEL_DIR").map_or_else(|_| data.join("tiny-bpe"), PathBuf::from);
    let started = Instant::now();
    let tokenizer = Arc::new(Tokenizer::load(&dir.join("tokenizer.json")).unwrap());
    println!(
        "tokenizer {}: loaded and compared in {:?}, encoder {:?}",
        dir.display(),
        started.elapsed(),
        tokenizer.encoder()
    );
    let corpus = corpus();
    for len in TEXT_LENS {
        encode(&tokenizer, &corpus, len);
    }
    detokenize(&tokenizer, &corpus);
    chunks();
    template(&data);
}

/// This crate's own sources and the test texts: prose and code.
fn corpus() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for dir in ["src/openai", "src/text", "src/preprocess", "src/postprocess", "tests/text", "tests/data"] {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.is_file()) {
            text.push_str(&std::fs::read_to_string(file).unwrap());
        }
    }
    text
}

/// Seconds of the best round.
fn best(mut round: impl FnMut()) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            round();
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Slices of `len` bytes, none of them twice: encoders cache.
fn slices(corpus: &str, len: usize) -> Vec<&str> {
    let mut slices = Vec::new();
    let mut rest = corpus;
    while rest.len() > len {
        let mut cut = len;
        while !rest.is_char_boundary(cut) {
            cut += 1;
        }
        let (slice, later) = rest.split_at(cut);
        slices.push(slice);
        rest = later;
    }
    slices
}

/// Median rate of one pass over all slices, MB/s: a second pass over the same text would measure a cache.
fn median_rate(all: &[&str], mut encode: impl FnMut(&str) -> Vec<u32>) -> f64 {
    let mut rates: Vec<f64> = Vec::with_capacity(all.len());
    for slice in all {
        let started = Instant::now();
        black_box(encode(slice));
        rates.push(slice.len() as f64 / started.elapsed().as_secs_f64() / 1e6);
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn encode(tokenizer: &Tokenizer, corpus: &str, len: usize) {
    let all = slices(corpus, len);
    let ours = median_rate(&all, |text| tokenizer.encode(text, false).unwrap());
    let reference = median_rate(&all, |text| tokenizer.encode_by_reference(text, false).unwrap());
    let count = all.len();
    println!(
        "encode {count} x {len} B: median {ours:.1} MB/s, reference {reference:.1} MB/s ({:.0}x)",
        ours / reference
    );
}

fn detokenize(tokenizer: &Arc<Tokenizer>, corpus: &str) {
    let ids = tokenizer.encode(&corpus[..corpus.floor_char_boundary(200_000)], false).unwrap();
    let seconds = best(|| {
        let mut detokenizer = Detokenizer::new(tokenizer, true);
        let mut out = String::with_capacity(1 << 20);
        for &id in &ids {
            detokenizer.push(id, &mut out);
        }
        detokenizer.finish(&mut out);
        black_box(out);
    });
    println!("detokenize: {:.1} ns a token ({} tokens)", seconds * 1e9 / ids.len() as f64, ids.len());
}

fn chunks() {
    const COUNT: usize = 100_000;
    let mut writer = ChunkWriter::chat("chatcmpl-ecb38f89-9c84-4647-8435-1c400f190b50", "model-name", 1_795_465_821);
    let raised = Raised { text: " token".into(), new_tokens: 1, ..Raised::default() };
    let mut out = BytesMut::with_capacity(1 << 20);
    let seconds = best(|| {
        for _ in 0..COUNT {
            writer.delta(&mut out, 0, &raised, None);
            if out.len() > 1 << 19 {
                out.clear();
            }
        }
        black_box(&out);
    });
    println!("SSE chunk: {:.0} ns", seconds * 1e9 / COUNT as f64);
}

fn template(data: &Path) {
    const COUNT: usize = 2_000;
    let message = |role, content: &str| TemplateMessage {
        role,
        content: Some(content.to_owned()),
        name: None,
        tool_calls: None,
        tool_call_id: None,
        reasoning_content: None,
    };
    let messages = [
        message("system", "You are a helpful assistant."),
        message("user", "Why is the sky blue?"),
        message("assistant", "Because of Rayleigh scattering."),
        message("user", "And the sea?"),
    ];
    let args = Map::new();
    let input =
        TemplateInput { messages: &messages, add_generation_prompt: true, args: &args, now: SystemTime::UNIX_EPOCH };
    for name in ["chatml", "headers", "reasoning"] {
        let source = std::fs::read_to_string(data.join("templates").join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::compile(&source, vec![("bos_token".to_owned(), "<s>".to_owned())]).unwrap();
        let seconds = best(|| {
            for _ in 0..COUNT {
                black_box(template.render(input).unwrap());
            }
        });
        println!("template {name}, 4 messages: {:.1} us", seconds * 1e6 / COUNT as f64);
    }
}
