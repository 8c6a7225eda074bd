//! Logs of a process: level, form, and where they go. An event is one line, whatever text of strangers it quotes.

use std::borrow::Cow;
use std::io::{self, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::UtcTime;

/// Starts logging to standard error: `DYN_LOG` is level or filter (`info` unless set), `DYN_LOGGING_JSONL=1` gives one
/// JSON object a line with the keys of Dynamo's.
pub(crate) fn start() {
    let filter = std::env::var("DYN_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // What the NATS client says of its connection we say ourselves, once and with the remedy.
    let quiet = "async_nats=off".parse().expect("a directive of the filter's own form");
    let filter = filter.add_directive(quiet);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| OneLine(io::stderr()));
    let json = std::env::var("DYN_LOGGING_JSONL").is_ok_and(|v| matches!(v.as_str(), "1" | "true"))
        || std::env::var("DYN_LOGGING_CONSOLE_FORMAT").is_ok_and(|v| v == "jsonl");
    // A second start in one process (tests) is no error: the first one stays.
    let _ = if json {
        builder
            .json()
            .flatten_event(true)
            .with_file(true)
            .with_line_number(true)
            .with_timer(UtcTime::rfc_3339())
            .try_init()
    } else {
        builder.with_ansi(false).with_timer(UtcTime::rfc_3339()).try_init()
    };
}

/// A writer that is handed one event at a time and lets none of them begin a second line or command a terminal.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(one_line(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// `event` with its control characters written out, but for the line end that it closes with.
fn one_line(event: &str) -> Cow<'_, str> {
    let (text, end) = event.strip_suffix('\n').map_or((event, ""), |text| (text, "\n"));
    if !text.contains(char::is_control) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(event.len() + 16);
    for char in text.chars() {
        match char {
            control if control.is_control() => line.extend(control.escape_default()),
            plain => line.push(plain),
        }
    }
    line.push_str(end);
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_no_command_of_a_terminal() {
        assert_eq!(one_line("plain é \"quoted\"\n"), "plain é \"quoted\"\n");
        let forged = "GET /x\r\n2026-01-01 ERROR forged\u{1b}[2J\u{9b}31m\t\u{0}\n";
        assert_eq!(one_line(forged), "GET /x\\r\\n2026-01-01 ERROR forged\\u{1b}[2J\\u{9b}31m\\t\\u{0}\n");
        assert_eq!(one_line("no end"), "no end");
    }

    #[test]
    fn every_byte_of_an_event_counts_as_written() {
        let mut out = Vec::new();
        OneLine(&mut out).write_all(b"a\nb \xff\n").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\\nb \u{fffd}\n");
    }
}
