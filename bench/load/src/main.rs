//! The bench's client: raw HTTP/1.1 on loopback, counts SSE events, and prints one JSON object.
//!
//! `load MODE --address HOST:PORT --model NAME …`, where MODE is
//! - `requests`: a closed loop of `--requests` chats at `--concurrency` on kept-alive connections, each prompt its own;
//! - `streams`: `--streams` at once, tokens a second while all of them run;
//! - `prefill`: one prompt of `--prompt-tokens`, time to its first token;
//! - `gap`: the worst gap of any of `--streams` streams while a prompt of `--prompt-tokens` enters;
//! - `serve`: not a client, but the HTTP worker behind the routers that forward HTTP.
//!
//! `--prompt-words N` makes the prompts of `requests` about so long.
//!
//! `--pids A,B` adds CPU seconds and memory of these processes over the measured part.

mod closed_loop;
mod http;
mod long_prompt;
mod process;
mod prompts;
mod serve;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::process::ExitCode;

/// What the command line asks for.
#[derive(Clone)]
pub struct Options {
    pub address: String,
    pub model: String,
    pub concurrency: usize,
    pub requests: usize,
    pub max_tokens: usize,
    pub stream: bool,
    pub streams: usize,
    pub prompt_tokens: usize,
    pub prompt_words: usize,
    pub seed: u64,
    pub pids: Vec<u32>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Options, String> {
        let mut given: HashMap<&str, &str> = HashMap::new();
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} needs a value", pair[0])) };
            given.insert(name.trim_start_matches("--"), value);
        }
        let mut take = |name: &str| given.remove(name).map(str::to_owned);
        let number = |name: &str, text: Option<String>, default: usize| match text {
            Some(text) => text.parse().map_err(|_| format!("--{name}: {text:?} is not a number")),
            None => Ok(default),
        };
        let options = Options {
            address: take("address").ok_or("--address HOST:PORT is needed")?,
            model: take("model").ok_or("--model NAME is needed")?,
            concurrency: number("concurrency", take("concurrency"), 1)?,
            requests: number("requests", take("requests"), 1)?,
            max_tokens: number("max-tokens", take("max-tokens"), 1)?,
            stream: number("stream", take("stream"), 0)? == 1,
            streams: number("streams", take("streams"), 1)?,
            prompt_tokens: number("prompt-tokens", take("prompt-tokens"), 64)?,
            prompt_words: number("prompt-words", take("prompt-words"), 0)?,
            seed: number("seed", take("seed"), 0)? as u64,
            pids: take("pids").unwrap_or_default().split(',').filter_map(|pid| pid.parse().ok()).collect(),
        };
        match given.keys().next() {
            Some(unknown) => Err(format!("--{unknown} is not an option")),
            None => Ok(options),
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<Value, String> {
    let (mode, rest) = words.split_first().ok_or("a mode is needed: requests, streams, prefill, gap or serve")?;
    let options = Options::parse(rest)?;
    // One thread: the client must leave the cores to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let cpu_before = process::cpu_seconds(&options.pids);
    let own_before = process::cpu_seconds(&[std::process::id()]);
    let mut figures = runtime.block_on(async {
        match mode.as_str() {
            "requests" => closed_loop::run(&options).await,
            "streams" => long_prompt::streams(&options).await,
            "prefill" => long_prompt::prefill(&options).await,
            "gap" => long_prompt::gap(&options).await,
            "serve" => serve::run(&options).await,
            other => Err(format!("{other:?} is not a mode")),
        }
    })?;
    figures["cpu_seconds"] = json!(process::cpu_seconds(&options.pids) - cpu_before);
    figures["client_cpu_seconds"] = json!(process::cpu_seconds(&[std::process::id()]) - own_before);
    figures["rss_mb"] = json!(process::rss_mb(&options.pids));
    Ok(figures)
}

/// Milliseconds at a share (0 to 1) of the sorted values.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
