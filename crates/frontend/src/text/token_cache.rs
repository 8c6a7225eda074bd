//! Tokens of what was tokenized before: in a conversation, all but the last turn.
//!
//! A text is cut where that is safe ([`crate::text::cuts`]) and each piece is looked up on its own, so one that comes
//! again behind another text is found too: a template that leaves out the reasoning of earlier turns, a system prompt
//! that many conversations share. The result is that of tokenizing the whole, token by token.

use crate::text::cuts::{Cuts, Segment};
use crate::text::recent::{Key, Recent};
use crate::text::{Tokenizer, TokenizerError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shortest piece that is looked up, bytes. Below it, hash, lock and copy cost more than its tokens do; it goes on to
/// the next cut.
const SEGMENT_BYTES_MIN: usize = 256;

/// A prompt's tokens, and where they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens of the whole text.
    pub ids: Vec<u32>,
    /// `None` without a cache: it is off, or the tokenizer allows no cuts.
    pub reuse: Option<Reuse>,
}

/// What of a prompt was known already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Tokens from the cache.
    pub cached_tokens: usize,
    /// Tokens that were made.
    pub encoded_tokens: usize,
    /// Bytes of text that were handed to the tokenizer for them.
    pub encoded_bytes: usize,
}

/// Tokens of pieces of text, for one tokenizer. Share it; texts are never tokenized under its lock.
#[derive(Debug)]
pub struct TokenCache {
    bytes_max: usize,
    segment_bytes_min: usize,
    // One lock: it is taken twice a prompt, for the time of some look-ups.
    recent: Mutex<Recent>,
    /// The tokenizer was seen to disagree about a cut.
    distrusted: AtomicBool,
}

/// A piece of a prompt on its way to tokens.
struct Piece<'t> {
    segment: Segment<'t>,
    /// `None`: it is the end of a text, which the next turn will have grown.
    key: Option<Key>,
    found: Option<Arc<[u32]>>,
}

impl TokenCache {
    /// Of at most so many bytes; 0 is no cache. Takes memory only as it fills.
    pub fn new(bytes_max: usize) -> Self {
        let recent = Mutex::new(Recent::new(bytes_max));
        Self { bytes_max, segment_bytes_min: SEGMENT_BYTES_MIN, recent, distrusted: AtomicBool::new(false) }
    }

    /// The same with another shortest piece, bytes.
    #[must_use]
    pub fn with_segment_bytes_min(self, segment_bytes_min: usize) -> Self {
        Self { segment_bytes_min, ..self }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.recent.lock().bytes()
    }

    /// What [`Tokenizer::encode`] gives. Pieces are found only under the `salt` under which they were put: tenants who
    /// share no blocks share no tokens either, so none can time what another has asked.
    ///
    /// # Errors
    /// When the tokenizer's model refuses the text.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        add_special_tokens: bool,
        salt: Option<&str>,
    ) -> Result<Encoded, TokenizerError> {
        let around = match self.cuts(tokenizer) {
            Some(cuts) if add_special_tokens => cuts.around(),
            Some(_) => Some(([].as_slice(), [].as_slice())),
            None => None,
        };
        let Some((before, behind)) = around else {
            return Ok(Encoded { ids: tokenizer.encode(text, add_special_tokens)?, reuse: None });
        };
        let mut encoded = self.encode_parts(tokenizer, &[text], salt)?;
        encoded.ids.splice(0..0, before.iter().copied());
        encoded.ids.extend(behind);
        Ok(encoded)
    }

    /// The tokens of several texts, one behind the other, each tokenized for itself and without special tokens around.
    ///
    /// # Errors
    /// When the tokenizer's model refuses a text.
    pub(crate) fn encode_parts(
        &self,
        tokenizer: &Tokenizer,
        parts: &[&str],
        salt: Option<&str>,
    ) -> Result<Encoded, TokenizerError> {
        if let Some(cuts) = self.cuts(tokenizer) {
            let mut pieces = self.pieces(cuts, parts, salt);
            self.look_up(&mut pieces);
            if let Some(encoded) = self.join(tokenizer, &mut pieces)? {
                self.keep(pieces);
                return Ok(encoded);
            }
            self.distrusted.store(true, Ordering::Relaxed);
            tracing::warn!(
                "the tokenizer disagrees about where a text may be cut: prompts are tokenized whole from now"
            );
        }
        let mut ids = Vec::new();
        for part in parts {
            ids.extend(tokenizer.encode(part, false)?);
        }
        Ok(Encoded { ids, reuse: None })
    }

    fn cuts<'k>(&self, tokenizer: &'k Tokenizer) -> Option<&'k Cuts> {
        let on = self.bytes_max > 0 && !self.distrusted.load(Ordering::Relaxed);
        tokenizer.cuts().filter(|_| on)
    }

    fn pieces<'t>(&self, cuts: &Cuts, parts: &[&'t str], salt: Option<&str>) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            for segment in cuts.segments(part, self.segment_bytes_min) {
                // Before another part, the end of a text is final too.
                let ends = at + 1 < parts.len() && segment.text.len() >= self.segment_bytes_min;
                let known = segment.close.is_some() || ends;
                let key = known.then(|| key_of(&segment, salt.unwrap_or_default()));
                pieces.push(Piece { segment, key, found: None });
            }
        }
        pieces
    }

    fn look_up(&self, pieces: &mut [Piece<'_>]) {
        let mut recent = self.recent.lock();
        for piece in pieces {
            piece.found = piece.key.as_ref().and_then(|key| recent.get(key));
        }
    }

    /// The tokens of all pieces; what was not found is tokenized, and to be kept if it has a key. `None`: a piece's tokens
    /// are not what they must be.
    fn join(&self, tokenizer: &Tokenizer, pieces: &mut [Piece<'_>]) -> Result<Option<Encoded>, TokenizerError> {
        let known: usize = pieces.iter().filter_map(|piece| piece.found.as_ref()).map(|found| found.len()).sum();
        let mut reuse = Reuse { cached_tokens: known, ..Reuse::default() };
        // A token has some four bytes of text.
        let unknown = pieces.iter().filter(|piece| piece.found.is_none()).map(|piece| piece.segment.text.len() / 3);
        let mut ids = Vec::with_capacity(known + unknown.sum::<usize>());
        for piece in pieces {
            if let Some(found) = &piece.found {
                ids.extend_from_slice(found);
                piece.key = None;
                continue;
            }
            let made = tokenizer.encode(piece.segment.text, false)?;
            let Some(own) = piece.segment.own(&made) else { return Ok(None) };
            reuse.encoded_bytes += piece.segment.text.len();
            reuse.encoded_tokens += own.len();
            ids.extend_from_slice(own);
            piece.found = piece.key.map(|_| own.into());
        }
        Ok(Some(Encoded { ids, reuse: Some(reuse) }))
    }

    fn keep(&self, pieces: Vec<Piece<'_>>) {
        if pieces.iter().all(|piece| piece.key.is_none()) {
            return;
        }
        let mut recent = self.recent.lock();
        for (key, made) in pieces.into_iter().filter_map(|piece| piece.key.zip(piece.found)) {
            recent.put(key, made);
        }
    }
}

/// A piece's key holds all that its tokens depend on: the text as the tokenizer is given it, and whether the first token
/// is the piece's own.
fn key_of(segment: &Segment<'_>, salt: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(salt.len() as u64).to_le_bytes());
    hasher.update(salt.as_bytes());
    hasher.update(&[u8::from(segment.lead.is_some())]);
    hasher.update(segment.text.as_bytes());
    *hasher.finalize().as_bytes()
}
