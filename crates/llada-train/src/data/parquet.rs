//! Rows of Parquet files, as the JSON objects that they would be in JSONL.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use super::files::Row;
use crate::error::{Error, Result};

/// Calls `visit` with the number, from 1, and the content of every row of a file. Empty cells are
/// keys that the row does not have.
pub(super) fn for_each_row(
    path: &Path,
    visit: &mut dyn FnMut(usize, Row) -> Result<()>,
) -> Result<()> {
    let damaged = |e| Error::unsuitable(path, format!("is no Parquet file that can be read: {e}"));
    let file = File::open(path).map_err(Error::io("read", path))?;
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    for (number, row) in (1..).zip(reader.get_row_iter(None).map_err(damaged)?) {
        visit(number, object(row.map_err(damaged)?.to_json_value()))?;
    }
    Ok(())
}

fn object(row: Value) -> Row {
    match without_nulls(row) {
        Value::Object(row) => Ok(row),
        other => Err(format!("expected a row with named columns, found {other}")),
    }
}

/// Drops the keys without a value: in a table every row has every column, here only what it uses.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(key, value)| (key, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
