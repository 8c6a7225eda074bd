//! See `fuzz::entries::discovery_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entries::discovery_record(bytes));
