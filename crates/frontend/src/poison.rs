//! Requests that kill workers. Pure: the clock is an argument.
//!
//! A prompt that crashes an engine crashes the next one, too: migration would carry it through the whole pool. But a
//! worker that dies takes innocents with it, and somebody who kills workers one after the other makes no request
//! guilty. So the rule is:
//!
//! 1. A death counts against a request when the worker's *process* went, with the request running on it. A broken stream
//!    of a worker that lives does not count.
//! 2. It counts only until the request makes progress: [`CLEARED_BY`] new tokens on any worker, or an end, and the
//!    request is cleared. A crash that a prompt causes comes again at the same token, so the next worker dies before
//!    that; a bystander goes on with its answer on the next worker within a moment. All requests of the same content
//!    count together: one of them that is answered clears them all.
//! 3. A request on which two distinct workers died without progress in between is poison if it was the only suspect that
//!    ran on the second one. If there were others, nobody can tell which of them it was: each goes on *alone*, one after
//!    the other (see [`Verdict::TryAlone`]), and the one on which the third worker dies is poison.
//! 4. Poison is refused for [`REFUSED_FOR`], whoever sends it.
//!
//! A rolling `kill -9` makes a bystander poison only if it kills two workers within the time that the bystander needs
//! for three tokens, while no other suspect is there; then it *was* the only request on two workers that died.

use protocol::ids::InstanceId;
use protocol::request::PreprocessedRequest;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// New tokens that clear a request. The first may be the one that was computed when the last worker died.
pub(crate) const CLEARED_BY: usize = 3;
/// Workers that may die on a request. The last is alone with it.
const DEATHS_MAX: usize = 3;
/// How long poison is refused. Engines get fixed, and prompts are edited.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(600);
/// How long a suspicion lasts: a client's retries come within.
const SUSPECTED_FOR: Duration = Duration::from_secs(120);
/// Contents that are remembered. Only those on which a worker died are; 32 bytes and some words each.
const CONTENTS_MAX: usize = 4_096;

/// What a request is, apart from its id and its seed.
pub(crate) type Content = blake3::Hash;

/// The content of `request`, whose own prompt is its first `prompt_tokens`.
pub(crate) fn content_of(request: &PreprocessedRequest, prompt_tokens: usize) -> Content {
    let mut hasher = blake3::Hasher::new();
    hasher.update(request.model.as_bytes());
    let tokens: Vec<u8> = request.token_ids.iter().take(prompt_tokens).flat_map(|token| token.to_le_bytes()).collect();
    hasher.update(&tokens);
    let sampling = protocol::request::SamplingOptions { seed: None, ..request.sampling_options.clone() };
    // Options always have a JSON form; without one all contents of this prompt would count together, which is no harm.
    hasher.update(&serde_json::to_vec(&sampling).unwrap_or_default());
    hasher.finalize()
}

/// What follows from a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may go on.
    GoOn,
    /// It may go on while no other suspect runs.
    TryAlone,
    /// It is refused.
    Poison,
}

/// The contents on which workers died.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    contents: HashMap<Content, Suspect>,
}

#[derive(Debug)]
struct Suspect {
    died: Vec<InstanceId>,
    last: Instant,
    refused_until: Option<Instant>,
}

impl Suspect {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.refused_until.unwrap_or(self.last + SUSPECTED_FOR)
    }
}

impl Poison {
    /// Whether nothing is suspected, so that nobody has to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// How much longer this content is refused.
    pub(crate) fn refused_for(&self, content: &Content, now: Instant) -> Option<Duration> {
        let until = self.contents.get(content)?.refused_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// A worker has died with this content on it, before it made progress there. `others` says whether other suspects
    /// ran on that worker.
    pub(crate) fn died(&mut self, content: Content, worker: InstanceId, others: bool, now: Instant) -> Verdict {
        self.contents.retain(|_, suspect| !suspect.is_over(now));
        if self.contents.len() >= CONTENTS_MAX && !self.contents.contains_key(&content) {
            // The oldest suspicion goes; what is refused stays.
            let open = self.contents.iter().filter(|(_, suspect)| suspect.refused_until.is_none());
            let Some(oldest) = open.min_by_key(|(_, suspect)| suspect.last).map(|(content, _)| *content) else {
                return Verdict::GoOn;
            };
            self.contents.remove(&oldest);
        }
        let new = || Suspect { died: Vec::new(), last: now, refused_until: None };
        let suspect = self.contents.entry(content).or_insert_with(new);
        suspect.last = now;
        if !suspect.died.contains(&worker) {
            suspect.died.push(worker);
        }
        match suspect.died.len() {
            1 => Verdict::GoOn,
            deaths if deaths < DEATHS_MAX && others => Verdict::TryAlone,
            _ => {
                suspect.refused_until = Some(now + REFUSED_FOR);
                Verdict::Poison
            }
        }
    }

    /// This content made progress, or came to its end. What is refused stays so.
    pub(crate) fn clear(&mut self, content: &Content) {
        if self.contents.get(content).is_some_and(|suspect| suspect.refused_until.is_none()) {
            self.contents.remove(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(of: u32) -> Content {
        content_of(&PreprocessedRequest { token_ids: vec![of], ..PreprocessedRequest::default() }, 1)
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    const A: InstanceId = InstanceId(1);
    const B: InstanceId = InstanceId(2);
    const C: InstanceId = InstanceId(3);

    #[test]
    fn two_workers_that_die_on_the_only_suspect_make_it_poison_for_ten_minutes() {
        let (mut poison, start) = (Poison::default(), Instant::now());
        assert_eq!(poison.died(content(7), A, true, start), Verdict::GoOn, "many ran on the first worker");
        assert_eq!(poison.died(content(7), A, false, start), Verdict::GoOn, "the same worker dies once");
        assert_eq!(poison.died(content(7), B, false, at(start, 1)), Verdict::Poison);
        assert!(poison.refused_for(&content(7), at(start, 600)).is_some());
        assert!(poison.refused_for(&content(8), at(start, 1)).is_none());
        poison.clear(&content(7));
        assert!(poison.refused_for(&content(7), at(start, 2)).is_some(), "an old copy that ends changes nothing");
        assert_eq!(poison.refused_for(&content(7), at(start, 601)), None);
    }

    #[test]
    fn of_several_suspects_none_is_condemned_until_a_worker_dies_on_one_alone() {
        let (mut poison, start) = (Poison::default(), Instant::now());
        for suspect in 0..3 {
            assert_eq!(poison.died(content(suspect), A, true, start), Verdict::GoOn);
            assert_eq!(poison.died(content(suspect), B, true, at(start, 1)), Verdict::TryAlone);
        }
        poison.clear(&content(0));
        poison.clear(&content(1));
        assert_eq!(poison.died(content(2), C, false, at(start, 2)), Verdict::Poison);
        assert!(poison.refused_for(&content(0), at(start, 3)).is_none());
    }

    #[test]
    fn a_rolling_kill_poisons_nobody_who_makes_progress_in_between() {
        let (mut poison, start) = (Poison::default(), Instant::now());
        for worker in 0..100 {
            for request in 0..20 {
                let now = at(start, worker * 5);
                assert_eq!(poison.died(content(request), InstanceId(worker), false, now), Verdict::GoOn);
                poison.clear(&content(request));
            }
        }
        assert!(poison.is_empty());
    }

    #[test]
    fn a_suspicion_ends_by_itself_and_the_table_is_bounded() {
        let (mut poison, start) = (Poison::default(), Instant::now());
        poison.died(content(7), A, false, start);
        assert_eq!(poison.died(content(7), B, false, at(start, 121)), Verdict::GoOn, "two minutes later");
        for of in 0..2 * CONTENTS_MAX as u32 {
            poison.died(content(100 + of), A, false, at(start, 122));
        }
        assert!(poison.contents.len() <= CONTENTS_MAX);
    }

    #[test]
    fn the_content_is_prompt_model_and_options_without_the_seed_and_without_what_was_answered() {
        let request = |tokens: &[u32], seed, regex: Option<&str>| {
            let mut request = PreprocessedRequest { token_ids: tokens.to_vec(), ..PreprocessedRequest::default() };
            request.sampling_options.seed = seed;
            request.sampling_options.guided_decoding = regex
                .map(|regex| protocol::request::GuidedDecoding { regex: Some(regex.into()), ..Default::default() });
            request
        };
        let plain = content_of(&request(&[1, 2], None, None), 2);
        assert_eq!(plain, content_of(&request(&[1, 2, 9, 9], Some(7), None), 2));
        assert_ne!(plain, content_of(&request(&[1, 3], None, None), 2));
        assert_ne!(plain, content_of(&request(&[1, 2], None, Some("a+")), 2));
    }
}
