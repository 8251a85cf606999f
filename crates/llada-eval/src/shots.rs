//! Solved examples before a question.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::{Item, locate_beside, read_rows};
use crate::error::{Error, Result};
use crate::task::{ShotsSpec, Task};
use crate::template::Templates;

/// Field of an item that holds its examples.
pub(crate) const FIELD: &str = "shots";

/// Returns the file of a task's examples, `None` if it has none or the file is not there.
pub fn shots_file(task: &Task, data: &Path) -> Option<PathBuf> {
    let spec = task.shots.as_ref().filter(|spec| spec.count > 0)?;
    locate_beside(&spec.files, data)
}

/// Puts the examples of `task` before its items.
///
/// # Errors
/// If their file is missing or has too few rows, or a row lacks what the template needs.
pub fn add_shots(task: &Task, data: &Path, items: &mut [Item]) -> Result<()> {
    let Some(spec) = task.shots.as_ref().filter(|spec| spec.count > 0) else {
        return Ok(());
    };
    let path = shots_file(task, data).ok_or_else(|| Error::NoShots {
        task: task.name.clone(),
        expected: spec.files.join(" or "),
        data: data.to_owned(),
    })?;
    let rows = read_rows(&path, None)?.into_iter().enumerate();
    let rows: Vec<Item> = rows
        .map(|(row, fields)| Item {
            id: format!("{FIELD} {row}"),
            fields,
        })
        .collect();
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    for item in items {
        let key = spec.same.as_ref().and_then(|name| item.fields.get(name));
        let key = key.cloned().unwrap_or_default();
        let text = match made.get(&key.to_string()) {
            Some(text) => text.clone(),
            None => text(task, spec, &path, &rows, &key)?,
        };
        item.fields.insert(FIELD.to_owned(), text.clone().into());
        made.insert(key.to_string(), text);
    }
    Ok(())
}

/// Renders the examples of the items that have `key` in the field that must be the same.
fn text(task: &Task, spec: &ShotsSpec, path: &Path, rows: &[Item], key: &Value) -> Result<String> {
    let fits = |row: &&Item| match &spec.same {
        Some(name) => row.fields.get(name) == Some(key),
        None => true,
    };
    let rows: Vec<&Item> = rows.iter().filter(fits).take(spec.count).collect();
    if rows.len() < spec.count {
        let (count, found) = (spec.count, rows.len());
        let which = match &spec.same {
            Some(name) => format!(" whose `{name}` is {key}"),
            None => String::new(),
        };
        let message = format!("expected {count} examples{which}, found {found}");
        return Err(Error::row(path, found, message));
    }
    let templates = Templates::new(&task.name);
    let render = |row: &&Item| templates.text(row, "shots.template", &spec.template, &[]);
    rows.iter().map(render).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(subject: &str) -> Item {
        let fields = json!({"subject": subject, "question": "new?"});
        let Value::Object(fields) = fields else {
            panic!("an object")
        };
        Item {
            id: "0".into(),
            fields,
        }
    }

    fn task(count: usize) -> Task {
        let text = format!(
            "name = \"t\"\nabout = \"\"\nsource = \"\"\n[data]\nfiles = [\"test.jsonl\"]\nneeds = []\n\
             [shots]\ncount = {count}\nfiles = [\"dev.jsonl\"]\nsame = \"subject\"\n\
             template = \"{{{{ question }}}}\\n\"\n\
             [prompt]\ntemplate = \"{{{{ question }}}}\"\nplain = \"{{{{ shots }}}}{{{{ question }}}}\"\n\
             max_new_tokens = 1\n[score]\nby = \"math\"\ngold = \"1\""
        );
        Task::parse("t", &text).unwrap()
    }

    fn data() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let row = |subject: &str, n: u32| json!({"subject": subject, "question": format!("{subject} {n}?")});
        let rows = [row("a", 1), row("b", 1), row("a", 2), row("a", 3)].map(|row| row.to_string());
        std::fs::write(dir.path().join("dev.jsonl"), rows.join("\n")).unwrap();
        dir
    }

    #[test]
    fn the_first_rows_of_the_items_subject_stand_before_it() {
        let dir = data();
        let mut items = [item("a")];
        // The file also lies beside a data file.
        add_shots(&task(2), &dir.path().join("test.jsonl"), &mut items).unwrap();
        assert_eq!(items[0].fields[FIELD], "a 1?\na 2?\n");
    }

    #[test]
    fn too_few_examples_and_a_missing_file_are_refused() {
        let dir = data();
        let error = add_shots(&task(2), dir.path(), &mut [item("b")]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected 2 examples whose `subject` is \"b\", found 1")
        );
        let empty = tempfile::tempdir().unwrap();
        let error = add_shots(&task(2), empty.path(), &mut [item("a")]).unwrap_err();
        assert!(error.to_string().contains("dev.jsonl"), "{error}");
        add_shots(&task(0), empty.path(), &mut [item("a")]).unwrap();
    }

    #[test]
    fn only_prompts_that_show_examples_need_them() {
        assert!(
            task(2).uses_shots(false) && !task(2).uses_shots(true) && !task(0).uses_shots(false)
        );
    }
}
