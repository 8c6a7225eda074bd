//! A simulated machine's randomness: all of it follows from one seed.

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::ops::Range;

#[derive(Debug)]
pub(super) struct Chance(Mutex<SmallRng>);

impl Chance {
    pub(super) fn of_seed(seed: u64) -> Self {
        Self(Mutex::new(SmallRng::seed_from_u64(seed)))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.lock().random()
    }

    pub(super) fn within(&self, range: Range<f64>) -> f64 {
        self.0.lock().random_range(range)
    }
}
