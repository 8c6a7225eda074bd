//! Kubernetes' quantities: `500m`, `8Gi`, `1e3`, `2`.

use std::cmp::Ordering;
use std::fmt;

/// An amount, exact to the billionth.
///
/// Source: Kubernetes, apimachinery, `resource.Quantity`: a signed decimal number, then one of the suffixes n, u, m, k,
/// M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei, or an exponent `e` or `E`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

/// Parts of one.
const NANOS: i128 = 1_000_000_000;
/// Largest amount, as in Kubernetes: 2^63 − 1.
const AMOUNT_MAX: i128 = i64::MAX as i128;
/// Digits of a number, before and after the point. More than the largest amount has; keeps the arithmetic exact.
const DIGITS_MAX: usize = 28;

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quantity({}n)", self.nanos)
    }
}

impl Quantity {
    /// Reads a quantity; none when the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.as_bytes().first()? {
            b'-' => (-1, &text[1..]),
            b'+' => (1, &text[1..]),
            _ => (1, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > DIGITS_MAX {
            return None;
        }
        let (numerator, denominator) = factor(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(denominator)?;
        // Split, so that many digits times a large suffix do not overflow before the division.
        let (units, rest) = (digits.checked_mul(numerator)? / scale, digits.checked_mul(numerator)? % scale);
        if units > AMOUNT_MAX {
            return None;
        }
        // Kubernetes rounds what is finer than a billionth up.
        let part = rest.checked_mul(NANOS)?;
        let part = part / scale + i128::from(part % scale != 0);
        Some(Self { nanos: sign * (units * NANOS + part) })
    }

    /// The amount when it is a whole number, as counts of GPUs are.
    pub fn whole(self) -> Option<i64> {
        (self.nanos % NANOS == 0).then(|| i64::try_from(self.nanos / NANOS).ok())?
    }

    /// Below, at or above zero.
    pub fn sign(self) -> Ordering {
        self.nanos.cmp(&0)
    }
}

/// What a suffix multiplies by, as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let up = |exponent: u32| Some((10_i128.pow(exponent), 1));
    let binary = |exponent: u32| Some((1_i128 << exponent, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANOS)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => up(3),
        "M" => up(6),
        "G" => up(9),
        "T" => up(12),
        "P" => up(15),
        "E" => up(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            // Beyond 18 either way nothing is left of a number that is not zero, or it is too large.
            let power = 10_i128.pow(exponent.unsigned_abs().min(18));
            match exponent {
                -18..0 => Some((1, power)),
                0..=18 => Some((power, 1)),
                _ => None,
            }
        }
    }
}
