//! Plain tables with aligned columns.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    None,
    Green,
    Yellow,
    Red,
}

impl Colour {
    /// For the states of keys and the results of checks.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "active" | "ok" => Self::Green,
            "disabled" | "expired" | "warning" => Self::Yellow,
            "failed" => Self::Red,
            _ => Self::None,
        }
    }

    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::None => return text.to_owned(),
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Red => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Colour)>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.row_coloured(cells.map(|cell| (cell, Colour::None)));
    }

    pub(super) fn row_coloured<const N: usize>(&mut self, cells: [(String, Colour); N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into_iter().map(|(cell, colour)| (plain(&cell), colour)).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Two spaces between columns and none at the ends of lines. Columns that are empty throughout are left out.
    pub(super) fn render(&self, colour: bool) -> String {
        let used: Vec<usize> =
            (0..self.columns.len()).filter(|at| self.rows.iter().any(|row| !row[*at].0.is_empty())).collect();
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].0.width());
            cells.chain([self.columns[at].0.width()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = used.iter().map(|at| width(*at)).collect();
        let mut text = String::new();
        let head: Vec<_> = self.columns.iter().map(|(name, _)| ((*name).to_owned(), Colour::None)).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            for (nth, (at, width)) in used.iter().zip(&widths).enumerate() {
                let (cell, cell_colour) = &row[*at];
                let pad = width - cell.width();
                let shown = if colour { cell_colour.paint(cell) } else { cell.clone() };
                let gap = if nth == 0 { "" } else { "  " };
                let _ = match self.columns[*at].1 {
                    Align::Left => write!(text, "{gap}{shown}{:pad$}", ""),
                    Align::Right => write!(text, "{gap}{:pad$}{shown}", ""),
                };
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// Names and notes come from other people, and must not be able to steer the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_width_on_the_screen() {
        let mut table = Table::new(&[("NAME", Align::Left), ("EMPTY", Align::Left), ("COUNT", Align::Right)]);
        table.row(["钥匙".into(), String::new(), "7".into()]);
        table.row(["a\x1b[2Jb".into(), String::new(), "1,234,567".into()]);
        let text = table.render(false);
        assert_eq!(text, "NAME        COUNT\n钥匙            7\na [2Jb  1,234,567\n");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = Table::new(&[("STATUS", Align::Left), ("N", Align::Right)]);
        table.row_coloured([("failed".into(), Colour::of("failed")), ("1".into(), Colour::None)]);
        assert_eq!(table.render(true), "STATUS  N\n\x1b[31mfailed\x1b[0m  1\n");
        assert_eq!(table.render(false), "STATUS  N\nfailed  1\n");
    }
}
