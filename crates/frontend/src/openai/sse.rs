//! Server-sent events, written straight into the socket's buffer.
//!
//! A chunk is a prebuilt head, the few bytes that differ, and a prebuilt tail: no value tree for each token. The tests
//! hold it equal to what serde writes of the typed chunk.

use crate::openai::ApiError;
use crate::openai::response::{ChatLogprobs, ChatUsage, CompletionLogprobs, NvextResponse, TokenLogprob};
use crate::postprocess::{Finish, Raised};
use bytes::{BufMut, BytesMut};
use protocol::output::CompletionUsage;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Chat,
    Completion,
}

/// Writes the chunks of one HTTP stream, all its choices.
#[derive(Clone, Debug)]
pub struct ChunkWriter {
    shape: Shape,
    /// Up to and with `"choices":[`.
    head: Vec<u8>,
    /// From `]` to the end of the fixed fields, without the closing brace.
    tail: Vec<u8>,
    /// Bit `i` is set once choice `i` has told its role. [`crate::openai::request::MAX_CHOICES`] fit.
    started: u128,
}

impl ChunkWriter {
    /// For a chat. `id` such as `chatcmpl-…`; `created` in Unix seconds.
    pub fn chat(id: &str, model: &str, created: u64) -> Self {
        Self::new(Shape::Chat, id, model, created)
    }

    /// For a completion. `id` such as `cmpl-…`; `created` in Unix seconds.
    pub fn completion(id: &str, model: &str, created: u64) -> Self {
        Self::new(Shape::Completion, id, model, created)
    }

    fn new(shape: Shape, id: &str, model: &str, created: u64) -> Self {
        let mut head = BytesMut::new();
        head.put_slice(b"data: {\"id\":");
        write_json(&mut head, id);
        head.put_slice(b",\"choices\":[");
        let mut tail = BytesMut::new();
        tail.put_slice(b"],\"created\":");
        write_json(&mut tail, &created);
        tail.put_slice(b",\"model\":");
        write_json(&mut tail, model);
        tail.put_slice(match shape {
            Shape::Chat => b",\"object\":\"chat.completion.chunk\"".as_slice(),
            Shape::Completion => b",\"system_fingerprint\":null,\"object\":\"text_completion\"",
        });
        Self { shape, head: head.to_vec(), tail: tail.to_vec(), started: 0 }
    }

    /// Writes what was raised for choice `index`: a chunk with the text, if there is any, then one with the reason, if
    /// the choice ended. [`Finish::Error`] is not written: [`error`] tells it.
    pub fn delta(&mut self, out: &mut BytesMut, index: u32, raised: &Raised, nvext: Option<&NvextResponse>) {
        self.delta_with_usage(out, index, raised, nvext, None);
    }

    /// The same with the usage so far on each chunk (`continuous_usage_stats`).
    pub fn delta_with_usage(
        &mut self,
        out: &mut BytesMut,
        index: u32,
        raised: &Raised,
        nvext: Option<&NvextResponse>,
        usage: Option<&CompletionUsage>,
    ) {
        let finish = match &raised.finish {
            Some(Finish::Error(_)) | None => None,
            Some(finish) => Some(finish.as_str()),
        };
        if !raised.text.is_empty() || !raised.logprobs.is_empty() {
            self.choice(out, index, &raised.text, &raised.logprobs, None);
            // Timing is for the last chunk only.
            let timed_later = nvext.filter(|_| finish.is_some()).map(|n| NvextResponse { timing: None, ..n.clone() });
            self.close(out, usage, timed_later.as_ref().or(nvext));
        }
        if let Some(finish) = finish {
            self.choice(out, index, "", &[], Some(finish));
            self.close(out, usage, nvext);
        }
    }

    /// Writes the last chunk of `stream_options.include_usage`, which has no choice.
    pub fn usage(&self, out: &mut BytesMut, usage: &CompletionUsage) {
        out.put_slice(&self.head);
        self.close(out, Some(usage), None);
    }

    fn choice(&mut self, out: &mut BytesMut, index: u32, text: &str, logprobs: &[TokenLogprob], finish: Option<&str>) {
        out.reserve(self.head.len() + self.tail.len() + text.len() + 160);
        out.put_slice(&self.head);
        match self.shape {
            Shape::Chat => self.chat_choice(out, index, text, logprobs, finish),
            Shape::Completion => completion_choice(out, index, text, logprobs, finish),
        }
    }

    fn chat_choice(
        &mut self,
        out: &mut BytesMut,
        index: u32,
        text: &str,
        logprobs: &[TokenLogprob],
        finish: Option<&str>,
    ) {
        let bit = 1_u128.checked_shl(index).unwrap_or(0);
        let first = self.started & bit == 0;
        self.started |= bit;
        out.put_slice(b"{\"index\":");
        write_json(out, &index);
        out.put_slice(b",\"delta\":{");
        if finish.is_none() {
            out.put_slice(b"\"content\":");
            write_json(out, text);
        }
        if first {
            out.put_slice(if finish.is_none() { b",".as_slice() } else { b"" });
            out.put_slice(b"\"role\":\"assistant\"");
        }
        out.put_slice(b"},\"finish_reason\":");
        write_json(out, &finish);
        out.put_slice(b",\"logprobs\":");
        write_json(out, &ChatLogprobs::of(logprobs));
        out.put_slice(b"}");
    }

    fn close(&self, out: &mut BytesMut, usage: Option<&CompletionUsage>, nvext: Option<&NvextResponse>) {
        out.put_slice(&self.tail);
        if let Some(usage) = usage {
            out.put_slice(b",\"usage\":");
            match self.shape {
                Shape::Chat => write_json(out, &ChatUsage::from(*usage)),
                Shape::Completion => write_json(out, usage),
            }
        }
        if let Some(nvext) = nvext {
            out.put_slice(b",\"nvext\":");
            write_json(out, nvext);
        }
        out.put_slice(b"}\n\n");
    }
}

fn completion_choice(out: &mut BytesMut, index: u32, text: &str, logprobs: &[TokenLogprob], finish: Option<&str>) {
    out.put_slice(b"{\"text\":");
    write_json(out, text);
    out.put_slice(b",\"index\":");
    write_json(out, &index);
    out.put_slice(b",\"logprobs\":");
    write_json(out, &CompletionLogprobs::of(logprobs));
    out.put_slice(b",\"finish_reason\":");
    write_json(out, &finish);
    out.put_slice(b"}");
}

/// Writes an annotation: its name as the event, its value as a comment, as the stock frontend does.
pub fn annotation(out: &mut BytesMut, event: &str, value: &str) {
    out.put_slice(b"event: ");
    out.put_slice(event.as_bytes());
    out.put_slice(b"\n: ");
    write_json(out, value);
    out.put_slice(b"\n\n");
}

/// Writes an error that came after the answer began. [`done`] follows it.
pub fn error(out: &mut BytesMut, error: &ApiError) {
    out.put_slice(b"data: ");
    out.put_slice(&error.body());
    out.put_slice(b"\n\n");
}

/// Writes the end of the stream.
pub fn done(out: &mut BytesMut) {
    out.put_slice(b"data: [DONE]\n\n");
}

fn write_json<T: Serialize + ?Sized>(out: &mut BytesMut, value: &T) {
    // A buffer in memory takes every byte, and our types have string keys and finite numbers only.
    let written = serde_json::to_writer(out.writer(), value);
    debug_assert!(written.is_ok(), "JSON into memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::response::{Alternative, Timing, WorkerIds};
    use serde_json::{Value, json};

    /// The events of `out` as (text of the JSON).
    fn events(out: &BytesMut) -> Vec<String> {
        let text = String::from_utf8(out.to_vec()).unwrap();
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
    }

    fn raised(text: &str, finish: Option<Finish>) -> Raised {
        Raised { text: text.into(), finish, ..Raised::default() }
    }

    fn nvext(timed: bool) -> NvextResponse {
        let worker_id = WorkerIds {
            prefill_worker_id: 10303251846848348836,
            prefill_dp_rank: 0,
            decode_worker_id: 10303251846848348836,
            decode_dp_rank: 0,
        };
        let timing = Timing {
            request_received_ms: 1795465821307,
            prefill_wait_time_ms: 0.8112539999999999,
            prefill_time_ms: 17.748253,
            ttft_ms: 18.559507,
            total_time_ms: 81.182275,
            kv_hit_rate: 0.8333333333333334,
            router_queue_depth: 0,
        };
        NvextResponse { worker_id: Some(worker_id), timing: timed.then_some(timing) }
    }

    #[test]
    fn a_chat_stream_is_byte_for_byte_what_the_stock_frontend_sent() {
        let recorded = include_str!("../../tests/data/stock-stream.txt");
        let mut writer = ChunkWriter::chat("chatcmpl-ecb38f89-9c84-4647-8435-1c400f190b50", "tiny", 1795465821);
        let mut out = BytesMut::new();
        let texts = ["_size", "ush", "frame", " last"];
        for (at, text) in texts.iter().enumerate() {
            let finish = (at + 1 == texts.len()).then_some(Finish::Length);
            writer.delta(&mut out, 0, &raised(text, finish), Some(&nvext(at + 1 == texts.len())));
        }
        writer.usage(&mut out, &CompletionUsage::new(89, 8, 80));
        done(&mut out);
        assert_eq!(String::from_utf8(out.to_vec()).unwrap(), recorded);
    }

    #[test]
    fn a_chunk_is_what_serde_writes_of_it_whatever_the_text() {
        let id = "id \"quoted\"";
        let model = "mödel\\\n";
        for text in ["plain", "\"\\\n\r\t\u{0}\u{1f}\u{7f}\u{2028} 🦀</script>", "", "é"] {
            let mut writer = ChunkWriter::chat(id, model, 7);
            let mut out = BytesMut::new();
            let entry = TokenLogprob {
                token: text.to_owned(),
                logprob: -0.25,
                bytes: Some(text.as_bytes().to_vec()),
                top_logprobs: vec![Alternative { token: "b".into(), logprob: -9999.0, bytes: None }],
                text_offset: 3,
            };
            let step = Raised { logprobs: vec![entry], ..raised(text, None) };
            writer.delta(&mut out, 5, &step, None);
            writer.delta(&mut out, 5, &raised("x", Some(Finish::Stop)), None);
            let chunk = |delta: Value, finish: Value, logprobs: Value| {
                json!({"id": id, "choices": [{"index": 5, "delta": delta, "finish_reason": finish, "logprobs": logprobs}],
                    "created": 7, "model": model, "object": "chat.completion.chunk"})
                .to_string()
            };
            let logprobs = json!({"content": [{"token": text, "logprob": -0.25, "bytes": text.as_bytes(),
                "top_logprobs": [{"token": "b", "logprob": -9999.0, "bytes": null}]}], "refusal": null});
            let expected = [
                chunk(json!({"content": text, "role": "assistant"}), Value::Null, logprobs),
                chunk(json!({"content": "x"}), Value::Null, Value::Null),
                chunk(json!({}), json!("stop"), Value::Null),
            ];
            assert_eq!(events(&out), expected);
        }
    }

    #[test]
    fn a_completion_chunk_is_what_serde_writes_of_it() {
        let mut writer = ChunkWriter::completion("cmpl-1", "m", 9);
        let mut out = BytesMut::new();
        let entry =
            TokenLogprob { token: "a".into(), logprob: -1.5, bytes: None, top_logprobs: Vec::new(), text_offset: 4 };
        writer.delta(&mut out, 1, &Raised { logprobs: vec![entry], ..raised("a", Some(Finish::Length)) }, None);
        let chunk = |text: &str, finish: Value, logprobs: Value| {
            json!({"id": "cmpl-1", "choices": [{"text": text, "index": 1, "logprobs": logprobs, "finish_reason": finish}],
                "created": 9, "model": "m", "system_fingerprint": null, "object": "text_completion"})
            .to_string()
        };
        let logprobs = json!({"tokens": ["a"], "token_logprobs": [-1.5], "top_logprobs": [{}], "text_offset": [4]});
        let expected = [chunk("a", Value::Null, logprobs), chunk("", json!("length"), Value::Null)];
        assert_eq!(events(&out), expected);
    }

    #[test]
    fn each_choice_tells_its_role_once_even_if_it_says_nothing() {
        let mut writer = ChunkWriter::chat("i", "m", 1);
        let mut out = BytesMut::new();
        writer.delta(&mut out, 127, &raised("", Some(Finish::Stop)), None);
        writer.delta(&mut out, 0, &raised("a", None), None);
        writer.delta(&mut out, 0, &raised("", None), None);
        let events = events(&out);
        assert_eq!(events.len(), 2, "nothing is written for nothing");
        assert!(events[0].contains(r#""delta":{"role":"assistant"},"finish_reason":"stop""#));
        assert!(events[1].contains(r#""delta":{"content":"a","role":"assistant"}"#));
    }

    #[test]
    fn annotations_errors_and_the_end_are_events_of_their_own() {
        let mut out = BytesMut::new();
        annotation(&mut out, "formatted_prompt", "a\n\"b\"");
        error(&mut out, &ApiError::new(503, "service_unavailable", "gone"));
        done(&mut out);
        let expected = "event: formatted_prompt\n: \"a\\n\\\"b\\\"\"\n\ndata: {\"error\":{\"message\":\"gone\",\"type\":\
                        \"service_unavailable\",\"param\":null,\"code\":null}}\n\ndata: [DONE]\n\n";
        assert_eq!(String::from_utf8(out.to_vec()).unwrap(), expected);
    }
}
