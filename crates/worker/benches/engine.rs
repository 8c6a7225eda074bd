//! The embedded engine against the bare library loop, in turn, in one process: prefill of 500 tokens, tokens a second
//! of 1, 4 and 8 streams, and the worst gap between two tokens of a stream while a long prompt enters.
//!
//! `cargo bench -p worker --bench engine -- MODEL.gguf [THREADS] [ROUNDS]`
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "../../../bench/engine/bare_loop.rs"]
mod bare_loop;

use bare_loop::BareLoop;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use protocol::output::EngineOutput;
use protocol::request::{PreprocessedRequest, SamplingOptions, StopConditions};
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use worker::engine::Engine;
use worker::engine::embedded::{EmbeddedConfig, start};

/// Tokens that a stream makes in one round.
const DECODE_TOKENS: usize = 80;

/// Tokens of a stream's prompt.
const STREAM_PROMPT: usize = 64;

/// Tokens of the long prompt.
const LONG_PROMPT: usize = 500;

/// A token came: which stream, and when.
type Tick = (usize, Instant);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` adds `--bench`. Without it this is a test run, where nothing is to be measured.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let given: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let model = given.first().map(PathBuf::from).or_else(|| std::env::var_os("BUSBAR_TEST_GGUF").map(Into::into));
    let Some(model) = model else {
        println!("not run: give a GGUF file, or name one in BUSBAR_TEST_GGUF");
        return;
    };
    let number = |at: usize| given.get(at).map(|text| text.parse::<u32>().expect("a number"));
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let threads = number(1).unwrap_or(cores);
    let rounds = number(2).unwrap_or(5);

    let config = EmbeddedConfig { threads: NonZeroU32::new(threads), ..EmbeddedConfig::of(&model) };
    let started = start(config).expect("the model loads");
    // The engine has started llama.cpp's backend for this process; this is only the proof of it.
    let backend = ManuallyDrop::new(LlamaBackend {});
    let bare_model = LlamaModel::load_from_file(&backend, &model, &LlamaModelParams::default()).expect("it loads");
    let bare = BareLoop::new(&backend, &bare_model, threads.cast_signed());
    println!("{:?}, {threads} threads, {rounds} rounds, load {}", started.engine.profile(), load_average());
    Bench { engine: &*started.engine, bare, prompts: 0 }.run(rounds);
    println!("{:?}, load {}", started.engine.load(), load_average());
}

struct Bench<'a> {
    engine: &'a dyn Engine,
    bare: BareLoop<'a>,
    prompts: u32,
}

/// One round of one side: tokens a second, and CPU seconds.
#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    cpu_seconds: f64,
}

impl Bench<'_> {
    fn run(&mut self, rounds: u32) {
        print_rows("prefill of 500 tokens", &(0..rounds).map(|_| self.prefill()).collect::<Vec<_>>());
        for streams in [1, 4, 8] {
            let figures: Vec<_> = (0..rounds).map(|_| self.decode(streams)).collect();
            print_rows(&format!("decode of {streams} streams"), &figures);
        }
        for streams in [1, 4, 7] {
            let gaps: Vec<_> = (0..rounds).map(|_| self.gap(streams)).collect();
            let millis = |pick: fn(&(Duration, Duration)) -> Duration| {
                median(gaps.iter().map(|gap| pick(gap).as_secs_f64() * 1e3).collect())
            };
            let (worst, first) = (millis(|gap| gap.0), millis(|gap| gap.1));
            println!(
                "{streams} streams while 500 tokens enter: worst gap {worst:.0} ms, first token after {first:.0} ms"
            );
        }
    }

    /// (engine, bare)
    fn prefill(&mut self) -> (Figure, Figure) {
        let prompt = self.prompt(LONG_PROMPT);
        let engine = measured(|| {
            let start = Instant::now();
            let mut stream = self.engine.generate(request(prompt.clone(), 1)).expect("it has room");
            stream.blocking_recv().expect("there is a token");
            LONG_PROMPT as f64 / start.elapsed().as_secs_f64()
        });
        let bare = measured(|| LONG_PROMPT as f64 / self.bare.time_to_first_token(&prompt).as_secs_f64());
        (engine, bare)
    }

    /// (engine, bare)
    fn decode(&mut self, streams: usize) -> (Figure, Figure) {
        let prompts: Vec<_> = (0..streams).map(|_| self.prompt(STREAM_PROMPT)).collect();
        let engine = measured(|| steady_rate(&self.start_streams(&prompts, DECODE_TOKENS), streams));
        let bare = measured(|| {
            let time = self.bare.time_of_decode(&prompts, DECODE_TOKENS);
            (streams * DECODE_TOKENS) as f64 / time.as_secs_f64()
        });
        (engine, bare)
    }

    /// The worst gap of any of `streams` streams while a long prompt enters, and the time to its first token.
    fn gap(&mut self, streams: usize) -> (Duration, Duration) {
        let prompts: Vec<_> = (0..streams).map(|_| self.prompt(STREAM_PROMPT)).collect();
        let ticks = self.start_streams(&prompts, 400);
        let mut last: Vec<Option<Instant>> = vec![None; streams];
        while last.iter().any(Option::is_none) {
            let (stream, at) = ticks.recv().expect("every stream comes");
            last[stream] = Some(at);
        }
        let sent = Instant::now();
        let mut long = self.engine.generate(request(self.prompt(LONG_PROMPT), 1)).expect("it has room");
        let mut worst = Duration::ZERO;
        loop {
            let (stream, at) = ticks.recv().expect("the streams outlast the prompt");
            let before = last[stream].replace(at).expect("every stream has come");
            worst = worst.max(at - before);
            if long.try_recv().is_ok() {
                return (worst, sent.elapsed());
            }
        }
    }

    /// Starts a stream for each prompt and gives their ticks. Dropping the receiver cancels them.
    fn start_streams(&self, prompts: &[Vec<u32>], tokens: usize) -> Receiver<Tick> {
        let (sender, ticks) = sync_channel(4096);
        for (number, prompt) in prompts.iter().enumerate() {
            let stream = self.engine.generate(request(prompt.clone(), tokens)).expect("it has room");
            let sender = sender.clone();
            std::thread::spawn(move || tick(number, stream, &sender));
        }
        ticks
    }

    /// A prompt that no other starts with.
    fn prompt(&mut self, length: usize) -> Vec<u32> {
        self.prompts += 1;
        let first = self.prompts * 7919;
        (0u32..).map(|i| 1000 + (first + i * 31 + i * i * 7) % 40_000).take(length).collect()
    }
}

fn tick(number: usize, mut stream: mpsc::Receiver<EngineOutput>, sender: &SyncSender<Tick>) {
    while let Some(output) = stream.blocking_recv() {
        let now = Instant::now();
        if output.token_ids.iter().any(|_| sender.send((number, now)).is_err()) {
            return;
        }
    }
}

/// Tokens a second while all streams run: from when the last one has its first token to when the first one ends.
fn steady_rate(ticks: &Receiver<Tick>, streams: usize) -> f64 {
    let mut made = vec![0; streams];
    let mut window: Option<(Instant, usize)> = None;
    loop {
        let (stream, at) = ticks.recv().expect("no stream ends early");
        made[stream] += 1;
        match &mut window {
            None if made.iter().all(|&tokens| tokens > 0) => window = Some((at, 0)),
            None => {}
            Some((_, tokens)) => *tokens += 1,
        }
        if made[stream] == DECODE_TOKENS {
            let (from, tokens) = window.expect("all streams run before one ends");
            return tokens as f64 / (at - from).as_secs_f64();
        }
    }
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> PreprocessedRequest {
    PreprocessedRequest {
        token_ids: prompt,
        stop_conditions: StopConditions {
            max_tokens: u32::try_from(max_tokens).ok(),
            ignore_eos: Some(true),
            ..StopConditions::default()
        },
        sampling_options: SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() },
        ..PreprocessedRequest::default()
    }
}

fn measured(run: impl FnOnce() -> f64) -> Figure {
    let before = cpu_seconds();
    let rate = run();
    Figure { rate, cpu_seconds: cpu_seconds() - before }
}

fn print_rows(name: &str, figures: &[(Figure, Figure)]) {
    let of = |pick: fn(&(Figure, Figure)) -> f64| median(figures.iter().map(pick).collect());
    let ratio = of(|(engine, bare)| engine.rate / bare.rate);
    let (engine, bare) = (of(|f| f.0.rate), of(|f| f.1.rate));
    let (engine_cpu, bare_cpu) = (of(|f| f.0.cpu_seconds), of(|f| f.1.cpu_seconds));
    println!(
        "{name}: engine {engine:.0}, bare {bare:.0} tokens/s, ratio {ratio:.2}; CPU {engine_cpu:.2} and {bare_cpu:.2} s"
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU seconds of this process so far, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    // The unit is 1/100 s on every Linux.
    ticks.sum::<f64>() / 100.0
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
