//! Where an update of a graph's workers goes next.

use super::step::{Counts, Limits, step};
use std::collections::{BTreeMap, BTreeSet};

/// What is seen of one component in one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Asked for and ready.
    pub counts: Counts,
    /// Pods that have not ended.
    pub pods: u32,
    /// Why it will not become ready, if that is clear.
    pub failure: Option<String>,
}

/// What is asked for, and what is remembered.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Hash of the workers as the graph says now.
    pub hash: String,
    /// Replicas of each worker, by its name.
    pub replicas: BTreeMap<String, u32>,
    /// How far each may go from them; the default for those that are not named.
    pub limits: BTreeMap<String, Limits>,
    /// The hash that was reached last.
    pub serving: Option<String>,
    /// The hash whose update failed, with the reason; it is not tried again.
    pub failed: Option<(String, String)>,
}

/// How the update stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is one generation, the one asked for.
    Steady,
    /// The new one comes. Components that are done, by name.
    Rolling(Vec<String>),
    /// The new one failed: the old one serves, and comes back where it had gone.
    RolledBack(String),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Replicas by (hash, component), for all that should be there.
    pub replicas: BTreeMap<(String, String), u32>,
    /// What is done with: to be deleted.
    pub delete: BTreeSet<(String, String)>,
    /// How the update stands.
    pub phase: Phase,
}

/// What is seen, by (hash, component).
type Seen = BTreeMap<(String, String), Observed>;

/// Decides what each generation of each worker should have now.
///
/// Forward, [`step`] by component, until every component of the new generation is complete; then the old ones go. Where
/// one of the new generation fails, the same steps go back to the generation that served, and stay there until the graph
/// asks for another hash. Without an old generation there is nothing to go back to: a failure is waited out.
pub fn plan(request: &Request, seen: &BTreeMap<(String, String), Observed>) -> Decision {
    let is_old = |hash: &String| *hash != request.hash;
    let has_old = seen.keys().any(|(hash, _)| is_old(hash));
    if !has_old {
        return Decision {
            replicas: request.replicas.iter().map(|(name, n)| ((request.hash.clone(), name.clone()), *n)).collect(),
            delete: seen.keys().filter(|(_, name)| !request.replicas.contains_key(name)).cloned().collect(),
            phase: Phase::Steady,
        };
    }
    let failure = request.failed.clone().filter(|(hash, _)| *hash == request.hash).map(|(_, why)| why).or_else(|| {
        let of_new = seen.iter().filter(|((hash, _), _)| *hash == request.hash);
        of_new.filter_map(|((_, name), seen)| Some(format!("{name}: {}", seen.failure.as_ref()?))).next()
    });
    match (failure, serving(request, seen)) {
        (Some(why), Some(serving)) => back(request, seen, &serving, why),
        _ => forward(request, seen),
    }
}

/// The generation to go back to: the one that was reached last, or the one with most ready pods.
fn serving(request: &Request, seen: &Seen) -> Option<String> {
    let old: BTreeSet<&String> = seen.keys().map(|(hash, _)| hash).filter(|hash| **hash != request.hash).collect();
    if let Some(known) = request.serving.as_ref().filter(|known| old.contains(known)) {
        return Some(known.clone());
    }
    let ready = |hash: &String| seen.iter().filter(|((h, _), _)| h == hash).map(|(_, o)| o.counts.ready).sum::<u32>();
    old.into_iter().max_by_key(|hash| ready(hash)).cloned()
}

fn forward(request: &Request, seen: &Seen) -> Decision {
    let mut decision =
        Decision { replicas: BTreeMap::new(), delete: BTreeSet::new(), phase: Phase::Rolling(Vec::new()) };
    let mut done = Vec::new();
    for (name, &wanted) in &request.replicas {
        if toward(request, seen, &request.hash, (name, wanted), &mut decision.replicas) {
            done.push(name.clone());
        }
    }
    let is_complete = done.len() == request.replicas.len();
    for key in seen.keys().filter(|(hash, _)| *hash != request.hash) {
        if is_complete {
            decision.delete.insert(key.clone());
            decision.replicas.remove(key);
        } else if !request.replicas.contains_key(&key.1) {
            // The new graph has no such component. What still serves with it needs it until it is gone.
            decision.replicas.insert(key.clone(), seen[key].counts.replicas);
        }
    }
    decision.phase = if is_complete { Phase::Steady } else { Phase::Rolling(done) };
    decision
}

fn back(request: &Request, seen: &Seen, serving: &str, why: String) -> Decision {
    let mut decision = Decision { replicas: BTreeMap::new(), delete: BTreeSet::new(), phase: Phase::RolledBack(why) };
    let names: BTreeSet<&String> = seen.keys().filter(|(hash, _)| hash == serving).map(|(_, name)| name).collect();
    for name in names {
        let now = seen[&(serving.to_owned(), name.clone())].counts.replicas;
        let wanted = request.replicas.get(name).copied().unwrap_or(now);
        toward(request, seen, serving, (name, wanted), &mut decision.replicas);
    }
    for (key, observed) in seen.iter().filter(|((hash, _), _)| hash != serving) {
        // A component that only the failed generation has is of no use to the one that serves.
        let next = *decision.replicas.entry(key.clone()).or_insert(0);
        if next == 0 && observed.counts.replicas == 0 && observed.pods == 0 {
            decision.replicas.remove(key);
            decision.delete.insert(key.clone());
        }
    }
    decision
}

/// One step of one component toward generation `target`. Returns whether it is there.
fn toward(
    request: &Request,
    seen: &Seen,
    target: &str,
    (name, wanted): (&String, u32),
    replicas: &mut BTreeMap<(String, String), u32>,
) -> bool {
    let target_key = (target.to_owned(), name.clone());
    let coming = seen.get(&target_key).map(|seen| seen.counts).unwrap_or_default();
    let mut others: Vec<_> = seen.iter().filter(|((hash, n), _)| hash != target && n == name).collect();
    // What neither serves nor is wanted goes first.
    others.sort_by_key(|((hash, _), _)| Some(hash) == request.serving.as_ref());
    let leaving = others.iter().fold(Counts::default(), |sum, (_, seen)| Counts {
        replicas: sum.replicas + seen.counts.replicas,
        ready: sum.ready + seen.counts.ready.min(seen.counts.replicas),
    });
    let limits = request.limits.get(name).copied().unwrap_or_default();
    let next = step(wanted, leaving, coming, limits);
    replicas.insert(target_key, next.coming);
    let mut to_remove = leaving.replicas - next.leaving;
    for (key, seen) in others {
        let removed = to_remove.min(seen.counts.replicas);
        to_remove -= removed;
        replicas.insert(key.clone(), seen.counts.replicas - removed);
    }
    leaving.replicas == 0 && coming.replicas == wanted && coming.ready >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(replicas: u32, ready: u32) -> Observed {
        Observed { counts: Counts { replicas, ready }, pods: replicas, failure: None }
    }

    fn seen(of: &[(&str, &str, Observed)]) -> Seen {
        of.iter().map(|(hash, name, seen)| (((*hash).to_owned(), (*name).to_owned()), seen.clone())).collect()
    }

    fn request(replicas: &[(&str, u32)]) -> Request {
        Request {
            hash: "new".into(),
            replicas: replicas.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
            serving: Some("old".into()),
            ..Request::default()
        }
    }

    fn check(
        request: &Request,
        of: &[(&str, &str, Observed)],
        replicas: &[(&str, &str, u32)],
        phase: &Phase,
    ) -> Decision {
        let decision = plan(request, &seen(of));
        let expected: BTreeMap<_, _> =
            replicas.iter().map(|(hash, name, n)| (((*hash).to_owned(), (*name).to_owned()), *n)).collect();
        assert_eq!((&decision.replicas, &decision.phase), (&expected, phase));
        decision
    }

    #[test]
    fn a_first_generation_and_a_scaled_one_are_asked_for_whole() {
        check(&request(&[("w", 2)]), &[], &[("new", "w", 2)], &Phase::Steady);
        check(&request(&[("w", 0)]), &[("new", "w", observed(2, 2))], &[("new", "w", 0)], &Phase::Steady);
    }

    #[test]
    fn components_move_each_at_its_pace_and_the_old_ones_go_together() {
        let (w, p) = (("w", 1), ("p", 1));
        let rolling = |done: &[&str]| Phase::Rolling(done.iter().map(|name| (*name).to_owned()).collect());
        check(
            &request(&[w, p]),
            &[("old", "w", observed(1, 1)), ("old", "p", observed(1, 1))],
            &[("old", "w", 1), ("old", "p", 1), ("new", "w", 1), ("new", "p", 1)],
            &rolling(&[]),
        );
        check(
            &request(&[w, p]),
            &[
                ("old", "w", observed(0, 0)),
                ("new", "w", observed(1, 1)),
                ("old", "p", observed(1, 1)),
                ("new", "p", observed(1, 0)),
            ],
            &[("old", "w", 0), ("new", "w", 1), ("old", "p", 1), ("new", "p", 1)],
            &rolling(&["w"]),
        );
        let done = check(
            &request(&[w]),
            &[("old", "w", observed(0, 0)), ("new", "w", observed(1, 1)), ("old", "gone", observed(1, 1))],
            &[("new", "w", 1)],
            &Phase::Steady,
        );
        assert_eq!(done.delete.len(), 2);
    }

    #[test]
    fn a_generation_that_fails_goes_and_the_old_one_comes_back_step_by_step() {
        let mut failing = observed(2, 1);
        failing.failure = Some("crash loop".into());
        let back = Phase::RolledBack("w: crash loop".into());
        let one = [("old", "w", observed(2, 2)), ("new", "w", failing.clone())];
        check(&request(&[("w", 3)]), &one, &[("old", "w", 2), ("new", "w", 1)], &back);
        let remembered = Request { failed: Some(("new".into(), "w: crash loop".into())), ..request(&[("w", 3)]) };
        let two = [("old", "w", observed(2, 2)), ("new", "w", observed(1, 1))];
        check(&remembered, &two, &[("old", "w", 3), ("new", "w", 1)], &back);
        let last = [("old", "w", observed(3, 3)), ("new", "w", observed(0, 0))];
        let done = check(&remembered, &last, &[("old", "w", 3)], &back);
        assert_eq!(done.delete.len(), 1);
    }

    #[test]
    fn another_hash_is_tried_after_one_that_failed_and_an_unfinished_one_goes_first() {
        let after = Request { failed: Some(("bad".into(), "why".into())), ..request(&[("w", 1)]) };
        let seen = [("old", "w", observed(1, 1)), ("bad", "w", observed(1, 1)), ("new", "w", observed(1, 1))];
        let phase = Phase::Rolling(Vec::new());
        let decision = plan(&after, &super::tests::seen(&seen));
        assert_eq!(decision.phase, phase);
        let of = |hash: &str| decision.replicas[&(hash.to_owned(), "w".to_owned())];
        assert_eq!((of("bad"), of("old"), of("new")), (0, 0, 1));
    }

    #[test]
    fn without_an_old_generation_a_failure_is_waited_out() {
        let mut failing = observed(1, 0);
        failing.failure = Some("image".into());
        check(&request(&[("w", 1)]), &[("new", "w", failing)], &[("new", "w", 1)], &Phase::Steady);
    }
}
