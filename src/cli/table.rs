//! Tables for people, on standard output.

use std::io::{ErrorKind, Write};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_cast::pretty::pretty_format_batches_with_options;
use arrow_schema::ArrowError;

use super::failure::Failure;
use super::io::in_utc;

/// Rows as a table.
///
/// # Errors
/// Values that have no form as text.
pub fn table(batch: &RecordBatch) -> Result<String, Failure> {
    let shown = in_utc(batch).and_then(|batch| pretty_format_batches_with_options(&[batch], &options()));
    shown.map(|table| table.to_string()).map_err(|error| cannot_show(&error))
}

/// As [`table`]; values of more than `width` characters are cut short.
///
/// # Errors
/// As [`table`].
pub fn narrow_table(batch: &RecordBatch, width: usize) -> Result<String, Failure> {
    let texts = || -> Result<RecordBatch, ArrowError> {
        let batch = in_utc(batch)?;
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        RecordBatch::try_from_iter(
            columns.map(|(field, column)| Ok((field.name(), shortened(column, width)?))).collect::<Result<Vec<_>, ArrowError>>()?,
        )
    };
    texts().map_err(|error| cannot_show(&error)).and_then(|texts| table(&texts))
}

/// A table of texts: the names of its columns, and its rows.
///
/// # Errors
/// As [`table`].
pub fn text_table<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> Result<String, Failure> {
    let column = |at: usize| Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row[at]))) as ArrayRef;
    let batch = RecordBatch::try_from_iter(names.iter().enumerate().map(|(at, name)| (*name, column(at))));
    table(&batch.map_err(|error| cannot_show(&error))?)
}

/// Writes to standard output; a reader that has gone is nobody's concern.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::data(format!("standard output cannot be written: {error}"))),
        _ => Ok(()),
    }
}

fn options() -> FormatOptions<'static> {
    FormatOptions::default().with_null("null")
}

fn shortened(column: &ArrayRef, width: usize) -> Result<ArrayRef, ArrowError> {
    let options = options();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let cut = |row: usize| {
        let text = formatter.value(row).to_string();
        match text.char_indices().nth(width) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    Ok(Arc::new(StringArray::from_iter_values((0..column.len()).map(cut))))
}

fn cannot_show(error: &ArrowError) -> Failure {
    Failure::data(format!("the rows cannot be shown: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_between_characters() {
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("äöüß"), None, Some("äöü")]));
        let shown = narrow_table(&RecordBatch::try_from_iter([("name", names)]).unwrap(), 3).unwrap();
        assert!(shown.contains("| äöü… |") && shown.contains("| nul… |") && shown.contains("| äöü  |"), "{shown}");
    }
}
