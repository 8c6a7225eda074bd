//! A GGUF file as a model: its header checked, Hugging Face's files beside it.

use super::cache::{ModelCache, WriteLock, check_space, publish, remove};
use super::error::ModelError;
use super::gguf::GgufHeader;
use super::hf_files::{FILES, FORMAT, HfFiles};
use super::hf_folder::HfFolder;
use super::local::{LocalModel, Weights};
use super::progress::{Progress, Stage, tell};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Written last into a folder of Hugging Face's files: what they were made of.
const STAMP: &str = "busbar.json";
/// Bytes that Hugging Face's files of one model may need; the largest vocabularies give about 35 MB.
const HF_FILES_ROOM: u64 = 64 << 20;

/// Reads the header of the GGUF at `path`.
pub(super) fn open(path: &Path) -> Result<GgufHeader, ModelError> {
    if !path.exists() {
        return Err(ModelError::NotFound { path: path.to_owned() });
    }
    GgufHeader::open(path).map_err(|source| ModelError::Gguf { path: path.to_owned(), source })
}

/// The model of the GGUF at `path`. Hugging Face's files are taken from the GGUF's own folder if they are all there,
/// else written: into `FILE.hf` beside it, or into the cache where that cannot be.
pub(super) async fn model(
    path: &Path,
    served_name: String,
    cache: &ModelCache,
    progress: &dyn Progress,
) -> Result<LocalModel, ModelError> {
    let path = std::path::absolute(path).map_err(ModelError::io("find", path))?;
    let header = open(&path)?;
    let own_folder = path.parent().unwrap_or(Path::new("/"));
    if HfFolder::is_complete_for_a_frontend(own_folder) {
        let folder = HfFolder::read(own_folder)?;
        let has_chat_template = folder.has_chat_template;
        return Ok(describe(&header, path.clone(), folder.path, has_chat_template, served_name));
    }
    let (hf_folder, has_chat_template) = write_beside(&header, &path, cache, progress).await?;
    Ok(describe(&header, path, hf_folder, has_chat_template, served_name))
}

/// What a header says about a model.
pub(super) fn describe(
    header: &GgufHeader,
    gguf: PathBuf,
    hf_folder: PathBuf,
    has_chat_template: bool,
    served_name: String,
) -> LocalModel {
    let context = header.architecture_number("context_length").unwrap_or(0);
    LocalModel {
        served_name,
        gguf: Some(gguf),
        hf_folder,
        weights: Weights::Gguf,
        architecture: header.architecture().to_owned(),
        context_length: u32::try_from(context).unwrap_or(u32::MAX),
        quantization: header.quantization().map(str::to_owned),
        size: header.file_size,
        has_chat_template,
    }
}

async fn write_beside(
    header: &GgufHeader,
    path: &Path,
    cache: &ModelCache,
    progress: &dyn Progress,
) -> Result<(PathBuf, bool), ModelError> {
    let stamp = stamp_of(header, path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".hf");
    let beside = PathBuf::from(beside);
    let in_cache = cache.root().join("of-files").join(folder_name(path));
    for folder in [&beside, &in_cache] {
        if let Some(has_chat_template) = is_current(folder, &stamp) {
            return Ok((folder.clone(), has_chat_template));
        }
    }
    let lock_folder = cache.folder("of-files")?;
    let _lock = WriteLock::take(&lock_folder, progress).await?;
    // Another process may have written while this one waited.
    for folder in [&beside, &in_cache] {
        if let Some(has_chat_template) = is_current(folder, &stamp) {
            return Ok((folder.clone(), has_chat_template));
        }
    }
    tell(progress, Stage::WriteHfFiles, 0, None);
    let files = HfFiles::from_gguf(header).map_err(|source| ModelError::HfFiles { path: path.to_owned(), source })?;
    if write_folder(&files, path, &beside, &stamp).is_ok() {
        return Ok((beside, files.has_chat_template));
    }
    write_folder(&files, path, &in_cache, &stamp)?;
    Ok((in_cache, files.has_chat_template))
}

/// Writes Hugging Face's files and their stamp under another name, then renames the folder to `to`.
pub(super) fn write_folder(files: &HfFiles, of: &Path, to: &Path, stamp: &Value) -> Result<(), ModelError> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    check_space(parent, HF_FILES_ROOM)?;
    let mut new = to.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    remove(&new)?;
    std::fs::create_dir(&new).map_err(ModelError::io("create", &new))?;
    files.write(&new).map_err(|source| ModelError::HfFiles { path: of.to_owned(), source })?;
    let mut stamp = stamp.clone();
    stamp["has_chat_template"] = json!(files.has_chat_template);
    let stamp_path = new.join(STAMP);
    std::fs::write(&stamp_path, format!("{stamp:#}\n")).map_err(ModelError::io("write", &stamp_path))?;
    publish(&new, to)
}

/// Names the GGUF's contents without reading all of it: format of the files, size, time of change, header's length.
pub(super) fn stamp_of(header: &GgufHeader, path: &Path) -> Result<Value, ModelError> {
    let metadata = path.metadata().map_err(ModelError::io("read", path))?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(json!({
        "format": FORMAT,
        "gguf": path.file_name().map(|name| name.to_string_lossy()),
        "gguf_bytes": header.file_size,
        "gguf_changed_ms": changed.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        "header_bytes": header.data_offset,
    }))
}

/// Whether `folder` holds the files that `stamp` names; then, whether the model has a chat template.
pub(super) fn is_current(folder: &Path, stamp: &Value) -> Option<bool> {
    let bytes = std::fs::read(folder.join(STAMP)).ok()?;
    let mut found: Value = serde_json::from_slice(&bytes).ok()?;
    let has_chat_template = found.as_object_mut()?.remove("has_chat_template")?.as_bool()?;
    let all_there = FILES.iter().all(|name| folder.join(name).is_file());
    (found == *stamp && all_there).then_some(has_chat_template)
}

/// A folder name for a path: readable, and different for different paths.
fn folder_name(path: &Path) -> String {
    let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let readable: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(64).collect();
    format!("{readable}-{}", &hash[..16])
}
