//! Where a text may be cut so that its pieces, tokenized apart, give the tokens of the whole.
//!
//! Added tokens that are not `normalized` are looked for in the raw text, leftmost and longest first, before anything
//! else happens to it. What stands between two of them is normalized, split and tokenized on its own. So a text may be
//! cut behind such a token:
//!
//! - the search goes on behind a match as if the text began there, so the head finds the same tokens as the whole, and
//!   the tail does too;
//! - what follows may depend on the token: `rstrip` takes the spaces behind it, a `single_word` token looks at the
//!   character before itself, and what is at the very beginning of a text may be treated differently (a space put before
//!   it only there). So a piece is tokenized together with the token that it stands behind, whose id is then left out;
//! - whether a `single_word` token is one depends on what stands before it: no cut behind those.
//!
//! Source: `tokenizers` 0.22.2, `AddedVocabulary::extract_and_normalize`, `find_matches`; `Metaspace::pre_tokenize`.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

/// Most pieces of one text; the rest of it is one piece. A conversation has two or three a message. Bounds the time for
/// which a text made of control tokens holds the lock of the cache.
const SEGMENTS_MAX: usize = 4096;

/// Finds the cuts.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// Every token that the tokenizer looks for in raw text, whether a cut may follow it or not.
    search: AhoCorasick,
    /// By pattern: the id of a token behind which a cut is safe.
    ids: Vec<Option<u32>>,
    /// What `add_special_tokens` puts before and behind a text.
    around: Option<(Vec<u32>, Vec<u32>)>,
}

/// A piece of a text, from one cut to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'t> {
    /// What the tokenizer is given: the piece, with the token before it if there is one.
    pub(crate) text: &'t str,
    /// That token; its id is not the piece's. `None`: the text begins here.
    pub(crate) lead: Option<u32>,
    /// The token that ends the piece, its last id. `None`: the text ends here, and may go on in a later one.
    pub(crate) close: Option<u32>,
}

impl Cuts {
    /// Of a `tokenizer.json` and what was made of it. `None` where no cut is known to be safe.
    pub(crate) fn of(json: &Value, reference: &tokenizers::Tokenizer) -> Option<Self> {
        let listed = json.get("added_tokens").and_then(Value::as_array).map_or(0, Vec::len);
        let tokens: Vec<tokenizers::AddedToken> = reference.get_added_tokens_decoder().into_values().collect();
        // Two entries of one text or of one id: which of them counts is not ours to guess.
        if tokens.len() != listed || !is_steady(json.get("model")) || !keeps_order(json.get("post_processor")) {
            return None;
        }
        let raw: Vec<&tokenizers::AddedToken> = tokens.iter().filter(|token| !token.normalized).collect();
        let id = |token: &&tokenizers::AddedToken| {
            (!token.single_word).then(|| reference.token_to_id(&token.content)).flatten()
        };
        let ids: Vec<Option<u32>> = raw.iter().map(id).collect();
        if ids.iter().all(Option::is_none) {
            return None;
        }
        let contents = raw.iter().map(|token| &token.content);
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(contents).ok()?;
        Some(Self { search, ids, around: around(reference) })
    }

    /// Cuts a text behind the first safe token of each `bytes_min` bytes. In order, without gaps; the same beginning
    /// gives the same pieces whatever follows.
    pub(crate) fn segments<'t>(&self, text: &'t str, bytes_min: usize) -> Vec<Segment<'t>> {
        let mut segments = Vec::new();
        let (mut from, mut lead_at, mut lead) = (0, 0, None);
        for found in self.search.find_iter(text) {
            let Some(id) = self.ids[found.pattern()] else { continue };
            if found.end() - from < bytes_min {
                continue;
            }
            segments.push(Segment { text: &text[lead_at..found.end()], lead, close: Some(id) });
            (from, lead_at, lead) = (found.end(), found.start(), Some(id));
            if segments.len() == SEGMENTS_MAX {
                break;
            }
        }
        if from < text.len() {
            segments.push(Segment { text: &text[lead_at..], lead, close: None });
        }
        segments
    }

    /// The ids that `add_special_tokens` puts before and behind any text. `None` when that is not known.
    pub(crate) fn around(&self) -> Option<(&[u32], &[u32])> {
        self.around.as_ref().map(|(before, behind)| (before.as_slice(), behind.as_slice()))
    }
}

impl Segment<'_> {
    /// The piece's own tokens of those of its text. `None` when the tokens at its ends are not where they must be: the
    /// tokenizer then does not see the text as [`Cuts`] does.
    pub(crate) fn own<'i>(&self, ids: &'i [u32]) -> Option<&'i [u32]> {
        let own = match self.lead {
            None => ids,
            Some(lead) => ids.split_first().filter(|(first, _)| **first == lead)?.1,
        };
        (self.close.is_none() || self.close.as_ref() == own.last()).then_some(own)
    }
}

/// Whether the same text always gives the same tokens: dropout, a setting of training, makes them random.
fn is_steady(model: Option<&Value>) -> bool {
    model.and_then(|model| model.get("dropout")).and_then(Value::as_f64).is_none_or(|dropout| dropout == 0.0)
}

/// Whether the step behind the model leaves the tokens of a text as they are, apart from those that it puts around them.
fn keeps_order(post_processor: Option<&Value>) -> bool {
    let Some(step) = post_processor.filter(|step| !step.is_null()) else { return true };
    let list = |name: &str| step.get(name).and_then(Value::as_array).map(Vec::as_slice);
    match step.get("type").and_then(Value::as_str) {
        Some("ByteLevel" | "RobertaProcessing" | "BertProcessing") => true,
        Some("TemplateProcessing") => {
            let texts = list("single").unwrap_or_default().iter().filter_map(|piece| piece.get("Sequence"));
            texts.map(|text| text.get("id").and_then(Value::as_str)).eq([Some("A")])
        }
        Some("Sequence") => list("processors").is_some_and(|steps| steps.iter().all(|step| keeps_order(Some(step)))),
        _ => false,
    }
}

/// What is put around a text, as two texts show it.
fn around(reference: &tokenizers::Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let of = |text: &str| {
        let ids = |special| Some(reference.encode_fast(text, special).ok()?.get_ids().to_vec());
        let (plain, whole) = (ids(false)?, ids(true)?);
        let at = whole.windows(plain.len().max(1)).position(|window| window == plain)?;
        Some((whole[..at].to_vec(), whole[at + plain.len()..].to_vec()))
    };
    let (one, other) = (of("a b")?, of("1, and 2")?);
    (one == other).then_some(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cuts(tokens: &[Value]) -> Option<Cuts> {
        let tokens: Vec<Value> = tokens.iter().enumerate().map(|(id, token)| token_of(id, token)).collect();
        let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": {"a": 100, "b": 101}, "merges": []}});
        Cuts::of(&json, &tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap())
    }

    fn token_of(id: usize, fields: &Value) -> Value {
        let mut token = json!({"id": id, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true});
        token.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        token
    }

    fn pieces<'t>(cuts: &Cuts, text: &'t str, bytes_min: usize) -> Vec<&'t str> {
        cuts.segments(text, bytes_min).iter().map(|segment| segment.text).collect()
    }

    #[test]
    fn a_piece_ends_behind_a_token_and_the_next_is_handed_over_with_that_token() {
        let cuts = cuts(&[json!({"content": "<s>"}), json!({"content": "<sep>"})]).unwrap();
        let segments = cuts.segments("a<s>b<sep>ab", 1);
        assert_eq!(segments[0], Segment { text: "a<s>", lead: None, close: segments[1].lead });
        assert_eq!((segments[1].text, segments[2].text), ("<s>b<sep>", "<sep>ab"));
        assert_eq!((segments[2].lead, segments[2].close), (segments[1].close, None));
        assert_eq!(pieces(&cuts, "a<s>b<sep>ab", 5), ["a<s>b<sep>", "<sep>ab"], "too short a piece goes on");
        assert_eq!(pieces(&cuts, "a<s>", 1), ["a<s>"], "nothing is left");
        assert!(cuts.segments("", 1).is_empty());
    }

    #[test]
    fn a_token_that_depends_on_its_neighbours_is_no_cut_and_yet_hides_those_within_it() {
        let cuts = cuts(&[
            json!({"content": "<s>"}),
            json!({"content": "<s><s>", "single_word": true}),
            json!({"content": "<r>", "rstrip": true}),
            json!({"content": "<l>", "lstrip": true}),
        ])
        .unwrap();
        assert_eq!(pieces(&cuts, "a<s>b<s><s>c<s>d", 1), ["a<s>", "<s>b<s><s>c<s>", "<s>d"]);
        assert_eq!(pieces(&cuts, "a<r> b  <l>c", 1), ["a<r>", "<r> b  <l>", "<l>c"]);
    }

    #[test]
    fn without_a_safe_token_there_are_no_cuts() {
        assert!(cuts(&[]).is_none());
        assert!(cuts(&[json!({"content": "<s>", "normalized": true})]).is_none());
        assert!(cuts(&[json!({"content": "<s>", "single_word": true})]).is_none());
        assert!(cuts(&[json!({"content": "<s>"}), json!({"content": "<s>"})]).is_none(), "which of the two?");
    }

    #[test]
    fn a_tokenizer_that_rolls_dice_or_rearranges_is_left_alone() {
        assert!(is_steady(Some(&json!({"dropout": null}))) && !is_steady(Some(&json!({"dropout": 0.1}))));
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let special = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let template = |pieces: &[&Value]| json!({"type": "TemplateProcessing", "single": pieces});
        let check = |step: Value, expected| assert_eq!(keeps_order(Some(&step)), expected, "{step}");
        check(Value::Null, true);
        check(template(&[&special, &text, &special]), true);
        check(template(&[&text, &text]), false);
        check(template(&[&special]), false);
        check(json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(&[&text])]}), true);
        check(json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(&[&text, &text])]}), false);
        check(json!({"type": "SomethingNew"}), false);
    }

    #[test]
    fn tokens_that_are_not_where_they_must_be_are_noticed() {
        let segment = Segment { text: "", lead: Some(1), close: Some(2) };
        assert_eq!(segment.own(&[1, 7, 2]), Some([7, 2].as_slice()));
        assert_eq!((segment.own(&[7, 2]), segment.own(&[1, 7]), segment.own(&[])), (None, None, None));
        let whole = Segment { text: "", lead: None, close: None };
        assert_eq!(whole.own(&[7]), Some([7].as_slice()));
    }
}
