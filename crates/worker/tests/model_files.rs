//! Models by path: a GGUF, a folder, and what is wrong with those that are none.

mod model_parts;

use model_parts::tiny_gguf;
use std::path::Path;
use worker::model::{
    EngineKind, HubConfig, LocalModel, ModelCache, ModelError, ModelSource, NoProgress, ResolveContext, Weights, fits,
    resolve,
};

async fn resolve_at(folder: &Path, text: &str, engine: EngineKind) -> Result<LocalModel, ModelError> {
    let context = ResolveContext {
        cache: ModelCache::at(folder.join("cache")),
        hub: HubConfig::from_environment(&|_| None),
        pips: Vec::new(),
        requantize: None,
        engine,
    };
    let source = ModelSource::parse(Some(text), folder).expect("a source");
    resolve(&source, &context, &NoProgress).await
}

fn write_layout(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    let config = r#"{"model_type":"qwen3","max_position_embeddings":4096,"torch_dtype":"bfloat16"}"#;
    std::fs::write(folder.join("config.json"), config).expect("written");
    std::fs::write(folder.join("tokenizer.json"), "{}").expect("written");
    std::fs::write(folder.join("tokenizer_config.json"), "{}").expect("written");
}

#[tokio::test]
async fn a_gguf_by_path_gets_hugging_face_s_files_beside_it() {
    let here = tempfile::tempdir().expect("a folder");
    let path = here.path().join("My-Model.gguf");
    std::fs::write(&path, tiny_gguf().bytes()).expect("written");
    let model = resolve_at(here.path(), "My-Model.gguf", EngineKind::Embedded).await.expect("a model");
    assert_eq!((model.served_name.as_str(), model.architecture.as_str()), ("My-Model", "llama"));
    assert_eq!(model.hf_folder, here.path().join("My-Model.gguf.hf"));
    fits(&model, EngineKind::Embedded).expect("fits");
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(model.hf_folder.join(name)).expect("read")).expect("JSON")
    };
    assert_eq!(json("config.json")["max_position_embeddings"], 512);
    assert_eq!(json("config.json")["architectures"][0], "LlamaForCausalLM");
    assert_eq!(json("config.json")["rms_norm_eps"], 1e-5);
    assert_eq!(json("generation_config.json")["eos_token_id"], 257);
    assert_eq!(json("tokenizer_config.json")["eos_token"], "<|im_end|>");
    assert!(json("tokenizer_config.json")["chat_template"].as_str().is_some_and(|text| text.contains("m.content")));
    // Nothing is written twice; a changed GGUF gives changed files.
    let written =
        || std::fs::metadata(model.hf_folder.join("tokenizer.json")).expect("there").modified().expect("a time");
    let before = written();
    resolve_at(here.path(), "My-Model.gguf", EngineKind::Embedded).await.expect("a model");
    assert_eq!(written(), before);
    let other = tiny_gguf().number("tokenizer.ggml.padding_token_id", 257).bytes();
    std::fs::write(&path, other).expect("written");
    resolve_at(here.path(), "My-Model.gguf", EngineKind::Embedded).await.expect("a model");
    assert_eq!(json("generation_config.json")["pad_token_id"], 257);
}

#[tokio::test]
async fn beside_a_gguf_where_nothing_can_be_written_the_cache_takes_the_files() {
    let here = tempfile::tempdir().expect("a folder");
    std::fs::write(here.path().join("m.gguf"), tiny_gguf().bytes()).expect("written");
    // A file in the way refuses even root.
    std::fs::write(here.path().join("m.gguf.hf.new"), "x").expect("written");
    std::fs::write(here.path().join("m.gguf.hf"), "x").expect("written");
    let model = resolve_at(here.path(), "m.gguf", EngineKind::Embedded).await.expect("a model");
    assert!(model.hf_folder.starts_with(here.path().join("cache")), "{:?}", model.hf_folder);
    assert!(model.hf_folder.join("tokenizer.json").is_file());
}

#[tokio::test]
async fn a_folder_gives_what_the_engine_can_load() {
    let here = tempfile::tempdir().expect("a folder");
    let folder = here.path().join("both");
    write_layout(&folder);
    std::fs::write(folder.join("model.safetensors"), [0; 10]).expect("written");
    let vllm = resolve_at(here.path(), "both", EngineKind::Vllm).await.expect("a model");
    assert_eq!((vllm.weights, vllm.size, vllm.context_length), (Weights::Safetensors, 10, 4096));
    let embedded = resolve_at(here.path(), "both", EngineKind::Embedded).await.expect("described");
    let error = fits(&embedded, EngineKind::Embedded).expect_err("safetensors");
    assert!(error.remedy().contains("FILE.gguf") && error.remedy().contains("vLLM"), "{}", error.remedy());
    std::fs::write(folder.join("m-Q8_0.gguf"), tiny_gguf().bytes()).expect("written");
    let embedded = resolve_at(here.path(), "both", EngineKind::Embedded).await.expect("a model");
    assert_eq!((embedded.gguf, embedded.hf_folder), (Some(folder.join("m-Q8_0.gguf")), folder.clone()));
    let vllm = resolve_at(here.path(), "both", EngineKind::Vllm).await.expect("a model");
    assert_eq!(vllm.weights, Weights::Safetensors);
}

#[tokio::test]
async fn bad_paths_end_with_what_is_wrong_and_what_to_do() {
    let here = tempfile::tempdir().expect("a folder");
    let at = |name: &str| here.path().join(name);
    let whole = tiny_gguf().bytes();
    std::fs::write(at("cut.gguf"), &whole[..whole.len() - 100]).expect("written");
    std::fs::write(at("page.gguf"), "<!DOCTYPE html>").expect("written");
    std::fs::create_dir(at("empty")).expect("a folder");
    write_layout(&at("half"));
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    std::fs::write(at("half/model.safetensors.index.json"), index).expect("written");
    std::fs::write(at("half/model-1.safetensors"), "x").expect("written");
    write_layout(&at("broken"));
    std::fs::write(at("broken/config.json"), "{").expect("written");
    let (has, needs) = (whole.len() - 100, whole.len());
    let truncated = format!("cut.gguf: the file is truncated: has {has} bytes, its header needs {needs}");
    for (text, says, remedy) in [
        ("none.gguf", "none.gguf: no such file", "--model smollm2"),
        ("./none/", "no such file or folder", "--model smollm2"),
        ("cut.gguf", truncated.as_str(), "download the file again"),
        ("page.gguf", "page.gguf: this is not a GGUF file: its first bytes are \"<!DO\"", "give a GGUF file"),
        ("empty", "empty: config.json is missing", "give a folder with config.json"),
        ("half", "model-2.safetensors is missing", "give a folder"),
        ("broken", "config.json is not JSON", "give a folder"),
    ] {
        let error = resolve_at(here.path(), text, EngineKind::Vllm).await.expect_err(text);
        assert!(error.to_string().contains(says), "{text}: {error}");
        assert!(error.remedy().contains(remedy), "{text}: {}", error.remedy());
    }
}

#[test]
fn a_resolution_may_run_in_a_task_of_its_own() {
    fn is_send(_: impl Send) {}
    let here = Path::new("/nonexistent");
    is_send(resolve_at(here, "smollm2", EngineKind::Embedded));
}
