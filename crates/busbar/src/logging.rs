//! Logs of a process: level, form, and where they go.

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
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
