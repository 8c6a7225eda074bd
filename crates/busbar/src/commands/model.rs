//! `busbar model fetch`, and how every command brings a model to this machine.

use super::runtime;
use crate::cli::Output;
use crate::flags::worker::EngineChoice;
use crate::folders;
use crate::progress::Progress;
use crate::report::Failure;
use std::path::Path;
use std::sync::{Arc, Mutex};
use worker::model::{
    self, Check, EngineKind, HubConfig, LocalModel, ModelCache, ModelError, ModelSource, PipCommand, Requantize,
};
use worker::model::{ResolveContext, Stage, Step};

/// Fetches and describes a model.
pub(crate) fn fetch(text: Option<&str>, engine: EngineChoice, output: Output) -> Result<(), Failure> {
    let quiet = output == Output::Json;
    let progress = Arc::new(Mutex::new(Progress::new(quiet)));
    let model = runtime(None)?.block_on(bring(text, engine_kind(engine), &progress))?;
    finish(&progress);
    if quiet {
        println!("{}", describe(&model));
        return Ok(());
    }
    println!("{} is here ({:.0} MB, context {} tokens)", model.served_name, to_mb(model.size), model.context_length);
    print_paths(&model);
    Ok(())
}

/// Brings a model into a folder that several machines share.
pub(crate) fn fill(
    text: Option<&str>,
    folder: &Path,
    verify: bool,
    engine: EngineChoice,
    output: Output,
) -> Result<(), Failure> {
    let quiet = output == Output::Json;
    let progress = Arc::new(Mutex::new(Progress::new(quiet)));
    let kind = engine_kind(engine);
    let folder = std::path::absolute(folder)
        .map_err(|error| Failure::new(format!("find {}", folder.display())).cause(error.to_string()).permanent())?;
    let source = source(text)?;
    let mut context = context(ModelCache::at(&folder), kind);
    // What this user has elsewhere does not make the shared folder whole.
    context.hub.cache = None;
    let check = if verify { Check::Contents } else { Check::Quick };
    let shown = Shown(Arc::clone(&progress));
    let filling = model::fill(&source, &context, check, &shown);
    let filled = runtime(None)?.block_on(filling).map_err(|error| failed(&error))?;
    finish(&progress);
    if quiet {
        let mut value = describe(&filled.model);
        value["is_new"] = filled.is_new.into();
        value["repaired"] = serde_json::json!(filled.repaired);
        println!("{value}");
        return Ok(());
    }
    let (name, megabytes) = (&filled.model.served_name, to_mb(filled.model.size));
    let how = if filled.is_new { "is in" } else { "was whole already in" };
    println!("{name} {how} {} ({megabytes:.0} MB)", folder.display());
    for path in &filled.repaired {
        println!("  repaired   {}", path.display());
    }
    print_paths(&filled.model);
    println!("  workers    BUSBAR_MODEL_CACHE={} and --model {}", folder.display(), text.unwrap_or(name));
    Ok(())
}

fn finish(progress: &Mutex<Progress>) {
    if let Ok(mut progress) = progress.lock() {
        progress.done();
    }
}

fn print_paths(model: &LocalModel) {
    if let Some(gguf) = &model.gguf {
        println!("  weights    {}", gguf.display());
    }
    println!("  tokenizer  {}", model.hf_folder.display());
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn to_mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn describe(model: &LocalModel) -> serde_json::Value {
    serde_json::json!({
        "name": model.served_name, "gguf": model.gguf, "hf_folder": model.hf_folder, "architecture": model.architecture,
        "context_length": model.context_length, "quantization": model.quantization, "bytes": model.size,
    })
}

/// Brings the model that `text` names to this machine for `engine`, showing how far it is.
pub(crate) async fn bring(
    text: Option<&str>,
    engine: EngineKind,
    progress: &Arc<Mutex<Progress>>,
) -> Result<LocalModel, Failure> {
    let cache = ModelCache::at(folders::cache()?.join("models")).with_shared(folders::model_cache());
    let shown = Shown(Arc::clone(progress));
    if engine == EngineKind::Mock && text.is_none() {
        return model::byte_model(&cache, &shown).await.map_err(|error| failed(&error));
    }
    let context = context(cache, engine);
    let model = model::resolve(&source(text)?, &context, &shown).await.map_err(|error| failed(&error))?;
    model::fits(&model, engine).map_err(|error| failed(&error))?;
    Ok(model)
}

fn source(text: Option<&str>) -> Result<ModelSource, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    ModelSource::parse(text, &here).map_err(|error| failed(&ModelError::from(error)))
}

fn context(cache: ModelCache, engine: EngineKind) -> ResolveContext {
    let environment = |name: &str| std::env::var(name).ok();
    ResolveContext {
        cache,
        hub: HubConfig::from_environment(&environment),
        pips: PipCommand::usual(),
        requantize: requantize(),
        engine,
    }
}

fn failed(error: &ModelError) -> Failure {
    Failure::new(error.to_string()).remedy(error.remedy()).permanent()
}

#[cfg(feature = "engine-llama")]
#[expect(clippy::unnecessary_wraps, reason = "a build without the embedded engine has none")]
fn requantize() -> Option<Requantize> {
    Some(Arc::new(|from, to| worker::engine::embedded::requantize_q8_0(from, to).map_err(|error| error.to_string())))
}

#[cfg(not(feature = "engine-llama"))]
fn requantize() -> Option<Requantize> {
    None
}

/// The engine that a choice means on this machine.
pub(crate) fn engine_kind(choice: EngineChoice) -> EngineKind {
    match choice {
        EngineChoice::Embedded => EngineKind::Embedded,
        EngineChoice::Vllm => EngineKind::Vllm,
        EngineChoice::Mock => EngineKind::Mock,
        EngineChoice::Auto if worker::engine::vllm::vllm_available() => EngineKind::Vllm,
        EngineChoice::Auto => EngineKind::Embedded,
    }
}

/// The word of an engine.
pub(crate) fn engine_word(kind: EngineKind) -> &'static str {
    match kind {
        EngineKind::Embedded => "embedded",
        EngineKind::Vllm => "vllm",
        EngineKind::Mock => "mock",
    }
}

/// Shows the steps of a fetch.
struct Shown(Arc<Mutex<Progress>>);

impl model::Progress for Shown {
    fn step(&self, step: Step) {
        let stage = match &step.stage {
            Stage::WaitForOtherWriter { .. } => "waiting for another process that fetches the same model".to_owned(),
            Stage::Download { name } => format!("downloading {name}"),
            Stage::Extract { name } => format!("unpacking {name}"),
            Stage::Verify { name } => format!("verifying {name}"),
            Stage::Requantize { to } => format!("re-quantising to {to} (once; faster from then on)"),
            Stage::WriteHfFiles => "writing tokenizer, template and config".to_owned(),
            Stage::Done => return,
        };
        if let Ok(mut progress) = self.0.lock() {
            progress.stage(&stage, Some(step.bytes_done), step.bytes_total);
        }
    }
}
