//! The command line of a `vllm serve` that we start, and what it says of how the server is reached. Pure.

use super::AttachConfig;
use super::client::{ApiKey, EventSource, event_source};
use super::places::Places;
use super::process::SpawnConfig;
use serde_json::{Value, json};

/// The value of a flag among `--flag value` and `--flag=value`; the last one, as argparse has it.
pub(super) fn flag<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().enumerate().rev().find_map(|(at, argument)| match argument.strip_prefix(name)? {
        "" => arguments.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// Flags of ours that an older vLLM does not know, and does without.
pub(super) const OPTIONAL_FLAGS: [&str; 2] = ["--enable-scale-out", "--enable-prompt-tokens-details"];

/// The whole command line after the program. What the user gives wins over what we add; `without` are flags of ours
/// that this vLLM was seen to refuse.
pub(super) fn command_line(config: &SpawnConfig, places: &Places, without: &[&str]) -> Vec<String> {
    let mut line: Vec<String> = ["serve", &config.model].map(str::to_owned).to_vec();
    let given = |name: &str| flag(&config.arguments, name).is_some() || config.arguments.iter().any(|a| a == name);
    let mut add = |name: &str, value: Option<String>| {
        if !given(name) && !without.contains(&name) {
            line.push(name.to_owned());
            line.extend(value);
        }
    };
    add("--host", Some("127.0.0.1".into()));
    add("--port", Some(places.http_port.to_string()));
    OPTIONAL_FLAGS.iter().for_each(|name| add(name, None));
    if let Some(name) = &config.served_name {
        add("--served-model-name", Some(name.clone()));
    }
    line.extend(without_flag(&config.arguments, "--kv-events-config"));
    line.push("--kv-events-config".into());
    line.push(events_config(config, places).to_string());
    line
}

/// The user's events configuration with what it lacks, or our own. What is no JSON stays what it is: vLLM says so.
fn events_config(config: &SpawnConfig, places: &Places) -> Value {
    let given = flag(&config.arguments, "--kv-events-config");
    let mut events = match given.map(serde_json::from_str::<Value>) {
        Some(Ok(events)) if events.is_object() => events,
        Some(_) => return Value::from(given.unwrap_or_default()),
        None => json!({"enable_kv_cache_events": true, "publisher": "zmq", "topic": ""}),
    };
    if events["enable_kv_cache_events"] != true {
        return events;
    }
    for (key, ours) in [("endpoint", &places.events), ("replay_endpoint", &places.replay)] {
        let bound = events[key].as_str().is_some_and(|endpoint| endpoint.starts_with("tcp://*:"));
        if events[key].is_null() || (config.shares_machine && bound) {
            events[key] = json!(ours);
        }
    }
    events
}

fn without_flag(arguments: &[String], name: &str) -> Vec<String> {
    let mut kept = Vec::with_capacity(arguments.len());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix(name) {
            Some("") => {
                words.next();
            }
            Some(rest) if rest.starts_with('=') => {}
            _ => kept.push(word.clone()),
        }
    }
    kept
}

/// Where the child will publish its events, for a vLLM that does not say so itself.
fn events_of(line: &[String]) -> Option<EventSource> {
    event_source(&serde_json::from_str(flag(line, "--kv-events-config")?).ok()?, "127.0.0.1")
}

/// How the child is spoken to.
pub(super) fn attach_config(config: &SpawnConfig, line: &[String], http_port: u16) -> AttachConfig {
    let number = |name: &str| flag(line, name).and_then(|value| value.parse().ok());
    let port = number("--port").unwrap_or(u32::from(http_port));
    let host = match flag(line, "--host") {
        None | Some("0.0.0.0" | "::") => "127.0.0.1",
        Some(host) => host,
    };
    AttachConfig {
        url: format!("http://{host}:{port}"),
        max_num_seqs: number("--max-num-seqs"),
        max_num_batched_tokens: number("--max-num-batched-tokens"),
        ready_within: config.ready_within,
        wanted: Vec::new(),
        events: events_of(line),
        api_key: flag(line, "--api-key").map(|key| ApiKey(key.to_owned())).or_else(|| config.api_key.clone()),
    }
}

/// Flags whose values are secrets.
const SECRET_FLAGS: [&str; 2] = ["--api-key", "--hf-token"];

/// A command line as it may stand in a log.
pub(super) fn shown(line: &[String]) -> String {
    let mut secret = false;
    let word = |word: &String| {
        // A secret flag may take several values.
        secret = if word.starts_with('-') { SECRET_FLAGS.contains(&word.as_str()) } else { secret };
        match word.split_once('=') {
            Some((flag, _)) if SECRET_FLAGS.contains(&flag) => format!("{flag}=…"),
            _ if secret && !word.starts_with('-') => "…".to_owned(),
            _ => word.clone(),
        }
    };
    line.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_home() -> Places {
        Places { http_port: 8100, events: "ipc:///x/events".into(), replay: "ipc:///x/replay".into(), folder: None }
    }

    fn config(arguments: &[&str]) -> SpawnConfig {
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        SpawnConfig { arguments, ..SpawnConfig::new("/models/m") }
    }

    fn line(arguments: &[&str]) -> Vec<String> {
        command_line(&config(arguments), &at_home(), &[])
    }

    fn events(line: &[String]) -> Value {
        serde_json::from_str(flag(line, "--kv-events-config").unwrap()).unwrap()
    }

    #[test]
    fn the_users_flags_are_passed_through_and_win() {
        let plain = line(&[]);
        assert_eq!(plain[..2], ["serve", "/models/m"]);
        assert_eq!(flag(&plain, "--port"), Some("8100"));
        assert!(OPTIONAL_FLAGS.iter().all(|flag| plain.iter().any(|word| word == flag)));
        let own = line(&["--port=9000", "--enforce-eager", "--max-num-seqs", "4"]);
        assert_eq!(flag(&own, "--port"), Some("9000"));
        assert_eq!(flag(&own, "--max-num-seqs"), Some("4"));
        assert_eq!(own.iter().filter(|a| a.starts_with("--port")).count(), 1);
        assert!(own.iter().any(|a| a == "--enforce-eager"));
        let old = command_line(&config(&[]), &at_home(), &["--enable-scale-out"]);
        assert!(!old.iter().any(|word| word == "--enable-scale-out"));
    }

    #[test]
    fn a_key_is_used_and_not_shown() {
        let own = line(&["--api-key", "one", "two", "--hf-token=three", "--seed", "3"]);
        let attach = attach_config(&config(&[]), &own, 8100);
        assert_eq!(attach.api_key, Some(ApiKey("one".into())));
        let shown = shown(&own);
        assert!(["one", "two", "three"].iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert!(shown.contains("--api-key … … --hf-token=… --seed 3"), "{shown}");
        let of_env = SpawnConfig { api_key: Some(ApiKey("env".into())), ..config(&[]) };
        assert_eq!(attach_config(&of_env, &line(&[]), 8100).api_key, Some(ApiKey("env".into())));
    }

    #[test]
    fn events_are_on_with_a_replay_socket_and_a_shared_machine_has_no_fixed_ports() {
        let ours = events(&line(&[]));
        assert_eq!(
            (&ours["endpoint"], &ours["replay_endpoint"]),
            (&json!("ipc:///x/events"), &json!("ipc:///x/replay"))
        );
        let manifest =
            r#"{"publisher":"zmq","topic":"kv-events","endpoint":"tcp://*:20080","enable_kv_cache_events":true}"#;
        let own = line(&["--kv-events-config", manifest, "--enforce-eager"]);
        assert_eq!(own.iter().filter(|word| word.starts_with("--kv-events-config")).count(), 1);
        assert!(own.iter().any(|word| word == "--enforce-eager"));
        let given = events(&own);
        assert_eq!((&given["endpoint"], &given["topic"]), (&json!("tcp://*:20080"), &json!("kv-events")));
        assert_eq!(given["replay_endpoint"], "ipc:///x/replay");
        let shared = SpawnConfig { shares_machine: true, ..config(&["--kv-events-config", manifest]) };
        let shared = command_line(&shared, &at_home(), &[]);
        let source = events_of(&shared).unwrap();
        assert_eq!((source.endpoint.as_str(), source.topic.as_str()), ("ipc:///x/events", "kv-events"));
        let off = line(&[r#"--kv-events-config={"enable_kv_cache_events":false}"#]);
        assert_eq!(events(&off), json!({"enable_kv_cache_events": false}));
    }
}
