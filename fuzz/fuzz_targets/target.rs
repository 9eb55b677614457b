//! Every target: the program's name says which body of `moonshard::fuzz` it drives.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| moonshard::fuzz::run(env!("CARGO_BIN_NAME"), bytes));
