//! From bytes to a request that holds what it promises, or to one error that names the field.

use crate::openai::ApiError;
use crate::openai::body::{Body, Endpoint};
use crate::openai::error::INVALID_REQUEST;
use crate::openai::fields::{LogprobsField, Prompt};
use crate::openai::message::Message;
use crate::openai::outline::Outline;
use crate::openai::request::{ChatCompletionRequest, CompletionRequest};
use crate::openai::validate::{self, Violations};
use serde_json::Value;

/// Most alternatives per token in a chat. OpenAI's limit.
const MAX_CHAT_LOGPROBS: u32 = 20;
/// Most alternatives per token in a completion. OpenAI's limit.
const MAX_COMPLETION_LOGPROBS: u64 = 5;

/// What the operator changed about reading. `Default` is the stock frontend's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseRules {
    /// Leave unknown fields out in place of refusing them.
    pub ignore_unsupported: bool,
    /// Refuse `nvext`.
    pub refuse_nvext: bool,
}

/// Reads the body of `/v1/chat/completions` by the default rules.
///
/// # Errors
/// 400 that names the first field at fault in `param` and tells every violation.
pub fn parse_chat(bytes: &[u8]) -> Result<ChatCompletionRequest, ApiError> {
    parse_chat_by(bytes, ParseRules::default())
}

/// Reads the body of `/v1/chat/completions`.
///
/// # Errors
/// 400 that names the first field at fault in `param` and tells every violation.
pub fn parse_chat_by(bytes: &[u8], rules: ParseRules) -> Result<ChatCompletionRequest, ApiError> {
    let mut body = read(bytes, Endpoint::Chat, rules)?;
    let Some(messages) = body.messages.take() else { return Err(missing("messages")) };
    let mut violations = Violations::default();
    validate::messages(&messages, &mut violations);
    check_tools(&body, &mut violations);
    let logprobs = chat_logprobs(&body, &mut violations);
    let continue_final_message = check_continuation(&body, &messages, &mut violations);
    if body.modalities.iter().flatten().any(|modality| modality != "text") {
        violations.add("modalities", "Only the modality `text` is supported");
    }
    let mut common = validate::common(&mut body, 1, &mut violations);
    violations.into_result()?;
    common.nvext_raw = raw_nvext(bytes);
    let mut template_args = body.chat_template_args.take().unwrap_or_default();
    if let Some(effort) = body.reasoning_effort.take() {
        template_args.entry("reasoning_effort").or_insert(Value::String(effort));
    }
    Ok(ChatCompletionRequest {
        model: body.model,
        messages,
        logprobs,
        template_args,
        add_generation_prompt: body.add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        common,
    })
}

/// Reads the body of `/v1/completions` by the default rules.
///
/// # Errors
/// 400 that names the first field at fault in `param` and tells every violation.
pub fn parse_completion(bytes: &[u8]) -> Result<CompletionRequest, ApiError> {
    parse_completion_by(bytes, ParseRules::default())
}

/// Reads the body of `/v1/completions`.
///
/// # Errors
/// 400 that names the first field at fault in `param` and tells every violation.
pub fn parse_completion_by(bytes: &[u8], rules: ParseRules) -> Result<CompletionRequest, ApiError> {
    let mut body = read(bytes, Endpoint::Completion, rules)?;
    let Some(prompts) = body.prompt.take().map(|prompt| prompt.0) else { return Err(missing("prompt")) };
    let mut violations = Violations::default();
    check_prompts(&prompts, &mut violations);
    let logprobs = completion_logprobs(&body, &mut violations);
    let echo = body.echo.unwrap_or(false);
    if echo && logprobs.is_some() {
        violations.add("echo", "echo together with logprobs is not supported");
    }
    if body.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        violations.add("suffix", "suffix is not supported: leave it out");
    }
    if body.best_of.is_some_and(|best_of| best_of != body.n.unwrap_or(1)) {
        violations.add("best_of", "best_of is not supported unless it equals n");
    }
    let mut common = validate::common(&mut body, prompts.len(), &mut violations);
    violations.into_result()?;
    common.nvext_raw = raw_nvext(bytes);
    Ok(CompletionRequest { model: body.model, prompts, echo, logprobs, common })
}

/// Parses the body and refuses fields that this endpoint does not know.
fn read(bytes: &[u8], endpoint: Endpoint, rules: ParseRules) -> Result<Body, ApiError> {
    let outline = Outline::of(bytes)?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let body: Body = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        // A missing field's path is its parent's; at the top there is none to name.
        unreadable(&error.into_inner().to_string(), (path != ".").then_some(path))
    })?;
    json.end().map_err(|error| unreadable(&error.to_string(), None))?;
    if rules.refuse_nvext && body.nvext.is_some() {
        return Err(ApiError::invalid("nvext", "Validation: nvext is switched off at this frontend: leave it out"));
    }
    let unsupported = if rules.ignore_unsupported { Vec::new() } else { body.unsupported(endpoint, &outline) };
    if let Some(first) = unsupported.first() {
        let names: Vec<String> = unsupported.iter().take(16).map(|name| format!("`{}`", bounded(name))).collect();
        let message = format!("Validation: Unsupported parameter(s): {}", names.join(", "));
        return Err(ApiError::invalid(bounded(first), message));
    }
    Ok(body)
}

fn bounded(text: &str) -> String {
    text.chars().take(64).collect()
}

fn unreadable(reason: &str, path: Option<String>) -> ApiError {
    // The reason may quote the client's text: bound it.
    let reason: String = reason.chars().take(1000).collect();
    let prefix = "Failed to deserialize the JSON body into the target type: ";
    let path = path.map(|path| bounded_path(&path)).or_else(|| field_in_reason(&reason));
    let message = match &path {
        Some(path) if !reason.contains(&format!("`{path}`")) => format!("{prefix}{path}: {reason}"),
        _ => format!("{prefix}{reason}"),
    };
    let error = ApiError::new(400, INVALID_REQUEST, message);
    match path {
        Some(path) => error.with_param(path),
        None => error,
    }
}

fn bounded_path(path: &str) -> String {
    path.chars().take(200).collect()
}

/// The field of serde's "missing field `model`" and "duplicate field `model`", whose path is empty.
fn field_in_reason(reason: &str) -> Option<String> {
    let rest = reason.strip_prefix("missing field `").or_else(|| reason.strip_prefix("duplicate field `"))?;
    rest.split_once('`').map(|(field, _)| field.to_owned())
}

fn missing(field: &str) -> ApiError {
    unreadable(&format!("missing field `{field}`"), None)
}

/// `nvext` once more, as it came: an engine behind Dynamo's wire reads it itself.
fn raw_nvext(bytes: &[u8]) -> Option<Value> {
    #[derive(serde::Deserialize)]
    struct OnlyNvext {
        #[serde(default)]
        nvext: Option<Value>,
    }
    let mark = b"\"nvext\"";
    // Most requests have none: look before parsing twice.
    bytes.windows(mark.len()).any(|window| window == mark).then_some(())?;
    serde_json::from_slice::<OnlyNvext>(bytes).ok()?.nvext
}

fn check_tools(body: &Body, violations: &mut Violations) {
    let tools_given = body.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    if tools_given {
        let message = "`tools` is not supported yet: tool calling comes with a later release; leave `tools` out";
        violations.add("tools", message);
        return;
    }
    match &body.tool_choice {
        None => {}
        Some(Value::String(choice)) if choice == "none" || choice == "auto" => {}
        Some(Value::String(choice)) => {
            let choice = bounded(choice);
            violations
                .add("tool_choice", format!("tool_choice `{choice}` needs tools, and tools are not supported yet"));
        }
        Some(choice) => {
            let name = choice.pointer("/function/name").and_then(Value::as_str).map(bounded).unwrap_or_default();
            violations.add("tool_choice", format!("tool named {name:?} in tool_choice is not present in tools"));
        }
    }
}

fn chat_logprobs(body: &Body, violations: &mut Violations) -> Option<u32> {
    let on = match body.logprobs {
        None => false,
        Some(LogprobsField::Switch(on)) => on,
        Some(LogprobsField::Count(_)) => {
            violations.add("logprobs", "logprobs must be true or false in a chat; the number is top_logprobs");
            return None;
        }
    };
    if let Some(count) = body.top_logprobs {
        if count > MAX_CHAT_LOGPROBS {
            let message = format!("Top_logprobs must be between 0 and {MAX_CHAT_LOGPROBS}, got {count}");
            violations.add("top_logprobs", message);
        } else if !on && count > 0 {
            violations.add("top_logprobs", "top_logprobs needs logprobs to be true");
        }
    }
    on.then(|| body.top_logprobs.unwrap_or(0))
}

fn completion_logprobs(body: &Body, violations: &mut Violations) -> Option<u32> {
    match body.logprobs? {
        LogprobsField::Switch(_) => {
            violations.add("logprobs", "logprobs must be a number in a completion");
            None
        }
        LogprobsField::Count(count) if count > MAX_COMPLETION_LOGPROBS => {
            let message = format!("Logprobs must be between 0 and {MAX_COMPLETION_LOGPROBS}, got {count}");
            violations.add("logprobs", message);
            None
        }
        LogprobsField::Count(count) => u32::try_from(count).ok(),
    }
}

fn check_continuation(body: &Body, messages: &[Message], violations: &mut Violations) -> bool {
    let continues = body.continue_final_message.unwrap_or(false);
    if continues && body.add_generation_prompt == Some(true) {
        let message = "continue_final_message and add_generation_prompt cannot both be true";
        violations.add("continue_final_message", message);
    }
    if continues && messages.last().is_none_or(|last| last.content.as_ref().is_none_or(|c| c.text_len() == 0)) {
        violations.add("continue_final_message", "continue_final_message needs a last message with text");
    }
    continues
}

fn check_prompts(prompts: &[Prompt], violations: &mut Violations) {
    if prompts.is_empty() {
        violations.add("prompt", "The 'prompt' field cannot be empty");
    }
    for (at, prompt) in prompts.iter().enumerate() {
        let empty = match prompt {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Tokens(ids) => ids.is_empty(),
        };
        if empty {
            violations.add("prompt", format!("prompt {at} is empty"));
        }
    }
}
