//! The user's folders, from the environment: state, cache, discovery.

use crate::report::Failure;
use std::path::PathBuf;

/// State of runs: `BUSBAR_STATE_DIR`, else `$XDG_STATE_HOME/busbar`, else `~/.local/state/busbar`.
pub(crate) fn state() -> Result<PathBuf, Failure> {
    below("BUSBAR_STATE_DIR", "XDG_STATE_HOME", ".local/state")
}

/// Models: `BUSBAR_CACHE_DIR`, else `$XDG_CACHE_HOME/busbar`, else `~/.cache/busbar`.
pub(crate) fn cache() -> Result<PathBuf, Failure> {
    below("BUSBAR_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
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
    let home = path("HOME").ok_or_else(|| {
        Failure::new("find your home folder").cause("HOME is not set").remedy(format!("set HOME or {own}")).permanent()
    })?;
    Ok(home.join(in_home).join("busbar"))
}

/// A folder that a variable names; an empty one names none.
pub(crate) fn path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
