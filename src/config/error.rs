//! What is wrong with a configuration, where, and what to do about it.
use std::fmt;
use std::ops::Range;

/// A fault of the text, with its place where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong and what to do.
    pub message: String,
    /// Line and column, both from 1, in characters; None: the fault is not in the text.
    pub place: Option<(usize, usize)>,
    /// The line itself and how many of its characters, from the column on, are meant.
    pub excerpt: Option<(String, usize)>,
}

impl fmt::Display for ConfigError {
    /// `3:1: unknown key ...`, then the line with the place marked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.message)?;
        if let (Some((line, column)), Some((text, length))) = (self.place, &self.excerpt) {
            let number = line.to_string();
            let (gap, before) = (" ".repeat(number.len()), " ".repeat(column - 1));
            write!(f, "\n  {number} | {text}\n  {gap} | {before}{}", "^".repeat(*length))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A fault before its place was looked up: a range of bytes in the text.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub message: String,
    pub span: Option<Range<usize>>,
}

impl Fault {
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span: Some(span) }
    }

    pub(super) fn nowhere(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None }
    }

    /// Turns the range into line and column of `text`.
    pub(super) fn locate(self, text: &str) -> ConfigError {
        let Some(span) = self.span.filter(|span| text.is_char_boundary(span.start)) else {
            return ConfigError { message: self.message, place: None, excerpt: None };
        };
        let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        let column = text[start..span.start].chars().count() + 1;
        // Of a range over several lines only the first is shown; it may begin at the line's end.
        let end = span.end.min(start + line.len()).max(span.start);
        let length = text.get(span.start..end).map_or(1, |marked| marked.chars().count().max(1));
        ConfigError {
            message: self.message,
            place: Some((text[..start].matches('\n').count() + 1, column)),
            excerpt: Some((line.replace('\t', " "), length)),
        }
    }
}
