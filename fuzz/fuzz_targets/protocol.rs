//! Feeds libFuzzer's bytes to the target of this name; what it does is told
//! there.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agentfs_tests::fuzz::protocol(bytes));
