//! The user's folders, from the environment: state, cache, discovery.

use crate::report::Failure;
use rustix::fs::Access;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where a container with a read-only root can be written, in this order: the image's folders that a pod mounts a volume
/// at, and the memory that every container has.
const SPARE: [&str; 2] = ["/workspace", "/dev/shm"];

/// State of runs: `BUSBAR_STATE_DIR`, else `$XDG_STATE_HOME/busbar`, else `~/.local/state/busbar`; below a temporary
/// folder where there is no home that can be written.
pub(crate) fn state() -> Result<PathBuf, Failure> {
    below("BUSBAR_STATE_DIR", "XDG_STATE_HOME", ".local/state")
}

/// Models: `BUSBAR_CACHE_DIR`, else `$XDG_CACHE_HOME/busbar`, else `~/.cache/busbar`; below a temporary folder where
/// there is no home that can be written.
pub(crate) fn cache() -> Result<PathBuf, Failure> {
    below("BUSBAR_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
}

/// Models that another process has fetched for all (`busbar model fetch --into`), read only: `BUSBAR_MODEL_CACHE`.
pub(crate) fn model_cache() -> Option<PathBuf> {
    path("BUSBAR_MODEL_CACHE")
}

/// Root of file discovery: `DYN_FILE_KV`, else the folder that Dynamo's own processes take.
pub(crate) fn discovery() -> PathBuf {
    path("DYN_FILE_KV").unwrap_or_else(|| std::env::temp_dir().join("dynamo_store_kv"))
}

fn below(own: &str, xdg: &str, in_home: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = path(own) {
        return Ok(path);
    }
    if let Some(path) = path(xdg).filter(|path| path.is_absolute()) {
        return Ok(path.join("busbar"));
    }
    let home = path("HOME").map(|home| home.join(in_home).join("busbar"));
    if let Some(home) = home.as_ref().filter(|home| can_be_made(home)) {
        return Ok(home.clone());
    }
    let why = match &home {
        Some(home) => format!("{} cannot be written", home.display()),
        None => "HOME is not set".to_owned(),
    };
    let spare = spare(&[&std::env::temp_dir(), Path::new(SPARE[0]), Path::new(SPARE[1])]);
    let Some(spare) = spare else {
        let remedy = format!("set {own} to a folder that can be written; in a pod, mount an emptyDir at /tmp");
        return Err(Failure::new("find a folder to write to").cause(why).remedy(remedy).permanent());
    };
    let folder = spare.join(in_home.trim_start_matches('.'));
    tracing::warn!(folder = %folder.display(), set = own, "{why}; a temporary folder is used, which does not stay");
    Ok(folder)
}

/// A folder of our own in the first place that can be written. Its name can be guessed, so one that is another user's,
/// or that others may write, is not taken.
fn spare(places: &[&Path]) -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    places.iter().find_map(|place| {
        let folder = place.join(format!("busbar-{user}"));
        // One that is there already is looked at below.
        let _ = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        let found = folder.symlink_metadata().ok()?;
        let is_ours = found.is_dir() && found.uid() == user && found.permissions().mode() & 0o022 == 0;
        (is_ours && can_be_made(&folder)).then_some(folder)
    })
}

/// Whether a folder can be written, or made where it is not yet.
fn can_be_made(folder: &Path) -> bool {
    let nearest = folder.ancestors().find(|ancestor| ancestor.exists());
    nearest.is_some_and(|nearest| {
        nearest.is_dir() && rustix::fs::access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    })
}

/// A folder that a variable names; an empty one names none.
pub(crate) fn path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_spare_folder_is_the_first_that_is_ours_alone() {
        let machine = tempfile::tempdir().unwrap();
        let (open, linked, good) = (machine.path().join("a"), machine.path().join("b"), machine.path().join("c"));
        for place in [&open, &linked, &good] {
            std::fs::create_dir(place).unwrap();
        }
        let name = format!("busbar-{}", rustix::process::geteuid().as_raw());
        // Others may write it; it leads elsewhere.
        std::fs::create_dir(open.join(&name)).unwrap();
        std::fs::set_permissions(open.join(&name), std::fs::Permissions::from_mode(0o777)).unwrap();
        symlink(machine.path(), linked.join(&name)).unwrap();
        let nowhere = machine.path().join("nowhere");
        assert_eq!(spare(&[&nowhere, &open, &linked, &good]), Some(good.join(&name)));
        assert_eq!(good.join(&name).metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(spare(&[&nowhere, &open, &linked]), None);
        assert_eq!(spare(&[&good]), Some(good.join(&name)));
    }
}
