//! The files that a model card names: fetched from URL, path or a local folder, and verified by BLAKE3 before use.

use futures::StreamExt;
use protocol::card::{CheckedFile, GenConfig, ModelCard, ModelInfo, PromptFormatter, TokenizerKind};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::preprocess::{ModelFiles, TemplateFile};
use runtime::world::World;

/// Largest model file that is read. The largest tokenizers are about 40 MB; stock allows 1 GiB.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Longest download of one file.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Where files come from and where verified ones are kept.
#[derive(Clone, Debug)]
pub(crate) struct FileStore {
    world: World,
    cache: PathBuf,
    fallback: Option<PathBuf>,
    http: reqwest::Client,
}

/// A file that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("the model card names no {0}")]
    Missing(&'static str),
    #[error("{path}: its checksum {checksum:?} is not `blake3:` and 64 hex digits")]
    BadChecksum { path: String, checksum: String },
    #[error("{path}: {}", tried.join("; "))]
    Unreachable { path: String, tried: Vec<String> },
}

impl FileStore {
    /// `cache` is made when the first file is kept; `fallback` is a folder that may have the files too.
    pub(crate) fn new(world: World, cache: PathBuf, fallback: Option<PathBuf>) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(FETCH_TIMEOUT).no_proxy().build()?;
        Ok(Self { world, cache, fallback, http })
    }

    /// The machine whose files these are.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Every file that the text side needs, local and verified.
    pub(crate) async fn files_of(&self, card: &ModelCard) -> Result<ModelFiles, FileError> {
        let tokenizer = match &card.tokenizer {
            Some(TokenizerKind::HfTokenizerJson(file)) => self.local(file).await?,
            Some(TokenizerKind::TikTokenModel(_)) => {
                return Err(FileError::Missing("tokenizer.json (a tiktoken model is not supported)"));
            }
            None => return Err(FileError::Missing("tokenizer")),
        };
        let mut files = ModelFiles {
            tokenizer,
            tokenizer_config: None,
            config: None,
            generation_config: None,
            chat_template: None,
        };
        if let Some(ModelInfo::HfConfigJson(file)) = &card.model_info {
            files.config = Some(self.local(file).await?);
        }
        if let Some(GenConfig::HfGenerationConfigJson(file)) = &card.gen_config {
            files.generation_config = Some(self.local(file).await?);
        }
        for formatter in [&card.prompt_formatter, &card.chat_template_file].into_iter().flatten() {
            match formatter {
                PromptFormatter::HfTokenizerConfigJson(file) => files.tokenizer_config = Some(self.local(file).await?),
                PromptFormatter::HfChatTemplate { file, .. } => {
                    files.chat_template = Some(TemplateFile::Jinja(self.local(file).await?));
                }
                PromptFormatter::HfChatTemplateJson { file, .. } => {
                    files.chat_template = Some(TemplateFile::Json(self.local(file).await?));
                }
            }
        }
        Ok(files)
    }

    /// A local path to verified content: the kept copy, the URL, the path itself, then the fallback folder.
    async fn local(&self, file: &CheckedFile) -> Result<PathBuf, FileError> {
        let hash = parse_checksum(&file.checksum)
            .ok_or_else(|| FileError::BadChecksum { path: file.path.clone(), checksum: file.checksum.clone() })?;
        let kept = self.cache.join(hash.to_hex().as_str());
        if self.verify(kept.clone(), hash).await.is_ok() {
            return Ok(kept);
        }
        let mut tried = Vec::new();
        let is_url = file.path.starts_with("http://") || file.path.starts_with("https://");
        if is_url {
            match self.download(file, hash, &kept).await {
                Ok(()) => return Ok(kept),
                Err(why) => tried.push(why),
            }
        }
        let name = file.path.rsplit('/').next().unwrap_or_default().to_owned();
        let own = (!is_url).then(|| PathBuf::from(&file.path));
        for path in own.into_iter().chain(self.fallback.iter().map(|folder| folder.join(&name))) {
            match self.verify(path.clone(), hash).await {
                Ok(()) => return Ok(path),
                Err(why) => tried.push(format!("{}: {why}", path.display())),
            }
        }
        Err(FileError::Unreachable { path: file.path.clone(), tried })
    }

    async fn download(&self, file: &CheckedFile, hash: blake3::Hash, kept: &Path) -> Result<(), String> {
        let limit = file.size.unwrap_or(FILE_BYTES_MAX).min(FILE_BYTES_MAX);
        let failed = |error: reqwest::Error| format!("download failed: {error}");
        let response = self.http.get(&file.path).send().await.map_err(failed)?;
        let response = response.error_for_status().map_err(failed)?;
        let mut bytes = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(failed)?;
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Err(format!("the file is over the {limit} bytes that the card tells"));
            }
            bytes.extend_from_slice(&chunk);
        }
        let kept = kept.to_owned();
        let keep = move || {
            let found = blake3::hash(&bytes);
            if found != hash {
                return Err(format!("checksum mismatch: the card tells {hash}, the file has {found}"));
            }
            write_whole(&kept, &bytes).map_err(|e| format!("keep it as {}: {e}", kept.display()))
        };
        self.world.off_thread(keep).await.unwrap_or_else(|e| Err(e.to_string()))
    }

    /// Reads the whole file and compares; off the I/O threads.
    async fn verify(&self, path: PathBuf, hash: blake3::Hash) -> Result<(), String> {
        let check = move || {
            let file = std::fs::File::open(&path).map_err(|e| e.to_string())?;
            let length = file.metadata().map_err(|e| e.to_string())?.len();
            if length > FILE_BYTES_MAX {
                return Err(format!("it has {length} bytes, the most is {FILE_BYTES_MAX}"));
            }
            let mut bytes = Vec::with_capacity(length as usize);
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            let found = blake3::hash(&bytes);
            if found == hash {
                Ok(())
            } else {
                Err(format!("checksum mismatch: the card tells {hash}, the file has {found}"))
            }
        };
        self.world.off_thread(check).await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

fn parse_checksum(text: &str) -> Option<blake3::Hash> {
    blake3::Hash::from_hex(text.strip_prefix("blake3:")?).ok()
}

/// Writes beside and renames, so that a reader never sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = folder.join(format!(".{}", uuid::Uuid::new_v4()));
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path).inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(path: &Path, content: &[u8]) -> CheckedFile {
        let checksum = format!("blake3:{}", blake3::hash(content).to_hex());
        CheckedFile { path: path.display().to_string(), checksum, size: Some(content.len() as u64) }
    }

    #[tokio::test]
    async fn a_file_with_another_content_than_the_card_tells_is_never_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, b"real").unwrap();
        let store = FileStore::new(World::default(), folder.path().join("cache"), None).unwrap();
        assert_eq!(store.local(&checked(&path, b"real")).await.unwrap(), path);
        let error = store.local(&checked(&path, b"other")).await.unwrap_err().to_string();
        assert!(error.contains("checksum mismatch"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_file_is_taken_from_the_fallback_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), b"real").unwrap();
        let store =
            FileStore::new(World::default(), folder.path().join("cache"), Some(folder.path().to_owned())).unwrap();
        let elsewhere = checked(Path::new("/no/such/folder/tokenizer.json"), b"real");
        assert_eq!(store.local(&elsewhere).await.unwrap(), folder.path().join("tokenizer.json"));
    }

    #[tokio::test]
    async fn what_a_template_file_is_the_card_says_and_not_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("6f1ed002ab5595859014ebf0951522d9");
        std::fs::write(&path, b"{}").unwrap();
        let store = FileStore::new(World::default(), folder.path().join("cache"), None).unwrap();
        let check = async |formatter: PromptFormatter, expected: TemplateFile| {
            let mut card: ModelCard = serde_json::from_value(serde_json::json!({"display_name":"m","slug":"m",
                "kv_cache_block_size":16,"migration_limit":0,"model_type":"Chat","model_input":"Tokens"}))
            .unwrap();
            card.tokenizer = Some(TokenizerKind::HfTokenizerJson(checked(&path, b"{}")));
            card.chat_template_file = Some(formatter);
            assert_eq!(store.files_of(&card).await.unwrap().chat_template, Some(expected));
        };
        let file = checked(&path, b"{}");
        let json = PromptFormatter::HfChatTemplateJson { is_custom: false, file: file.clone() };
        check(json, TemplateFile::Json(path.clone())).await;
        check(PromptFormatter::HfChatTemplate { is_custom: true, file }, TemplateFile::Jinja(path.clone())).await;
    }

    #[tokio::test]
    async fn a_checksum_that_is_not_blake3_is_told() {
        let store = FileStore::new(World::default(), std::env::temp_dir(), None).unwrap();
        let file = CheckedFile { path: "/x".into(), checksum: "sha256:00".into(), size: None };
        assert!(store.local(&file).await.unwrap_err().to_string().contains("is not `blake3:`"));
    }
}
