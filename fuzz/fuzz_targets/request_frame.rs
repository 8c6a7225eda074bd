//! See `fuzz::entries::request_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entries::request_frame(bytes));
