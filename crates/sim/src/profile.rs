//! A measured engine: time to first token by prompt length, and time a token by contexts, interpolated.
//!
//! The arrays are those of `dynamo.mocker --planner-profile-data`.

/// What a profile holds; times in ms, the rest in tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileArrays {
    /// Prompt tokens of a step, rising.
    pub prefill_isl: Vec<f64>,
    /// Time to the first token at each of these.
    pub prefill_ttft_ms: Vec<f64>,
    /// Contexts of all decoding sequences together, rising.
    pub decode_active_kv_tokens: Vec<f64>,
    /// Mean context of a decoding sequence, rising.
    pub decode_context_length: Vec<f64>,
    /// Time of a decode step, a row for each of `decode_active_kv_tokens`, a column for each of
    /// `decode_context_length`.
    pub decode_itl: Vec<f64>,
}

/// A profile that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// An axis has too few points, or does not rise.
    #[error("`{0}` of the profile needs at least two points, each above the one before")]
    Axis(&'static str),
    /// An array has not as many values as its axes ask for.
    #[error("`{array}` of the profile has {values} values; its axes ask for {expected}")]
    Length {
        /// Which.
        array: &'static str,
        /// What it has.
        values: usize,
        /// What it should have.
        expected: usize,
    },
    /// A value is no time.
    #[error("`{0}` of the profile holds a value that is no time in ms: each is 0 or more")]
    Time(&'static str),
}

/// A profile whose axes rise and whose arrays fit them.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile(ProfileArrays);

impl Profile {
    /// Checks the arrays.
    ///
    /// # Errors
    /// [`ProfileError`] names the array.
    pub fn new(arrays: ProfileArrays) -> Result<Self, ProfileError> {
        let axes = [
            ("prefill_isl", &arrays.prefill_isl),
            ("decode_active_kv_tokens", &arrays.decode_active_kv_tokens),
            ("decode_context_length", &arrays.decode_context_length),
        ];
        let rises = |axis: &[f64]| axis.len() >= 2 && axis.windows(2).all(|pair| pair[0] < pair[1]);
        if let Some((name, _)) = axes.iter().find(|(_, axis)| !rises(axis) || axis.iter().any(|x| !x.is_finite())) {
            return Err(ProfileError::Axis(name));
        }
        let cells = arrays.decode_active_kv_tokens.len() * arrays.decode_context_length.len();
        for (array, values, expected) in [
            ("prefill_ttft_ms", &arrays.prefill_ttft_ms, arrays.prefill_isl.len()),
            ("decode_itl", &arrays.decode_itl, cells),
        ] {
            if values.len() != expected {
                return Err(ProfileError::Length { array, values: values.len(), expected });
            }
            if values.iter().any(|ms| !ms.is_finite() || *ms < 0.0) {
                return Err(ProfileError::Time(array));
            }
        }
        Ok(Self(arrays))
    }

    /// Time of a step that computes so many prompt tokens, in ms. Beyond the profile its last slope goes on.
    pub(crate) fn prefill_ms(&self, tokens: f64) -> f64 {
        let at = Place::of(&self.0.prefill_isl, tokens);
        at.between(self.0.prefill_ttft_ms[at.before], self.0.prefill_ttft_ms[at.before + 1])
    }

    /// Time of a decode step, in ms, by all contexts together and their mean. Beyond the profile its last slopes go
    /// on.
    pub(crate) fn decode_ms(&self, active_kv_tokens: f64, context_length: f64) -> f64 {
        let row = Place::of(&self.0.decode_active_kv_tokens, active_kv_tokens);
        let column = Place::of(&self.0.decode_context_length, context_length);
        let columns = self.0.decode_context_length.len();
        let along = |row: usize| {
            let cell = row * columns + column.before;
            column.between(self.0.decode_itl[cell], self.0.decode_itl[cell + 1])
        };
        row.between(along(row.before), along(row.before + 1))
    }
}

/// A place between two points of an axis, or on the line through the first or last two.
struct Place {
    before: usize,
    /// 0 at the point before, 1 at the next.
    share: f64,
}

impl Place {
    /// `axis` rises and has two points or more.
    fn of(axis: &[f64], x: f64) -> Self {
        let before = axis.partition_point(|point| *point <= x).saturating_sub(1).min(axis.len() - 2);
        Self { before, share: (x - axis[before]) / (axis[before + 1] - axis[before]) }
    }

    fn between(&self, before: f64, after: f64) -> f64 {
        before + (after - before) * self.share
    }
}

#[cfg(test)]
mod tests {
    use super::{Profile, ProfileArrays, ProfileError};

    fn arrays() -> ProfileArrays {
        ProfileArrays {
            prefill_isl: vec![100.0, 200.0, 400.0],
            prefill_ttft_ms: vec![10.0, 20.0, 60.0],
            decode_active_kv_tokens: vec![0.0, 1000.0],
            decode_context_length: vec![0.0, 100.0],
            decode_itl: vec![4.0, 6.0, 8.0, 20.0],
        }
    }

    #[test]
    fn between_points_the_line_counts_and_beyond_them_the_last_line_goes_on() {
        let profile = Profile::new(arrays()).unwrap();
        for (tokens, ms) in [(100.0, 10.0), (150.0, 15.0), (300.0, 40.0), (400.0, 60.0), (500.0, 80.0), (50.0, 5.0)] {
            assert_eq!(profile.prefill_ms(tokens), ms, "{tokens} tokens");
        }
        for (kv, context, ms) in [(0.0, 0.0, 4.0), (1000.0, 100.0, 20.0), (500.0, 50.0, 9.5), (2000.0, 0.0, 12.0)] {
            assert_eq!(profile.decode_ms(kv, context), ms, "{kv} tokens, {context} each");
        }
    }

    #[test]
    fn a_profile_that_does_not_fit_together_is_refused_by_the_name_of_its_array() {
        let refused = |change: &dyn Fn(&mut ProfileArrays)| {
            let mut arrays = arrays();
            change(&mut arrays);
            Profile::new(arrays).unwrap_err()
        };
        assert_eq!(refused(&|a| a.prefill_isl = vec![1.0]), ProfileError::Axis("prefill_isl"));
        let axis = ProfileError::Axis("decode_context_length");
        assert_eq!(refused(&|a| a.decode_context_length = vec![5.0, 5.0]), axis);
        let length = ProfileError::Length { array: "decode_itl", values: 3, expected: 4 };
        assert_eq!(refused(&|a| a.decode_itl.truncate(3)), length);
        assert_eq!(refused(&|a| a.prefill_ttft_ms[1] = -1.0), ProfileError::Time("prefill_ttft_ms"));
        assert_eq!(refused(&|a| a.decode_itl[0] = f64::NAN), ProfileError::Time("decode_itl"));
    }
}
