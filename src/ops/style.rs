//! Text for a terminal: colours only where a person looks, lines that fit.
use std::io::IsTerminal;

/// Columns that everything printed for people fits into.
pub const COLUMNS: usize = 80;

/// Whether to colour.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// For standard output. NO_COLOR switches colours off.
    pub fn stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours: wanted && std::io::stdout().is_terminal() }
    }

    /// Without colours.
    pub const fn plain() -> Self {
        Self { colours: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }
}

/// Breaks text at spaces into lines of at most `width` characters; a longer word stands alone.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map(|line| (line.chars().count(), line));
        match line {
            Some((0, line)) => line.push_str(word),
            Some((length, line)) if length + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Text from elsewhere, safe for a terminal: no control characters, at most `most` characters.
pub fn harmless(text: &str, most: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if clean.chars().count() <= most {
        return clean;
    }
    clean.chars().take(most.saturating_sub(2)).collect::<String>() + ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_lose_no_word() {
        let text = "one two  three\nfour-is-longer-than-that five";
        assert_eq!(wrap(text, 10), ["one two", "three", "four-is-longer-than-that", "five"]);
        assert_eq!(wrap("", 10), [""]);
    }

    #[test]
    fn what_a_device_calls_itself_cannot_move_the_cursor() {
        assert_eq!(harmless("a\x1b[2Jb\n", 80), "a?[2Jb?");
        assert_eq!(harmless("abcdef", 5), "abc..");
        assert_eq!(harmless("abcde", 5), "abcde");
    }
}
