//! The container image of this binary, made and pushed without a container engine.
//!
//! Two layers: loader, libraries and small files; and the binary, which alone changes from build to build. [`push`] sends
//! to a registry what is not there, [`save`] writes a file. With [`Options::base`] both lie on another image, as vLLM's.
//! `docs/decisions/0016-image.md` says what is in the image and why.
//!
//! **Invariant:** the same binary on the same machine is the same image, byte for byte; and a tag is given only to an
//! image that is there whole.

mod archive;
mod contents;
mod credentials;
mod document;
mod elf;
mod error;
mod layer;
mod libraries;
mod registry;

pub use credentials::{Login, docker_file};
pub use elf::ElfError;
pub use error::ImageError;

use contents::{Contents, Packing};
use document::Documents;
use oci_client::{Reference, RegistryOperation};
use registry::Repository;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Name of an image that is saved without one: podman's form for images of this machine.
pub const LOCAL_NAME: &str = "localhost/busbar";

/// What to pack and how to reach registries.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The binary; the door gives its own (`std::env::current_exe`).
    pub program: PathBuf,
    /// Image that ours lies on; on nothing when absent.
    pub base: Option<String>,
    /// Speak plain HTTP with both registries. On loopback it is the rule.
    pub plain_http: bool,
    /// Leave out names of functions and lines of source: less than half of the size, and backtraces without names.
    pub strip: bool,
    /// Who we are to registries.
    pub login: Login,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The layers are packed.
    Pack,
    /// The base's description is read.
    ReadBase {
        /// Its reference.
        base: String,
    },
    /// A blob is in the registry already.
    Present {
        /// What it is.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// A blob is sent.
    Send {
        /// What it is.
        what: String,
        /// Bytes that are handed over.
        done: u64,
        /// Its size.
        total: u64,
    },
}

/// Takes the progress; must not block.
type Tell<'a> = &'a dyn Fn(Progress);

/// A layer of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackedLayer {
    /// `libraries` or `binary`.
    pub name: &'static str,
    /// `sha256:…` of its compressed bytes.
    pub digest: String,
    /// Its compressed size.
    pub bytes: u64,
}

/// An image that is in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// `REGISTRY/NAME:TAG`.
    pub reference: String,
    /// `REGISTRY/NAME@sha256:…`: the same image for ever.
    pub pinned: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Compressed size of our layers and of the base's, as a node pulls them.
    pub bytes: u64,
    /// Bytes that were sent now; 0 when all was there.
    pub sent_bytes: u64,
    /// Our layers.
    pub layers: Vec<PackedLayer>,
    /// The file from which certificates of public authorities were taken; with a base they are the base's.
    pub certificates: Option<PathBuf>,
}

/// An image that is in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// The file.
    pub file: PathBuf,
    /// The name under which it is imported.
    pub reference: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Size of the file.
    pub bytes: u64,
    /// Our layers.
    pub layers: Vec<PackedLayer>,
    /// The file from which certificates of public authorities were taken.
    pub certificates: Option<PathBuf>,
}

/// Packs the binary and brings the image to a registry; sends only what is not there.
///
/// `reference` is `REGISTRY/NAME[:TAG]`; the tag is Busbar's version unless written. Safe to drop or kill at any moment
/// and to run again: the tag is set last.
///
/// # Errors
/// [`ImageError`], with a remedy.
pub async fn push(reference: &str, options: &Options, tell: &dyn Fn(Progress)) -> Result<Pushed, ImageError> {
    let target = parse(reference)?;
    let repository =
        Repository::open(target.clone(), &options.login, options.plain_http, RegistryOperation::Push).await?;
    let base = match &options.base {
        None => None,
        Some(written) => {
            tell(Progress::ReadBase { base: written.clone() });
            let source = of_text(written)?;
            let same = source.resolve_registry() == target.resolve_registry();
            // What was given for the target's registry is not shown to another one.
            let login =
                if same { options.login.clone() } else { Login { given: None, file: options.login.file.clone() } };
            let source = Repository::open(source, &login, options.plain_http, RegistryOperation::Pull).await?;
            let base = source.base(written).await?;
            Some((source, base))
        }
    };
    tell(Progress::Pack);
    let contents = pack(options).await?;
    let documents = Documents::of(&contents, base.as_ref().map(|(_, base)| base))?;
    let mut sent_bytes = 0;
    if !repository.is_named(&documents.digest).await {
        if let Some((source, base)) = &base {
            for blob in &base.layers {
                sent_bytes += repository.copy(source, blob, tell).await?;
            }
        }
        for layer in [&contents.libraries, &contents.program] {
            sent_bytes += repository.send(layer.name, &layer.bytes, &layer.digest, tell).await?;
        }
        let config = documents.config.clone().into();
        sent_bytes += repository.send("configuration", &config, &layer::digest(&config), tell).await?;
        repository.name(&documents.manifest).await?;
    }
    let layers = layers(&contents);
    let below: u64 = base.iter().flat_map(|(_, base)| &base.layers).map(|blob| blob.size).sum();
    Ok(Pushed {
        pinned: format!("{}/{}@{}", target.registry(), target.repository(), documents.digest),
        reference: target.whole(),
        digest: documents.digest,
        bytes: below + layers.iter().map(|layer| layer.bytes).sum::<u64>(),
        sent_bytes,
        layers,
        certificates: contents.certificates,
    })
}

/// Packs the binary and writes the image to `file`, under `name` (`localhost/busbar:VERSION` when absent).
///
/// # Errors
/// [`ImageError`], with a remedy.
pub async fn save(
    file: &Path,
    name: Option<&str>,
    options: &Options,
    tell: &dyn Fn(Progress),
) -> Result<Saved, ImageError> {
    let reference = parse(name.unwrap_or(LOCAL_NAME))?;
    tell(Progress::Pack);
    let contents = pack(options).await?;
    let documents = Documents::of(&contents, None)?;
    let tag = reference.tag().unwrap_or(VERSION);
    let bytes = archive::write(file, &reference.whole(), tag, &contents, &documents)?;
    Ok(Saved {
        file: file.to_owned(),
        reference: reference.whole(),
        digest: documents.digest,
        bytes,
        layers: layers(&contents),
        certificates: contents.certificates,
    })
}

/// The tag of an image that is named without one.
const VERSION: &str = env!("CARGO_PKG_VERSION");

async fn pack(options: &Options) -> Result<Contents, ImageError> {
    let (program, strip, on_a_base) = (options.program.clone(), options.strip, options.base.is_some());
    let packed = tokio::task::spawn_blocking(move || contents::pack(Packing { program: &program, strip, on_a_base }));
    packed.await.map_err(|error| ImageError::Pack { what: "image", source: std::io::Error::other(error) })?
}

fn layers(contents: &Contents) -> Vec<PackedLayer> {
    let of = |layer: &layer::Layer| PackedLayer {
        name: layer.name,
        digest: layer.digest.clone(),
        bytes: layer.bytes.len() as u64,
    };
    vec![of(&contents.libraries), of(&contents.program)]
}

fn of_text(text: &str) -> Result<Reference, ImageError> {
    Reference::try_from(text).map_err(|error| ImageError::Reference { text: text.to_owned(), why: error.to_string() })
}

/// A reference that can be given to an image: a registry, a name, a tag.
fn parse(text: &str) -> Result<Reference, ImageError> {
    let reference = of_text(text)?;
    let wrong = |why: &str| Err(ImageError::Reference { text: text.to_owned(), why: why.to_owned() });
    if reference.digest().is_some() {
        return wrong("a digest is found out and not chosen");
    }
    if reference.repository().starts_with("library/") {
        return wrong("it has no registry, and nobody may push to Docker's own images");
    }
    if reference.repository().contains(|c: char| c.is_ascii_uppercase()) {
        return wrong("a repository is named in lower case");
    }
    // The parser gives `latest` to a name without a tag; that is no name for something to be deployed.
    let has_tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let tag = if has_tag { reference.tag().unwrap_or(VERSION) } else { VERSION };
    Ok(Reference::with_tag(reference.registry().to_owned(), reference.repository().to_owned(), tag.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_gets_the_version_and_a_name_without_a_registry_is_refused() {
        for (text, expected) in [
            ("r.example:5000/a/b:1", "r.example:5000/a/b:1".to_owned()),
            ("r.example:5000/a/b", format!("r.example:5000/a/b:{VERSION}")),
            ("team/busbar", format!("docker.io/team/busbar:{VERSION}")),
            ("localhost/busbar", format!("localhost/busbar:{VERSION}")),
        ] {
            assert_eq!(parse(text).unwrap().whole(), expected, "{text}");
        }
        for text in ["busbar", "UPPER/x", "", "r.example/a@sha256:", &format!("r.example/a@sha256:{}", "0".repeat(64))]
        {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(text) && error.remedy().contains("REGISTRY/NAME:TAG"), "{error}");
        }
    }
}
