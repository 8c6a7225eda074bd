//! The header as a whole, and the questions that are asked of it.

use super::read::{Cursor, malformed};
use super::{Array, GgufError, KEYS_MAX, MAGIC, NAME_LEN_MAX, TENSORS_MAX, TensorType, Value, file_type_name};
use std::collections::HashMap;
use std::io::Read;

/// Bytes to which tensor data is aligned unless `general.alignment` says otherwise.
const ALIGNMENT_DEFAULT: u64 = 32;
/// Largest alignment that is believed.
const ALIGNMENT_MAX: u64 = 1 << 20;
/// Dimensions of a tensor (`GGML_MAX_DIMS`).
const DIMENSIONS_MAX: u32 = 4;

/// One tensor: where its bytes are, relative to the start of the tensor data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, as `blk.0.attn_q.weight`.
    pub name: String,
    /// Weights in all.
    pub elements: u64,
    /// ggml's number of the storage type.
    pub type_id: u32,
    /// First byte, counted from the start of the tensor data.
    pub offset: u64,
    /// Bytes; `None` where the type is not known.
    pub size: Option<u64>,
}

/// Metadata and tensor list of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the file that it was read from.
    pub file_size: u64,
    /// First byte of the tensor data.
    pub data_offset: u64,
    /// Tensors in the file's order.
    pub tensors: Vec<TensorInfo>,
    metadata: HashMap<String, Value>,
}

impl GgufHeader {
    /// Reads the header of a file of `file_size` bytes. Does not compare the tensors with the size: see
    /// [`GgufHeader::check_size`].
    ///
    /// # Errors
    /// [`GgufError`] on anything that is no header.
    pub fn parse(reader: impl Read, file_size: u64) -> Result<GgufHeader, GgufError> {
        let mut cursor = Cursor::new(reader, file_size);
        let version = read_magic_and_version(&mut cursor)?;
        let (tensor_count, key_count) = (cursor.u64()?, cursor.u64()?);
        if tensor_count > TENSORS_MAX || key_count > KEYS_MAX {
            return Err(malformed(format!(
                "it says it has {tensor_count} tensors and {key_count} keys, the limits are {TENSORS_MAX} and {KEYS_MAX}"
            )));
        }
        let mut metadata = HashMap::new();
        for _ in 0..key_count {
            let key = cursor.string(NAME_LEN_MAX, "a metadata key")?;
            let value = cursor.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(malformed(format!("the key `{key}` is there twice")));
            }
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(read_tensor(&mut cursor)?);
        }
        let alignment = metadata.get("general.alignment").and_then(Value::as_u64).unwrap_or(ALIGNMENT_DEFAULT);
        if alignment == 0 || alignment > ALIGNMENT_MAX {
            return Err(malformed(format!("`general.alignment` is {alignment}")));
        }
        let data_offset = cursor.position.next_multiple_of(alignment);
        Ok(GgufHeader { version, file_size, data_offset, tensors, metadata })
    }

    /// Compares what the tensors need with the size of the file.
    ///
    /// # Errors
    /// [`GgufError::Truncated`] with both numbers.
    pub fn check_size(&self) -> Result<(), GgufError> {
        let mut needs = self.data_offset;
        for tensor in &self.tensors {
            let end = tensor
                .offset
                .checked_add(tensor.size.unwrap_or(0))
                .and_then(|end| end.checked_add(self.data_offset))
                .ok_or_else(|| malformed(format!("tensor `{}` ends beyond 2^64 bytes", tensor.name)))?;
            needs = needs.max(end);
        }
        // A file without tensors (a vocabulary alone) may end where its header does, without the padding.
        if self.tensors.is_empty() || self.file_size >= needs {
            return Ok(());
        }
        Err(GgufError::Truncated { has: self.file_size, needs })
    }

    /// The value at `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The text at `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// The whole number at `key`; for an array (per-layer values) its largest element.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Array(Array::Integers(all)) => all.iter().copied().max().and_then(|n| u64::try_from(n).ok()),
            value => value.as_u64(),
        }
    }

    /// The texts at `key`.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            Value::Array(Array::Strings(all)) => Some(all),
            _ => None,
        }
    }

    /// The whole numbers at `key`.
    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.get(key)? {
            Value::Array(Array::Integers(all)) => Some(all),
            _ => None,
        }
    }

    /// The numbers at `key`; whole ones are converted.
    pub fn floats(&self, key: &str) -> Option<Vec<f64>> {
        match self.get(key)? {
            Value::Array(Array::Floats(all)) => Some(all.clone()),
            Value::Array(Array::Integers(all)) => Some(all.iter().map(|n| *n as f64).collect()),
            _ => None,
        }
    }

    /// `general.architecture`, as `llama` or `qwen3`; empty where it is missing.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or_default()
    }

    /// The whole number at `ARCHITECTURE.suffix`.
    pub fn architecture_number(&self, suffix: &str) -> Option<u64> {
        self.number(&format!("{}.{suffix}", self.architecture()))
    }

    /// The number at `ARCHITECTURE.suffix`.
    pub fn architecture_float(&self, suffix: &str) -> Option<f64> {
        self.get(&format!("{}.{suffix}", self.architecture())).and_then(Value::as_f64)
    }

    /// How most weights are stored: llama.cpp's own word if the file says it, else the type of most weights.
    pub fn quantization(&self) -> Option<&'static str> {
        if let Some(name) = self.number("general.file_type").and_then(file_type_name) {
            return Some(name);
        }
        let mut weights: HashMap<u32, u64> = HashMap::new();
        for tensor in &self.tensors {
            let sum = weights.entry(tensor.type_id).or_default();
            *sum = sum.saturating_add(tensor.elements);
        }
        let (type_id, _) = weights.into_iter().max_by_key(|&(type_id, sum)| (sum, type_id))?;
        TensorType::from_id(type_id).map(|t| t.name)
    }

    /// Whether a tensor of this name is there.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.iter().any(|tensor| tensor.name == name)
    }
}

fn read_magic_and_version(cursor: &mut Cursor<impl Read>) -> Result<u32, GgufError> {
    if cursor.size < 4 {
        return Err(GgufError::NotGguf { found: format!("a file of {} bytes", cursor.size) });
    }
    let magic = cursor.u32()?.to_le_bytes();
    if magic != MAGIC {
        return Err(GgufError::NotGguf { found: magic.escape_ascii().to_string() });
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { version });
    }
    Ok(version)
}

fn read_tensor(cursor: &mut Cursor<impl Read>) -> Result<TensorInfo, GgufError> {
    let name = cursor.string(NAME_LEN_MAX, "a tensor's name")?;
    let dimensions = cursor.u32()?;
    if dimensions > DIMENSIONS_MAX {
        return Err(malformed(format!("tensor `{name}` has {dimensions} dimensions, the limit is {DIMENSIONS_MAX}")));
    }
    let mut elements: u64 = 1;
    for _ in 0..dimensions {
        elements = elements
            .checked_mul(cursor.u64()?)
            .ok_or_else(|| malformed(format!("tensor `{name}` has more than 2^64 weights")))?;
    }
    let type_id = cursor.u32()?;
    let offset = cursor.u64()?;
    let size = match TensorType::from_id(type_id) {
        None => None,
        Some(t) => Some(
            elements
                .div_ceil(t.block_len)
                .checked_mul(t.block_size)
                .ok_or_else(|| malformed(format!("tensor `{name}` has more than 2^64 bytes")))?,
        ),
    };
    Ok(TensorInfo { name, elements, type_id, offset, size })
}
