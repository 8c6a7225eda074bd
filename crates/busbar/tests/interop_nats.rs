//! Both ways with stock `ai-dynamo`, over a real NATS server: events alone, and events and requests.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;
#[path = "../../runtime/tests/nats_server/mod.rs"]
mod nats_server;
mod stock;

use machine::{Machine, free_port, part};
use nats_server::NatsServer;
use std::process::Command;
use stock::{
    Planes, cancel, conversation, logged, loss_of_a_worker, our_frontend, serves, shared, stock_frontend, stock_mocker,
};

/// A mock worker of ours, at the pace of the stock mocker.
fn our_mock(machine: &mut Machine, planes: &Planes, model: &str, name: &str) -> u32 {
    let mut command: Command = machine.busbar();
    command.args(["worker", "--engine", "mock", "--model", model, "--served-model-name", "tiny"]);
    command.args(["--block-size", "16", "--speedup-ratio", "1"]);
    shared(machine, planes, &mut command);
    logged(machine, &mut command, name);
    machine.spawn(command)
}

fn stock_workers_behind_our_frontend(requests: bool) {
    let (Some(python), Some(model)) = (part("BUSBAR_TEST_DYNAMO_PYTHON"), part("BUSBAR_TEST_MODEL_DIR")) else {
        return;
    };
    let Some(server) = NatsServer::start("") else { return };
    let (mut machine, planes) = (Machine::new(), Planes::over_nats(server.url(), requests));
    let pids = ["mocker-a", "mocker-b"].map(|name| stock_mocker(&mut machine, &planes, &python, &model, name));
    let url = our_frontend(&mut machine, &planes);
    serves(&machine, &url, "tiny", 2);
    conversation(&machine, &url, "tiny");
    cancel(&machine, &url, "tiny");
    loss_of_a_worker(&machine, &url, "tiny", &pids, 400);
}

fn our_workers_behind_the_stock_frontend(requests: bool) {
    let (Some(python), Some(model)) = (part("BUSBAR_TEST_DYNAMO_PYTHON"), part("BUSBAR_TEST_MODEL_DIR")) else {
        return;
    };
    let Some(server) = NatsServer::start("") else { return };
    let (mut machine, planes) = (Machine::new(), Planes::over_nats(server.url(), requests));
    let pids = ["worker-a", "worker-b"].map(|name| our_mock(&mut machine, &planes, &model, name));
    let url = stock_frontend(&mut machine, &planes, &python);
    serves(&machine, &url, "tiny", 2);
    conversation(&machine, &url, "tiny");
    cancel(&machine, &url, "tiny");
    loss_of_a_worker(&machine, &url, "tiny", &pids, 400);
}

#[test]
fn stock_mockers_whose_events_go_over_nats_serve_behind_our_frontend() {
    stock_workers_behind_our_frontend(false);
}

#[test]
fn stock_mockers_whose_requests_go_over_nats_too_serve_behind_our_frontend() {
    stock_workers_behind_our_frontend(true);
}

#[test]
fn our_workers_whose_events_go_over_nats_serve_behind_the_stock_frontend() {
    our_workers_behind_the_stock_frontend(false);
}

#[test]
fn our_workers_whose_requests_go_over_nats_too_serve_behind_the_stock_frontend() {
    our_workers_behind_the_stock_frontend(true);
}
