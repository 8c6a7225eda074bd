//! Scenario 3: a worker dies in the middle of an answer that a JSON schema guides; a real model in the embedded engine.

use crate::crowd::Crowd;
use crate::machine::part;
use crate::stage::{Stage, kill_9};
use serde_json::{Value, json};

#[test]
fn an_answer_under_a_grammar_goes_on_at_another_worker_and_obeys_it_to_the_end() {
    let Some(gguf) = part("BUSBAR_TEST_GGUF") else { return };
    let mut stage = Stage::new();
    let flags = ["--engine", "embedded", "--model", &gguf, "--served-model-name", "smol", "--threads", "1"];
    let workers = stage.workers(2, &flags);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    let words = json!({"type": "array", "minItems": 40, "maxItems": 40,
        "items": {"type": "string", "minLength": 4, "maxLength": 12}});
    let schema = json!({"type": "object", "required": ["title", "words", "count"], "additionalProperties": false,
        "properties": {"title": {"type": "string", "maxLength": 24}, "words": words, "count": {"type": "integer",
        "minimum": 0, "maximum": 99}}});
    let body = json!({"model": "smol", "max_tokens": 900, "temperature": 0, "stream": true,
        "messages": [{"role": "user", "content": "List words about the sea as JSON."}],
        "stream_options": {"include_usage": true}, "nvext": {"extra_fields": ["worker_id"]},
        "response_format": {"type": "json_schema", "json_schema": {"name": "words", "schema": schema}}});
    let crowd = Crowd::unchecked(&[&frontend], &[body.clone(), body]);
    crowd.all_have(&stage, 10);
    kill_9(crowd.busiest(&workers).pid);
    let answers = crowd.finish();
    assert!(frontend.migrations("ongoing_request") > 0.0, "no stream moved");
    for (_, answer) in answers {
        assert!(answer.done && answer.errors.is_empty() && answer.broken.is_none(), "{answer:?}\n{}", stage.logs());
        assert_eq!(answer.finish.as_deref(), Some("stop"), "{}", answer.text);
        let said: Value = serde_json::from_str(&answer.text).unwrap_or_else(|e| panic!("{e}: {}", answer.text));
        assert_eq!(said.as_object().unwrap().len(), 3, "{said}");
        assert_eq!(said["words"].as_array().unwrap().len(), 40, "{said}");
        assert!(said["title"].is_string() && said["count"].is_u64(), "{said}");
    }
}
