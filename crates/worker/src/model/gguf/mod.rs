//! Reader of a GGUF file's header: metadata, the list of tensors, and how long the file must be.
//!
//! Versions 2 and 3, little-endian. Every count is checked against a limit and against the bytes that the file still
//! has before anything is allocated, so garbage costs an error and never a panic or the memory of the machine.
//!
//! Source: `docs/gguf.md` of ggml.

mod header;
mod read;
mod tensor_type;
mod value;

pub use header::{GgufHeader, TensorInfo};
pub use tensor_type::{TensorType, file_type_name};
pub use value::{Array, Value};

use std::path::{Path, PathBuf};

/// First four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Metadata keys in one file; real models have about 40.
pub const KEYS_MAX: u64 = 1 << 16;
/// Tensors in one file; the largest models have a few thousand.
pub const TENSORS_MAX: u64 = 1 << 18;
/// Elements of one metadata array; the largest vocabularies have about 300,000 tokens and 500,000 merges.
pub const ARRAY_LEN_MAX: u64 = 1 << 23;
/// Bytes of one string; chat templates are the longest and stay below 100 kB.
pub const STRING_LEN_MAX: u64 = 1 << 24;
/// Bytes of a key or of a tensor's name; the format itself says 65,535 for a key.
pub const NAME_LEN_MAX: u64 = 65_535;
/// Bytes of the whole header; the largest known vocabularies need about 20 MB.
pub const HEADER_LEN_MAX: u64 = 1 << 28;

/// Why a file is no GGUF that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// Other first bytes.
    #[error("this is not a GGUF file: its first bytes are {found:?}, a GGUF starts with \"GGUF\"")]
    NotGguf {
        /// The first bytes, at most four, unprintable ones escaped.
        found: String,
    },
    /// A version that is older or newer than what is known, or a big-endian file.
    #[error("GGUF version {version} cannot be read, versions 2 and 3 can")]
    Version {
        /// The number in the file.
        version: u32,
    },
    /// The file is shorter than its header says.
    #[error("the file is truncated: has {has} bytes, its header needs {needs}")]
    Truncated {
        /// Bytes of the file.
        has: u64,
        /// Bytes that the header asks for; at least, if the header itself is cut.
        needs: u64,
    },
    /// A number beyond a limit, or parts that contradict each other.
    #[error("the GGUF header is damaged: {what}")]
    Malformed {
        /// What and where.
        what: String,
    },
    /// The file could not be read.
    #[error("cannot read the file: {0}")]
    Io(String),
}

impl GgufHeader {
    /// Reads the header of the file at `path` and compares what it needs with the file's size.
    ///
    /// # Errors
    /// [`GgufError`]; a file that is cut anywhere is [`GgufError::Truncated`].
    pub fn open(path: &Path) -> Result<GgufHeader, GgufError> {
        let io = |error: std::io::Error| GgufError::Io(error.to_string());
        let file = std::fs::File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let header = GgufHeader::parse(std::io::BufReader::with_capacity(1 << 18, file), size)?;
        header.check_size()?;
        Ok(header)
    }
}

/// Finds the GGUF files directly in `folder`, by name, sorted.
pub(super) fn files_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if is_gguf && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
