//! Text to tokens and back. `fastokens` encodes where it proves to agree with the reference (`tokenizers`).

use crate::text::control::ControlTokens;
use crate::text::cuts::Cuts;
use crate::text::pieces::{Pieces, Spelling};
use crate::text::sample;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Largest `tokenizer.json`, bytes; the largest known (262 k tokens) has 34 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 * 1024 * 1024;
/// Most token ids; guards the tables against an absurd id in a file.
const MAX_VOCABULARY: usize = 4 * 1024 * 1024;
/// Tokens of the vocabulary on which the byte table is compared with the reference.
const PIECES_COMPARED: usize = 1024;

/// Why a tokenizer does not load, or a text does not encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file.
    #[error("read the tokenizer {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Over [`MAX_TOKENIZER_BYTES`].
    #[error("the tokenizer has {size} bytes; at most {MAX_TOKENIZER_BYTES} are read")]
    TooLarge {
        /// Bytes.
        size: u64,
    },
    /// Not what `tokenizers` reads.
    #[error("parse tokenizer.json: {0}")]
    Parse(String),
    /// A text that the model of the tokenizer refuses.
    #[error("encode a text of {bytes} bytes: {reason}")]
    Encode {
        /// Its bytes.
        bytes: usize,
        /// Why.
        reason: String,
    },
}

/// Which encoder is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// `fastokens`: it agreed with the reference on every sample.
    Fast,
    /// `tokenizers`, for this reason.
    Reference(String),
}

/// A tokenizer of one model. Immutable; share it.
pub struct Tokenizer {
    /// The reference takes several times the memory of its file. It is let go of once nothing needs it any more, and
    /// made again from the file if something does.
    reference: OnceLock<tokenizers::Tokenizer>,
    json: Box<[u8]>,
    fast: Option<fastokens::Tokenizer>,
    encoder: Encoder,
    /// Absent when the reference must decode.
    pieces: Option<Pieces>,
    special: Vec<bool>,
    control: Option<ControlTokens>,
    /// Absent where no text may be cut.
    cuts: Option<Cuts>,
    has_normalizer: bool,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("encoder", &self.encoder).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Blocks; a second for the largest.
    ///
    /// # Errors
    /// When the file cannot be read, or is none that `tokenizers` reads.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let read = |source| TokenizerError::Read { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(read)?.len();
        if size > MAX_TOKENIZER_BYTES {
            return Err(TokenizerError::TooLarge { size });
        }
        Self::from_json(&std::fs::read(path).map_err(read)?)
    }

    /// The tokenizer of a `tokenizer.json` in memory.
    ///
    /// # Errors
    /// When it is none that `tokenizers` reads.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let reference = reference_of(json)?;
        let value: Value = serde_json::from_slice(json).map_err(|error| TokenizerError::Parse(error.to_string()))?;
        let (tokens, special) = vocabulary(&reference)?;
        let spelling = value.get("decoder").and_then(Spelling::of_decoder);
        let pieces = spelling
            .map(|spelling| Pieces::build(&tokens, spelling))
            .filter(|pieces| pieces_agree(pieces, &reference, tokens.len()));
        if pieces.is_none() {
            tracing::warn!(
                "the tokenizer's decoder is of an uncommon kind: each token is decoded by the slower reference"
            );
        }
        let has_normalizer = value.get("normalizer").is_some_and(|normalizer| !normalizer.is_null());
        let cuts = Cuts::of(&value, &reference);
        let (fast, encoder) = match fast_encoder(value, &reference, &tokens, &special) {
            Ok(fast) => (Some(fast), Encoder::Fast),
            Err(reason) => (None, Encoder::Reference(reason)),
        };
        if let Encoder::Reference(reason) = &encoder {
            tracing::warn!(%reason, "prompts are encoded by the slower reference tokenizer");
        }
        let texts =
            tokens.iter().zip(&special).filter(|(_, special)| **special).filter_map(|(text, _)| text.as_deref());
        let control = ControlTokens::of(texts);
        let (reference, json) = (OnceLock::from(reference), json.into());
        let mut made = Self { reference, json, fast, encoder, pieces, special, control, cuts, has_normalizer };
        if made.cuts.as_ref().is_some_and(|cuts| !made.agrees_when_cut(cuts, &tokens)) {
            tracing::warn!("the tokenizer gives other tokens for a text in pieces: prompts are always tokenized whole");
            made.cuts = None;
        }
        Ok(made)
    }

    /// Gives back the memory of the reference tokenizer, where the fast encoder and the byte table do its work.
    pub fn release_reference(&mut self) {
        if self.fast.is_some() && self.pieces.is_some() {
            self.reference.take();
        }
    }

    /// The reference; made anew when it was released, which blocks as long as the load did.
    fn reference(&self) -> &tokenizers::Tokenizer {
        self.reference.get_or_init(|| reference_of(&self.json).expect("the same bytes made one at the load"))
    }

    /// Which encoder is in use, and why if it is the slower one.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Encodes a text; special tokens written in it are recognized. `add_special_tokens` puts the model's own around it
    /// (such as a begin-of-text token), which a chat template does itself.
    ///
    /// # Errors
    /// When the tokenizer's model refuses the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        if let Some(fast) = &self.fast {
            match fast.encode_with_special_tokens(text, add_special_tokens) {
                Ok(ids) => return Ok(ids),
                Err(error) => tracing::warn!(%error, "the fast tokenizer refused a text: the reference encodes it"),
            }
        }
        self.encode_by_reference(text, add_special_tokens)
    }

    /// The model's control tokens, to be looked for in what clients write.
    pub(crate) fn control(&self) -> Option<&ControlTokens> {
        self.control.as_ref()
    }

    /// Where texts may be cut; `None` where they may not.
    pub(crate) fn cuts(&self) -> Option<&Cuts> {
        self.cuts.as_ref()
    }

    /// Whether the samples have the same tokens in pieces as whole. The rule of the cuts is proven for what the file
    /// says; this is for an encoder that reads the file otherwise.
    fn agrees_when_cut(&self, cuts: &Cuts, tokens: &[Option<String>]) -> bool {
        let special: Vec<String> =
            tokens.iter().zip(&self.special).filter(|(_, special)| **special).filter_map(|(t, _)| t.clone()).collect();
        sample::texts(&special).iter().filter(|text| text.len() < sample::LONG_LEN).all(|text| {
            let mut joined = Vec::new();
            cuts.segments(text, 1).iter().all(|segment| {
                let made = self.encode(segment.text, false).ok();
                made.and_then(|made| segment.own(&made).map(|own| joined.extend_from_slice(own))).is_some()
            }) && self.encode(text, false).is_ok_and(|whole| whole == joined)
        })
    }

    /// What [`Tokenizer::encode`] gives, by the reference, whatever the encoder in use.
    ///
    /// # Errors
    /// When the tokenizer's model refuses the text.
    pub fn encode_by_reference(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .reference()
            .encode_fast(text, add_special_tokens)
            .map_err(|error| TokenizerError::Encode { bytes: text.len(), reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Decodes a whole text by the reference. Ids without a token are left out.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        self.reference().decode(ids, skip_special_tokens).unwrap_or_default()
    }

    /// The bytes of a token. Without a byte table: those of its text alone.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        match self.piece(id) {
            Some(bytes) => Cow::Borrowed(bytes),
            None => Cow::Owned(self.decode(&[id], false).into_bytes()),
        }
    }

    /// The id of a token by its text, such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.reference().token_to_id(token)
    }

    /// Whether `skip_special_tokens` leaves it out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// One more than the largest token id.
    pub fn vocabulary_len(&self) -> usize {
        self.special.len()
    }

    /// The fewest tokens that a text of `bytes` bytes can have: a bound that needs no tokenizing.
    ///
    /// 0 when a normalizer may shrink the text before it is cut.
    pub fn least_tokens(&self, bytes: usize) -> usize {
        match &self.pieces {
            Some(pieces) if !self.has_normalizer => bytes / pieces.longest().max(1),
            _ => 0,
        }
    }

    /// The bytes of a token in the table; `None` without a table.
    pub(crate) fn piece(&self, id: u32) -> Option<&[u8]> {
        self.pieces.as_ref().map(|pieces| pieces.bytes(id))
    }
}

fn reference_of(json: &[u8]) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let parse = |error: tokenizers::Error| TokenizerError::Parse(error.to_string());
    let mut reference = tokenizers::Tokenizer::from_bytes(json).map_err(parse)?;
    // A file may ask for truncation or padding: training settings that would falsify prompts.
    reference.with_padding(None);
    reference.with_truncation(None).map_err(parse)?;
    Ok(reference)
}

/// Token texts by id, and which of them are special.
fn vocabulary(reference: &tokenizers::Tokenizer) -> Result<(Vec<Option<String>>, Vec<bool>), TokenizerError> {
    let by_text = reference.get_vocab(true);
    let count = by_text.values().max().map_or(0, |&largest| largest as usize + 1);
    if count > MAX_VOCABULARY {
        return Err(TokenizerError::Parse(format!(
            "a token has the id {}; at most {MAX_VOCABULARY} are taken",
            count - 1
        )));
    }
    let mut tokens = vec![None; count];
    for id in by_text.into_values() {
        // Not the map's own key: where an added token shadows another, the reference shows the added one.
        tokens[id as usize] = reference.id_to_token(id);
    }
    let added = reference.get_added_vocabulary();
    let special = tokens.iter().map(|token| token.as_ref().is_some_and(|t| added.is_special_token(t))).collect();
    Ok((tokens, special))
}

/// Whether the table gives the bytes that the reference decodes, on tokens spread over the vocabulary.
fn pieces_agree(pieces: &Pieces, reference: &tokenizers::Tokenizer, count: usize) -> bool {
    let stride = (count / PIECES_COMPARED).max(1);
    let Some(anchor) = ["a", "e", "0", "."].iter().find_map(|text| reference.token_to_id(text)) else { return false };
    let Ok(before) = reference.decode(&[anchor], false) else { return false };
    (0..count).step_by(stride).all(|id| {
        let Ok(id) = u32::try_from(id) else { return false };
        let mut bytes = before.clone().into_bytes();
        bytes.extend_from_slice(pieces.bytes(id));
        // Another token follows: some decoders treat the last one differently.
        bytes.extend_from_slice(before.as_bytes());
        // Byte tokens that are no text differ in the number of U+FFFD: nothing to compare there.
        let Ok(ours) = String::from_utf8(bytes) else { return true };
        reference.decode(&[anchor, id, anchor], false).is_ok_and(|theirs| theirs == ours)
    })
}

/// The fast encoder, if it agrees with the reference on every sample; else why not.
fn fast_encoder(
    value: Value,
    reference: &tokenizers::Tokenizer,
    tokens: &[Option<String>],
    special: &[bool],
) -> Result<fastokens::Tokenizer, String> {
    let mut fast = fastokens::Tokenizer::from_json(value).map_err(|error| format!("it does not load: {error}"))?;
    fast.set_truncation(None);
    fast.set_padding(None);
    let special: Vec<String> =
        tokens.iter().zip(special).filter(|(_, special)| **special).filter_map(|(token, _)| token.clone()).collect();
    for text in sample::texts(&special) {
        // What is put around a text does not depend on its length: the long one is encoded once.
        let rounds: &[bool] = if text.len() < sample::LONG_LEN { &[false, true] } else { &[false] };
        for &add_special_tokens in rounds {
            let theirs = fast
                .encode_with_special_tokens(&text, add_special_tokens)
                .map_err(|error| format!("it refuses a sample: {error}"))?;
            let ours = reference.encode_fast(text.as_str(), add_special_tokens).map_err(|error| error.to_string())?;
            if ours.get_ids() != theirs {
                let shown: String = text.chars().take(60).collect();
                return Err(format!("its tokens differ on the sample {shown:?}"));
            }
        }
    }
    Ok(fast)
}
