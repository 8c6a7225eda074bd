//! A real model for the embedded engine's tests: the GGUF that `BUSBAR_TEST_GGUF` names.
#![allow(clippy::print_stdout, reason = "a test that does not run says so")]

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use protocol::request::{PreprocessedRequest, SamplingOptions, StopConditions};
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;
use std::path::PathBuf;
use tokio::sync::mpsc::Receiver;
use worker::engine::embedded::{EmbeddedConfig, start};
use worker::engine::{Engine, StartedEngine};

/// The model, or `None` with a line that says so when the variable is unset. A path that names no file fails the test.
pub(crate) fn model() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("BUSBAR_TEST_GGUF").map(PathBuf::from) else {
        println!("not run: BUSBAR_TEST_GGUF names no model");
        return None;
    };
    assert!(path.is_file(), "BUSBAR_TEST_GGUF is set to {}, which is no file", path.display());
    Some(path)
}

/// An engine with what `change` sets, and its vocabulary. `None` without a model.
pub(crate) fn engine(change: impl FnOnce(&mut EmbeddedConfig)) -> Option<(StartedEngine, Text)> {
    let path = model()?;
    // One thread: the tests run side by side, and ggml's threads would wait for each other.
    let mut config = EmbeddedConfig { threads: NonZeroU32::new(1), ..EmbeddedConfig::of(&path) };
    change(&mut config);
    let started = start(config).expect("the model loads");
    // The engine has started llama.cpp's backend for this process and never ends it; this is only the proof of it.
    let backend = ManuallyDrop::new(LlamaBackend {});
    let params = LlamaModelParams::default().with_vocab_only(true);
    let model = LlamaModel::load_from_file(&backend, &path, &params).expect("the vocabulary loads");
    Some((started, Text { model }))
}

/// Text to tokens and back, by llama.cpp.
pub(crate) struct Text {
    model: LlamaModel,
}

impl Text {
    /// The tokens of a text, special tokens understood.
    pub(crate) fn tokens(&self, text: &str) -> Vec<u32> {
        let tokens = self.model.vocab().tokenize(text.as_bytes(), false, true);
        tokens.into_iter().map(|token| token.0.cast_unsigned()).collect()
    }

    /// The text of tokens, special tokens left out.
    pub(crate) fn text(&self, tokens: &[u32]) -> String {
        let vocab = self.model.vocab();
        let pieces = tokens.iter().flat_map(|token| vocab.token_to_piece(LlamaToken(token.cast_signed()), false, None));
        String::from_utf8(pieces.collect()).expect("the text is UTF-8")
    }

    /// The tokens of a question in the model's chat format (ChatML).
    pub(crate) fn chat(&self, question: &str) -> Vec<u32> {
        let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
        self.tokens(&format!(
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ))
    }
}

/// A greedy request for at most `max_tokens` tokens.
pub(crate) fn greedy(token_ids: Vec<u32>, max_tokens: u32) -> PreprocessedRequest {
    PreprocessedRequest {
        token_ids,
        stop_conditions: StopConditions { max_tokens: Some(max_tokens), ..StopConditions::default() },
        sampling_options: SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() },
        ..PreprocessedRequest::default()
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) outputs: Vec<EngineOutput>,
    pub(crate) finish: FinishReason,
    pub(crate) usage: CompletionUsage,
}

impl Answer {
    /// Prompt tokens that came from the cache.
    pub(crate) fn cached(&self) -> u32 {
        self.usage.prompt_tokens_details.and_then(|details| details.cached_tokens).expect("usage tells cached tokens")
    }
}

/// Reads an answer to its end.
pub(crate) fn read(mut receiver: Receiver<EngineOutput>) -> Answer {
    let mut outputs = Vec::new();
    while let Some(output) = receiver.blocking_recv() {
        outputs.push(output);
    }
    let last = outputs.last().expect("there is an output");
    Answer {
        tokens: outputs.iter().flat_map(|output| output.token_ids.clone()).collect(),
        finish: last.finish_reason.clone().expect("the last output says why it ended"),
        usage: last.completion_usage.expect("the last output has the usage"),
        outputs,
    }
}

/// Asks and reads the whole answer.
pub(crate) fn ask(engine: &dyn Engine, request: PreprocessedRequest) -> Answer {
    read(engine.generate(request).expect("the request is taken"))
}
