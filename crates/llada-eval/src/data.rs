//! Rows of published data, and answers made elsewhere.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::cloze::cloze;
use crate::error::{Error, Result};
use crate::shots;
use crate::task::{DataSpec, Task};

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The data's own id, or the row number from 0.
    pub id: String,
    /// The row.
    pub fields: Map<String, Value>,
}

/// Reads the items of `task` from a file, or from where the task's file lies in a directory.
///
/// # Errors
/// If there is no such file, or a row is not what the task needs.
pub fn read_items(task: &Task, data: &Path) -> Result<Vec<Item>> {
    let path = locate(task, data)?;
    let mut rows = read_rows(&path, task.data.rows_in.as_deref())?;
    if task.data.cloze {
        rows = cloze(&rows);
    }
    let items = rows.into_iter().enumerate();
    let items = items.map(|(row, fields)| item(&task.data, &path, row, fields));
    let items: Vec<Item> = items.filter_map(Result::transpose).collect::<Result<_>>()?;
    if items.is_empty() {
        return Err(Error::row(
            &path,
            0,
            "expected at least one row that counts, found none",
        ));
    }
    refuse_repeated_ids(&path, &items)?;
    Ok(items)
}

/// Returns the files that decide what is asked about the items of `task`.
///
/// # Errors
/// If there is no data.
pub fn data_files(task: &Task, data: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![locate(task, data)?];
    files.extend(shots::shots_file(task, data));
    Ok(files)
}

fn locate(task: &Task, data: &Path) -> Result<PathBuf> {
    if !data.is_dir() {
        return Ok(data.to_owned());
    }
    first_file(&task.data.files, data).ok_or_else(|| Error::NoData {
        task: task.name.clone(),
        expected: task.data.files.join(" or "),
        dir: data.to_owned(),
    })
}

fn first_file(files: &[String], dir: &Path) -> Option<PathBuf> {
    let mut candidates = files.iter().map(|file| dir.join(file));
    candidates.find(|path| path.is_file())
}

/// Finds a file under the data directory, or beside the data file.
pub(crate) fn locate_beside(files: &[String], data: &Path) -> Option<PathBuf> {
    if data.is_dir() {
        return first_file(files, data);
    }
    let names = files.iter().filter_map(|file| Path::new(file).file_name());
    let mut candidates = names.map(|name| data.with_file_name(name));
    candidates.find(|path| path.is_file())
}

/// Checks a row; `None` if it does not count.
fn item(
    spec: &DataSpec,
    path: &Path,
    row: usize,
    fields: Map<String, Value>,
) -> Result<Option<Item>> {
    let wrong = |message: String| Error::row(path, row, message);
    let missing = spec.needs.iter().find(|name| !fields.contains_key(*name));
    if let Some(name) = missing {
        return Err(wrong(format!("expected a field `{name}`, found none")));
    }
    if let Some(only) = &spec.only {
        let number = fields.get(&only.field).and_then(Value::as_i64);
        let number =
            number.ok_or_else(|| wrong(format!("expected a whole number in `{}`", only.field)))?;
        if !(only.first..=only.last).contains(&number) {
            return Ok(None);
        }
    }
    let id = match &spec.id {
        None => row.to_string(),
        Some(name) => plain(fields.get(name))
            .ok_or_else(|| wrong(format!("expected a text or a number in `{name}`")))?,
    };
    Ok(Some(Item { id, fields }))
}

fn refuse_repeated_ids(path: &Path, items: &[Item]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (row, item) in items.iter().enumerate() {
        if seen.insert(&item.id, row).is_some() {
            return Err(Error::row(
                path,
                row,
                format!("the id `{}` occurs twice", item.id),
            ));
        }
    }
    Ok(())
}

/// Returns a text or a number as text.
pub(crate) fn plain(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads a file of answers, rows `{"id", "answer"}`, and puts them beside their items.
///
/// # Errors
/// If a row has another form, or an id is unknown or repeated. Items without an answer are left out.
pub fn read_answers<'a>(path: &Path, items: &'a [Item]) -> Result<Vec<(&'a Item, String)>> {
    let by_id: BTreeMap<&str, usize> = items
        .iter()
        .enumerate()
        .map(|(index, item)| (item.id.as_str(), index))
        .collect();
    let mut answers = BTreeMap::new();
    for (row, fields) in read_rows(path, None)?.into_iter().enumerate() {
        let wrong = |message: String| Error::row(path, row, message);
        if let Some(name) = fields
            .keys()
            .find(|name| !["id", "answer"].contains(&name.as_str()))
        {
            return Err(wrong(format!("expected `id` and `answer`, found `{name}`")));
        }
        let id = plain(fields.get("id"))
            .ok_or_else(|| wrong("expected a text or a number in `id`".to_owned()))?;
        let answer = fields.get("answer").and_then(Value::as_str);
        let answer = answer.ok_or_else(|| wrong("expected a text in `answer`".to_owned()))?;
        let index = by_id.get(id.as_str());
        let index = *index.ok_or_else(|| wrong(format!("the data has no item `{id}`")))?;
        if answers.insert(index, answer.to_owned()).is_some() {
            return Err(wrong(format!("item `{id}` has an answer already")));
        }
    }
    if answers.is_empty() {
        return Err(Error::row(
            path,
            0,
            "expected at least one answer, found none",
        ));
    }
    Ok(answers
        .into_iter()
        .map(|(index, answer)| (&items[index], answer))
        .collect())
}

/// Reads rows from JSON lines, a JSON list or plain text, by the content and not by the name.
pub(crate) fn read_rows(path: &Path, rows_in: Option<&str>) -> Result<Vec<Map<String, Value>>> {
    let text = read_text(path)?;
    if path.extension().is_some_and(|extension| extension == "txt") {
        return Ok(vec![Map::from_iter([(
            "text".to_owned(),
            Value::from(text),
        )])]);
    }
    let values = match rows_in {
        Some(field) => match serde_json::from_str(&text) {
            Ok(Value::Object(mut root)) if root.contains_key(field) => {
                list(path, root.remove(field).unwrap_or_default())?
            }
            _ => lines(path, &text)?,
        },
        None if text.trim_start().starts_with('[') => {
            let root = serde_json::from_str(&text).map_err(|error| Error::row(path, 0, error))?;
            list(path, root)?
        }
        None => lines(path, &text)?,
    };
    let rows = values
        .into_iter()
        .enumerate()
        .map(|(row, value)| match value {
            Value::Object(fields) => Ok(fields),
            _ => Err(Error::row(path, row, "expected a JSON object")),
        });
    rows.collect()
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let mut text = String::new();
    let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
    let read = match is_gzip {
        true => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text),
        false => (&bytes[..]).read_to_string(&mut text),
    };
    read.map(|_| text).map_err(Error::read(path))
}

fn list(path: &Path, value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(rows) => Ok(rows),
        _ => Err(Error::row(path, 0, "expected a list of rows")),
    }
}

fn lines(path: &Path, text: &str) -> Result<Vec<Value>> {
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .enumerate();
    let parse = |(row, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| Error::row(path, row, error))
    };
    lines.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn items(task: &str, name: &str, bytes: &[u8]) -> Result<Vec<Item>> {
        let (_dir, path) = file(name, bytes);
        read_items(&Task::find(task).unwrap(), &path)
    }

    #[test]
    fn lines_lists_objects_and_gzip_give_the_same_rows() {
        let row = r#"{"input": "i", "target": "t"}"#;
        let object = format!(r#"{{"canary": "c", "examples": [{row}]}}"#);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(row.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let expected = items("bbh", "a.jsonl", row.as_bytes()).unwrap();
        assert_eq!(items("bbh", "a.json", object.as_bytes()).unwrap(), expected);
        assert_eq!(items("bbh", "a.jsonl.gz", &gzip).unwrap(), expected);
        assert_eq!(
            items("countdown", "a", br#"[{"nums": [1], "target": 1}]"#)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn only_the_published_test_split_of_mbpp_counts() {
        let row = |id: u32| {
            format!(r#"{{"task_id": {id}, "text": "", "test_list": [], "test_setup_code": ""}}"#)
        };
        let text: Vec<String> = [10, 11, 510, 511].map(row).to_vec();
        let items = items("mbpp", "a.jsonl", text.join("\n").as_bytes()).unwrap();
        let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["11", "510"]);
    }

    #[test]
    fn a_missing_field_is_refused_with_its_row_and_name() {
        let text = br#"{"question": "q", "answer": "a"}
{"question": "q"}"#;
        let error = items("gsm8k", "a.jsonl", text).unwrap_err().to_string();
        assert!(
            error.contains("row 1") && error.contains("`answer`"),
            "{error}"
        );
    }

    #[test]
    fn a_plain_text_is_one_row() {
        assert_eq!(
            items("ppl", "a.txt", b"two\nlines").unwrap()[0].fields["text"],
            "two\nlines"
        );
    }

    #[test]
    fn a_cloze_row_has_its_own_continuation_where_it_says() {
        let story =
            |n: u32| format!("{{\"text\": \"Start {n}. Middle {n}. End {n}. After {n}.\"}}\n");
        let text: String = (0..6).map(story).collect();
        let items = items("story_cloze", "a.jsonl", text.as_bytes()).unwrap();
        for (index, item) in items.iter().enumerate() {
            let gold = item.fields["answer"].as_u64().unwrap() as usize;
            assert_eq!(gold, index % 4);
            let choices = item.fields["choices"].as_array().unwrap();
            let own = format!(" {index}");
            assert!(choices[gold].as_str().unwrap().contains(&own), "{item:?}");
            assert!(
                choices.iter().enumerate().all(
                    |(place, choice)| place == gold || !choice.as_str().unwrap().contains(&own)
                )
            );
        }
    }

    #[test]
    fn answers_are_put_beside_their_items_in_the_order_of_the_data() {
        let data = items(
            "gsm8k",
            "a",
            b"{\"question\":1,\"answer\":1}\n{\"question\":2,\"answer\":2}",
        );
        let data = data.unwrap();
        let read = |text: &str| {
            let (_dir, path) = file("answers.jsonl", text.as_bytes());
            let answers = read_answers(&path, &data);
            answers.map(|answers| {
                answers
                    .into_iter()
                    .map(|(item, _)| item.id.clone())
                    .collect::<Vec<_>>()
            })
        };
        let second_first = "{\"id\": 1, \"answer\": \"x\"}\n{\"id\": \"0\", \"answer\": \"y\"}";
        assert_eq!(read(second_first).unwrap(), ["0", "1"]);
        for (wrong, says) in [
            ("{\"id\": 7, \"answer\": \"\"}", "no item `7`"),
            ("{\"id\": 0, \"answer\": 5}", "`answer`"),
            ("{\"id\": 0, \"answer\": \"\", \"score\": 1}", "`score`"),
            (
                "{\"id\": 0, \"answer\": \"\"}\n{\"id\": 0, \"answer\": \"\"}",
                "already",
            ),
            ("", "at least one"),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
