//! Platform files: read with the graphs that they name, planned, and the way to their cluster.

use super::image;
use crate::cli::{ImageFlags, Output};
use crate::folders;
use crate::progress::Progress as Shown;
use crate::report::Failure;
use ::plan::{GraphText, PLATFORM_BYTES_MAX, Plan};
use deploy::cluster::helm::Helm;
use deploy::cluster::{Cluster, Progress};
use graph::Finding;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Digits of the binary's SHA-256 in the tag of its image: another build is another image.
const TAG_DIGITS: usize = 12;
/// Bytes of the binary that are read at once.
const HASH_PIECE_BYTES: usize = 1 << 20;

/// A platform file that was read.
pub(crate) struct PlatformFile {
    /// Its path, as given.
    pub(crate) path: PathBuf,
    text: String,
}

/// The file, if it says that it is a Platform; `None` for everything else that can be read, and where none is given.
pub(crate) fn named_by(path: Option<&Path>) -> Result<Option<PlatformFile>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let text = read_text(path)?;
    // What is no YAML at all is told by whoever reads it for good.
    let is_platform = ::plan::kind_of(&text).is_ok_and(|kind| kind == ::crds::platform::KIND);
    Ok(is_platform.then(|| PlatformFile { path: path.to_owned(), text }))
}

/// Reads a platform file, and nothing else.
pub(crate) fn open(path: &Path) -> Result<PlatformFile, Failure> {
    let text = read_text(path)?;
    let shown = path.display().to_string();
    let kind = ::plan::kind_of(&text).map_err(|found| Failure::findings(&shown, &found))?;
    if kind == ::crds::platform::KIND {
        return Ok(PlatformFile { path: path.to_owned(), text });
    }
    let problem = if kind.is_empty() { "there is no kind".to_owned() } else { format!("`{kind}` is no Platform") };
    let remedy = "give a file of kind Platform; a graph alone runs on this machine with `busbar up FILE`";
    Err(Failure::findings(&shown, &[Finding::new("kind", problem, remedy)]))
}

/// The text of a file that a person wrote.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let failed = |cause: String| {
        let failure = Failure::new(format!("read {}", path.display())).cause(cause);
        failure.remedy("give the path of a file of kind DynamoGraphDeployment or Platform").permanent()
    };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > PLATFORM_BYTES_MAX as u64 {
        return Err(failed(format!("it has {size} bytes; at most {PLATFORM_BYTES_MAX} are read")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

impl PlatformFile {
    /// Plans it, with the graph files that it names.
    pub(crate) fn plan(&self) -> Result<Plan, Failure> {
        let shown = self.path.display().to_string();
        let failed = |found: Vec<Finding>| Failure::findings(&shown, &found);
        let platform = ::plan::read(&self.text).map_err(failed)?;
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let (mut texts, mut missing) = (Vec::new(), Vec::new());
        for (i, entry) in platform.graphs.iter().enumerate() {
            match &entry.file {
                None => {
                    let text = json!(entry.graph).to_string();
                    texts.push(GraphText { source: format!("graphs[{i}].graph"), text });
                }
                Some(file) => match std::fs::read_to_string(folder.join(file)) {
                    Ok(text) => texts.push(GraphText { source: file.clone(), text }),
                    Err(error) => missing.push(Finding::new(
                        format!("graphs[{i}].file"),
                        format!("{}: {error}", folder.join(file).display()),
                        "give a path that is relative to the platform file",
                    )),
                },
            }
        }
        if !missing.is_empty() {
            return Err(failed(missing));
        }
        let tag = if platform.image.is_none() { packed_tag()? } else { String::new() };
        ::plan::plan(&platform, &texts, &tag).map_err(failed)
    }
}

/// Version and the beginning of this binary's SHA-256.
fn packed_tag() -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new("read this program").cause(error.to_string());
    let program = std::env::current_exe().map_err(failed)?;
    let mut file = std::fs::File::open(program).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0u8; HASH_PIECE_BYTES];
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => break,
            len => hash.update(&piece[..len]),
        }
    }
    let mut digits = String::new();
    for byte in hash.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits.truncate(TAG_DIGITS);
    Ok(format!("{}-{digits}", env!("CARGO_PKG_VERSION")))
}

/// The user's Helm for the cluster of a plan: `BUSBAR_HELM`, else the one on PATH.
pub(crate) fn helm(plan: &Plan, cluster: &Cluster) -> Result<Helm, Failure> {
    Ok(Helm {
        program: folders::path("BUSBAR_HELM").unwrap_or_else(|| "helm".into()),
        context: cluster.context.clone(),
        scratch: folders::state()?.join("platforms").join(&plan.name),
    })
}

/// Tells a person what the cluster's side tells.
pub(crate) struct Teller {
    shown: Mutex<Shown>,
}

impl Teller {
    pub(crate) fn new(output: Output) -> Self {
        Self { shown: Mutex::new(Shown::new(output == Output::Json)) }
    }

    pub(crate) fn tell(&self, progress: Progress) {
        let Ok(mut shown) = self.shown.lock() else { return };
        match progress {
            Progress::Stage(stage) => shown.waits_for(&stage),
            Progress::Line(line) => {
                shown.waited();
                shown.line(&line);
            }
        }
    }

    pub(crate) fn line(&self, line: &str) {
        self.tell(Progress::Line(line.to_owned()));
    }

    pub(crate) fn done(&self) {
        if let Ok(mut shown) = self.shown.lock() {
            shown.waited();
        }
    }
}

/// Packs this program and pushes it, where the plan says so. What is in the registry already is not sent again.
pub(crate) async fn push_image(plan: &Plan, teller: &Teller) -> Result<(), Failure> {
    let reference = &plan.image.reference;
    if !plan.image.packed {
        return Ok(());
    }
    let options = image::options(&ImageFlags { plain_http: plan.image.plain_http, strip: false })?;
    let tell = |progress: deploy::image::Progress| {
        if let Ok(mut shown) = teller.shown.lock() {
            image::show_on(&mut shown, &progress);
        }
    };
    let pushed =
        deploy::image::push(reference, &options, &tell).await.map_err(|error| image::failed("push", &error))?;
    if let Ok(mut shown) = teller.shown.lock() {
        shown.done();
    }
    let sent = if pushed.sent_bytes == 0 { "is there already" } else { "pushed" };
    teller.line(&format!("  ✓ image {reference} {sent}"));
    Ok(())
}
