//! What a running server serves, before it is taken, and whether that is what is wanted.

use super::client::{Client, EventSource, ServedByVllm, event_source};
use super::command_line::flag;
use super::{AttachConfig, VllmError};

/// The model of a server that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its first name.
    pub name: String,
    /// The folder or repository that it was started with.
    pub root: Option<String>,
}

/// Asks a server for its model, waiting for it as [`super::attach`] does.
///
/// # Errors
/// A server that is not healthy in time, or is none of vLLM.
pub async fn served(config: &AttachConfig) -> Result<Served, VllmError> {
    let client = Client::new(&config.url, config.api_key.as_ref())?;
    client.wait_healthy(config.ready_within).await?;
    let model = client.model().await?;
    Ok(Served { name: model.names[0].clone(), root: model.root })
}

/// Where a server at `url` publishes its KV events by its own arguments, for one that does not say so itself.
pub fn events_at(url: &str, arguments: &[String]) -> Option<EventSource> {
    let config = serde_json::from_str(flag(arguments, "--kv-events-config")?).ok()?;
    event_source(&config, &Client::new(url, None).ok()?.host())
}

/// The server serves one of the wanted names, if any is wanted.
///
/// Names of files and repositories differ from machine to machine, so `Qwen/Qwen3-0.6B` is the same as
/// `/models/Qwen3-0.6B`: the last part counts, in any case of its letters.
pub(super) fn check(url: &str, served: &ServedByVllm, wanted: &[String]) -> Result<(), VllmError> {
    let names = || served.names.iter().chain(&served.root).map(|name| last_part(name));
    let same = |wanted: &String| names().any(|name| name.eq_ignore_ascii_case(last_part(wanted)));
    if wanted.is_empty() || wanted.iter().any(same) {
        return Ok(());
    }
    let all: Vec<&str> = served.names.iter().chain(&served.root).map(String::as_str).collect();
    Err(VllmError::OtherModel { url: url.to_owned(), served: all.join("`, `"), wanted: wanted[0].clone() })
}

fn last_part(name: &str) -> &str {
    let name = name.trim_end_matches('/');
    name.rsplit(['/', ':']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_any_of_its_names_wherever_its_files_lie() {
        let served = ServedByVllm {
            names: vec!["prod-chat".into(), "qwen".into()],
            root: Some("Qwen/Qwen3-0.6B".into()),
            context_length: 1,
        };
        let taken = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            check("http://x", &served, &wanted)
        };
        for wanted in [&[][..], &["prod-chat"], &["hf:Qwen/Qwen3-0.6B"], &["/models/qwen3-0.6b/"], &["other", "Qwen"]] {
            assert!(taken(wanted).is_ok(), "{wanted:?}");
        }
        let error = taken(&["/models/SmolLM2", "smol"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "vLLM at http://x serves `prod-chat`, `qwen`, `Qwen/Qwen3-0.6B`, and not `/models/SmolLM2`"
        );
        assert!(error.is_permanent() && error.remedy().contains("--model"));
    }

    #[test]
    fn an_older_servers_events_are_where_its_arguments_say() {
        let arguments =
            ["--kv-events-config={\"enable_kv_cache_events\":true,\"endpoint\":\"tcp://*:5557\"}".to_owned()];
        assert_eq!(events_at("http://10.0.0.7:8000", &arguments).unwrap().endpoint, "tcp://10.0.0.7:5557");
        assert_eq!(events_at("http://10.0.0.7:8000", &[]), None);
    }
}
