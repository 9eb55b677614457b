//! The golden bytes of `tests/vectors`, for unit tests only.
use serde_json::Value;

/// One file of `tests/vectors`, by its name without `.json`.
pub fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The bytes behind a lower-case hexadecimal string value.
pub fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a hexadecimal string");
    assert!(text.len().is_multiple_of(2), "whole bytes: {text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

/// The 16 bytes of a key.
pub fn key(value: &Value) -> [u8; 16] {
    bytes(value).try_into().expect("16 bytes of key")
}

/// The number behind a `0x...` string value.
pub fn hex_number(value: &Value) -> u32 {
    let text = value.as_str().expect("a 0x number").trim_start_matches("0x");
    u32::from_str_radix(text, 16).expect("a 0x number")
}
