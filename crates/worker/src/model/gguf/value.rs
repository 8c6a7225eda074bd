//! Metadata values, by what can be done with them rather than by their width in the file.

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32, f64.
    Float(f64),
    /// bool.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Elements of one kind.
    Array(Array),
}

/// An array of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Texts.
    Strings(Vec<String>),
    /// Whole numbers and booleans.
    Integers(Vec<i64>),
    /// f32 or f64.
    Floats(Vec<f64>),
}

impl Array {
    /// Elements of one kind; an empty slice is an array of integers.
    pub(super) fn from_scalars(scalars: &[Value]) -> Array {
        if let Some(Value::Float(_)) = scalars.first() {
            return Array::Floats(scalars.iter().map(|v| v.as_f64().unwrap_or(0.0)).collect());
        }
        Array::Integers(scalars.iter().map(|v| v.as_i64().unwrap_or(i64::MAX)).collect())
    }
}

impl Value {
    /// As a whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(n) => Some(n),
            Value::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// As a whole number; a boolean is 0 or 1.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::Unsigned(n) => i64::try_from(n).ok(),
            Value::Signed(n) => Some(n),
            Value::Bool(b) => Some(b.into()),
            _ => None,
        }
    }

    /// As a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::Float(n) => Some(n),
            Value::Unsigned(n) => Some(n as f64),
            Value::Signed(n) => Some(n as f64),
            _ => None,
        }
    }

    /// As a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// As text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}
