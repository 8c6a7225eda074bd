//! A folder of models that several machines share, such as a volume of a cluster: filled by one, read by all.
//!
//! `MANIFEST.json` in it says which models are whole and what each of their files is: size, sha256, time of change. It is
//! written last, so that what it names was there whole; readers need no right to write.

use super::cache::{publish, remove};
use super::error::ModelError;
use super::fits::EngineKind;
use super::hub::sha256_of;
use super::lease::Lease;
use super::local::LocalModel;
use super::progress::{Progress, Stage, tell};
use super::resolve::{ResolveContext, resolve};
use super::source::ModelSource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The file that says what is whole.
const MANIFEST: &str = "MANIFEST.json";
/// Its form.
const VERSION: u32 = 1;
/// Bytes of it that are read; an entry of a model in a hundred parts has 20 kB.
const MANIFEST_LEN_MAX: u64 = 16 << 20;

/// What the folder holds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub(super) models: Vec<SharedModel>,
}

/// A model in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SharedModel {
    /// As it was asked for: `OWNER/NAME`, `OWNER/NAME@REVISION` or `smollm2`.
    pub(super) name: String,
    /// The engine that it was fetched for.
    engine: String,
    /// Relative to the folder.
    gguf: Option<PathBuf>,
    /// Relative to the folder.
    hf_folder: PathBuf,
    files: Vec<SharedFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SharedFile {
    /// Relative to the folder.
    path: PathBuf,
    bytes: u64,
    sha256: String,
    /// Milliseconds since 1970. A file with the same size and time is taken for the same.
    changed_ms: u64,
}

/// How closely what is there is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Sizes and times; contents only where these differ. Milliseconds.
    Quick,
    /// Every byte.
    Contents,
}

/// A model that is in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    /// The model, at its paths in the folder.
    pub model: LocalModel,
    /// Whether anything had to be fetched or repaired.
    pub is_new: bool,
    /// Files, by path in the folder, that were there and were wrong.
    pub repaired: Vec<PathBuf>,
}

/// Brings a model into the folder of `context.cache`, as far as it is not there, whole.
///
/// One writer at a time, over all machines that share the folder; who waits tells so. Safe to drop or kill at any
/// moment, and to run again: what has come stays, and a cut file goes on where it ended.
///
/// # Errors
/// [`ModelError`], with a remedy. A path is no source for it.
pub async fn fill(
    source: &ModelSource,
    context: &ResolveContext,
    check: Check,
    progress: &dyn Progress,
) -> Result<Filled, ModelError> {
    let folder = context.cache.root();
    let name = name_of(source)?;
    std::fs::create_dir_all(folder).map_err(ModelError::io("create", folder))?;
    let whole =
        |manifest: &Manifest| manifest.find(&name, context.engine).is_some_and(|model| is_unchanged(model, folder));
    if check == Check::Quick && whole(&Manifest::read(folder)) {
        let model = resolve(source, context, progress).await?;
        return Ok(Filled { model, is_new: false, repaired: Vec::new() });
    }
    let lease = Lease::take(folder, progress).await?;
    tokio::select! {
        filled = fill_alone(source, &name, context, check, progress) => filled,
        () = lease.lost() => Err(ModelError::LeaseLost { folder: folder.to_owned() }),
    }
}

/// As [`fill`], with the lease in hand.
async fn fill_alone(
    source: &ModelSource,
    name: &str,
    context: &ResolveContext,
    check: Check,
    progress: &dyn Progress,
) -> Result<Filled, ModelError> {
    let folder = context.cache.root();
    let mut manifest = Manifest::read(folder);
    let known = manifest.find(name, context.engine).cloned();
    let mut repaired = Vec::new();
    if let Some(known) = &known {
        if check == Check::Quick && is_unchanged(known, folder) {
            let model = resolve(source, context, progress).await?;
            return Ok(Filled { model, is_new: false, repaired });
        }
        repaired = remove_wrong(known, folder, check, progress).await?;
    }
    let model = resolve(source, context, progress).await?;
    let entry = describe(name, &model, context, progress).await?;
    let is_new = known.as_ref().is_none_or(|known| contents(known) != contents(&entry)) || !repaired.is_empty();
    manifest.models.retain(|other| !(other.name == name && other.engine == context.engine.name()));
    manifest.models.push(entry);
    manifest.models.sort_by(|a, b| (&a.name, &a.engine).cmp(&(&b.name, &b.engine)));
    manifest.write(folder)?;
    Ok(Filled { model, is_new, repaired })
}

/// What does not change when a volume is copied.
fn contents(model: &SharedModel) -> Vec<(&Path, u64, &str)> {
    model.files.iter().map(|file| (file.path.as_path(), file.bytes, file.sha256.as_str())).collect()
}

/// The name by which a model stands in the manifest.
fn name_of(source: &ModelSource) -> Result<String, ModelError> {
    match source {
        ModelSource::Packaged { asked } => Ok(asked.clone().unwrap_or_else(|| super::SMOLLM2.short_name.to_owned())),
        ModelSource::Hub(name) | ModelSource::Named(name) if name.revision == "main" => Ok(name.repository()),
        ModelSource::Hub(name) | ModelSource::Named(name) => Ok(format!("{}@{}", name.repository(), name.revision)),
        ModelSource::File(path) | ModelSource::Folder(path) => Err(ModelError::NotShared { path: path.clone() }),
    }
}

impl Manifest {
    /// What the folder says of itself; nothing where it says nothing that can be read.
    pub(super) fn read(folder: &Path) -> Manifest {
        let path = folder.join(MANIFEST);
        let small = path.metadata().is_ok_and(|metadata| metadata.len() <= MANIFEST_LEN_MAX);
        let bytes = small.then(|| std::fs::read(&path).ok()).flatten().unwrap_or_default();
        let read: Option<Manifest> = serde_json::from_slice(&bytes).ok();
        read.filter(|manifest| manifest.version == VERSION).unwrap_or_default()
    }

    fn write(&mut self, folder: &Path) -> Result<(), ModelError> {
        self.version = VERSION;
        let (path, partial) = (folder.join(MANIFEST), folder.join(format!("{MANIFEST}.part")));
        let text = serde_json::to_string_pretty(self).map_err(|error| ModelError::io("write", &path)(error.into()))?;
        std::fs::write(&partial, text + "\n").map_err(ModelError::io("write", &partial))?;
        publish(&partial, &path)
    }

    fn find(&self, name: &str, engine: EngineKind) -> Option<&SharedModel> {
        self.models.iter().find(|model| model.name == name && model.engine == engine.name())
    }

    /// The one model for `engine` in it.
    ///
    /// # Errors
    /// None, or several: the text says which.
    pub(super) fn only(&self, engine: EngineKind) -> Result<&SharedModel, String> {
        let fitting: Vec<_> = self.models.iter().filter(|model| model.engine == engine.name()).collect();
        match fitting.as_slice() {
            [one] => Ok(one),
            [] => Err(format!("MANIFEST.json names no model for the {} engine", engine.name())),
            several => {
                let names: Vec<_> = several.iter().map(|model| model.name.as_str()).collect();
                Err(format!("MANIFEST.json names {}: choose one by its name", names.join(", ")))
            }
        }
    }
}

impl SharedModel {
    /// The folder to read it from, below `root`.
    pub(super) fn folder(&self, root: &Path) -> PathBuf {
        match self.gguf.as_ref().and_then(|gguf| gguf.parent()) {
            Some(parent) => root.join(parent),
            None => root.join(&self.hf_folder),
        }
    }
}

fn changed_ms(metadata: &std::fs::Metadata) -> u64 {
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    changed.and_then(|time| u64::try_from(time.as_millis()).ok()).unwrap_or_default()
}

/// Whether every file has the size and the time that the manifest says.
fn is_unchanged(model: &SharedModel, folder: &Path) -> bool {
    model.files.iter().all(|file| {
        let metadata = folder.join(&file.path).metadata();
        metadata.is_ok_and(|found| found.len() == file.bytes && changed_ms(&found) == file.changed_ms)
    })
}

/// Removes files that are not what the manifest says, so that they are fetched anew; gives their paths.
async fn remove_wrong(
    model: &SharedModel,
    folder: &Path,
    check: Check,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, ModelError> {
    let mut wrong = Vec::new();
    for file in &model.files {
        let path = folder.join(&file.path);
        let Ok(metadata) = path.metadata() else {
            wrong.push(file.path.clone());
            continue;
        };
        let is_same_size = metadata.len() == file.bytes;
        let is_same_time = changed_ms(&metadata) == file.changed_ms;
        if is_same_size && is_same_time && check == Check::Quick {
            continue;
        }
        if !is_same_size || hash(&path, file.bytes, progress).await? != file.sha256 {
            remove(&path)?;
            wrong.push(file.path.clone());
        }
    }
    let is_derived = model.gguf.as_ref().is_some_and(|gguf| gguf.parent() != Some(&model.hf_folder));
    if is_derived && wrong.iter().any(|path| path.starts_with(&model.hf_folder)) {
        // These were written out of the GGUF, all of them or none.
        remove(&folder.join(&model.hf_folder))?;
    }
    Ok(wrong)
}

async fn hash(path: &Path, bytes: u64, progress: &dyn Progress) -> Result<String, ModelError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    tell(progress, Stage::Verify { name }, 0, Some(bytes));
    let owned = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || sha256_of(&owned)).await;
    hashed.map_err(|error| ModelError::io("read", path)(error.into()))?
}

/// Reads every file of a model.
async fn describe(
    name: &str,
    model: &LocalModel,
    context: &ResolveContext,
    progress: &dyn Progress,
) -> Result<SharedModel, ModelError> {
    let root = context.cache.root();
    let within = |path: &Path| {
        let outside =
            || ModelError::Folder { folder: root.to_owned(), what: format!("{} is outside of it", path.display()) };
        path.strip_prefix(root).map(Path::to_owned).map_err(|_| outside())
    };
    let mut paths: BTreeSet<PathBuf> = model.gguf.iter().cloned().collect();
    let listed = std::fs::read_dir(&model.hf_folder).map_err(ModelError::io("list", &model.hf_folder))?;
    paths.extend(listed.flatten().map(|entry| entry.path()).filter(|path| path.is_file()));
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let metadata = path.metadata().map_err(ModelError::io("read", &path))?;
        let sha256 = hash(&path, metadata.len(), progress).await?;
        files.push(SharedFile {
            path: within(&path)?,
            bytes: metadata.len(),
            sha256,
            changed_ms: changed_ms(&metadata),
        });
    }
    Ok(SharedModel {
        name: name.to_owned(),
        engine: context.engine.name().to_owned(),
        gguf: model.gguf.as_deref().map(within).transpose()?,
        hf_folder: within(&model.hf_folder)?,
        files,
    })
}
