//! The embedded engine against the bare library loop, in turn: prefill of 500 tokens, tokens a second of 1, 4 and 8
//! streams, and the worst gap between two tokens of a stream while a long prompt enters.
//!
//! `cargo bench -p worker --bench engine -- MODEL.gguf [THREADS] [ROUNDS] [--side=engine|--side=bare]`
//!
//! Each side runs in a process of its own, which this one starts: two thread teams of OpenMP in one process are more
//! threads than cores, and then OpenMP no longer spins at its barriers but sleeps, which halves the speed of both.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "../../../bench/engine/bare_loop.rs"]
mod bare_loop;

use bare_loop::BareLoop;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use protocol::output::EngineOutput;
use protocol::request::{PreprocessedRequest, SamplingOptions, StopConditions};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
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

/// Streams at once.
const STREAMS: [usize; 3] = [1, 4, 8];

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
    match args.iter().find_map(|arg| arg.strip_prefix("--side=")) {
        Some("engine") => run_engine(&model, threads),
        Some("bare") => run_bare(&model, threads),
        Some(other) => println!("not run: there is no side {other:?}, only engine and bare"),
        None => compare(&model, threads, rounds),
    }
}

/// One round of the engine, a line of figures each.
fn run_engine(model: &Path, threads: u32) {
    let config = EmbeddedConfig { threads: NonZeroU32::new(threads), ..EmbeddedConfig::of(model) };
    let started = start(config).expect("the model loads");
    let mut bench = Bench { engine: &*started.engine, prompts: Prompts(0) };
    print_figure("prefill of 500 tokens", bench.prefill());
    for streams in STREAMS {
        print_figure(&format!("decode of {streams} streams"), bench.decode(streams));
    }
    for streams in [1, 4, 7] {
        let (worst, first) = bench.gap(streams);
        let millis = |time: Duration| Figure { rate: time.as_secs_f64() * 1e3, cpu_seconds: 0.0 };
        print_figure(&format!("{streams} streams while 500 tokens enter: worst gap"), millis(worst));
        print_figure(&format!("{streams} streams while 500 tokens enter: first token"), millis(first));
    }
}

/// One round of the bare loop, a line of figures each.
fn run_bare(model: &Path, threads: u32) {
    let backend = LlamaBackend::init().expect("it is the first in this process");
    let model = LlamaModel::load_from_file(&backend, model, &LlamaModelParams::default()).expect("the model loads");
    let mut bare = BareLoop::new(&backend, &model, threads.cast_signed());
    let mut prompts = Prompts(0);
    let prompt = prompts.next(LONG_PROMPT);
    let prefill = measured(|| LONG_PROMPT as f64 / bare.time_to_first_token(&prompt).as_secs_f64());
    print_figure("prefill of 500 tokens", prefill);
    for streams in STREAMS {
        let prompts: Vec<_> = (0..streams).map(|_| prompts.next(STREAM_PROMPT)).collect();
        let decode = measured(|| {
            let time = bare.time_of_decode(&prompts, DECODE_TOKENS);
            (streams * DECODE_TOKENS) as f64 / time.as_secs_f64()
        });
        print_figure(&format!("decode of {streams} streams"), decode);
    }
}

/// Both sides in turn, the order changing, and the medians.
fn compare(model: &Path, threads: u32, rounds: u32) {
    println!("{threads} threads, {rounds} rounds, load {}", load_average());
    let (mut engine, mut bare) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for side in if round % 2 == 0 { ["engine", "bare"] } else { ["bare", "engine"] } {
            let figures = child(model, threads, side);
            if side == "engine" { &mut engine } else { &mut bare }.push(figures);
        }
    }
    for (name, _) in &bare[0] {
        let rounds = engine.iter().zip(&bare);
        print_rows(name, &rounds.map(|(engine, bare)| (of(engine, name), of(bare, name))).collect::<Vec<_>>());
    }
    for streams in [1, 4, 7] {
        let name = format!("{streams} streams while 500 tokens enter: ");
        let median_of = |what: &str| median(engine.iter().map(|f| of(f, &format!("{name}{what}")).rate).collect());
        let (worst, first) = (median_of("worst gap"), median_of("first token"));
        println!("{name}worst gap {worst:.0} ms, first token after {first:.0} ms");
    }
    println!("load {}", load_average());
}

type Figures = Vec<(String, Figure)>;

fn of(figures: &Figures, name: &str) -> Figure {
    figures.iter().find(|figure| figure.0 == name).expect("each side tells each figure").1
}

/// The figures of one round of a side in its own process.
fn child(model: &Path, threads: u32, side: &str) -> Figures {
    let this = std::env::current_exe().expect("this program has a path");
    let mut command = std::process::Command::new(this);
    command.arg(model).arg(threads.to_string()).arg("1").arg(format!("--side={side}")).arg("--bench");
    let done = command.stderr(std::process::Stdio::inherit()).output().expect("this program starts");
    assert!(done.status.success(), "the {side} side failed");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let lines = text.lines().filter_map(|line| {
        let [name, rate, cpu] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        Some((name.to_owned(), Figure { rate: rate.parse().ok()?, cpu_seconds: cpu.parse().ok()? }))
    });
    lines.collect()
}

fn print_figure(name: &str, figure: Figure) {
    println!("{name}\t{}\t{}", figure.rate, figure.cpu_seconds);
}

struct Bench<'a> {
    engine: &'a dyn Engine,
    prompts: Prompts,
}

/// Prompts of which no two start alike.
struct Prompts(u32);

impl Prompts {
    fn next(&mut self, length: usize) -> Vec<u32> {
        self.0 += 1;
        let first = self.0 * 7919;
        (0u32..).map(|i| 1000 + (first + i * 31 + i * i * 7) % 40_000).take(length).collect()
    }
}

/// One round of one side: tokens a second, and CPU seconds.
#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    cpu_seconds: f64,
}

impl Bench<'_> {
    fn prefill(&mut self) -> Figure {
        let prompt = self.prompts.next(LONG_PROMPT);
        measured(|| {
            let start = Instant::now();
            let mut stream = self.engine.generate(request(prompt, 1)).expect("it has room");
            stream.blocking_recv().expect("there is a token");
            LONG_PROMPT as f64 / start.elapsed().as_secs_f64()
        })
    }

    fn decode(&mut self, streams: usize) -> Figure {
        let prompts: Vec<_> = (0..streams).map(|_| self.prompts.next(STREAM_PROMPT)).collect();
        measured(|| steady_rate(&self.start_streams(&prompts, DECODE_TOKENS), streams))
    }

    /// The worst gap of any of `streams` streams while a long prompt enters, and the time to its first token.
    fn gap(&mut self, streams: usize) -> (Duration, Duration) {
        let prompts: Vec<_> = (0..streams).map(|_| self.prompts.next(STREAM_PROMPT)).collect();
        let ticks = self.start_streams(&prompts, 400);
        let mut last: Vec<Option<Instant>> = vec![None; streams];
        while last.iter().any(Option::is_none) {
            let (stream, at) = ticks.recv().expect("every stream comes");
            last[stream] = Some(at);
        }
        let sent = Instant::now();
        let mut long = self.engine.generate(request(self.prompts.next(LONG_PROMPT), 1)).expect("it has room");
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
