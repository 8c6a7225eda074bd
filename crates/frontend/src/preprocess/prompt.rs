//! The prompt: messages to text by the template, text to tokens.

use crate::openai::message::{Message, Role};
use crate::openai::{ApiError, ChatCompletionRequest};
use crate::preprocess::ModelText;
use crate::preprocess::client_text::ClientText;
use crate::text::template::TemplateMessage;
use crate::text::{ChatTemplate, Encoded, Reuse, TemplateError, TemplateInput, TokenizerError};
use serde_json::Value;
use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

/// A prompt, and its text if it had one.
pub(super) struct TokenizedPrompt {
    pub(super) token_ids: Vec<u32>,
    pub(super) text: Option<String>,
    pub(super) timing: TextTiming,
    pub(super) reuse: Option<Reuse>,
}

/// How long the text side of a prompt took; absent for what was not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextTiming {
    /// The chat template.
    pub template: Option<Duration>,
    /// Text to tokens.
    pub tokenize: Option<Duration>,
}

/// The prompt of a chat.
pub(super) fn of_chat(
    model: &ModelText,
    request: &ChatCompletionRequest,
    now: SystemTime,
) -> Result<TokenizedPrompt, ApiError> {
    if let Some(ids) = &request.common.nvext.token_data {
        return of_tokens(model, ids, "nvext.token_data");
    }
    let bytes: usize = request.messages.iter().filter_map(|m| m.content.as_ref()).map(|c| c.text_len()).sum();
    check_bytes(model, bytes, "messages")?;
    let salt = request.common.nvext.cache_salt.as_deref();
    if request.common.nvext.use_raw_prompt == Some(true) {
        // The client writes the whole prompt, its control tokens included, as in a completion.
        return of_text(model, raw_prompt(&request.messages)?, false, salt, "messages");
    }
    let start = Instant::now();
    let Rendered { text, mark } = render(model, request, now)?;
    let template = start.elapsed();
    // The template writes the begin-of-text token itself.
    let mut prompt = match mark {
        None => of_text(model, text, false, salt, "messages")?,
        Some(mark) => of_marked_text(model, &text, mark, salt)?,
    };
    prompt.timing.template = Some(template);
    Ok(prompt)
}

/// A chat as the template wrote it; `mark` cuts what looks like a control token and is none.
struct Rendered {
    text: String,
    mark: Option<char>,
}

/// The prompt of a text.
pub(super) fn of_text(
    model: &ModelText,
    text: String,
    add_special_tokens: bool,
    salt: Option<&str>,
    param: &str,
) -> Result<TokenizedPrompt, ApiError> {
    check_bytes(model, text.len(), param)?;
    let start = Instant::now();
    let made = model.token_cache.encode(&model.tokenizer, &text, add_special_tokens, salt);
    let Encoded { ids, reuse } = encoded(model, made, param)?;
    Ok(TokenizedPrompt { token_ids: ids, text: Some(text), timing: tokenized_since(start), reuse })
}

/// The prompt of a text in which `mark` stands wherever a control token is cut; see [`crate::text::control`]. No token
/// spans a mark, and the marks themselves are no part of the text.
fn of_marked_text(model: &ModelText, text: &str, mark: char, salt: Option<&str>) -> Result<TokenizedPrompt, ApiError> {
    check_bytes(model, text.len(), "messages")?;
    let start = Instant::now();
    let parts: Vec<&str> = text.split(mark).filter(|part| !part.is_empty()).collect();
    let made = model.token_cache.encode_parts(&model.tokenizer, &parts, salt);
    let Encoded { ids, reuse } = encoded(model, made, "messages")?;
    Ok(TokenizedPrompt { token_ids: ids, text: Some(parts.concat()), timing: tokenized_since(start), reuse })
}

fn encoded(model: &ModelText, made: Result<Encoded, TokenizerError>, param: &str) -> Result<Encoded, ApiError> {
    let made = made.map_err(|error| {
        tracing::warn!(model = model.name, %error, "a prompt does not tokenize");
        ApiError::invalid(param, "The prompt cannot be tokenized by this model's tokenizer")
    })?;
    if made.ids.is_empty() {
        return Err(ApiError::invalid(param, "The prompt has no tokens"));
    }
    Ok(made)
}

fn tokenized_since(start: Instant) -> TextTiming {
    TextTiming { template: None, tokenize: Some(start.elapsed()) }
}

/// The prompt that is tokens already.
pub(super) fn of_tokens(model: &ModelText, ids: &[u32], param: &str) -> Result<TokenizedPrompt, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::invalid(param, "The prompt has no tokens"));
    }
    if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= model.vocabulary_len) {
        let last = model.vocabulary_len.saturating_sub(1);
        return Err(ApiError::invalid(param, format!("Token {at} is {id}; this model's tokens go from 0 to {last}")));
    }
    Ok(TokenizedPrompt { token_ids: ids.to_vec(), text: None, timing: TextTiming::default(), reuse: None })
}

/// Refuses a text that cannot fit, before it costs a tokenization.
fn check_bytes(model: &ModelText, bytes: usize, param: &str) -> Result<(), ApiError> {
    let Some(context) = model.context_length else { return Ok(()) };
    let least = model.tokenizer.least_tokens(bytes);
    if least <= context as usize {
        return Ok(());
    }
    let message = format!(
        "This model's maximum context length is {context} tokens. However, the prompt has {bytes} bytes, which are at \
         least {least} tokens. Please reduce the length of the prompt."
    );
    Err(ApiError::invalid(param, message).with_code("context_length_exceeded"))
}

/// The last user message as it is.
fn raw_prompt(messages: &[Message]) -> Result<String, ApiError> {
    let last = messages.iter().rev().find(|message| message.role == Role::User);
    let text = last.and_then(|message| message.content.as_ref()).map(|content| content.to_text());
    text.ok_or_else(|| ApiError::invalid("nvext.use_raw_prompt", "use_raw_prompt needs a user message with text"))
}

fn render(model: &ModelText, request: &ChatCompletionRequest, now: SystemTime) -> Result<Rendered, ApiError> {
    let Some(template) = &model.template else {
        let message = format!("The model `{}` has no chat template: use /v1/completions", model.name);
        return Err(ApiError::invalid("model", message));
    };
    let messages: Vec<TemplateMessage> =
        request.messages.iter().map(|message| template_message(template, message)).collect();
    let ClientText { messages, args, mark } =
        ClientText { messages, args: Cow::Borrowed(&request.template_args), mark: None }.defused(&model.tokenizer)?;
    let input =
        TemplateInput { messages: &messages, add_generation_prompt: request.add_generation_prompt, args: &args, now };
    let mut text = template.render(input).map_err(|error| refusal(&model.name, &error, mark))?;
    if request.continue_final_message {
        cut_behind_last_message(&mut text, &messages)?;
    }
    Ok(Rendered { text, mark })
}

fn refusal(model: &str, error: &TemplateError, mark: Option<char>) -> ApiError {
    let (why, complaint) = match error {
        TemplateError::Refused(complaint) => ("refuses these messages", complaint),
        TemplateError::Failed(complaint) | TemplateError::Compile(complaint) => {
            tracing::warn!(model, %error, "the chat template broke off");
            ("cannot render these messages", complaint)
        }
    };
    // A template may quote a message at length.
    let complaint: String = complaint.chars().filter(|&char| Some(char) != mark).take(500).collect();
    ApiError::invalid("messages", format!("The model's chat template {why}: {complaint}"))
}

fn template_message(template: &ChatTemplate, message: &Message) -> TemplateMessage {
    let role = match message.role {
        Role::Developer if !template.knows_developer() => "system",
        role => role.as_str(),
    };
    TemplateMessage {
        role,
        content: message.content.as_ref().map(|content| content.to_text()).or_else(|| message.refusal.clone()),
        name: message.name.clone(),
        tool_calls: message.tool_calls.as_ref().map(|calls| calls.iter().map(with_parsed_arguments).collect()),
        tool_call_id: message.tool_call_id.clone(),
        reasoning_content: message.reasoning_content.clone(),
    }
}

/// Templates want a call's arguments as an object; the API carries them as JSON text.
fn with_parsed_arguments(call: &Value) -> Value {
    let mut call = call.clone();
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(parsed) = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
        && parsed.is_object()
    {
        *arguments = parsed;
    }
    call
}

/// Cuts what the template writes behind the last message, so that the model goes on with it.
fn cut_behind_last_message(text: &mut String, messages: &[TemplateMessage]) -> Result<(), ApiError> {
    let last = messages.last().and_then(|message| message.content.as_deref()).unwrap_or_default();
    // Many templates trim; what is surely there is the trimmed text.
    let shown = last.trim();
    let Some(at) = text.rfind(shown) else {
        let message = "The model's chat template does not show the last message, so it cannot be continued";
        return Err(ApiError::invalid("continue_final_message", message));
    };
    let whole = text[at..].starts_with(last.trim_start()).then_some(last.trim_start().len());
    text.truncate(at + whole.unwrap_or(shown.len()));
    Ok(())
}
