//! See `fuzz::entries::model_card`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entries::model_card(bytes));
