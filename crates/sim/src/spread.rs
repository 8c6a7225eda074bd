//! Count, sum and variance of token counts, exactly: whole numbers until somebody asks for a mean.

/// How many there are, how much together, and how different.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    count: u64,
    sum: u64,
    /// 2⁶⁴ values of 2³² each fit.
    squares: u128,
}

impl Spread {
    /// Takes one value in.
    pub fn add(&mut self, tokens: usize) {
        let tokens = tokens as u64;
        self.count += 1;
        self.sum += tokens;
        self.squares += u128::from(tokens) * u128::from(tokens);
    }

    /// Values taken in.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Their sum, in tokens.
    pub fn sum(&self) -> usize {
        self.sum as usize
    }

    /// Their mean, in tokens; 0 of none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// Their population variance, in tokens²; 0 of none.
    pub fn variance(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let (count, sum) = (u128::from(self.count), u128::from(self.sum));
        // n·Σx² − (Σx)² is never negative (Cauchy–Schwarz), and whole numbers lose nothing to cancellation.
        (count * self.squares - sum * sum) as f64 / (count * count) as f64
    }
}

impl FromIterator<usize> for Spread {
    fn from_iter<I: IntoIterator<Item = usize>>(values: I) -> Self {
        let mut spread = Self::default();
        values.into_iter().for_each(|tokens| spread.add(tokens));
        spread
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_variance_is_the_mean_square_distance_from_the_mean() {
        //     values                 count sum  mean  variance
        for (values, count, sum, mean, variance) in [
            (&[][..], 0, 0, 0.0, 0.0),
            (&[7], 1, 7, 7.0, 0.0),
            (&[2, 4], 2, 6, 3.0, 1.0),
            (&[1, 2, 3, 4], 4, 10, 2.5, 1.25),
            (&[1 << 30, (1 << 30) + 2], 2, (1 << 31) + 2, f64::from(1 << 30) + 1.0, 1.0),
        ] {
            let spread: Spread = values.iter().copied().collect();
            assert_eq!((spread.count(), spread.sum()), (count, sum));
            assert_eq!((spread.mean(), spread.variance()), (mean, variance), "{values:?}");
        }
    }
}
