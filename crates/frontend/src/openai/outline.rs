//! A look over a body before it is parsed: how deep it is, how many values it has, and which fields stand at its top.
//!
//! One pass over the bytes, no allocation but for the fields. It does not judge whether the JSON is sound, the parser does
//! that afterwards; it bounds what the parser may cost.

use crate::openai::ApiError;
use crate::openai::error::INVALID_REQUEST;
use std::ops::Range;

/// Deepest nesting. Schemas of real tools have about 10 levels.
pub(crate) const DEPTH_MAX: usize = 64;
/// Most values of a body, each of which costs up to some 100 bytes once parsed. A prompt of a million token ids has a
/// million; so does one of 2 MB.
pub(crate) const VALUES_MAX: usize = 4 << 20;
/// Most fields at the top; the API knows about 70.
const FIELDS_MAX: usize = 512;

/// What stands at the top of a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline<'a> {
    /// Names of the fields as they are written, quotes included, in order.
    fields: Vec<&'a [u8]>,
}

impl<'a> Outline<'a> {
    /// Looks over a body.
    ///
    /// # Errors
    /// 400 with the field under which a bound is passed.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Self, ApiError> {
        let mut outline = Self::default();
        let (mut depth, mut values, mut at) = (0_usize, 0_usize, 0_usize);
        // At the top a text is a field's name when a colon follows.
        let mut last_text: Option<Range<usize>> = None;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    let end = end_of_text(bytes, at);
                    last_text = (depth == 1).then_some(at..end);
                    at = end;
                    continue;
                }
                b':' if depth == 1 => {
                    if let Some(text) = last_text.take() {
                        outline.fields.push(&bytes[text]);
                    }
                    if outline.fields.len() > FIELDS_MAX {
                        return Err(outline.over(&format!("the body has more than {FIELDS_MAX} fields")));
                    }
                }
                b'{' | b'[' => {
                    depth += 1;
                    values += 1;
                    if depth > DEPTH_MAX {
                        return Err(outline.over(&format!("the JSON is nested more than {DEPTH_MAX} levels deep")));
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => values += 1,
                _ => {}
            }
            if values > VALUES_MAX {
                return Err(outline.over(&format!("the JSON has more than {VALUES_MAX} values")));
            }
            at += 1;
        }
        Ok(outline)
    }

    /// Names of the fields at the top; one that is no sound JSON text is left out, the parser refuses it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = String> + '_ {
        self.fields.iter().filter_map(|text| serde_json::from_slice(text).ok())
    }

    fn over(&self, what: &str) -> ApiError {
        let error = |field: Option<String>| {
            let place = field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
            let error = ApiError::new(400, INVALID_REQUEST, format!("Validation: {place}{what}"));
            match field {
                Some(field) => error.with_param(field),
                None => error,
            }
        };
        let last = self.fields().last();
        error(last.map(|field| field.chars().take(64).collect()))
    }
}

/// Behind the text that begins at `start`, or the end of the bytes.
fn end_of_text(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Vec<String> {
        Outline::of(body.as_bytes()).unwrap().fields().collect()
    }

    #[test]
    fn the_fields_at_the_top_are_found_however_they_are_written() {
        assert_eq!(fields(r#"{"a":1,"b" : {"c":[{"d":"e"}]},"f":"g:h","i":["j",":"]}"#), ["a", "b", "f", "i"]);
        assert_eq!(fields(r#"{"a\"\\":1,"\u006dodel":2,"{[":3}"#), ["a\"\\", "model", "{["]);
        for none in ["", "null", "[]", r#"["a":1"#, r#""a":1"#, r#"{"a"#, r#"{"a\"#, "{:1,:2}"] {
            assert_eq!(fields(none), if none == r#"["a":1"# { vec!["a"] } else { vec![] }, "{none}");
        }
    }

    #[test]
    fn depth_is_counted_outside_of_texts_and_its_bound_is_exact() {
        let nested = |levels: usize| format!("{{\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(Outline::of(nested(DEPTH_MAX - 1).as_bytes()).is_ok());
        let error = Outline::of(nested(DEPTH_MAX).as_bytes()).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, Some("x")));
        assert!(error.message.contains("64 levels deep"), "{error}");
        let brackets = format!("{{\"x\":\"{}\"}}", "[{".repeat(1000));
        assert!(Outline::of(brackets.as_bytes()).is_ok(), "text may hold any brackets");
    }

    #[test]
    fn what_would_cost_much_more_memory_than_it_has_bytes_is_refused() {
        let many = |count: usize| format!("{{\"metadata\":[{}0]}}", "0,".repeat(count));
        assert!(Outline::of(many(VALUES_MAX - 2).as_bytes()).is_ok());
        let error = Outline::of(many(VALUES_MAX).as_bytes()).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, Some("metadata")));
        let wide: String = (0..=FIELDS_MAX).map(|n| format!("\"f{n}\":0,")).collect();
        assert!(Outline::of(format!("{{{wide}\"z\":0}}").as_bytes()).unwrap_err().message.contains("512 fields"));
    }
}
