//! Mutations of seeds, the same in every run: flipped bits, length fields at their extremes, splices.

/// Texts that parsers stumble over.
const TOKENS: [&[u8]; 16] = [
    b"0",
    b"-1",
    b"65536",
    b"2147483648",
    b"4294967296",
    b"99999999999999999999",
    b"1e999",
    b"NaN",
    b"%00",
    b"%",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"&appid=&=&",
];

pub struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    state: u64,
    bytes: Vec<u8>,
}

impl<'a> Mutator<'a> {
    pub fn new(seeds: &'a [Vec<u8>]) -> Self {
        Self { seeds, state: 0x9E37_79B9_7F4A_7C15, bytes: vec![] }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// 0 if `bound` is.
    fn below(&mut self, bound: usize) -> usize {
        let random = usize::try_from(self.random() >> 33).unwrap();
        random.checked_rem(bound).unwrap_or(0)
    }

    fn seed(&mut self) -> &'a [u8] {
        let at = self.below(self.seeds.len());
        &self.seeds[at]
    }

    /// The next input: one to four changes of a seed.
    pub fn next(&mut self) -> &[u8] {
        self.bytes = self.seed().to_vec();
        for _ in 0..=self.below(4) {
            self.change();
        }
        &self.bytes
    }

    fn change(&mut self) {
        let length = self.bytes.len();
        let at = self.below(length);
        match self.below(9) {
            0 | 1 => {
                let bit = self.below(8);
                self.put(at, |byte| byte ^ 1 << bit);
            }
            2 => {
                let value = [0, 1, 0x7f, 0x80, 0xfe, 0xff][self.below(6)];
                self.put(at, |_| value);
            }
            3 | 4 => self.extreme_number(at),
            5 => {
                let end = (at + 1 + self.below(16)).min(length);
                self.bytes.drain(at..end);
            }
            6 => {
                let end = (at + 1 + self.below(64)).min(length);
                let again = self.bytes[at..end].to_vec();
                self.bytes.splice(at..at, again);
            }
            7 => {
                let token = TOKENS[self.below(TOKENS.len())];
                let replaced = if self.below(2) == 0 { token.len() } else { 0 };
                let end = (at + replaced).min(length);
                self.bytes.splice(at..end, token.iter().copied());
            }
            _ => {
                let other = self.seed();
                let from = self.below(other.len());
                self.bytes.truncate(at);
                self.bytes.extend_from_slice(&other[from..]);
            }
        }
    }

    fn put(&mut self, at: usize, change: impl Fn(u8) -> u8) {
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte = change(*byte);
        }
    }

    /// What may be a length or a counter, of two or four bytes, in either order.
    fn extreme_number(&mut self, at: usize) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let values =
            [0, 1, 0x7fff, 0x8000, 0xffff, 0x8000_0000, u32::MAX, length, length.wrapping_sub(1)];
        let value = values[self.below(values.len())];
        let mut number = match self.below(2) {
            0 => value.to_be_bytes().to_vec(),
            _ => (value as u16).to_be_bytes().to_vec(),
        };
        if self.below(2) == 0 {
            number.reverse();
        }
        let end = (at + number.len()).min(self.bytes.len());
        self.bytes.splice(at..end, number);
    }
}
