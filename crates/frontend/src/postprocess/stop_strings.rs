//! Stop strings in a stream of text: found across borders of chunks, never leaked, nothing held back that need not be.

/// Finds the first stop string in a stream of text.
///
/// The first is the one that is complete first; of two that end at the same place, the longer. So the cut does not
/// depend on how the text is chunked.
#[derive(Clone, Debug)]
pub struct StopFinder {
    stops: Vec<String>,
    include_stop: bool,
    /// Text that is not given out yet: the longest suffix that could begin a stop string.
    held: String,
}

/// What [`StopFinder::push`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No stop string is complete.
    GoOn,
    /// A stop string is complete: what was given out is all there is.
    Stopped,
}

impl StopFinder {
    /// Searches for `stops`, none of them empty. With `include_stop` the found one stays in the text.
    pub fn new(stops: &[String], include_stop: bool) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, include_stop, held: String::new() }
    }

    /// Takes the next text and appends to `out` what may be shown. With `armed` false a complete stop string does not
    /// stop, and its text is shown.
    pub fn push(&mut self, text: &str, armed: bool, out: &mut String) -> Verdict {
        if self.stops.is_empty() {
            out.push_str(text);
            return Verdict::GoOn;
        }
        let searched = self.held.len();
        self.held.push_str(text);
        if armed && let Some((start, end)) = self.first_match(searched) {
            let cut = if self.include_stop { end } else { start };
            out.push_str(&self.held[..cut]);
            self.held.clear();
            return Verdict::Stopped;
        }
        let shown = self.held.len() - self.partial_match_len();
        out.push_str(&self.held[..shown]);
        self.held.drain(..shown);
        Verdict::GoOn
    }

    /// Appends what is held back: the text is over, so it begins no stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Bytes held back.
    pub fn held_len(&self) -> usize {
        self.held.len()
    }

    /// The match that ends first, after `searched` bytes; the longest of those.
    fn first_match(&self, searched: usize) -> Option<(usize, usize)> {
        let found = self.stops.iter().filter_map(|stop| {
            // What ends within the searched bytes was decided by an earlier push.
            let mut from = (searched + 1).saturating_sub(stop.len());
            while !self.held.is_char_boundary(from) {
                from += 1;
            }
            let start = from + self.held[from..].find(stop.as_str())?;
            Some((start, start + stop.len()))
        });
        found.min_by_key(|&(start, end)| (end, start))
    }

    /// Length of the longest suffix that is the beginning, but not the whole, of a stop string.
    fn partial_match_len(&self) -> usize {
        let held = self.held.as_bytes();
        let longest = |stop: &String| {
            let stop = stop.as_bytes();
            let most = held.len().min(stop.len() - 1);
            (1..=most).rev().find(|&len| held.ends_with(&stop[..len])).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, on the whole text: for each end, is there a stop that ends here?
    fn plain(text: &str, stops: &[String], include: bool) -> (String, Verdict) {
        for end in 1..=text.len() {
            let here = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = here.max_by_key(|stop| stop.len()) {
                let cut = if include { end } else { end - stop.len() };
                return (text[..cut].to_owned(), Verdict::Stopped);
            }
        }
        (text.to_owned(), Verdict::GoOn)
    }

    fn streamed(chunks: &[String], stops: &[String], include: bool) -> (String, Verdict) {
        let mut finder = StopFinder::new(stops, include);
        let mut out = String::new();
        for chunk in chunks {
            if finder.push(chunk, true, &mut out) == Verdict::Stopped {
                return (out, Verdict::Stopped);
            }
        }
        finder.finish(&mut out);
        (out, Verdict::GoOn)
    }

    #[test]
    fn a_stop_string_over_three_chunks_never_leaks() {
        let mut finder = StopFinder::new(&["</end>".to_owned()], false);
        let mut out = String::new();
        assert_eq!(finder.push("hello </", true, &mut out), Verdict::GoOn);
        assert_eq!(out, "hello ");
        assert_eq!(finder.push("en", true, &mut out), Verdict::GoOn);
        assert_eq!(out, "hello ");
        assert_eq!(finder.push("d> more", true, &mut out), Verdict::Stopped);
        assert_eq!(out, "hello ");
    }

    #[test]
    fn a_beginning_that_breaks_off_is_shown_at_once() {
        let mut finder = StopFinder::new(&["###".to_owned()], false);
        let mut out = String::new();
        finder.push("a##", true, &mut out);
        assert_eq!((out.as_str(), finder.held_len()), ("a", 2));
        finder.push("b", true, &mut out);
        assert_eq!((out.as_str(), finder.held_len()), ("a##b", 0));
    }

    #[test]
    fn an_unarmed_finder_shows_the_stop_string_and_stops_at_the_next() {
        let mut finder = StopFinder::new(&["END".to_owned()], false);
        let mut out = String::new();
        assert_eq!(finder.push("a END b", false, &mut out), Verdict::GoOn);
        assert_eq!(finder.push(" EN", false, &mut out), Verdict::GoOn);
        assert_eq!(finder.push("D c", true, &mut out), Verdict::Stopped);
        assert_eq!(out, "a END b ");
    }

    /// Chunks of few letters, so that matches, overlaps and near misses are common.
    fn few_letters() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof![Just('a'), Just('b'), Just('é'), Just('🦀')], 0..6)
            .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_stream_is_cut_where_a_plain_search_of_the_whole_text_cuts_it(
            chunks in proptest::collection::vec(few_letters(), 0..12),
            stops in proptest::collection::vec(few_letters().prop_filter("not empty", |s| !s.is_empty()), 0..4),
            include in any::<bool>(),
        ) {
            let text = chunks.concat();
            prop_assert_eq!(streamed(&chunks, &stops, include), plain(&text, &stops, include));
        }

        #[test]
        fn without_a_stop_everything_comes_out_and_at_most_a_beginning_is_held(
            chunks in proptest::collection::vec(few_letters(), 0..12),
        ) {
            let stops = ["ab🦀é".to_owned(), "zz".to_owned()];
            let mut finder = StopFinder::new(&stops, false);
            let mut out = String::new();
            let mut given = String::new();
            for chunk in &chunks {
                given.push_str(chunk);
                finder.push(chunk, false, &mut out);
                prop_assert!(finder.held_len() < "ab🦀é".len());
                prop_assert!(given.starts_with(&out));
            }
            finder.finish(&mut out);
            prop_assert_eq!(out, given);
        }
    }
}
