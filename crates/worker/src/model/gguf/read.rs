//! Little-endian primitives over a reader that knows how many bytes the file has.

use super::{ARRAY_LEN_MAX, Array, GgufError, HEADER_LEN_MAX, STRING_LEN_MAX, Value};
use std::io::Read;

pub(super) struct Cursor<R> {
    reader: R,
    /// Bytes read so far.
    pub(super) position: u64,
    /// Bytes of the file.
    pub(super) size: u64,
}

impl<R: Read> Cursor<R> {
    pub(super) fn new(reader: R, size: u64) -> Cursor<R> {
        Cursor { reader, position: 0, size }
    }

    /// Fails before reading where `length` more bytes cannot be there.
    pub(super) fn need(&self, length: u64) -> Result<(), GgufError> {
        let needs = self.position.saturating_add(length);
        if needs > HEADER_LEN_MAX {
            return Err(malformed(format!("the header is longer than {HEADER_LEN_MAX} bytes")));
        }
        if needs > self.size {
            return Err(GgufError::Truncated { has: self.size, needs });
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut buffer = [0; N];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), GgufError> {
        self.need(buffer.len() as u64)?;
        self.reader.read_exact(buffer).map_err(|error| GgufError::Io(error.to_string()))?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A string of at most `limit` bytes. Bytes that are no UTF-8 become U+FFFD: some vocabularies hold them, and a
    /// name that holds them matches no name that is looked for.
    pub(super) fn string(&mut self, limit: u64, what: &str) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > limit {
            return Err(malformed(format!("{what} says it has {length} bytes, the limit is {limit}")));
        }
        self.need(length)?;
        let mut buffer = vec![0; usize::try_from(length).map_err(|e| malformed(e.to_string()))?];
        self.fill(&mut buffer)?;
        Ok(String::from_utf8(buffer).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// One metadata value. `key` is for the error.
    pub(super) fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        self.scalar_or_string(kind, key)?.map_or_else(
            || if kind == 9 { self.array(key).map(Value::Array) } else { Err(unknown_kind(key, kind)) },
            Ok,
        )
    }

    fn scalar_or_string(&mut self, kind: u32, key: &str) -> Result<Option<Value>, GgufError> {
        Ok(Some(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => Value::String(self.string(STRING_LEN_MAX, key)?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            _ => return Ok(None),
        }))
    }

    fn array(&mut self, key: &str) -> Result<Array, GgufError> {
        let kind = self.u32()?;
        let length = self.u64()?;
        if length > ARRAY_LEN_MAX {
            return Err(malformed(format!("`{key}` says it has {length} elements, the limit is {ARRAY_LEN_MAX}")));
        }
        let element_len: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            // A string is at least its length.
            8 | 10..=12 => 8,
            9 => return Err(malformed(format!("`{key}` is an array of arrays, which no known model has"))),
            _ => return Err(unknown_kind(key, kind)),
        };
        self.need(length * element_len)?;
        let count = usize::try_from(length).map_err(|e| malformed(e.to_string()))?;
        if kind == 8 {
            let mut strings = Vec::with_capacity(count);
            for _ in 0..count {
                strings.push(self.string(STRING_LEN_MAX, key)?);
            }
            return Ok(Array::Strings(strings));
        }
        let mut numbers = Vec::with_capacity(count);
        for _ in 0..count {
            numbers.push(self.scalar_or_string(kind, key)?.ok_or_else(|| unknown_kind(key, kind))?);
        }
        Ok(Array::from_scalars(&numbers))
    }
}

fn unknown_kind(key: &str, kind: u32) -> GgufError {
    malformed(format!("`{key}` has the unknown value type {kind}"))
}

pub(super) fn malformed(what: String) -> GgufError {
    GgufError::Malformed { what }
}
