//! Chat templates: the model's own Jinja, rendered as Hugging Face renders it.

use crate::text::{python_json, strftime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Work of one rendering: an instruction, or 64 bytes of data, is 1. Bounds its time to about a second and its memory to
/// 512 MiB; the largest body that is taken (45 MB) needs an eighth of it for each copy that the template makes.
const FUEL: u64 = 8_000_000;
/// Largest template, bytes; the largest known has 30 kB.
const MAX_TEMPLATE_BYTES: usize = 1024 * 1024;
/// The template that is used of several with names.
const DEFAULT_NAME: &str = "default";

/// Why there is no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template itself is wrong: no request can be served.
    #[error("the chat template does not compile: {0}")]
    Compile(String),
    /// The template refuses these messages, in its own words (`raise_exception`).
    #[error("the chat template refuses the messages: {0}")]
    Refused(String),
    /// The template breaks off on these messages.
    #[error("the chat template fails on the messages: {0}")]
    Failed(String),
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Complaint(String);

/// A compiled template with the model's special tokens. Immutable; share it.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
    takes_parts: bool,
    knows_developer: bool,
}

/// One message as templates see it.
#[derive(Clone, Debug, Serialize)]
pub struct TemplateMessage {
    /// `system`, `user`, `assistant`, `tool` …
    pub role: &'static str,
    /// Its text; null in a message that only calls tools.
    pub content: Option<String>,
    /// Name of the speaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls, arguments as objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Json>>,
    /// Which call this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Reasoning of an earlier answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

/// A message whose content is a list of parts, for templates that want one.
#[derive(Serialize)]
struct PartsMessage<'a> {
    #[serde(flatten)]
    message: &'a TemplateMessage,
    content: Vec<TextPart<'a>>,
}

#[derive(Serialize)]
struct TextPart<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
}

/// Everything that a rendering depends on.
#[derive(Clone, Copy, Debug)]
pub struct TemplateInput<'a> {
    /// The messages.
    pub messages: &'a [TemplateMessage],
    /// Whether the prompt ends with the head of an assistant's message.
    pub add_generation_prompt: bool,
    /// The request's own variables.
    pub args: &'a Map<String, Json>,
    /// What `strftime_now` says, in UTC.
    pub now: SystemTime,
}

impl ChatTemplate {
    /// The template of a model: `source` (a `chat_template.jinja`) if given, else the one in `tokenizer_config`. `None`
    /// if neither has one.
    ///
    /// # Errors
    /// [`TemplateError::Compile`].
    pub fn of_model(source: Option<&str>, tokenizer_config: &Json) -> Result<Option<Self>, TemplateError> {
        let source = match source {
            Some(source) => Some(source),
            None => source_in_config(tokenizer_config.get("chat_template")),
        };
        let Some(source) = source else { return Ok(None) };
        let special_tokens = special_tokens(tokenizer_config);
        Self::compile(source, special_tokens).map(Some)
    }

    /// Compiles a template. `special_tokens` are variables such as `("bos_token", "<s>")`.
    ///
    /// # Errors
    /// [`TemplateError::Compile`].
    pub fn compile(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            let size = source.len();
            return Err(TemplateError::Compile(format!("it has {size} bytes; at most {MAX_TEMPLATE_BYTES} are taken")));
        }
        let compile = |error: Error| TemplateError::Compile(describe(&error));
        let mut environment = environment().map_err(compile)?;
        environment.add_template_owned(DEFAULT_NAME, without_generation_tags(source)).map_err(compile)?;
        let knows_developer = source.contains("developer");
        let mut template = Self { environment, special_tokens, takes_parts: false, knows_developer };
        template.takes_parts = template.wants_parts();
        Ok(template)
    }

    /// Whether the template has its own branch for the role `developer`; if not, it is told `system`.
    pub fn knows_developer(&self) -> bool {
        self.knows_developer
    }

    /// Renders the prompt.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] with the template's own words, or [`TemplateError::Failed`].
    pub fn render(&self, input: TemplateInput<'_>) -> Result<String, TemplateError> {
        self.render_as(input, self.takes_parts)
    }

    fn render_as(&self, input: TemplateInput<'_>, as_parts: bool) -> Result<String, TemplateError> {
        let messages: Value = input.messages.iter().map(|message| message_value(message, as_parts)).collect();
        let now = input.now;
        let strftime_now = Value::from_function(move |format: &str| strftime::strftime(now, format));
        let fixed = [
            ("messages", messages),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("strftime_now", strftime_now),
        ];
        // Later entries win: a request may set a variable of its own, but not what the server decides.
        let tokens = self.special_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let args = input.args.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        let variables: BTreeMap<String, Value> = tokens.chain(args).chain(fixed).collect();
        let variables = Value::from(variables);
        let rendered = self.environment.get_template(DEFAULT_NAME).and_then(|template| template.render(variables));
        rendered.map_err(|error| match complaint(&error) {
            Some(message) => TemplateError::Refused(message),
            None => TemplateError::Failed(describe(&error)),
        })
    }

    /// Whether the template shows the text of a message only when its content is a list of parts.
    fn wants_parts(&self) -> bool {
        const PROBE: &str = "busbar probe";
        let message = TemplateMessage {
            role: "user",
            content: Some(PROBE.to_owned()),
            name: None,
            tool_calls: None,
            tool_call_id: None,
            reasoning_content: None,
        };
        let args = Map::new();
        let messages = [message];
        let now = SystemTime::UNIX_EPOCH;
        let input = TemplateInput { messages: &messages, add_generation_prompt: false, args: &args, now };
        let shows = |as_parts| self.render_as(input, as_parts).is_ok_and(|prompt| prompt.contains(PROBE));
        !shows(false) && shows(true)
    }
}

fn message_value(message: &TemplateMessage, as_parts: bool) -> Value {
    match &message.content {
        Some(text) if as_parts => {
            let content = vec![TextPart { kind: "text", text }];
            Value::from(Serde(&PartsMessage { message, content }))
        }
        _ => Value::from(Serde(message)),
    }
}

/// Jinja as Hugging Face sets it up.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(format_as_python);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", python_json::tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        let error = Error::new(ErrorKind::InvalidOperation, message.clone());
        Err(error.with_source(Complaint(message)))
    });
    Ok(environment)
}

/// Python writes `None`, `True` and `False`.
fn format_as_python(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_none() {
        out.write_str("None").map_err(Error::from)
    } else if value.kind() == minijinja::value::ValueKind::Bool {
        // Asked of a truth value only: of others it may cost work for which no fuel is charged.
        out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from)
    } else {
        minijinja::escape_formatter(out, state, value)
    }
}

/// The text of `raise_exception`, wherever in the chain it is.
fn complaint(error: &Error) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(Complaint(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        next = error.source();
    }
    None
}

fn describe(error: &Error) -> String {
    match error.line() {
        Some(line) => format!("{} (template line {line})", error.detail().unwrap_or(&error.kind().to_string())),
        None => error.to_string(),
    }
}

/// The template in the field `chat_template` of a JSON file: a text, or a list of named ones.
pub(crate) fn source_in_config(field: Option<&Json>) -> Option<&str> {
    match field? {
        Json::String(source) => Some(source),
        Json::Array(named) => {
            let is_default = |entry: &&Json| entry.get("name").and_then(Json::as_str) == Some(DEFAULT_NAME);
            named.iter().find(is_default).or(named.first())?.get("template")?.as_str()
        }
        _ => None,
    }
}

/// `bos_token` and its like, each a text or an object with the text in `content`.
fn special_tokens(config: &Json) -> Vec<(String, String)> {
    let names = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
    let text = |value: &Json| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
    names.iter().filter_map(|name| Some(((*name).to_owned(), text(config.get(*name)?)?))).collect()
}

/// `{% generation %}` marks the assistant's text for training and changes nothing here; minijinja does not know it.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}").map(|end| end + 2) else { break };
        let inner = tag[2..end - 2].trim_matches(['-', '+']).trim();
        match inner {
            "generation" => out.push_str(&tag[..end].replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag[..end].replace("endgeneration", "endif")),
            _ => out.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}
