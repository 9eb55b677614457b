//! What an app wrote, the newest 64 KiB of it, in memory.
use std::collections::VecDeque;

/// Bytes kept.
pub const LOG_BYTES_MAX: usize = 64 * 1024;
/// Lines and bytes of the last words.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 2 * 1024;

/// Full: the oldest bytes go.
#[derive(Debug)]
pub struct Log {
    bytes: VecDeque<u8>,
}

impl Log {
    pub fn new() -> Self {
        Self { bytes: VecDeque::new() }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(LOG_BYTES_MAX)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(LOG_BYTES_MAX);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// Everything kept; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    /// The last lines without control characters: apps write what they like, terminals obey it.
    pub fn last_words(&self) -> String {
        let start = self.bytes.len().saturating_sub(LAST_BYTES);
        let tail: Vec<u8> = self.bytes.range(start..).copied().collect();
        let tail = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = tail.trim_end().lines().collect();
        let lines = &lines[lines.len().saturating_sub(LAST_LINES)..];
        let clean = |line: &&str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        lines.iter().map(clean).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_are_kept() {
        let mut log = Log::new();
        log.push(b"old");
        log.push(&vec![b'x'; LOG_BYTES_MAX - 1]);
        log.push(b"new");
        assert_eq!(log.bytes.len(), LOG_BYTES_MAX);
        assert!(log.text().ends_with("xnew"));
        assert!(!log.text().contains("old"));
        log.push(&vec![b'y'; 3 * LOG_BYTES_MAX]);
        assert_eq!(log.bytes.len(), LOG_BYTES_MAX);
        assert!(log.text().bytes().all(|b| b == b'y'));
    }

    #[test]
    fn last_words_are_few_lines_without_control_characters() {
        let mut log = Log::new();
        for line in 0..100 {
            log.push(format!("line {line}\n").as_bytes());
        }
        log.push(b"\x1b[31mred\xff\n\n");
        let words = log.last_words();
        assert!(words.starts_with("line 81\n"), "{words}");
        assert!(words.ends_with("line 99\n[31mred\u{fffd}"), "{words}");
        assert_eq!(Log::new().last_words(), "");
    }
}
