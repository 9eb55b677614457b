//! Reading the vector files in tests.
use serde_json::Value;

use crate::proto::hex;

pub fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON")
}

pub fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

pub fn number(value: &Value) -> usize {
    value.as_u64().expect("a number") as usize
}

pub fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hexadecimal")
}

pub fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}
