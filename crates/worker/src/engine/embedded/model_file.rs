//! What can be said about a model file before llama.cpp sees it.

use super::error::EmbeddedError;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The first bytes of every GGUF file.
const MAGIC: &[u8; 4] = b"GGUF";

/// Checks that `path` is a readable regular file that starts as a GGUF does.
///
/// # Errors
/// [`EmbeddedError::NotAFile`] or [`EmbeddedError::NotGguf`].
pub(super) fn check(path: &Path) -> Result<(), EmbeddedError> {
    let unreadable = |reason: String| EmbeddedError::NotAFile { path: path.into(), reason };
    let meta = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    if !meta.is_file() {
        return Err(unreadable("it is a folder or a special file".into()));
    }
    let mut start = Vec::with_capacity(MAGIC.len());
    let file = File::open(path).map_err(|e| unreadable(e.to_string()))?;
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| unreadable(e.to_string()))?;
    if start != MAGIC {
        return Err(EmbeddedError::NotGguf { path: path.into(), found: String::from_utf8_lossy(&start).into_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(content: Option<&[u8]>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        if let Some(bytes) = content {
            std::fs::write(&path, bytes).unwrap();
        }
        check(&path).map_or_else(|e| e.to_string(), |()| "fine".into())
    }

    #[test]
    fn a_model_that_is_missing_empty_or_of_another_kind_is_named_with_the_reason() {
        assert!(error_of(None).contains("is not a file that can be read: No such file"));
        assert!(error_of(Some(b"")).contains("it starts with \"\""));
        assert!(error_of(Some(b"PK\x03\x04 a zip")).contains("is not a GGUF file"));
        assert_eq!(error_of(Some(b"GGUF\x03\0\0\0")), "fine");
    }

    #[test]
    fn a_folder_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path()).unwrap_err().to_string().contains("it is a folder"));
    }
}
