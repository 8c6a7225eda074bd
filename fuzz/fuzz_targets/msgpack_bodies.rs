//! See `fuzz::entries::msgpack_bodies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entries::msgpack_bodies(bytes));
