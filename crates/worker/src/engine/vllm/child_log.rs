//! What a vLLM child writes: passed on line by line into our log, the last lines kept for when it dies.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Longest line that is passed on; the rest of it is a line of its own.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Lines that are kept: a Python traceback through three processes.
const LINES_KEPT: usize = 200;

/// Lines of its end that an error shows.
const LINES_SHOWN: usize = 8;

/// Exceptions that an error shows.
const EXCEPTIONS_SHOWN: usize = 3;

/// Lines of one exception that an error shows: a validation error has two for each of its fields.
const EXCEPTION_LINES_MAX: usize = 6;

/// The last lines of a child.
#[derive(Clone, Debug, Default)]
pub(super) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: String) {
        let mut lines = self.0.lock();
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Why the child ended, in its own words: its exceptions, else its last lines.
    pub(super) fn why(&self) -> String {
        let lines = self.0.lock();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut exceptions: Vec<String> = Vec::new();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_exception(said(line))) {
            // What the exception says goes on in the indented lines below it: pydantic names only a count in its first.
            let text = said(line);
            let more = lines[at + 1..].iter().take(EXCEPTION_LINES_MAX - 1).take_while(|more| goes_on(line, more));
            let more = more.map(|more| said(more));
            let whole = std::iter::once(text).chain(more).collect::<Vec<_>>().join("\n");
            if !exceptions.contains(&whole) {
                exceptions.push(whole);
            }
        }
        // The first one is the cause, those after it what became of it.
        exceptions.truncate(EXCEPTIONS_SHOWN);
        if !exceptions.is_empty() {
            return exceptions.join("\n");
        }
        let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        if shown.is_empty() { "it wrote nothing".to_owned() } else { shown.join("\n") }
    }

    /// Whether some line says that flag is unknown to the program.
    pub(super) fn refuses_flag(&self, flag: &str) -> bool {
        let lines = self.0.lock();
        lines.iter().any(|line| {
            let refused = line.split_once("unrecognized arguments:").map(|(_, arguments)| arguments);
            refused.is_some_and(|arguments| arguments.split_whitespace().any(|word| word == flag))
        })
    }
}

/// A line without what vLLM puts before it: `(EngineCore pid=7) ERROR 11-24 01:02:03 [core.py:76] `.
fn said(line: &str) -> &str {
    let text = line.strip_prefix('(').and_then(|rest| rest.split_once(") ")).map_or(line, |(_, text)| text);
    match level_of(line) {
        None => text,
        Some(_) => text.split_once("] ").map_or(text, |(_, text)| text),
    }
}

/// `ValueError: …`, `vllm.exceptions.SomeError: …`, `vllm serve: error: …`.
fn is_exception(text: &str) -> bool {
    let Some((name, _)) = text.split_once(": ") else { return false };
    if text.starts_with("vllm") && text.contains(": error: ") {
        return true;
    }
    let word = name.rsplit('.').next().unwrap_or(name);
    (word.ends_with("Error") || word.ends_with("Exception"))
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_')
}

/// Whether a line goes on with the text of an exception: it is indented, written in the same way, and no part of a
/// traceback.
fn goes_on(exception: &str, line: &str) -> bool {
    let text = said(line);
    let same_way = level_of(exception).is_some() == level_of(line).is_some();
    same_way && text.starts_with("  ") && !text.trim_start().starts_with("File \"")
}

/// The level that vLLM's own log writes first.
fn level_of(line: &str) -> Option<tracing::Level> {
    let text = line.strip_prefix('(').and_then(|rest| rest.split_once(") ")).map_or(line, |(_, text)| text);
    match text.split_once(' ')?.0 {
        "DEBUG" => Some(tracing::Level::DEBUG),
        "INFO" => Some(tracing::Level::INFO),
        "WARNING" => Some(tracing::Level::WARN),
        "ERROR" | "CRITICAL" => Some(tracing::Level::ERROR),
        _ => None,
    }
}

/// Whether a line is the access log of a look that we take ourselves, twice a second.
fn is_our_look(line: &str) -> bool {
    ["\"GET /metrics HTTP/1.1\" 200", "\"GET /health HTTP/1.1\" 200"].iter().any(|look| line.contains(look))
}

/// Passes on what `stream` brings until it ends.
pub(super) async fn follow(stream: impl AsyncRead + Unpin, last: LastLines) {
    let mut reader = BufReader::new(stream);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&buffer).trim_end().to_owned();
        if line.is_empty() || is_our_look(&line) {
            continue;
        }
        match level_of(&line) {
            Some(tracing::Level::ERROR) => tracing::error!(target: "vllm", "{line}"),
            Some(tracing::Level::WARN) => tracing::warn!(target: "vllm", "{line}"),
            Some(tracing::Level::DEBUG) => tracing::debug!(target: "vllm", "{line}"),
            _ => tracing::info!(target: "vllm", "{line}"),
        }
        last.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn why(text: &str) -> String {
        let last = LastLines::default();
        follow(text.as_bytes(), last.clone()).await;
        last.why()
    }

    #[tokio::test]
    async fn a_dead_child_is_quoted_by_its_exceptions_the_cause_first_and_each_once() {
        let text = "(APIServer pid=1) INFO 11-24 01:02:03 [api_server.py:1] starting\n\
            (EngineCore pid=2) ERROR 11-24 01:02:04 [core.py:76] Traceback (most recent call last):\n\
            (EngineCore pid=2) ERROR 11-24 01:02:04 [core.py:76] ValueError: block size 16 is not supported\n\
            (EngineCore pid=2) ValueError: block size 16 is not supported\n\
            (APIServer pid=1) RuntimeError: Engine core initialization failed.\n(APIServer pid=1) done\n";
        let expected = "ValueError: block size 16 is not supported\nRuntimeError: Engine core initialization failed.";
        assert_eq!(why(text).await, expected);
    }

    #[tokio::test]
    async fn an_exception_of_several_lines_is_quoted_with_all_of_them() {
        // As vLLM 0.32.0 writes it.
        let text = "(APIServer pid=1) Traceback (most recent call last):\n\
            (APIServer pid=1)   File \"/x/vllm\", line 8, in <module>\n\
            (APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n\
            (APIServer pid=1)   Value error, User-specified max_model_len (9999999) is too large\n\
            (APIServer pid=1)     For further information visit the documentation\n\
            (APIServer pid=1) INFO 11-24 01:02:03 [x.py:1]   bye\n";
        let shown = why(text).await;
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines.len() == 3 && lines[0].ends_with("for ModelConfig"), "{shown}");
        assert_eq!(lines[1], "  Value error, User-specified max_model_len (9999999) is too large");
    }

    #[tokio::test]
    async fn without_an_exception_the_last_lines_are_quoted() {
        let text: String = (0..300).map(|n| format!("line {n}: x\n")).collect();
        let shown = why(&text).await;
        assert!(shown.starts_with("line 292: x\n") && shown.ends_with("line 299: x"), "{shown}");
        assert_eq!(why("").await, "it wrote nothing");
    }

    #[tokio::test]
    async fn the_looks_that_we_take_push_nothing_out() {
        let text = "INFO:     127.0.0.1:1 - \"GET /metrics HTTP/1.1\" 200 OK\n".repeat(3);
        assert_eq!(why(&format!("last\n{text}")).await, "last");
        let refused = "INFO:     127.0.0.1:1 - \"GET /metrics HTTP/1.1\" 500 Internal Server Error";
        assert_eq!(why(refused).await, refused);
    }

    #[tokio::test]
    async fn an_endless_line_is_cut_and_bytes_that_are_no_text_do_no_harm() {
        let last = LastLines::default();
        follow(&[b'x', 0xff].repeat(LINE_BYTES_MAX as usize)[..], last.clone()).await;
        assert_eq!(last.0.lock().len(), 2);
    }

    #[tokio::test]
    async fn a_flag_that_the_program_does_not_know_is_found_in_its_complaint() {
        let last = LastLines::default();
        let text = "usage: vllm serve\nvllm serve: error: unrecognized arguments: --enable-scale-out --x=1\n";
        follow(text.as_bytes(), last.clone()).await;
        assert!(last.refuses_flag("--enable-scale-out") && !last.refuses_flag("--enable"));
        assert!(last.why().starts_with("vllm serve: error: unrecognized"), "{}", last.why());
    }
}
