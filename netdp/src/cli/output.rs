//! How answers are printed.

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::Format;
pub use crate::printed::{json, line, one_line};

/// Prints rows under a heading, columns aligned, or `value` as JSON.
pub fn print<T: Serialize + ?Sized>(
    format: Format,
    value: &T,
    heading: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Result<()> {
    match format {
        Format::Json => json(value),
        Format::Table => line(&table(heading, rows)),
    }
}

/// Does something for each name, goes on after a refusal, and gives back all
/// refusals together.
pub fn each(names: &[String], mut done: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let refusals: Vec<String> = names
        .iter()
        .filter_map(|name| done(name).err())
        .map(|error| one_line(&error))
        .collect();
    if refusals.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!(refusals.join("; ")))
}

/// The items as text, separated by commas.
pub fn join<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The first digits of an identifier, enough to name it.
pub fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// A moment of Unix time in seconds as an age, `5 minutes` or so.
pub fn age(created: u64, now: u64) -> String {
    let seconds = now.saturating_sub(created);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heading);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_without_borders() {
        let rows = [
            vec!["web".to_owned(), "172.17.0.2".to_owned()],
            vec!["database".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["NAME", "ADDRESS"], rows),
            "NAME       ADDRESS\nweb        172.17.0.2\ndatabase"
        );
    }

    #[test]
    fn ages_are_in_one_unit() {
        assert_eq!(age(100, 101), "1 second");
        assert_eq!(age(0, 7_300), "2 hours");
        assert_eq!(age(10, 0), "0 seconds");
    }
}
