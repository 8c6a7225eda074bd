//! One step of an update of one component.

/// Pods of one component in one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods asked for.
    pub replicas: u32,
    /// Pods that have been ready for long enough.
    pub ready: u32,
}

/// How far an update may go from the wanted number of pods. Not both 0: nothing could ever move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pods above it.
    pub surge: u32,
    /// Pods that may be missing from it.
    pub max_unavailable: u32,
}

impl Default for Limits {
    /// One more at a time, none fewer: each GPU pod counts.
    fn default() -> Self {
        Self { surge: 1, max_unavailable: 0 }
    }
}

impl Limits {
    /// Reads the two annotations, each a count or a percentage of `wanted`, rounded up for the surge and down for the
    /// others, as Kubernetes does. What does not parse is the default. Two zeros become a surge of 1.
    pub fn parse(surge: Option<&str>, max_unavailable: Option<&str>, wanted: u32) -> Self {
        let default = Self::default();
        let read = |text: Option<&str>, is_up: bool| match text?.trim().strip_suffix('%') {
            Some(percent) => {
                let scaled = u64::from(wanted) * percent.trim().parse::<u64>().ok()?;
                u32::try_from(if is_up { scaled.div_ceil(100) } else { scaled / 100 }).ok()
            }
            None => text?.trim().parse().ok(),
        };
        let limits = Self {
            surge: read(surge, true).unwrap_or(default.surge),
            max_unavailable: read(max_unavailable, false).unwrap_or(default.max_unavailable),
        };
        if limits.surge == 0 && limits.max_unavailable == 0 { default } else { limits }
    }
}

/// Pods to ask for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Of the generation that goes.
    pub leaving: u32,
    /// Of the generation that comes.
    pub coming: u32,
}

/// What to ask for next so that `wanted` pods of the coming generation are reached.
///
/// The coming one grows into the room that `limits` leave, and only while all of its pods are ready. The leaving one
/// shrinks by what is ready beyond what must be; its pods that are not ready go first, but not before one of the coming
/// generation is. Never fewer ready pods than `wanted − max_unavailable` where there were as many, never more pods asked
/// for than `wanted + surge` where there were not more. Pure; called again with what came of it, it ends at
/// `(0, wanted)`.
pub fn step(wanted: u32, leaving: Counts, coming: Counts, limits: Limits) -> Next {
    let ready = |counts: Counts| counts.ready.min(counts.replicas);
    let room = (wanted + limits.surge).saturating_sub(leaving.replicas + coming.replicas);
    let grown = if ready(coming) == coming.replicas { coming.replicas + room } else { coming.replicas };
    let coming_next = grown.min(wanted);
    let ready_coming = ready(coming).min(coming_next);
    let floor = wanted.saturating_sub(limits.max_unavailable);
    let spare = (ready(leaving) + ready_coming).saturating_sub(floor);
    let unready = if ready_coming == 0 && wanted > 0 { leaving.replicas - ready(leaving) } else { 0 };
    Next { leaving: ready(leaving).saturating_sub(spare) + unready, coming: coming_next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(wanted: u32, leaving: (u32, u32), coming: (u32, u32), expected: (u32, u32)) {
        let counts = |(replicas, ready)| Counts { replicas, ready };
        let next = step(wanted, counts(leaving), counts(coming), Limits::default());
        assert_eq!((next.leaving, next.coming), expected, "{wanted} wanted, {leaving:?} leave, {coming:?} come");
    }

    #[test]
    fn one_more_at_a_time_and_one_fewer_for_each_that_is_ready() {
        //    wanted  leaving (ready)  coming (ready)  next
        check(3, (3, 3), (0, 0), (3, 1));
        check(3, (3, 3), (1, 0), (3, 1));
        check(3, (3, 3), (1, 1), (2, 1));
        check(3, (2, 2), (1, 1), (2, 2));
        check(3, (2, 2), (2, 1), (2, 2));
        check(3, (2, 2), (2, 2), (1, 2));
        check(3, (1, 1), (3, 3), (0, 3));
        check(1, (1, 1), (1, 0), (1, 1));
        check(0, (2, 2), (0, 0), (0, 0));
    }

    #[test]
    fn a_first_generation_comes_whole_and_broken_pods_of_the_old_one_wait_for_a_new_one() {
        check(4, (0, 0), (0, 0), (0, 4));
        check(2, (2, 0), (1, 0), (2, 1));
        check(2, (2, 1), (1, 1), (1, 1));
    }

    #[test]
    fn without_surge_the_old_make_room() {
        let limits = Limits { surge: 0, max_unavailable: 1 };
        let counts = |replicas, ready| Counts { replicas, ready };
        assert_eq!(step(2, counts(2, 2), counts(0, 0), limits), Next { leaving: 1, coming: 0 });
        assert_eq!(step(2, counts(1, 1), counts(0, 0), limits), Next { leaving: 1, coming: 1 });
    }

    #[test]
    fn limits_are_counts_or_shares_and_never_both_zero() {
        let of = |surge, missing| Limits::parse(surge, missing, 10);
        assert_eq!(of(Some("25%"), Some("25%")), Limits { surge: 3, max_unavailable: 2 });
        assert_eq!(of(Some("2"), None), Limits { surge: 2, max_unavailable: 0 });
        assert_eq!(of(Some("0"), Some("0%")), Limits::default());
        assert_eq!(of(Some("many"), None), Limits::default());
    }

    proptest! {
        /// Pods become ready, or break, in any order.
        #[test]
        fn enough_stay_ready_no_more_than_allowed_are_asked_for_and_it_ends(
            wanted in 0u32..7, before in 0u32..7, surge in 0u32..3, max_unavailable in 0u32..3,
            luck in proptest::collection::vec(any::<bool>(), 0..60),
        ) {
            let limits = if surge + max_unavailable == 0 { Limits::default() } else { Limits { surge, max_unavailable } };
            let mut leaving = Counts { replicas: before, ready: before };
            let mut coming = Counts::default();
            let mut luck = luck.into_iter();
            for round in 0..200 {
                let ready_before = leaving.ready + coming.ready;
                let asked_before = leaving.replicas + coming.replicas;
                let next = step(wanted, leaving, coming, limits);
                // Of the pods that go, those that are not ready are taken first, as a ReplicaSet does.
                leaving = Counts { replicas: next.leaving, ready: leaving.ready.min(next.leaving) };
                coming = Counts { replicas: next.coming, ready: coming.ready.min(next.coming) };
                prop_assert!(leaving.ready + coming.ready >= ready_before.min(wanted.saturating_sub(limits.max_unavailable)));
                prop_assert!(leaving.replicas + coming.replicas <= asked_before.max(wanted + limits.surge));
                if leaving.replicas == 0 && coming.replicas == wanted && coming.ready == wanted {
                    return Ok(());
                }
                match luck.next() {
                    Some(false) if round % 2 == 0 && coming.ready > 0 => coming.ready -= 1,
                    Some(false) => {}
                    _ => coming.ready = (coming.ready + 1).min(coming.replicas),
                }
            }
            prop_assert!(false, "no end: {leaving:?} {coming:?}");
        }
    }
}
