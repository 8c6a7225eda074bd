//! See `fuzz::entries::event_envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entries::event_envelope(bytes));
