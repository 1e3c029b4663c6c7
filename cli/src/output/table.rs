//! Tables that fit a terminal.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, TableStyle};

/// One line under the headings and none else: 27 rows fit a screen.
const RULED: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table of text cells; numbers stand to the right.
pub(crate) struct Table {
    inner: comfy_table::Table,
    numbers_right: bool,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new<S: ToString>(headings: impl IntoIterator<Item = S>) -> Self {
        let mut inner = comfy_table::Table::new();
        inner
            .load_style(RULED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(headings.into_iter().map(|heading| Cell::new(heading.to_string())));
        // The line between columns is a space already.
        inner.column_iter_mut().for_each(|column| {
            column.set_padding((1, 0));
        });
        // Piped into a file there is no width to fit, and some terminals do not know theirs.
        if inner.width().is_none_or(|width| width == 0) {
            inner.set_content_arrangement(ContentArrangement::Disabled);
        }
        Self { inner, numbers_right: true }
    }

    /// A table of facts: a name and a value a row, all to the left.
    pub(crate) fn facts<S: ToString>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { numbers_right: false, ..Self::new(headings) }
    }

    /// Adds a row.
    pub(crate) fn row<S: ToString>(&mut self, cells: impl IntoIterator<Item = S>) {
        let numbers_right = self.numbers_right;
        self.inner.add_row(cells.into_iter().map(|cell| {
            let text = cell.to_string();
            let number = numbers_right
                && text.trim_start_matches(['-', '.']).starts_with(|first: char| first.is_ascii_digit());
            let aligned = if number { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(aligned)
        }));
    }

    /// Writes the table.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in self.inner.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
