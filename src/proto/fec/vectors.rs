//! Reading the vector files in tests.
use serde_json::Value;

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
    let text = value.as_str().expect("a string").as_bytes();
    let digit = |d: u8| (d as char).to_digit(16).expect("a hexadecimal digit") as u8;
    text.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
