//! What the image holds: the binary, its loader and libraries, and what a container's program expects to find.
//!
//! Loader and libraries stand in one folder of their own, `/usr/lib/busbar`, which the binary names in its RPATH; the
//! packed binary names the loader there too. So the image works without a loader's cache, and the same two layers lie on
//! a base image without touching its C library, however old that is.

use super::elf::Elf;
use super::error::ImageError;
use super::layer::{Entries, Entry, Layer};
use super::libraries;
use std::path::{Path, PathBuf};

/// The folder of loader and libraries. `build.rs` of the binary has it as RPATH.
pub(super) const LIBRARY_FOLDER: &str = "/usr/lib/busbar";
/// The loader's path in the image: shorter than every distribution's, so that it fits in their place.
pub(super) const LOADER: &str = "/usr/lib/busbar/ld.so";
/// Where the binary stands.
pub(super) const PROGRAM: &str = "/usr/bin/busbar";
/// On a base image, the folder that comes first in PATH: our `python3` in front of the base's own.
pub(super) const NAMES_FOLDER: &str = "/usr/lib/busbar/bin";
/// The user that the image runs as; any other works as well, as long as /tmp or a volume can be written.
pub(super) const USER: u64 = 1000;
/// The user's home.
pub(super) const HOME: &str = "/home/busbar";
/// The folder in which manifests' commands begin (Dynamo's own images have it).
pub(super) const WORKING_FOLDER: &str = "/workspace";

/// Names by which manifests start a process, without a base.
const NAMES: [&str; 4] = ["bin/sh", "bin/bash", "usr/bin/python3", "usr/bin/python"];
/// Those on a base image, which has a shell of its own.
const NAMES_ON_A_BASE: [&str; 2] = ["python3", "python"];
/// Where distributions keep the certificates of public authorities, as one PEM file.
const CERTIFICATES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where the image has them: the place where programs on Debian look.
const CERTIFICATES_IN_THE_IMAGE: &str = "etc/ssl/certs/ca-certificates.crt";

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nbusbar:x:1000:1000:busbar:/home/busbar:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nbusbar:x:1000:\n";
/// Without it some C libraries ask DNS before /etc/hosts, in which kubelets write the pod's own name.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// The two layers.
#[derive(Debug)]
pub(super) struct Contents {
    /// Loader, libraries and the small files: changes with the distribution that packs.
    pub(super) libraries: Layer,
    /// The binary alone: changes with every build.
    pub(super) program: Layer,
    /// `amd64` or `arm64`.
    pub(super) architecture: &'static str,
    /// File with the certificates of public authorities that was taken; none was found when absent.
    pub(super) certificates: Option<PathBuf>,
}

/// What to pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing<'a> {
    /// The binary.
    pub(super) program: &'a Path,
    /// Whether names of functions and lines of source are left out.
    pub(super) strip: bool,
    /// Whether the layers will lie on a base image.
    pub(super) on_a_base: bool,
}

/// Reads the binary and what it needs, and packs both layers. Takes seconds of one core.
pub(super) fn pack(packing: Packing<'_>) -> Result<Contents, ImageError> {
    let path = packing.program;
    let no_elf = |source| ImageError::Elf { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    let elf = Elf::parse(&bytes).map_err(no_elf)?;
    let architecture = architecture(elf.machine).ok_or(ImageError::Machine { machine: elf.machine })?;
    let needed = libraries::of(&elf)?;
    // Without it the loader would take the base's C library, or find none at all.
    if needed.loader.is_some() && !elf.search.iter().any(|folder| folder == LIBRARY_FOLDER) {
        return Err(ImageError::NoSearchPath { path: path.to_owned() });
    }
    let bytes = match needed.loader {
        Some(_) => elf.with_interpreter(bytes, LOADER).map_err(no_elf)?,
        None => bytes,
    };
    let bytes = if packing.strip { elf.stripped(bytes).map_err(no_elf)? } else { bytes };
    let mut files = Entries::new();
    add_libraries(&mut files, needed);
    add_folders(&mut files);
    let certificates = if packing.on_a_base {
        let links = NAMES_ON_A_BASE.iter().map(|name| format!("{}/{name}", NAMES_FOLDER.trim_start_matches('/')));
        files.extend(links.map(|path| (path, Entry::Link { to: PROGRAM.to_owned() })));
        None
    } else {
        add_system(&mut files)?
    };
    let program = Entry::File { mode: 0o755, bytes: bytes.into() };
    let program = Entries::from([(PROGRAM.trim_start_matches('/').to_owned(), program)]);
    Ok(Contents {
        libraries: Layer::pack("libraries", &files)?,
        program: Layer::pack("binary", &program)?,
        architecture,
        certificates,
    })
}

/// The word of OCI images for an ELF machine.
fn architecture(machine: u16) -> Option<&'static str> {
    match machine {
        62 => Some("amd64"),
        183 => Some("arm64"),
        _ => None,
    }
}

fn add_libraries(files: &mut Entries, needed: libraries::Libraries) {
    let folder = LIBRARY_FOLDER.trim_start_matches('/');
    files.insert(folder.to_owned(), Entry::Folder { mode: 0o755, owner: 0 });
    let libraries = needed.files.into_iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes, 0o644));
    let loader = needed.loader.map(|bytes| (LOADER.trim_start_matches('/').to_owned(), bytes, 0o755));
    for (path, bytes, mode) in libraries.chain(loader) {
        files.insert(path, Entry::File { mode, bytes: bytes.into() });
    }
}

/// Folders of the user's. Those above them belong to a base, where there is one.
fn add_folders(files: &mut Entries) {
    for path in [HOME, WORKING_FOLDER] {
        files.insert(path.trim_start_matches('/').to_owned(), Entry::Folder { mode: 0o755, owner: USER });
    }
}

/// What only an image on nothing needs. Gives the file of certificates that was taken.
fn add_system(files: &mut Entries) -> Result<Option<PathBuf>, ImageError> {
    files.insert("tmp".into(), Entry::Folder { mode: 0o1777, owner: 0 });
    for name in NAMES {
        files.insert(name.to_owned(), Entry::Link { to: PROGRAM.to_owned() });
    }
    for (path, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP), ("etc/nsswitch.conf", NSSWITCH)] {
        files.insert(path.to_owned(), Entry::File { mode: 0o644, bytes: text.into() });
    }
    let Some(path) = CERTIFICATES.iter().map(PathBuf::from).find(|path| path.is_file()) else { return Ok(None) };
    let bytes = std::fs::read(&path).map_err(|source| ImageError::Read { path: path.clone(), source })?;
    files.insert(CERTIFICATES_IN_THE_IMAGE.to_owned(), Entry::File { mode: 0o644, bytes: bytes.into() });
    Ok(Some(path))
}
