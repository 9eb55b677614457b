//! A table for people: columns as wide as they must be, lines that fit a terminal.
use crate::ops::style::{COLUMNS, Style, harmless};

/// Columns between columns.
const GAP: usize = 2;
/// A column is not made narrower than this.
const NARROWEST: usize = 8;

/// Rows of N cells under a head.
pub struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(|cell| harmless(cell, 1024)));
    }

    /// All of it; what does not fit is cut, the widest column first.
    pub fn text(&self, style: Style) -> String {
        let mut widths = self.head.map(str::len);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let room = COLUMNS.saturating_sub(GAP * N.saturating_sub(1));
        while widths.iter().sum::<usize>() > room {
            match widths.iter_mut().filter(|width| **width > NARROWEST).max() {
                Some(widest) => *widest -= 1,
                None => break,
            }
        }
        let line = |cells: [&str; N]| {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(widths) {
                let cell = harmless(cell, width);
                line += &format!("{cell:<width$}{:gap$}", "", gap = GAP);
            }
            line.trim_end().to_owned()
        };
        let mut text = style.bold(&line(self.head)) + "\n";
        for row in &self.rows {
            text += &line(row.each_ref().map(String::as_str));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_widest_gives_way() {
        let mut table = Table::new(["ID", "NAME"]);
        table.row(["1", "short"]);
        table.row(["22", &"x".repeat(200)]);
        let text = table.text(Style::plain());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ID  NAME");
        assert_eq!(lines[1], "1   short");
        assert_eq!(lines[2].len(), COLUMNS);
        assert!(lines[2].ends_with("x.."));
    }
}
