//! Text in a terminal whose end is still a draft: final text stays, the draft is drawn again.

use console::measure_text_width;

/// A piece of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    /// A position that is still masked.
    Open,
    /// A token as it stands.
    Placed(&'a str),
    /// A token that this step wrote or changed.
    Changed(&'a str),
}

/// Where the cursor is, in a terminal of `width` columns.
#[derive(Debug)]
pub(crate) struct Live {
    width: usize,
    colour: bool,
    /// Column of the end of the final text.
    column: usize,
    /// Columns that the draft takes after it.
    drafted: usize,
}

impl Live {
    pub(crate) fn new(width: usize, colour: bool) -> Self {
        Self {
            width: width.max(2),
            colour,
            column: 0,
            drafted: 0,
        }
    }

    /// Returns what to write so that `text` follows the final text; the draft is gone.
    pub(crate) fn commit(&mut self, text: &str) -> String {
        let mut out = self.erase();
        for c in text.chars() {
            if c == '\n' {
                self.column = 0;
            } else {
                // A full line is ended here, for terminals disagree about when it wraps.
                let columns = measure_text_width(c.encode_utf8(&mut [0; 4]));
                if self.column + columns >= self.width {
                    out.push('\n');
                    self.column = 0;
                }
                self.column += columns;
            }
            out.push(c);
        }
        out
    }

    /// Returns what to write so that the draft follows the final text.
    pub(crate) fn draft(&mut self, cells: &[Cell<'_>]) -> String {
        let mut out = self.erase();
        for cell in cells {
            let (text, style) = match cell {
                Cell::Open => ("░".into(), "2"),
                Cell::Placed(text) => (on_one_line(text), "0"),
                Cell::Changed(text) => (on_one_line(text), "7"),
            };
            self.drafted += measure_text_width(&text);
            out += &if self.colour {
                format!("\x1b[{style}m{text}\x1b[0m")
            } else {
                text
            };
        }
        // Never end at the edge: whether the cursor wraps there is the terminal's choice.
        if (self.column + self.drafted).is_multiple_of(self.width) && self.drafted > 0 {
            self.drafted += 1;
            out.push(' ');
        }
        out
    }

    /// Returns what to write so that the draft disappears and the cursor is at its start.
    pub(crate) fn erase(&mut self) -> String {
        if self.drafted == 0 {
            return String::new();
        }
        let up = (self.column + self.drafted) / self.width;
        self.drafted = 0;
        let mut out = String::from("\r");
        if up > 0 {
            out += &format!("\x1b[{up}A");
        }
        if self.column > 0 {
            out += &format!("\x1b[{}C", self.column);
        }
        out + "\x1b[J"
    }
}

fn on_one_line(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '⏎' } else { c };
    text.chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal that understands what is written here.
    struct Screen {
        width: usize,
        lines: Vec<Vec<char>>,
        row: usize,
        column: usize,
    }

    impl Screen {
        fn new(width: usize) -> Self {
            Self {
                width,
                lines: vec![Vec::new()],
                row: 0,
                column: 0,
            }
        }

        fn write(&mut self, text: &str) {
            for c in text.chars() {
                match c {
                    '\r' => self.column = 0,
                    '\n' => self.down(),
                    _ => self.put(c),
                }
            }
        }

        /// As `write`, with escape sequences.
        fn apply(&mut self, text: &str) {
            let mut rest = text;
            while let Some(start) = rest.find("\x1b[") {
                self.write(&rest[..start]);
                let end = start + 2 + rest[start + 2..].find(char::is_alphabetic).unwrap();
                let count = rest[start + 2..end].parse().unwrap_or(1);
                match &rest[end..=end] {
                    "A" => self.row -= count,
                    "C" => self.column += count,
                    "J" => {
                        self.lines.truncate(self.row + 1);
                        self.lines[self.row].truncate(self.column);
                    }
                    other => assert_eq!(other, "m"),
                }
                rest = &rest[end + 1..];
            }
            self.write(rest);
        }

        fn put(&mut self, c: char) {
            if self.column == self.width {
                self.down();
            }
            let line = &mut self.lines[self.row];
            line.resize(line.len().max(self.column + 1), ' ');
            line[self.column] = c;
            self.column += 1;
        }

        fn down(&mut self) {
            self.row += 1;
            self.column = 0;
            if self.row == self.lines.len() {
                self.lines.push(Vec::new());
            }
        }

        fn text(&self) -> String {
            let lines = self
                .lines
                .iter()
                .map(|line| line.iter().collect::<String>());
            lines.collect::<Vec<_>>().join("\n")
        }
    }

    #[test]
    fn drafts_leave_no_trace_at_any_width() {
        for width in 2..12 {
            for colour in [false, true] {
                let (mut live, mut screen) = (Live::new(width, colour), Screen::new(width));
                let (mut plain, mut expected) = (Live::new(width, colour), Screen::new(width));
                for text in ["Once", " upon", " a", "\n", "time, there", " was"] {
                    let cells = [
                        Cell::Placed("xy"),
                        Cell::Open,
                        Cell::Changed("a\nb"),
                        Cell::Open,
                    ];
                    screen.apply(&live.draft(&cells));
                    screen.apply(&live.draft(&cells[1..]));
                    screen.apply(&live.commit(text));
                    expected.apply(&plain.commit(text));
                    assert_eq!(screen.text(), expected.text(), "width {width}");
                }
            }
        }
    }

    #[test]
    fn masks_and_changes_can_be_told_apart() {
        let cells = [Cell::Placed("a"), Cell::Open, Cell::Changed("b")];
        let mut live = Live::new(80, true);
        assert_eq!(
            live.draft(&cells),
            "\x1b[0ma\x1b[0m\x1b[2m░\x1b[0m\x1b[7mb\x1b[0m"
        );
        assert_eq!(Live::new(80, false).draft(&cells), "a░b");
    }
}
