//! A bounded reader over a byte slice: every step is checked, nothing is copied, nothing panics.
//!
//! It knows no protocol. Parsers hold one and turn what they take into validated types.

/// The bytes ended before what was asked for; the message is short and must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected end of data")]
pub struct UnexpectedEnd;

/// A position in a slice that only moves forward.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! integers {
    ($($name:ident: $type:ty, $from:ident, $doc:literal;)*) => {$(
        #[doc = $doc]
        pub fn $name(&mut self) -> Result<$type, UnexpectedEnd> {
            self.array().map(<$type>::$from)
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet taken.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// True when nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything not yet taken, without taking it.
    pub const fn peek(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes exactly `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], UnexpectedEnd> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(UnexpectedEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes exactly `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], UnexpectedEnd> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(UnexpectedEnd)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Passes over `count` bytes.
    pub fn skip(&mut self, count: usize) -> Result<(), UnexpectedEnd> {
        self.take(count).map(drop)
    }

    /// Takes everything that is left, possibly nothing.
    pub const fn rest(&mut self) -> &'a [u8] {
        let all = self.rest;
        self.rest = &[];
        all
    }

    integers! {
        u8: u8, from_be_bytes, "One byte.";
        u16be: u16, from_be_bytes, "Two bytes, most significant first.";
        u16le: u16, from_le_bytes, "Two bytes, least significant first.";
        u32be: u32, from_be_bytes, "Four bytes, most significant first.";
        u32le: u32, from_le_bytes, "Four bytes, least significant first.";
        u64be: u64, from_be_bytes, "Eight bytes, most significant first.";
        u64le: u64, from_le_bytes, "Eight bytes, least significant first.";
        i16be: i16, from_be_bytes, "Two bytes, signed, most significant first.";
        i16le: i16, from_le_bytes, "Two bytes, signed, least significant first.";
        i32be: i32, from_be_bytes, "Four bytes, signed, most significant first.";
        i32le: i32, from_le_bytes, "Four bytes, signed, least significant first.";
        f32le: f32, from_le_bytes, "IEEE 754 single, least significant byte first; may be NaN.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_in_order_and_stops_at_the_end() {
        let mut r = Reader::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u16be(), Ok(0x0203));
        assert_eq!(r.u16le(), Ok(0x0504));
        assert_eq!(r.u64be(), Err(UnexpectedEnd));
        assert_eq!(r.take(5), Err(UnexpectedEnd), "a refused step takes nothing");
        assert_eq!(r.remaining(), 4);
        assert_eq!(r.u32le(), Ok(0x0908_0706));
        assert!(r.is_empty());
        assert_eq!(r.rest(), &[] as &[u8]);
        assert_eq!(r.take(0), Ok(&[] as &[u8]));
        assert_eq!(r.take(usize::MAX), Err(UnexpectedEnd));
    }

    #[test]
    fn rest_takes_all() {
        let mut r = Reader::new(b"abc");
        assert_eq!(r.skip(1), Ok(()));
        assert_eq!(r.peek(), b"bc");
        assert_eq!(r.rest(), b"bc");
        assert!(r.is_empty());
    }
}
