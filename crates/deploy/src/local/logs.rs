//! Logs of the processes: written with a bound, read by name.

use super::state::RunFolder;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncRead};

/// Bytes of one log before it is turned over to `.1`; so a process keeps at most twice this on disk.
pub const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of one line that are kept; a longer one is cut, so that a process cannot fill our memory.
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;
/// Last lines that are remembered, for the reason of an end.
const LAST_LINES: usize = 20;

/// The log of one process, open for appending.
pub struct LogFile {
    path: PathBuf,
    file: std::fs::File,
    bytes: u64,
    last: VecDeque<String>,
}

impl LogFile {
    /// Opens or creates the log.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::File::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, last: VecDeque::with_capacity(LAST_LINES) })
    }

    /// Appends one line. A full disk loses log lines, never a process.
    pub fn line(&mut self, line: &str) {
        if self.bytes > LOG_BYTES_MAX {
            self.turn_over();
        }
        if writeln!(self.file, "{line}").is_ok() {
            self.bytes += line.len() as u64 + 1;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    fn turn_over(&mut self) {
        let old = self.path.with_extension("log.1");
        if std::fs::rename(&self.path, old).is_ok()
            && let Ok(file) = std::fs::File::create(&self.path)
        {
            self.file = file;
            self.bytes = 0;
        }
    }

    /// What says what went wrong, in one line: the last `error:` with its indented lines (causes and remedies), else
    /// the last line that is not empty.
    pub fn last_words(&self) -> Option<String> {
        let lines: Vec<&str> = self.last.iter().map(String::as_str).filter(|line| !line.trim().is_empty()).collect();
        let Some(error) = lines.iter().rposition(|line| line.starts_with("error:")) else {
            return lines.last().map(|&line| line.to_owned());
        };
        let below = lines[error + 1..].iter().take_while(|line| line.starts_with(' '));
        Some(std::iter::once(&lines[error]).chain(below).map(|line| line.trim()).collect::<Vec<_>>().join("; "))
    }

    /// Forgets the remembered lines: a new process begins.
    pub fn forget_last_words(&mut self) {
        self.last.clear();
    }
}

/// Reads lines of any length and any bytes, each cut at [`LOG_LINE_BYTES_MAX`], and gives them to `take`.
pub async fn copy_lines(stream: impl AsyncRead + Unpin, mut take: impl FnMut(&str)) {
    let mut reader = tokio::io::BufReader::new(stream);
    let mut line: Vec<u8> = Vec::new();
    loop {
        let available = match reader.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => break,
        };
        let (used, ended) = match available.iter().position(|&b| b == b'\n') {
            Some(at) => (at + 1, true),
            None => (available.len(), false),
        };
        let room = LOG_LINE_BYTES_MAX.saturating_sub(line.len());
        let part = &available[..used - usize::from(ended)];
        line.extend_from_slice(&part[..part.len().min(room)]);
        reader.consume(used);
        if ended {
            take(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        take(&String::from_utf8_lossy(&line));
    }
}

/// Every process of a run that has a log, by name.
pub fn all(folder: &RunFolder) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder.logs()) else { return Vec::new() };
    let name = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".log").map(str::to_owned);
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    names
}

/// Those whose name or component is `wanted`; case does not count.
pub fn matching(folder: &RunFolder, wanted: &str) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let component = |name: &str| name.rsplit_once('-').map(|(component, _)| component.to_owned());
    all(folder).into_iter().filter(|name| *name == wanted || component(name).as_ref() == Some(&wanted)).collect()
}

/// The last `count` lines of a log.
///
/// # Errors
/// Those of the file system.
pub fn tail(path: &Path, count: usize) -> std::io::Result<Vec<String>> {
    let mut lines = VecDeque::with_capacity(count.min(10_000));
    for line in BufReader::new(std::fs::File::open(path)?).split(b'\n') {
        if lines.len() == count {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(&line?).into_owned());
    }
    Ok(lines.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_whole_of_an_error_or_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&folder.path().join("a.log")).unwrap();
        for line in ["starting", "error: no model", "  cause: gone", "         since today", " remedy: give one", ""] {
            log.line(line);
        }
        assert_eq!(log.last_words().unwrap(), "error: no model; cause: gone; since today; remedy: give one");
        log.forget_last_words();
        log.line("x");
        assert_eq!(log.last_words().unwrap(), "x");
        assert_eq!(tail(&folder.path().join("a.log"), 2).unwrap(), ["", "x"]);
    }

    #[tokio::test]
    async fn lines_are_cut_and_never_lost_at_their_borders() {
        let long = "x".repeat(LOG_LINE_BYTES_MAX * 3);
        let text = format!("a\n{long}\n\nlast");
        let mut lines = Vec::new();
        copy_lines(text.as_bytes(), |line| lines.push(line.to_owned())).await;
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [1, LOG_LINE_BYTES_MAX, 0, 4]);
    }

    #[test]
    fn a_log_that_is_full_is_turned_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = LogFile::open(&path).unwrap();
        log.bytes = LOG_BYTES_MAX + 1;
        log.line("first of the new one");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first of the new one\n");
        assert!(folder.path().join("a.log.1").exists());
    }
}
