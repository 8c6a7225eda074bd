//! Server-sent events, cut into the chunks of one sequence.

use super::answer::Chunk;
use super::client::StreamError;
use futures::StreamExt;
use futures::stream::BoxStream;

/// A line of the stream. The first chunk repeats the prompt's token ids: up to 8 bytes each of a million.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

type Parts = BoxStream<'static, Result<bytes::Bytes, StreamError>>;

/// The chunks in `parts`; the stream ends at `[DONE]` or with the connection.
pub(crate) fn chunks(parts: Parts) -> BoxStream<'static, Result<Chunk, StreamError>> {
    futures::stream::unfold((parts, Lines::default()), next_chunk).boxed()
}

async fn next_chunk((mut parts, mut lines): (Parts, Lines)) -> Option<(Result<Chunk, StreamError>, (Parts, Lines))> {
    loop {
        while let Some(line) = lines.next() {
            let Some(data) = line.strip_prefix("data:") else { continue };
            if data.trim() == "[DONE]" {
                return None;
            }
            let chunk = serde_json::from_str(data).map_err(|error| StreamError::Broken(format!("a chunk: {error}")));
            return Some((chunk, (parts, lines)));
        }
        match parts.next().await? {
            Ok(part) => {
                if let Err(error) = lines.push(&part) {
                    return Some((Err(error), (parts, lines)));
                }
            }
            Err(error) => return Some((Err(error), (parts, lines))),
        }
    }
}

/// Bytes in, whole lines out.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Up to here there is no line end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, part: &[u8]) -> Result<(), StreamError> {
        if self.buffer.len() + part.len() > LINE_BYTES_MAX {
            return Err(StreamError::Broken(format!("a line of over {LINE_BYTES_MAX} bytes")));
        }
        self.buffer.extend_from_slice(part);
        Ok(())
    }

    fn next(&mut self) -> Option<String> {
        let end = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n').map(|at| at + self.searched);
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = String::from_utf8_lossy(&self.buffer[..end]).trim_end_matches('\r').to_owned();
        self.buffer.drain(..=end);
        self.searched = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_are_cut() {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for byte in b"data: 1\r\n\ndata: \xc3\xa9\nrest" {
            lines.push(&[*byte]).unwrap();
            all.extend(std::iter::from_fn(|| lines.next()));
        }
        assert_eq!(all, ["data: 1", "", "data: é"]);
        assert!(lines.push(&vec![b'x'; LINE_BYTES_MAX]).is_err());
    }
}
