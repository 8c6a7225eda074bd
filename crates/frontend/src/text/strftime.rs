//! Dates for chat templates (`strftime_now`), in UTC and in English, from a clock that the caller gives.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment in civil terms, UTC.
struct Civil {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: u64,
    /// 1 to 366.
    day_of_year: u64,
    /// 0 is Sunday.
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    fn of(moment: SystemTime) -> Self {
        let seconds = moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
        let weekday = usize::try_from((days + 4) % 7).unwrap_or(0);
        let mut year = 1970;
        while days >= year_len(year) {
            days -= year_len(year);
            year += 1;
        }
        let day_of_year = days + 1;
        let mut month = 1;
        while days >= month_len(year, month) {
            days -= month_len(year, month);
            month += 1;
        }
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        Self { year, month, day: days + 1, day_of_year, weekday, hour, minute, second }
    }
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn year_len(year: i64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_len(year: i64, month: usize) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `moment` in the format of C's `strftime`, UTC, English. A directive that is not known stays as it is written.
pub(crate) fn strftime(moment: SystemTime, format: &str) -> String {
    let civil = Civil::of(moment);
    let mut out = String::with_capacity(format.len() + 16);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let Some(mut directive) = chars.next() else {
            out.push('%');
            break;
        };
        let padded = directive != '-';
        if !padded {
            directive = chars.next().unwrap_or('-');
        }
        if !expand(&civil, directive, padded, &mut out) {
            out.push('%');
            out.push_str(if padded { "" } else { "-" });
            out.push(directive);
        }
    }
    out
}

/// Appends one directive; false when it is not known.
fn expand(civil: &Civil, directive: char, padded: bool, out: &mut String) -> bool {
    let hour12 = (civil.hour + 11) % 12 + 1;
    let month = MONTHS[civil.month - 1];
    let day = DAYS[civil.weekday];
    let mut number = |value: u64, width: usize| {
        let width = if padded { width } else { 1 };
        // Writing to a String cannot fail.
        let _ = write!(out, "{value:0width$}");
    };
    match directive {
        'd' => number(civil.day, 2),
        'm' => number(civil.month as u64, 2),
        'y' => number(civil.year.rem_euclid(100).unsigned_abs(), 2),
        'Y' => number(civil.year.unsigned_abs(), 4),
        'j' => number(civil.day_of_year, 3),
        'H' => number(civil.hour, 2),
        'I' => number(hour12, 2),
        'M' => number(civil.minute, 2),
        'S' => number(civil.second, 2),
        'B' => out.push_str(month),
        'b' | 'h' => out.push_str(&month[..3]),
        'A' => out.push_str(day),
        'a' => out.push_str(&day[..3]),
        'p' => out.push_str(if civil.hour < 12 { "AM" } else { "PM" }),
        'e' => {
            let _ = write!(out, "{:2}", civil.day);
        }
        'F' => {
            let _ = write!(out, "{:04}-{:02}-{:02}", civil.year, civil.month, civil.day);
        }
        'T' => {
            let _ = write!(out, "{:02}:{:02}:{:02}", civil.hour, civil.minute, civil.second);
        }
        'Z' => out.push_str("UTC"),
        'z' => out.push_str("+0000"),
        '%' => out.push('%'),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn check(seconds: u64, format: &str, expected: &str) {
        assert_eq!(strftime(UNIX_EPOCH + Duration::from_secs(seconds), format), expected);
    }

    #[test]
    fn dates_are_those_of_python_in_utc() {
        // Each line made with python3: datetime.fromtimestamp(S, timezone.utc).strftime(FORMAT)
        check(1_795_465_820, "%d %b %Y", "23 Nov 2026");
        check(1_795_465_820, "%A, %B %d, %Y %H:%M:%S %p %I", "Monday, November 23, 2026 20:30:20 PM 08");
        check(951_827_696, "%Y-%m-%d %j %a", "2000-02-29 060 Tue");
        check(4_107_542_400, "%F %T", "2100-03-01 00:00:00");
        check(0, "%-d %-m %y%% %Q", "1 1 70% %Q");
    }
}
