//! A restart that a graph asks for: which components are told now, and how far it is.

use crds::parts::{Restart, RestartStatus};
use std::collections::BTreeMap;

/// What is seen of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Value of its `nvidia.com/restartAt`; none before its first restart.
    pub told: Option<String>,
    /// All of its pods are of the latest template, and ready.
    pub is_ready: bool,
    /// It is about to be made: its pods are new anyway.
    pub is_new: bool,
}

/// What each component is to be told, and the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restarting {
    /// Value of `nvidia.com/restartAt` by component; none leaves it out.
    pub tell: BTreeMap<String, Option<String>>,
    /// How far it is; none when no restart was ever asked for.
    pub status: Option<RestartStatus>,
}

/// Decides. The `id` itself is told: the same restart asked for twice is one restart, whoever looks and whenever.
///
/// `Sequential` tells a component when all before it, in the given order or by name, are done. What was told stays, or
/// taking `restart` away would restart all pods once more. A restart waits while the workers are being updated.
pub fn restart(
    asked: Option<&Restart>,
    seen: &BTreeMap<String, Seen>,
    is_updating: bool,
    before: Option<&RestartStatus>,
) -> Restarting {
    let mut tell: BTreeMap<String, Option<String>> =
        seen.iter().map(|(name, seen)| (name.clone(), seen.told.clone())).collect();
    let Some(asked) = asked else { return Restarting { tell, status: before.cloned() } };
    let id = Some(asked.id.clone());
    for (name, _) in seen.iter().filter(|(_, seen)| seen.is_new) {
        tell.insert(name.clone(), id.clone());
    }
    // A pod that fails later does not undo a restart that is over.
    if before.is_some_and(|before| before.observed_id == id && before.phase.as_deref() == Some("Completed")) {
        return Restarting { tell, status: before.cloned() };
    }
    let strategy = asked.strategy.as_ref();
    let is_parallel = strategy.and_then(|s| s.strategy_type.as_deref()) == Some("Parallel");
    let given = strategy.and_then(|strategy| strategy.order.clone()).filter(|order| !order.is_empty());
    let order = given.unwrap_or_else(|| seen.keys().cloned().collect());
    let (mut in_progress, mut is_waiting) = (Vec::new(), false);
    for name in &order {
        let Some(component) = seen.get(name) else { continue };
        let is_told = component.told == id || component.is_new;
        if is_told && component.is_ready {
            continue;
        }
        if !is_told {
            if is_updating || (is_waiting && !is_parallel) {
                is_waiting = true;
                continue;
            }
            tell.insert(name.clone(), id.clone());
        }
        is_waiting = true;
        in_progress.push(name.clone());
    }
    let phase = match (in_progress.is_empty(), is_waiting) {
        (false, _) => "Restarting",
        (true, true) => "Pending",
        (true, false) => "Completed",
    };
    let in_progress = (!in_progress.is_empty()).then_some(in_progress);
    let status = RestartStatus { observed_id: id, phase: Some(phase.to_owned()), in_progress };
    Restarting { tell, status: Some(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::parts::RestartStrategy;

    fn asked(strategy: Option<(&str, &[&str])>) -> Restart {
        let strategy = strategy.map(|(word, order)| RestartStrategy {
            strategy_type: Some(word.to_owned()),
            order: (!order.is_empty()).then(|| order.iter().map(|name| (*name).to_owned()).collect()),
        });
        Restart { id: "2".to_owned(), strategy }
    }

    fn check(asked: &Restart, of: &[(&str, &str, bool)], updating: bool, told: &[&str], phase: &str) {
        let seen = |(told, is_ready): (&str, bool)| Seen { told: Some(told.to_owned()), is_ready, is_new: false };
        let seen: BTreeMap<_, _> =
            of.iter().map(|(name, told, ready)| ((*name).to_owned(), seen((told, *ready)))).collect();
        let decided = restart(Some(asked), &seen, updating, None);
        let with_two: Vec<_> =
            decided.tell.iter().filter(|(_, id)| id.as_deref() == Some("2")).map(|(name, _)| name.as_str()).collect();
        assert_eq!((with_two.as_slice(), decided.status.unwrap().phase.as_deref()), (told, Some(phase)), "{of:?}");
    }

    #[test]
    fn one_after_the_other_by_name_or_in_the_order_that_is_given() {
        let by_name = asked(None);
        check(&by_name, &[("a", "1", true), ("b", "1", true)], false, &["a"], "Restarting");
        check(&by_name, &[("a", "2", false), ("b", "1", true)], false, &["a"], "Restarting");
        check(&by_name, &[("a", "2", true), ("b", "1", true)], false, &["a", "b"], "Restarting");
        check(&by_name, &[("a", "2", true), ("b", "2", true)], false, &["a", "b"], "Completed");
        let ordered = asked(Some(("Sequential", &["b", "a"])));
        check(&ordered, &[("a", "1", true), ("b", "1", true)], false, &["b"], "Restarting");
    }

    #[test]
    fn all_at_once_and_not_during_an_update() {
        let parallel = asked(Some(("Parallel", &[])));
        check(&parallel, &[("a", "1", true), ("b", "1", true)], false, &["a", "b"], "Restarting");
        check(&parallel, &[("a", "1", true), ("b", "1", true)], true, &[], "Pending");
    }

    #[test]
    fn what_was_told_stays_and_a_new_component_needs_no_restart() {
        let seen = BTreeMap::from([("a".to_owned(), Seen { told: Some("1".to_owned()), ..Seen::default() })]);
        assert_eq!(restart(None, &seen, false, None).tell["a"].as_deref(), Some("1"));
        let new = BTreeMap::from([("a".to_owned(), Seen { is_new: true, is_ready: true, ..Seen::default() })]);
        let decided = restart(Some(&asked(None)), &new, false, None);
        assert_eq!(decided.tell["a"].as_deref(), Some("2"));
        assert_eq!(decided.status.unwrap().phase.as_deref(), Some("Completed"));
    }
}
