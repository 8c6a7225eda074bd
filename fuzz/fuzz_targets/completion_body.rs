//! See `fuzz::http::completion_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::http::completion_body(bytes));
