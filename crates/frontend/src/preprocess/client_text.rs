//! What of a chat's prompt the client wrote: control tokens in it are text and nothing else.

use crate::openai::ApiError;
use crate::text::Tokenizer;
use crate::text::control::{ControlTokens, MARKS};
use crate::text::template::TemplateMessage;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Everything of the client's that a template can write.
pub(super) struct ClientText<'a> {
    pub(super) messages: Vec<TemplateMessage>,
    pub(super) args: Cow<'a, Map<String, Value>>,
    /// What cuts the control tokens in it, if there are any.
    pub(super) mark: Option<char>,
}

impl ClientText<'_> {
    /// The same with its control tokens cut. Nearly every chat has none, and is looked at and left as it is.
    ///
    /// # Errors
    /// 400 when the text has control tokens and leaves no mark to cut them by.
    pub(super) fn defused(mut self, tokenizer: &Tokenizer) -> Result<Self, ApiError> {
        let Some(control) = tokenizer.control() else { return Ok(self) };
        let mut found = false;
        self.each(&mut |text| found |= control.are_in(text));
        if !found {
            return Ok(self);
        }
        let mut free: Vec<char> = MARKS.collect();
        self.each(&mut |text| free.retain(|&mark| !text.contains(mark)));
        let Some(&mark) = free.first() else {
            let message = "The messages hold control tokens of the model together with every noncharacter from U+FDD0 to \
                           U+FDEF: leave one of the two out";
            return Err(ApiError::invalid("messages", message));
        };
        self.cut(control, mark);
        self.mark = Some(mark);
        Ok(self)
    }

    fn each(&self, look: &mut dyn FnMut(&str)) {
        for message in &self.messages {
            let TemplateMessage { role: _, content, name, tool_calls, tool_call_id, reasoning_content } = message;
            [content, name, tool_call_id, reasoning_content].into_iter().flatten().for_each(|text| look(text));
            tool_calls.iter().flatten().for_each(|call| each_text(call, look));
        }
        for (name, value) in self.args.iter() {
            look(name);
            each_text(value, look);
        }
    }

    fn cut(&mut self, control: &ControlTokens, mark: char) {
        let cut = |text: &mut String| {
            if let Cow::Owned(marked) = control.cut(text, mark) {
                *text = marked;
            }
        };
        for message in &mut self.messages {
            let TemplateMessage { role: _, content, name, tool_calls, tool_call_id, reasoning_content } = message;
            [content, name, tool_call_id, reasoning_content].into_iter().flatten().for_each(cut);
            tool_calls.iter_mut().flatten().for_each(|call| cut_value(call, &cut));
        }
        let found = {
            let mut found = false;
            self.args.values().for_each(|value| each_text(value, &mut |text| found |= control.are_in(text)));
            found
        };
        if found {
            self.args.to_mut().values_mut().for_each(|value| cut_value(value, &cut));
        }
    }
}

/// Every text in a value, names of fields included. No deeper than a body may be.
fn each_text(value: &Value, look: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(values) => values.iter().for_each(|value| each_text(value, look)),
        Value::Object(fields) => {
            for (name, value) in fields {
                look(name);
                each_text(value, look);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn cut_value(value: &mut Value, cut: &dyn Fn(&mut String)) {
    match value {
        Value::String(text) => cut(text),
        Value::Array(values) => values.iter_mut().for_each(|value| cut_value(value, cut)),
        Value::Object(fields) => {
            let taken = std::mem::take(fields);
            fields.extend(taken.into_iter().map(|(mut name, mut value)| {
                cut(&mut name);
                cut_value(&mut value, cut);
                (name, value)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
