//! What it costs to make one more copy of cached blocks.
//!
//! A worker that computes blocks which another one holds does not only work for nothing: the copy takes the place of
//! something else, and the conversation that it belongs to has two homes from then on, each with half of what follows.
//! Dynamo's formula weighs the work alone, so a conversation leaves its home as soon as the home has one more request
//! than the others: on a trace of conversations in turns 210 times in 390 turns, which costs a sixth of the hits.
//!
//! So a block that is missing here and held by `k` others costs 1/k more. What only one worker has, the history of a
//! conversation, costs most; a system prompt that is everywhere costs nothing and spreads freely. A holder that is
//! saturated does not count: nobody is to wait for it.

use crate::loads::RankLoad;

/// A holder is saturated when it runs more requests than this times the candidates' mean, and [`SPARE_REQUESTS`] more:
/// bounded load, as in consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2016).
const MEAN_FACTOR: f64 = 1.25;
/// With few requests the mean says little: two more than it are no burden for any engine.
const SPARE_REQUESTS: f64 = 2.0;

/// One candidate: blocks of the prompt that it holds, and its load.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Leading blocks of the prompt, in whatever tier.
    pub blocks: u32,
    /// Load without this request.
    pub load: RankLoad,
}

/// For each candidate, in the same order, the sum of 1/k over the blocks of the prompt that it lacks and k ≥ 1 others
/// hold that are not saturated. Never negative; 0 where nobody has more than it. Pure.
pub fn copies(candidates: &[Holder]) -> Vec<f64> {
    let requests: u64 = candidates.iter().map(|holder| holder.load.active_requests).sum();
    let most = MEAN_FACTOR * requests as f64 / candidates.len().max(1) as f64 + SPARE_REQUESTS;
    let counts = candidates.iter().filter(|holder| holder.load.active_requests as f64 <= most);
    let mut depths: Vec<u32> = counts.map(|holder| holder.blocks).filter(|&blocks| blocks > 0).collect();
    if depths.is_empty() {
        return vec![0.0; candidates.len()];
    }
    depths.sort_unstable_by(|a, b| b.cmp(a));
    // `above[i]`: what the blocks beyond `depths[i]` cost, which i workers have.
    let mut above = Vec::with_capacity(depths.len() + 1);
    above.push(0.0);
    for (at, depth) in depths.iter().enumerate() {
        let next = depths.get(at + 1).copied().unwrap_or(0);
        above.push(above[at] + f64::from(depth - next) / (at + 1) as f64);
    }
    let of = |blocks: u32| {
        // Those that have more than this candidate come first.
        let deeper = depths.partition_point(|&depth| depth > blocks);
        let Some(last) = deeper.checked_sub(1) else { return 0.0 };
        above[last] + f64::from(depths[last] - blocks) / deeper as f64
    };
    candidates.iter().map(|holder| of(holder.blocks)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Holder, copies};
    use crate::loads::RankLoad;
    use proptest::prelude::{any, prop, proptest};

    fn holder((blocks, requests): (u32, u64)) -> Holder {
        Holder { blocks, load: RankLoad { active_requests: requests, ..RankLoad::default() } }
    }

    fn check(candidates: &[(u32, u64)], expected: &[f64]) {
        let found = copies(&candidates.iter().copied().map(holder).collect::<Vec<_>>());
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close && found.len() == expected.len(), "{candidates:?}: {found:?} is not {expected:?}");
    }

    #[test]
    fn a_missing_block_costs_less_the_more_workers_hold_it() {
        //    (blocks, requests)…                copies
        check(&[(0, 0), (0, 0)], &[0.0, 0.0]);
        check(&[(10, 0), (0, 0), (0, 0)], &[0.0, 10.0, 10.0]);
        check(&[(10, 0), (10, 0), (0, 0)], &[0.0, 0.0, 5.0]);
        // Ten that one has, six of them that two have, two that all three have.
        check(&[(10, 0), (6, 0), (2, 0), (0, 0)], &[0.0, 4.0, 4.0 + 2.0, 4.0 + 2.0 + 2.0 / 3.0]);
    }

    #[test]
    fn a_saturated_holder_does_not_count() {
        // The mean is 2, so up to 4.5 requests are no burden.
        check(&[(10, 4), (0, 1), (0, 1)], &[0.0, 10.0, 10.0]);
        check(&[(10, 6), (0, 0), (0, 0)], &[0.0, 0.0, 0.0]);
        check(&[(10, 6), (4, 0), (0, 0)], &[0.0, 0.0, 4.0]);
        check(&[], &[]);
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn it_is_the_plain_sum_over_blocks(depths in prop::collection::vec(any::<u8>(), 0..12)) {
            let candidates: Vec<Holder> = depths.iter().map(|&depth| holder((u32::from(depth), 0))).collect();
            let plain = |own: u8| -> f64 {
                let holders = |block: u8| depths.iter().filter(|&&depth| depth > block).count();
                (own..u8::MAX).map(holders).filter(|&k| k > 0).map(|k| 1.0 / k as f64).sum()
            };
            for (found, &own) in copies(&candidates).iter().zip(&depths) {
                assert!((found - plain(own)).abs() < 1e-6, "{depths:?}");
            }
        }
    }
}
