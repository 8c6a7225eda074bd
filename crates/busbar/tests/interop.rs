//! Both ways with stock `ai-dynamo`: its mocker workers behind our frontend, our embedded worker behind its frontend.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;
mod stock;

use machine::{Machine, part, post};
use std::path::Path;
use stock::{
    Planes, cancel, chat, conversation, loss_of_a_worker, our_frontend, our_worker, serves, stock_frontend,
    stock_mocker,
};

#[test]
fn stock_mockers_serve_behind_our_frontend() {
    let (Some(python), Some(model)) = (part("BUSBAR_TEST_DYNAMO_PYTHON"), part("BUSBAR_TEST_MODEL_DIR")) else {
        return;
    };
    let (mut machine, planes) = (Machine::new(), Planes::default());
    let pids = [
        stock_mocker(&mut machine, &planes, &python, &model, "mocker-a"),
        stock_mocker(&mut machine, &planes, &python, &model, "mocker-b"),
    ];
    let url = our_frontend(&mut machine, &planes);
    serves(&machine, &url, "tiny", 2);
    conversation(&machine, &url, "tiny");
    cancel(&machine, &url, "tiny");
    loss_of_a_worker(&machine, &url, "tiny", &pids, 400);
}

#[test]
fn our_embedded_workers_serve_behind_the_stock_frontend() {
    let (Some(python), Some(gguf)) = (part("BUSBAR_TEST_DYNAMO_PYTHON"), part("BUSBAR_TEST_GGUF")) else { return };
    assert!(Path::new(&gguf).exists(), "{gguf} is not there");
    let (mut machine, planes) = (Machine::new(), Planes::default());
    let pids =
        [our_worker(&mut machine, &planes, &gguf, "worker-a"), our_worker(&mut machine, &planes, &gguf, "worker-b")];
    let url = stock_frontend(&mut machine, &planes, &python);
    serves(&machine, &url, "smol", 2);
    let answer = post(
        &format!("{url}/v1/chat/completions"),
        &chat("smol", "What is the capital of France? Answer in one short sentence.", 40),
    )
    .1;
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().contains("Paris"), "{answer}");
    conversation(&machine, &url, "smol");
    cancel(&machine, &url, "smol");
    loss_of_a_worker(&machine, &url, "smol", &pids, 160);
}
