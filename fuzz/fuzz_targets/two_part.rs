//! See `fuzz::entries::two_part`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entries::two_part(bytes));
