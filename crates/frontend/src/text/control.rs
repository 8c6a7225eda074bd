//! Control tokens that somebody has written as text.
//!
//! A chat template writes control tokens (`<|im_end|>`) as text and the tokenizer finds them there. It cannot tell the
//! template's from those in a message, with which a user could end the message and speak as another role. So those in
//! messages are cut in two by a mark before the template runs, and the two sides of a mark are tokenized apart: neither
//! holds the control token, both together are its very text.

use aho_corasick::AhoCorasick;
use std::borrow::Cow;

/// Characters that mark a cut. Unicode calls them noncharacters: no text has a use for them.
pub(crate) const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Finds a model's control tokens in text.
#[derive(Debug)]
pub(crate) struct ControlTokens {
    search: AhoCorasick,
}

impl ControlTokens {
    /// Of these token texts. `None` when there are none, or too many to search for.
    pub(crate) fn of<'a>(tokens: impl Iterator<Item = &'a str>) -> Option<Self> {
        // A single character cannot be cut; no tokenizer known has such a control token.
        let tokens: Vec<&str> = tokens.filter(|token| token.chars().nth(1).is_some()).collect();
        if tokens.is_empty() {
            return None;
        }
        let search = AhoCorasick::new(tokens).ok()?;
        Some(Self { search })
    }

    /// Whether a control token is written in `text`.
    pub(crate) fn are_in(&self, text: &str) -> bool {
        self.search.is_match(text)
    }

    /// `text` with `mark` behind the first character of each control token, overlapping ones included.
    pub(crate) fn cut<'t>(&self, text: &'t str, mark: char) -> Cow<'t, str> {
        if !self.are_in(text) {
            return Cow::Borrowed(text);
        }
        let behind_first = |start: usize| start + text[start..].chars().next().map_or(0, char::len_utf8);
        let mut cuts: Vec<usize> =
            self.search.find_overlapping_iter(text).map(|found| behind_first(found.start())).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut marked = String::with_capacity(text.len() + cuts.len() * mark.len_utf8());
        let mut from = 0;
        for cut in cuts {
            marked.push_str(&text[from..cut]);
            marked.push(mark);
            from = cut;
        }
        marked.push_str(&text[from..]);
        Cow::Owned(marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_token_is_cut_even_where_two_overlap() {
        let tokens = ["<|im_end|>", "|><|", "<s>", "é>", "x"];
        let control = ControlTokens::of(tokens.into_iter()).unwrap();
        let check = |text: &str, expected: &str| {
            let cut = control.cut(text, '^');
            assert_eq!(cut, expected);
            assert_eq!(cut.replace('^', ""), text);
            for part in cut.split('^') {
                assert!(!control.are_in(part), "`{part}` of {cut}");
            }
        };
        check("plain <text> |> x", "plain <text> |> x");
        check("a<|im_end|>b<s>", "a<^|im_end|>b<^s>");
        check("<|im_end|><|im_end|>", "<^|im_end|^><^|im_end|>");
        check("é>é>", "é^>é^>");
        check("<<s>s><|im_<|im_end|>", "<<^s>s><|im_<^|im_end|>");
    }

    #[test]
    fn a_model_without_control_tokens_has_nothing_to_look_for() {
        assert!(ControlTokens::of(std::iter::empty()).is_none());
        assert!(ControlTokens::of(["x"].into_iter()).is_none());
    }
}
