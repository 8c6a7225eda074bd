//! From a source to a model on this machine.

use super::cache::ModelCache;
use super::error::ModelError;
use super::fits::EngineKind;
use super::gguf;
use super::gguf_file;
use super::hf_folder::HfFolder;
use super::hub::{self, HubConfig, HubError};
use super::local::{LocalModel, Weights};
use super::packaged::{SMOLLM2, resolve_packaged};
use super::pip::PipCommand;
use super::progress::{Progress, Stage, tell};
use super::shared::Manifest;
use super::source::{HubName, ModelSource};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Re-quantises the GGUF at the first path to Q8_0 into a new file at the second; the text of an error is shown.
/// Blocking, seconds long. The embedded engine has it; a build without that engine has none.
pub type Requantize = Arc<dyn Fn(&Path, &Path) -> Result<(), String> + Send + Sync>;

/// What [`resolve`] needs from the machine.
#[derive(Clone)]
pub struct ResolveContext {
    /// Where models are kept.
    pub cache: ModelCache,
    /// The hub and its own cache.
    pub hub: HubConfig,
    /// Ways to start pip, in order.
    pub pips: Vec<PipCommand>,
    /// The quantiser; `None` keeps a packaged model as it came.
    pub requantize: Option<Requantize>,
    /// The engine that will run the model; decides what is fetched where a repository has several formats.
    pub engine: EngineKind,
}

/// Brings the model that `source` names to this machine, as far as it is not here, and describes it.
///
/// May take minutes; tells how far it is. Safe to drop or kill at any moment, and to run in several processes at once:
/// one writes, the others wait and take its result. Whether the engine can run the model is another question:
/// [`super::fits`].
///
/// # Errors
/// [`ModelError`], with a remedy.
pub async fn resolve(
    source: &ModelSource,
    context: &ResolveContext,
    progress: &dyn Progress,
) -> Result<LocalModel, ModelError> {
    let cache = &context.cache;
    let model = match source {
        ModelSource::Packaged { asked } => resolve_packaged(&SMOLLM2, asked.as_deref(), context, progress).await?,
        ModelSource::File(path) => gguf_file::model(path, stem(path), cache, progress).await?,
        ModelSource::Folder(path) => {
            let (path, name) = in_folder(path, context.engine)?;
            folder(&path, name, context, progress).await?
        }
        ModelSource::Hub(name) => of_hub(name, context, progress).await?,
        ModelSource::Named(name) => of_hub(name, context, progress).await.map_err(|error| match error {
            ModelError::Hub { source, .. } if is_absence(&source) => {
                ModelError::NotHere { name: name.repository(), source }
            }
            other => other,
        })?,
    };
    tell(progress, Stage::Done, model.size, Some(model.size));
    Ok(model)
}

/// Whether the hub's answer means that this machine cannot have the model, rather than that a fetch went wrong.
fn is_absence(error: &HubError) -> bool {
    matches!(
        error,
        HubError::Offline | HubError::Unreachable { .. } | HubError::NotFound { .. } | HubError::Gated { .. }
    )
}

async fn of_hub(name: &HubName, context: &ResolveContext, progress: &dyn Progress) -> Result<LocalModel, ModelError> {
    let path = hub::fetch(name, &context.hub, &context.cache, context.engine, progress).await?;
    folder(&path, name.repository(), context, progress).await
}

/// Where in a folder the model is, and its name: the only one of a shared folder, else the folder itself.
fn in_folder(path: &Path, engine: EngineKind) -> Result<(PathBuf, String), ModelError> {
    let manifest = Manifest::read(path);
    if manifest.models.is_empty() {
        let name = path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        return Ok((path.to_owned(), name));
    }
    let only = manifest.only(engine).map_err(|what| ModelError::Folder { folder: path.to_owned(), what })?;
    Ok((only.folder(path), only.name.clone()))
}

/// A folder: in Hugging Face's layout, or with one GGUF, or both.
async fn folder(
    path: &Path,
    served_name: String,
    context: &ResolveContext,
    progress: &dyn Progress,
) -> Result<LocalModel, ModelError> {
    if !path.is_dir() {
        return Err(ModelError::NotFound { path: path.to_owned() });
    }
    let path = std::path::absolute(path).map_err(ModelError::io("find", path))?;
    let ggufs = gguf::files_in(&path).map_err(ModelError::io("list", &path))?;
    let in_layout = HfFolder::is_complete_for_a_frontend(&path);
    if !in_layout && ggufs.is_empty() {
        // Says which file is missing.
        return HfFolder::read(&path).map(|folder| folder.into_model(served_name));
    }
    if in_layout {
        let folder = HfFolder::read(&path)?;
        let wants_gguf = context.engine != EngineKind::Vllm && !folder.ggufs.is_empty();
        if !wants_gguf {
            return Ok(folder.into_model(served_name));
        }
    }
    let Some(gguf) = hub::best_gguf(ggufs.iter().map(|path| (file_name(path), path))) else {
        let what = format!("none of its {} GGUF files is a whole model by name", ggufs.len());
        return Err(ModelError::Folder { folder: path, what });
    };
    let mut model = gguf_file::model(gguf, served_name, &context.cache, progress).await?;
    model.weights = Weights::Gguf;
    Ok(model)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned())
}
