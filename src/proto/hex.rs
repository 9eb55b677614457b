//! Hexadecimal text as the query parameters and answers carry it.
//!
//! Both cases are read (desktop clients send lower case, phones upper case); upper case is written,
//! as Sunshine does. Source: moonlight-android NvHTTP.java, Sunshine src/utility.h.

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Upper-case digits of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|&b| [digit(b >> 4), digit(b)]).collect()
}

/// The bytes of `text`; nothing if it has an odd length or another character than a digit.
/// The result is half as long as `text`: bound that first.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?)).collect()
}

/// Exactly `N` bytes from exactly `2 * N` digits.
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    decode(text)?.try_into().ok()
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_cases_and_writes_upper() {
        assert_eq!(decode("00fFa9").unwrap(), [0, 0xff, 0xa9]);
        assert_eq!(encode(&[0, 0xff, 0xa9]), "00FFA9");
        assert_eq!(decode(""), Some(Vec::new()));
        for bad in ["0", "0g", "+1", " 1", "0x", "é"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode_array::<2>("0102"), Some([1, 2]));
        assert_eq!(decode_array::<2>("010203"), None);
        assert_eq!(decode_array::<2>("01"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(bytes.len() * 2, text.len());
            }
        }
    }
}
