//! The checksum of a model card, `mdc_sum` of a request: workers of one name whose sums differ do not serve together.
//!
//! Source: Dynamo 1.6.1 on the wire, §3.3; the recorded card gives the recorded sum. Paths and sizes of files, the
//! migration limit and the limits of `runtime_config` are not in it, the source path is. The stock sum also covers
//! fields that [`ModelCard`] does not hold (`prompt_context`, `router_config`, `indexer_identity`, and vLLM's video and
//! LoRA-tower flags): a card with one of those has another sum here than at a stock peer. No stock worker checks it.

use super::checksum::digest_of;
use crate::card::{CheckedFile, ModelCard};

/// The sum, 64 hex digits.
pub fn card_sum(card: &ModelCard) -> String {
    let mut sum = blake3::Hasher::new();
    sum.update(card.display_name.as_bytes());
    sum.update(card.source_path.as_deref().unwrap_or_default().as_bytes());
    for file in card.files() {
        sum.update(file.checksum.as_bytes());
    }
    for (name, digest) in extra_files(&card.extra_files) {
        sum.update(name.as_bytes());
        sum.update(&[0]);
        sum.update(digest.as_bytes());
    }
    sum.update(&card.effective_context_length().to_be_bytes());
    sum.update(&card.kv_cache_block_size.to_be_bytes());
    sum.update(&[card.worker_type.as_deref().map_or(0, worker_type_number)]);
    sum.update(&(card.needs.len() as u32).to_be_bytes());
    for alternative in &card.needs {
        sum.update(&(alternative.len() as u32).to_be_bytes());
        for worker_type in alternative {
            sum.update(&[worker_type_number(worker_type)]);
        }
    }
    if !card.aliases.is_empty() {
        sum.update(&(card.aliases.len() as u32).to_be_bytes());
        for alias in &card.aliases {
            sum.update(&(alias.len() as u32).to_be_bytes());
            sum.update(alias.as_bytes());
        }
    }
    sum.finalize().to_hex().to_string()
}

/// File name and digest of each, sorted.
fn extra_files(files: &[CheckedFile]) -> Vec<(&str, &str)> {
    let name = |path: &'_ str| path.rfind('/').map_or(0, |slash| slash + 1);
    let mut pairs: Vec<_> = files
        .iter()
        .map(|file| (&file.path[name(&file.path)..], digest_of(&file.checksum).unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// The byte that stands for a worker type; 0 for one that 1.6.1 does not know.
fn worker_type_number(worker_type: &str) -> u8 {
    match worker_type {
        "prefill" => 1,
        "decode" => 2,
        "encode" => 3,
        "aggregated" => 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum that the stock frontend sent for the recorded card; see `tests/recordings.rs` for the card itself.
    #[test]
    fn every_field_of_the_sum_changes_it_and_no_other() {
        let card: ModelCard = serde_json::from_str(concat!(
            r#"{"display_name":"m","slug":"m","kv_cache_block_size":16,"migration_limit":0,"#,
            r#""model_type":"Chat | Completions","model_input":"Tokens"}"#,
        ))
        .unwrap();
        let base = card_sum(&card);
        let with = |change: fn(&mut ModelCard)| {
            let mut other = card.clone();
            change(&mut other);
            card_sum(&other)
        };
        let changes: [fn(&mut ModelCard); 8] = [
            |c| c.display_name = "n".into(),
            |c| c.source_path = Some("/models/m".into()),
            |c| c.architectural_max_context_length = Some(2048),
            |c| c.kv_cache_block_size = 32,
            |c| c.worker_type = Some("decode".into()),
            |c| c.needs = vec![vec!["prefill".into()]],
            |c| c.aliases = vec!["x".into()],
            |c| c.extra_files = vec![CheckedFile { path: "/a/b".into(), checksum: "blake3:0".into(), size: None }],
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_ne!(with(change), base, "change {index}");
        }
        assert_eq!(with(|c| c.migration_limit = 3), base);
        assert_eq!(with(|c| c.slug = "other".into()), base);
        assert_eq!(with(|c| c.runtime_config.max_num_seqs = Some(7)), base);
    }
}
