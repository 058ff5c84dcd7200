//! Any bytes through the pure packet logic, see `tests/walk/mod.rs`.
#![no_main]

#[path = "../../tests/walk/mod.rs"]
mod walk;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| walk::walk(bytes));
