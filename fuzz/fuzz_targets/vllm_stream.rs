//! See `fuzz::vllm::vllm_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::vllm::vllm_stream(bytes));
