//! See `fuzz::http::chat_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::http::chat_body(bytes));
