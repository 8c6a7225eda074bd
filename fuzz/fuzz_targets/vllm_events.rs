//! See `fuzz::vllm::vllm_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::vllm::vllm_events(bytes));
