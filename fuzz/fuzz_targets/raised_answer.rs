//! See `fuzz::answer::raised_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::answer::raised_answer(bytes));
