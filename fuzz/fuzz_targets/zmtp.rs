//! See `fuzz::entries::zmtp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entries::zmtp(bytes));
