//! Constrained output: a JSON schema, a regular expression, a choice or a grammar as a set of allowed next tokens.

use crate::engine::EngineError;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::toktrie::SimpleVob;
use llguidance::{Matcher, ParserFactory};
use protocol::request::GuidedDecoding;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// Whitespace between the parts of a JSON text, unless the request has a pattern of its own. Bounded, because a small
/// model that is let may write blank lines until its tokens run out.
const JSON_WHITESPACE: &str = r"[ \n]{0,8}";

/// Compiles constraints for one model.
pub(super) struct Guides {
    model: Arc<LlamaModel>,
    /// The vocabulary as a trie: 30 ms for 49,152 tokens, 300 ms for 262,144, so on first use.
    factory: OnceLock<Result<ParserFactory, String>>,
}

/// The constraint of one request and how far it has come.
pub(super) struct Guide {
    matcher: Matcher,
}

impl Guides {
    /// Nothing is built until the first constraint comes.
    pub(super) fn new(model: Arc<LlamaModel>) -> Self {
        Self { model, factory: OnceLock::new() }
    }

    /// The guide for a constraint; `None` when none of its fields is set.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] names the field and says what the compiler found.
    pub(super) fn compile(&self, guided: &GuidedDecoding) -> Result<Option<Guide>, EngineError> {
        let Some((field, grammar)) = grammar(guided)? else { return Ok(None) };
        let factory = self.factory.get_or_init(|| build_factory(&self.model)).as_ref();
        let factory = factory.map_err(|e| EngineError::Unavailable(format!("no constrained output: {e}")))?;
        let parser = factory.create_parser(grammar).map_err(|e| invalid(field, &e.to_string()))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(invalid(field, &error)),
            None => Ok(Some(Guide { matcher })),
        }
    }
}

fn build_factory(model: &LlamaModel) -> Result<ParserFactory, String> {
    let vocabulary = LlamaSampler::llguidance_tok_env(model);
    let mut factory = ParserFactory::new_simple(&vocabulary).map_err(|e| e.to_string())?;
    factory.quiet();
    Ok(factory)
}

impl Guide {
    /// The tokens that may come next; once the text is complete, the end token alone.
    ///
    /// # Errors
    /// The constraint cannot go on, in llguidance's words: one of its limits is reached.
    pub(super) fn allowed(&mut self) -> Result<SimpleVob, String> {
        self.matcher.compute_mask_or_eos().map_err(|e| e.to_string())
    }

    /// Takes the beginning of an answer that another worker made.
    ///
    /// # Errors
    /// One of the tokens was not allowed: it was made under another constraint.
    pub(super) fn resume(&mut self, tokens: &[u32]) -> Result<(), String> {
        for (at, &token) in tokens.iter().enumerate() {
            self.accept(token).map_err(|why| format!("token {} of the answer so far does not fit: {why}", at + 1))?;
        }
        Ok(())
    }

    /// Takes the token that came; gives whether the text is complete.
    ///
    /// # Errors
    /// The token was not allowed.
    pub(super) fn accept(&mut self, token: u32) -> Result<bool, String> {
        self.matcher.consume_token(token).map_err(|e| e.to_string())?;
        match self.matcher.stop_reason() {
            StopReason::NotStopped => Ok(false),
            StopReason::InternalError => Err(self.matcher.get_error().unwrap_or_default()),
            _ => Ok(true),
        }
    }
}

/// The one constraint that is set, with its field's name.
fn grammar(guided: &GuidedDecoding) -> Result<Option<(&'static str, TopLevelGrammar)>, EngineError> {
    let mut set = Vec::new();
    if let Some(schema) = &guided.json {
        set.push(("json", TopLevelGrammar::from_json_schema(schema_of(schema, guided.whitespace_pattern.as_deref())?)));
    }
    if let Some(regex) = &guided.regex {
        set.push(("regex", TopLevelGrammar::from_regex(regex)));
    }
    if let Some(choices) = &guided.choice {
        set.push(("choice", TopLevelGrammar::from_lark(choice_grammar(choices)?)));
    }
    if let Some(text) = &guided.grammar {
        if text.contains("::=") {
            return Err(invalid("grammar", "it is written in GBNF; write it in Lark's syntax (`start: …`)"));
        }
        set.push(("grammar", TopLevelGrammar::from_lark(text.clone())));
    }
    match set.len() {
        0 | 1 => Ok(set.pop()),
        _ => Err(invalid(set[1].0, &format!("`{}` is set as well, and only one constraint can hold", set[0].0))),
    }
}

/// A schema with our whitespace. A string is a schema written as text, as vLLM takes it.
fn schema_of(schema: &Value, whitespace: Option<&str>) -> Result<Value, EngineError> {
    let mut schema = match schema {
        Value::String(text) => {
            serde_json::from_str(text).map_err(|e| invalid("json", &format!("it is no JSON: {e}")))?
        }
        Value::Object(_) | Value::Bool(_) => schema.clone(),
        _ => return Err(invalid("json", "a JSON schema is an object")),
    };
    if schema == Value::Bool(true) {
        schema = serde_json::json!({});
    }
    if let Value::Object(fields) = &mut schema
        && !fields.contains_key("x-guidance")
    {
        let options = serde_json::json!({ "whitespace_pattern": whitespace.unwrap_or(JSON_WHITESPACE) });
        fields.insert("x-guidance".into(), options);
    }
    Ok(schema)
}

fn choice_grammar(choices: &[String]) -> Result<String, EngineError> {
    if choices.is_empty() || choices.iter().any(String::is_empty) {
        return Err(invalid("choice", "it must hold at least one text, and none may be empty"));
    }
    // Lark's strings are written as JSON's are.
    let texts: Vec<String> = choices.iter().map(|text| Value::String(text.clone()).to_string()).collect();
    Ok(format!("start: {}", texts.join(" | ")))
}

fn invalid(field: &str, reason: &str) -> EngineError {
    EngineError::InvalidRequest(format!("guided_decoding.{field}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(guided: &GuidedDecoding) -> String {
        grammar(guided).map_or_else(|e| e.to_string(), |found| format!("{:?}", found.map(|(field, _)| field)))
    }

    #[test]
    fn what_cannot_hold_is_refused_with_the_field_and_the_remedy() {
        let of = |change: fn(&mut GuidedDecoding)| {
            let mut guided = GuidedDecoding::default();
            change(&mut guided);
            error_of(&guided)
        };
        assert_eq!(of(|_| ()), "None");
        assert_eq!(of(|g| g.regex = Some("a+".into())), "Some(\"regex\")");
        assert!(of(|g| g.choice = Some(vec![])).starts_with("guided_decoding.choice: it must hold at least one"));
        assert!(of(|g| g.grammar = Some("root ::= \"a\"".into())).contains("GBNF"));
        assert!(of(|g| g.json = Some(Value::from(3))).starts_with("guided_decoding.json: a JSON schema is an object"));
        assert!(of(|g| g.json = Some(Value::from("{nope"))).contains("it is no JSON"));
        let both = |g: &mut GuidedDecoding| (g.regex, g.choice) = (Some("a".into()), Some(vec!["b".into()]));
        assert_eq!(of(both), "guided_decoding.choice: `regex` is set as well, and only one constraint can hold");
    }

    #[test]
    fn a_choice_with_quotes_and_newlines_is_one_string() {
        let grammar = choice_grammar(&["a \"b\"\n".into(), "c|d".into()]).unwrap();
        assert_eq!(grammar, r#"start: "a \"b\"\n" | "c|d""#);
    }
}
