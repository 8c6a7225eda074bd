//! Fields that may be written in more than one way. Each reads itself, so that an error names the field's path.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// `stop`: one text or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopField(pub Vec<String>);

impl<'de> Deserialize<'de> for StopField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StopVisitor)
    }
}

struct StopVisitor;

impl<'de> Visitor<'de> for StopVisitor {
    type Value = StopField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StopField, E> {
        Ok(StopField(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StopField, A::Error> {
        let mut stops = Vec::new();
        while let Some(stop) = seq.next_element()? {
            stops.push(stop);
        }
        Ok(StopField(stops))
    }
}

/// `logprobs`: true or false in chat, a number in completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogprobsField {
    /// As chat has it.
    Switch(bool),
    /// As completions have it.
    Count(u64),
}

impl<'de> Deserialize<'de> for LogprobsField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LogprobsVisitor)
    }
}

struct LogprobsVisitor;

impl Visitor<'_> for LogprobsVisitor {
    type Value = LogprobsField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false in a chat, a number from 0 in a completion")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<LogprobsField, E> {
        Ok(LogprobsField::Switch(on))
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<LogprobsField, E> {
        Ok(LogprobsField::Count(count))
    }
}

/// One prompt of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, to be tokenized.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// `prompt`: a text, texts, token ids, or lists of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptField(pub Vec<Prompt>);

impl<'de> Deserialize<'de> for PromptField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = PromptField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids, or a list of lists of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PromptField, E> {
        Ok(PromptField(vec![Prompt::Text(text.to_owned())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptField, A::Error> {
        let mut ids = Vec::new();
        let mut prompts = Vec::new();
        while let Some(part) = seq.next_element()? {
            match part {
                PromptPart::Id(id) => ids.push(id),
                PromptPart::Whole(prompt) => prompts.push(prompt),
            }
            if !ids.is_empty() && !prompts.is_empty() {
                return Err(A::Error::custom("token ids and whole prompts in one list"));
            }
        }
        if !ids.is_empty() {
            prompts.push(Prompt::Tokens(ids));
        }
        Ok(PromptField(prompts))
    }
}

enum PromptPart {
    Id(u32),
    Whole(Prompt),
}

impl<'de> Deserialize<'de> for PromptPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = PromptPart;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id, or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PromptPart, E> {
        Ok(PromptPart::Whole(Prompt::Text(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<PromptPart, E> {
        let id = u32::try_from(id).map_err(|_| E::custom(format!("token id {id} does not fit 32 bits")))?;
        Ok(PromptPart::Id(id))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptPart, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = seq.next_element()? {
            ids.push(id);
        }
        Ok(PromptPart::Whole(Prompt::Tokens(ids)))
    }
}
