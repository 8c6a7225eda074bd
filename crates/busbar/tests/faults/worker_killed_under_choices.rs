//! Scenario 4: a worker dies under requests with several choices, log-probabilities and a seed.

use crate::crowd::{Crowd, chat, fault};
use crate::machine::Streamed;
use crate::stage::{PACED, Stage, kill_9, undisturbed};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Text and log-probabilities of each choice, put together from all events.
fn choices(answer: &Streamed) -> BTreeMap<u64, (String, Vec<Value>, Option<String>)> {
    let mut choices = BTreeMap::<u64, (String, Vec<Value>, Option<String>)>::new();
    for choice in answer.chunks.iter().flat_map(|chunk| chunk["choices"].as_array().into_iter().flatten()) {
        let (text, logprobs, finish) = choices.entry(choice["index"].as_u64().unwrap()).or_default();
        *text += choice["delta"]["content"].as_str().unwrap_or_default();
        logprobs.extend(choice["logprobs"]["content"].as_array().into_iter().flatten().cloned());
        *finish = choice["finish_reason"].as_str().map(str::to_owned).or(finish.take());
    }
    choices
}

#[test]
fn every_choice_keeps_its_text_its_log_probabilities_and_its_seed_when_a_worker_is_killed() {
    let mut stage = Stage::new();
    let workers = stage.workers(2, PACED);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    let body = |at: usize| {
        let mut body = chat(&format!("Question {at} with several answers"), 60 + 5 * at);
        for (key, value) in
            [("n", json!(3)), ("logprobs", json!(true)), ("top_logprobs", json!(2)), ("seed", json!(at))]
        {
            body[key] = value;
        }
        body
    };
    let bodies: Vec<Value> = (0..10).map(body).collect();
    let expected = undisturbed(&bodies);
    let crowd = Crowd::start(&[&frontend], &bodies);
    crowd.all_have(&stage, 15);
    kill_9(crowd.busiest(&workers).pid);
    let answers = crowd.finish();
    assert!(frontend.migrations("ongoing_request") > 0.0, "no choice moved");
    for (at, answer) in answers {
        // Choices come interleaved as they will, so the text of all together says nothing.
        let (answer_text, expected_text) = (choices(&answer), choices(&expected[at]));
        assert_eq!(answer_text.len(), 3);
        for (index, (text, logprobs, finish)) in &answer_text {
            let whole = &expected_text[index];
            assert_eq!((text, finish), (&whole.0, &whole.2), "choice {index} of {at}\n{}", stage.logs());
            assert_eq!(logprobs.len(), text.len(), "one log-probability for each token, which is a letter");
            assert_eq!(logprobs, &whole.1, "log-probabilities of choice {index} of {at}");
        }
        let texts: Vec<_> = answer_text.values().map(|choice| &choice.0).collect();
        assert!(texts[0] != texts[1] && texts[1] != texts[2], "seeds differ by choice");
        let same_text = Streamed { text: expected[at].text.clone(), ..answer };
        assert_eq!(fault(&Streamed { finish: expected[at].finish.clone(), ..same_text }, &expected[at]), None);
    }
}
