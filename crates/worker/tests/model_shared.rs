//! A folder of models that several machines share: filled once, checked, repaired, read without a right to write.

mod model_parts;

use model_parts::hub::{Faults, Hub};
use model_parts::tiny_gguf;
use std::path::{Path, PathBuf};
use worker::model::{
    Check, EngineKind, Filled, HubConfig, HubError, LocalModel, ModelCache, ModelError, ModelSource, NoProgress,
    ResolveContext, fill, resolve,
};

const NAME: &str = "hf:owner/name";

fn gguf_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![("README.md", b"# m".to_vec()), ("m-Q8_0.gguf", tiny_gguf().bytes())]
}

/// Two parts of different sizes, fetched in the order of these.
fn layout_files() -> Vec<(&'static str, Vec<u8>)> {
    let config = br#"{"model_type":"llama","max_position_embeddings":64,"torch_dtype":"bfloat16"}"#;
    vec![
        ("config.json", config.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", br#"{"chat_template":"x"}"#.to_vec()),
        ("model.safetensors", vec![7; 200_000]),
    ]
}

fn context(endpoint: &str, cache: ModelCache, engine: EngineKind) -> ResolveContext {
    let variable = |name: &str| (name == "HF_ENDPOINT").then(|| endpoint.to_owned());
    let hub = HubConfig::from_environment(&variable);
    ResolveContext { cache, hub, pips: Vec::new(), requantize: None, engine }
}

fn source(text: &str) -> ModelSource {
    ModelSource::parse(Some(text), Path::new("/nonexistent")).expect("a source")
}

async fn filled(hub: &Hub, folder: &Path, engine: EngineKind, check: Check) -> Result<Filled, ModelError> {
    fill(&source(NAME), &context(&hub.endpoint, ModelCache::at(folder), engine), check, &NoProgress).await
}

/// What a worker of another machine finds, whose own cache is empty and for which there is no hub.
async fn read(folder: &Path, engine: EngineKind, text: &str) -> Result<LocalModel, ModelError> {
    let own = tempfile::tempdir().expect("a folder");
    let cache = ModelCache::at(own.path()).with_shared(Some(folder.to_owned()));
    resolve(&source(text), &context("http://127.0.0.1:1", cache, engine), &NoProgress).await
}

#[tokio::test]
async fn a_filled_folder_is_whole_for_every_reader_and_a_second_run_asks_nobody() {
    let (hub, folder) = (Hub::start(gguf_files(), Faults::default()).await, tempfile::tempdir().expect("a folder"));
    let first = filled(&hub, folder.path(), EngineKind::Embedded, Check::Quick).await.expect("filled");
    assert!(first.is_new && first.repaired.is_empty());
    let requests = hub.requests().len();
    for check in [Check::Quick, Check::Contents] {
        let again = filled(&hub, folder.path(), EngineKind::Embedded, check).await.expect("there");
        assert!(!again.is_new, "{check:?}");
        assert_eq!(again.model, first.model);
    }
    assert_eq!(hub.requests().len(), requests);
    // By the name, and by the folder alone, in which it is the only model.
    let by_name = read(folder.path(), EngineKind::Embedded, NAME).await.expect("a model");
    assert_eq!(by_name.gguf, first.model.gguf);
    let by_folder = read(folder.path(), EngineKind::Embedded, &folder.path().to_string_lossy()).await.expect("a model");
    assert_eq!((by_folder.gguf, by_folder.served_name.as_str()), (first.model.gguf, "owner/name"));
}

#[tokio::test]
async fn the_manifest_has_the_sum_of_every_file_and_no_lease_is_left() {
    use sha2::{Digest, Sha256};
    let (hub, folder) = (Hub::start(layout_files(), Faults::default()).await, tempfile::tempdir().expect("a folder"));
    filled(&hub, folder.path(), EngineKind::Vllm, Check::Quick).await.expect("filled");
    let text = std::fs::read(folder.path().join("MANIFEST.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let files = manifest["models"][0]["files"].as_array().expect("files");
    assert!(files.len() >= layout_files().len());
    for file in files {
        let bytes = std::fs::read(folder.path().join(file["path"].as_str().expect("a path"))).expect("a file");
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((file["bytes"].as_u64(), file["sha256"].as_str()), (Some(bytes.len() as u64), Some(sum.as_str())));
    }
    assert!(!folder.path().join(".writer").exists());
}

#[tokio::test]
async fn what_is_missing_or_changed_is_fetched_and_nothing_else() {
    let (hub, folder) = (Hub::start(layout_files(), Faults::default()).await, tempfile::tempdir().expect("a folder"));
    let first = filled(&hub, folder.path(), EngineKind::Vllm, Check::Quick).await.expect("filled");
    let weights = first.model.hf_folder.join("model.safetensors");
    let fetched_again = |before: usize| {
        let requests = hub.requests();
        let files =
            requests[before..].iter().filter_map(|seen| seen.path.rsplit_once('/').map(|(_, file)| file.to_owned()));
        files.filter(|file| !file.starts_with("main?")).collect::<Vec<_>>()
    };
    // Another size; the same size and another time; the same size and time, which only `Contents` sees; gone.
    let time = weights.metadata().and_then(|found| found.modified()).expect("a time");
    for (damage, check) in
        [("cut", Check::Quick), ("bit", Check::Quick), ("hidden", Check::Contents), ("gone", Check::Quick)]
    {
        match damage {
            "cut" => std::fs::write(&weights, vec![7; 100]).expect("write"),
            "gone" => std::fs::remove_file(&weights).expect("remove"),
            _ => std::fs::write(&weights, vec![8; 200_000]).expect("write"),
        }
        if damage == "hidden" {
            let manifest = std::fs::read_to_string(folder.path().join("MANIFEST.json")).expect("a manifest");
            let file = std::fs::File::options().write(true).open(&weights).expect("open");
            let known = changed_ms(&manifest);
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_millis(known)).expect("a time");
            let unseen = filled(&hub, folder.path(), EngineKind::Vllm, Check::Quick).await.expect("by its looks");
            assert!(!unseen.is_new);
        } else if damage == "bit" {
            let file = std::fs::File::options().write(true).open(&weights).expect("open");
            file.set_modified(time + std::time::Duration::from_secs(5)).expect("a time");
        }
        let before = hub.requests().len();
        let repaired = filled(&hub, folder.path(), EngineKind::Vllm, check).await.expect("repaired");
        let path: PathBuf = weights.strip_prefix(folder.path()).expect("within").into();
        assert_eq!((repaired.is_new, repaired.repaired), (true, vec![path]), "{damage}");
        assert_eq!(fetched_again(before), ["model.safetensors"], "{damage}");
        assert_eq!(std::fs::read(&weights).expect("read"), vec![7; 200_000], "{damage}");
    }
}

/// When the weights changed, as the manifest has it.
fn changed_ms(manifest: &str) -> u64 {
    let manifest: serde_json::Value = serde_json::from_str(manifest).expect("JSON");
    let files = manifest["models"][0]["files"].as_array().expect("files");
    let is_weights =
        |file: &&serde_json::Value| file["path"].as_str().is_some_and(|path| path.ends_with(".safetensors"));
    files.iter().find(is_weights).expect("the weights")["changed_ms"].as_u64().expect("a time")
}

#[tokio::test]
async fn a_run_that_was_cut_goes_on_where_it_ended() {
    let faults = Faults { cuts: 1, ..Faults::default() };
    let (hub, folder) = (Hub::start(layout_files(), faults).await, tempfile::tempdir().expect("a folder"));
    let ended = filled(&hub, folder.path(), EngineKind::Vllm, Check::Quick).await.expect("filled");
    assert_eq!(hub.ranges(), ["bytes=100000-"]);
    assert_eq!(std::fs::read(ended.model.hf_folder.join("model.safetensors")).expect("read"), vec![7; 200_000]);
}

#[tokio::test]
async fn two_at_once_fetch_each_file_once() {
    let (hub, folder) = (Hub::start(gguf_files(), Faults::default()).await, tempfile::tempdir().expect("a folder"));
    let fills = (0..2).map(|_| filled(&hub, folder.path(), EngineKind::Embedded, Check::Quick));
    let both = futures::future::join_all(fills).await;
    let new = both.iter().filter(|filled| filled.as_ref().expect("filled").is_new).count();
    assert_eq!(new, 1);
    let fetched = hub.requests().iter().filter(|seen| seen.path.ends_with(".gguf")).count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn a_hub_that_asks_to_wait_is_waited_for_and_one_that_refuses_is_named_at_once() {
    let faults = Faults { too_many: 2, ..Faults::default() };
    let (hub, folder) = (Hub::start(gguf_files(), faults).await, tempfile::tempdir().expect("a folder"));
    filled(&hub, folder.path(), EngineKind::Embedded, Check::Quick).await.expect("after the wait");
    for (status, code, part) in
        [(403, "GatedRepo", "accept the model's terms"), (401, "RepoNotFound", "check the spelling")]
    {
        let faults = Faults { status: Some((status, code)), ..Faults::default() };
        let (hub, folder) = (Hub::start(gguf_files(), faults).await, tempfile::tempdir().expect("a folder"));
        let error = filled(&hub, folder.path(), EngineKind::Embedded, Check::Quick).await.expect_err("refused");
        assert!(matches!(error, ModelError::Hub { .. }) && error.remedy().contains(part), "{error} {}", error.remedy());
        assert_eq!(hub.requests().len(), 1);
        assert!(!folder.path().join(".writer").exists(), "the lease is given back");
    }
    let faults = Faults { status: Some((429, "")), ..Faults::default() };
    let (hub, folder) = (Hub::start(gguf_files(), faults).await, tempfile::tempdir().expect("a folder"));
    let error = filled(&hub, folder.path(), EngineKind::Embedded, Check::Quick).await.expect_err("still busy");
    assert!(matches!(error, ModelError::Hub { source: HubError::Busy { .. }, .. }), "{error}");
    assert_eq!(hub.requests().len(), 5);
}

#[tokio::test]
async fn a_folder_with_several_models_asks_for_a_name_and_a_path_is_not_brought_into_one() {
    let (hub, folder) = (Hub::start(gguf_files(), Faults::default()).await, tempfile::tempdir().expect("a folder"));
    filled(&hub, folder.path(), EngineKind::Embedded, Check::Quick).await.expect("filled");
    let path = folder.path().join("MANIFEST.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    let mut second = manifest["models"][0].clone();
    second["name"] = "owner/other".into();
    manifest["models"].as_array_mut().expect("models").push(second);
    std::fs::write(&path, manifest.to_string()).expect("write");
    let text = folder.path().to_string_lossy().into_owned();
    let error = read(folder.path(), EngineKind::Embedded, &text).await.expect_err("two");
    assert!(error.to_string().contains("owner/name, owner/other"), "{error}");
    let context = context(&hub.endpoint, ModelCache::at(folder.path()), EngineKind::Embedded);
    let error = fill(&source("/x/y.gguf"), &context, Check::Quick, &NoProgress).await.expect_err("a path");
    assert!(error.remedy().contains("copy the file"), "{error}");
}
