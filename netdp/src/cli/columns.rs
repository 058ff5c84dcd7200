//! A table of unknown length, printed while its rows come.

use std::{
    io::{self, BufWriter, Write},
    ops::ControlFlow,
};

/// Rows looked at before the first is printed, to find how wide columns are.
const AHEAD: usize = 1_000;
/// Spaces between two columns.
const GAP: usize = 3;

/// Prints rows with their columns aligned. A later row that is wider than those
/// looked at ahead moves its own columns only.
pub struct Columns<W: Write> {
    out: BufWriter<W>,
    ahead: Vec<Vec<String>>,
    widths: Vec<usize>,
    printing: bool,
}

impl<W: Write> Columns<W> {
    pub fn new(out: W, heading: &[&str]) -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 16, out),
            ahead: vec![heading.iter().map(|name| (*name).to_owned()).collect()],
            widths: Vec::new(),
            printing: false,
        }
    }

    /// Adds a row. Breaks when nobody reads any more, as after `head`.
    pub fn row(&mut self, cells: Vec<String>) -> io::Result<ControlFlow<()>> {
        if self.printing {
            return readers(write(&mut self.out, &self.widths, &cells));
        }
        self.ahead.push(cells);
        if self.ahead.len() > AHEAD {
            return readers(self.print_ahead());
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Prints what is left.
    pub fn end(mut self) -> io::Result<()> {
        let printed = self.print_ahead().and_then(|()| self.out.flush());
        readers(printed).map(drop)
    }

    fn print_ahead(&mut self) -> io::Result<()> {
        self.printing = true;
        for row in &self.ahead {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len() + GAP);
            }
        }
        for row in std::mem::take(&mut self.ahead) {
            write(&mut self.out, &self.widths, &row)?;
        }
        Ok(())
    }
}

fn write(out: &mut impl Write, widths: &[usize], cells: &[String]) -> io::Result<()> {
    let last = cells.len().saturating_sub(1);
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        out.write_all(cell.as_bytes())?;
        if index < last {
            let spaces = width.saturating_sub(cell.len()).max(1);
            write!(out, "{:spaces$}", "")?;
        }
    }
    out.write_all(b"\n")
}

/// A reader that has gone away is no error.
pub fn readers(written: io::Result<()>) -> io::Result<ControlFlow<()>> {
    match written {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; 2]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn few_rows_are_aligned_by_the_widest() {
        let mut text = Vec::new();
        let mut columns = Columns::new(&mut text, &["REMOTE", "IDLE"]);
        assert!(
            columns
                .row(row(["192.0.2.1:80", "0 s"]))
                .unwrap()
                .is_continue()
        );
        assert!(columns.row(row(["-", "10 s"])).unwrap().is_continue());
        columns.end().unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "REMOTE         IDLE\n192.0.2.1:80   0 s\n-              10 s\n"
        );
    }

    #[test]
    fn many_rows_are_printed_before_the_last_has_come() {
        let mut columns = Columns::new(Vec::new(), &["A", "B"]);
        for _ in 0..AHEAD + 1 {
            let _ = columns.row(row(["one", "two"])).unwrap();
        }
        assert!(columns.ahead.is_empty());
        let _ = columns.row(row(["wider than any", "three"])).unwrap();
        columns.out.flush().unwrap();
        let text = String::from_utf8(columns.out.get_ref().clone()).unwrap();
        assert_eq!(text.lines().count(), AHEAD + 3);
        assert!(text.starts_with("A     B\none   two\n"));
        assert!(text.ends_with("\nwider than any three\n"));
    }

    #[test]
    fn a_reader_that_goes_ends_the_table() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut columns = Columns::new(Gone, &["A", "B"]);
        let broken = (0..100_000).any(|_| columns.row(row(["one", "two"])).unwrap().is_break());
        assert!(broken);
        columns.end().unwrap();
    }
}
