//! The platform chart that this binary holds.

use super::ClusterError;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Path below the chart's folder and content of every file, in the order of the paths.
pub const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/chart.rs"));

/// Hexadecimal digits of a fingerprint: enough to tell any two releases of one cluster apart.
const FINGERPRINT_DIGITS: usize = 16;

/// Names chart and values together, so that an unchanged release is known by its description.
pub fn fingerprint(values: &str) -> String {
    let mut hash = Sha256::new();
    for (name, content) in FILES {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    hash.update(values);
    let mut digits = String::new();
    for byte in hash.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits.truncate(FINGERPRINT_DIGITS);
    digits
}

/// Writes the chart below `scratch` anew and gives its folder.
///
/// # Errors
/// [`ClusterError::File`].
pub fn unpack(scratch: &Path) -> Result<PathBuf, ClusterError> {
    let root = scratch.join("chart");
    let failed = |act, path: &Path| {
        let path = path.to_owned();
        move |source| ClusterError::File { act, path, source }
    };
    if root.exists() {
        std::fs::remove_dir_all(&root).map_err(failed("remove the folder", &root))?;
    }
    for (name, content) in FILES {
        let path = root.join(name);
        let folder = path.parent().unwrap_or(&root);
        std::fs::create_dir_all(folder).map_err(failed("create the folder", folder))?;
        std::fs::write(&path, content).map_err(failed("write", &path))?;
    }
    Ok(root)
}
