//! Models of the hub, against a hub of the test's own that `HF_ENDPOINT` names.

mod model_parts;

use model_parts::hub::{COMMIT, Faults, Hub};
use model_parts::tiny_gguf;
use std::path::Path;
use worker::model::{
    EngineKind, HubConfig, HubError, LocalModel, ModelCache, ModelError, ModelSource, NoProgress, ResolveContext,
    Weights, resolve,
};

const TOKEN: &str = "hf_TopSecretToken";

fn gguf_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![("README.md", b"# m".to_vec()), ("m-Q8_0.gguf", tiny_gguf().bytes()), ("m-Q2_K.gguf", vec![0; 200])]
}

fn layout_files() -> Vec<(&'static str, Vec<u8>)> {
    let config = br#"{"model_type":"llama","max_position_embeddings":64,"torch_dtype":"bfloat16"}"#;
    vec![
        ("config.json", config.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", br#"{"chat_template":"x"}"#.to_vec()),
        ("model.safetensors", vec![7; 5000]),
    ]
}

fn context(endpoint: &str, home: &Path, engine: EngineKind, more: &[(&str, &str)]) -> ResolveContext {
    let variable = |name: &str| match name {
        "HF_ENDPOINT" => Some(endpoint.to_owned()),
        "HF_TOKEN" => Some(TOKEN.to_owned()),
        "HOME" => Some(home.to_string_lossy().into_owned()),
        _ => more.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()),
    };
    ResolveContext {
        cache: ModelCache::from_environment(&variable).expect("a home"),
        hub: HubConfig::from_environment(&variable),
        pips: Vec::new(),
        requantize: None,
        engine,
    }
}

async fn fetch(text: &str, context: &ResolveContext) -> Result<LocalModel, ModelError> {
    let source = ModelSource::parse(Some(text), Path::new("/nonexistent")).expect("a source");
    resolve(&source, context, &NoProgress).await
}

#[tokio::test]
async fn the_best_gguf_is_fetched_checked_and_found_again_without_the_hub() {
    let (hub, home) = (Hub::start(gguf_files(), Faults::default()).await, tempfile::tempdir().expect("a folder"));
    let machine = context(&hub.endpoint, home.path(), EngineKind::Embedded, &[]);
    let model = fetch("hf:owner/name", &machine).await.expect("a model");
    let gguf = model.gguf.clone().expect("a GGUF");
    assert_eq!(std::fs::read(&gguf).expect("read"), tiny_gguf().bytes());
    assert!(gguf.ends_with(format!("{COMMIT}/gguf/m-Q8_0.gguf")), "{gguf:?}");
    assert_eq!((model.served_name.as_str(), model.weights), ("owner/name", Weights::Gguf));
    assert!(model.hf_folder.join("tokenizer.json").is_file());
    let requests = hub.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests.iter().all(|seen| seen.authorization == Some(format!("Bearer {TOKEN}"))));
    let offline = context(&hub.endpoint, home.path(), EngineKind::Embedded, &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(fetch("hf:owner/name", &offline).await.expect("cached"), model);
    assert_eq!(hub.requests().len(), 2);
}

#[tokio::test]
async fn a_folder_of_safetensors_is_fetched_for_vllm_and_only_its_tokenizer_for_the_mock() {
    let (hub, home) = (Hub::start(layout_files(), Faults::default()).await, tempfile::tempdir().expect("a folder"));
    let mock = fetch("owner/name", &context(&hub.endpoint, home.path(), EngineKind::Mock, &[])).await.expect("files");
    assert_eq!((mock.weights, mock.context_length), (Weights::Absent, 64));
    assert!(!hub.requests().iter().any(|seen| seen.path.ends_with("safetensors")));
    let vllm = fetch("owner/name", &context(&hub.endpoint, home.path(), EngineKind::Vllm, &[])).await.expect("files");
    assert_eq!((vllm.weights, vllm.size, vllm.quantization.as_deref()), (Weights::Safetensors, 5000, Some("bfloat16")));
    let error = fetch("hf:owner/name", &context(&hub.endpoint, home.path(), EngineKind::Embedded, &[])).await;
    let error = error.expect_err("no GGUF");
    assert!(error.to_string().contains("has safetensors, the embedded engine needs a GGUF"), "{error}");
    assert!(error.remedy().contains("hf:owner/name-GGUF"), "{}", error.remedy());
}

#[tokio::test]
async fn a_body_that_ends_early_is_resumed_where_it_ended() {
    let faults = Faults { cuts: 2, busy: 1, ..Faults::default() };
    let (hub, home) = (Hub::start(gguf_files(), faults).await, tempfile::tempdir().expect("a folder"));
    let machine = context(&hub.endpoint, home.path(), EngineKind::Embedded, &[]);
    let model = fetch("hf:owner/name", &machine).await.expect("a model");
    assert_eq!(std::fs::read(model.gguf.expect("a GGUF")).expect("read"), tiny_gguf().bytes());
    let size = tiny_gguf().bytes().len();
    let (half, rest) = (size / 2, size - size / 2);
    assert_eq!(hub.ranges(), [format!("bytes={half}-"), format!("bytes={}-", half + rest / 2)]);
}

#[tokio::test]
async fn what_an_earlier_run_left_is_gone_on_from_even_if_the_hub_does_not_resume() {
    for no_ranges in [false, true] {
        let faults = Faults { no_ranges, ..Faults::default() };
        let (hub, home) = (Hub::start(gguf_files(), faults).await, tempfile::tempdir().expect("a folder"));
        let machine = context(&hub.endpoint, home.path(), EngineKind::Embedded, &[]);
        let folder = machine.cache.root().join(format!("hub/owner--name/{COMMIT}/gguf"));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("m-Q8_0.gguf.part"), &tiny_gguf().bytes()[..1000]).expect("a part");
        let model = fetch("hf:owner/name", &machine).await.expect("a model");
        assert_eq!(std::fs::read(model.gguf.expect("a GGUF")).expect("read"), tiny_gguf().bytes());
        assert_eq!(hub.ranges(), ["bytes=1000-"]);
    }
}

#[tokio::test]
async fn wrong_bytes_are_fetched_again_and_refused_if_they_stay_wrong() {
    let faults = Faults { flips: u32::MAX, ..Faults::default() };
    let (hub, home) = (Hub::start(gguf_files(), faults).await, tempfile::tempdir().expect("a folder"));
    let machine = context(&hub.endpoint, home.path(), EngineKind::Embedded, &[]);
    let error = fetch("hf:owner/name", &machine).await.expect_err("wrong bytes");
    assert!(matches!(&error, ModelError::Hub { source: HubError::Checksum { .. }, .. }), "{error}");
    let folder = machine.cache.root().join(format!("hub/owner--name/{COMMIT}/gguf"));
    assert_eq!(std::fs::read_dir(folder).expect("listed").count(), 0);
    hub.faults.lock().expect("not poisoned").flips = 1;
    fetch("hf:owner/name", &machine).await.expect("right the second time");
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_never_the_token() {
    for (status, code, named, says, remedy) in [
        (401, "GatedRepo", false, "gated or private", "accept the model's terms at http"),
        (403, "", false, "HTTP 403", "set HF_TOKEN"),
        (401, "RepoNotFound", false, "no such repository", "check the spelling of `owner/name`"),
        (404, "", true, "`owner/name` is not on this machine", "--model smollm2"),
        (404, "", false, "no such repository or revision", "check the spelling"),
        (500, "", false, "HTTP 500", "try again later"),
    ] {
        let faults = Faults { status: Some((status, code)), ..Faults::default() };
        let (hub, home) = (Hub::start(Vec::new(), faults).await, tempfile::tempdir().expect("a folder"));
        let machine = context(&hub.endpoint, home.path(), EngineKind::Embedded, &[]);
        let text = if named { "owner/name" } else { "hf:owner/name" };
        let error = fetch(text, &machine).await.expect_err("refused");
        assert!(error.to_string().contains(says), "{status} {code}: {error}");
        assert!(error.remedy().contains(remedy), "{status} {code}: {}", error.remedy());
        for shown in [error.to_string(), format!("{error:?}"), error.remedy(), format!("{:?}", machine.hub)] {
            assert!(!shown.contains(TOKEN), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_manifest_s_model_without_a_hub_is_named_and_another_one_offered() {
    // A port that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let home = tempfile::tempdir().expect("a folder");
    let machine = context(&format!("http://127.0.0.1:{port}"), home.path(), EngineKind::Embedded, &[]);
    let error = fetch("Qwen/Qwen3-0.6B", &machine).await.expect_err("no hub");
    let text = error.to_string();
    assert!(text.contains("`Qwen/Qwen3-0.6B` is not on this machine and cannot be fetched"), "{text}");
    assert!(text.contains("cannot be reached: Connection refused"), "{text}");
    assert!(error.remedy().contains("--model smollm2"), "{}", error.remedy());
    let offline = context("http://x", home.path(), EngineKind::Embedded, &[("HF_HUB_OFFLINE", "1")]);
    let error = fetch("Qwen/Qwen3-0.6B", &offline).await.expect_err("offline");
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
}

#[tokio::test]
async fn the_hub_s_own_cache_is_looked_into_first() {
    let home = tempfile::tempdir().expect("a folder");
    let repository = home.path().join("hf/hub/models--owner--name");
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).expect("a folder");
    std::fs::create_dir_all(repository.join("refs")).expect("a folder");
    std::fs::write(repository.join("refs/main"), COMMIT).expect("written");
    for (name, body) in layout_files() {
        std::fs::write(snapshot.join(name), body).expect("written");
    }
    let hf_home = home.path().join("hf").to_string_lossy().into_owned();
    let more = [("HF_HOME", hf_home.as_str()), ("HF_HUB_OFFLINE", "1")];
    let machine = context("http://unused", home.path(), EngineKind::Vllm, &more);
    let model = fetch("owner/name", &machine).await.expect("cached");
    assert_eq!((model.hf_folder, model.weights), (snapshot.clone(), Weights::Safetensors));
    // Half a snapshot is none.
    std::fs::remove_file(snapshot.join("model.safetensors")).expect("removed");
    assert!(fetch("owner/name", &machine).await.is_err());
}
