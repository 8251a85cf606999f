//! The loaders under test and real files to start from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use llada_model::{BlockFormat, Config, FormatChoice, GgufFile, KeepDtype, Metadata, write_gguf};
use llada_tensor::Precision;
use llada_text::{ChatTemplate, Conversation, Tokenizer, message};
use llada_train::Recipe;
use tempfile::TempDir;

/// Gives an input to a loader and returns whether it was accepted.
pub(crate) type Loader = Box<dyn Fn(&[u8]) -> bool>;

/// A loader and files that it accepts.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) accepts: Loader,
}

/// Returns every target.
pub(crate) fn all() -> Result<Vec<Target>> {
    Ok(vec![
        config()?,
        safetensors_index()?,
        safetensors_header()?,
        gguf_header()?,
        tokenizer_config()?,
        tokenizer()?,
        chat_template()?,
        recipe()?,
    ])
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(root().join(path)).with_context(|| format!("read `{path}`"))
}

/// Copies the files of a directory to a temporary one, where a target replaces one of them.
fn copy(path: &str) -> Result<TempDir> {
    let dir = tempfile::tempdir()?;
    for entry in fs::read_dir(root().join(path)).with_context(|| format!("read `{path}`"))? {
        let entry = entry?;
        fs::copy(entry.path(), dir.path().join(entry.file_name()))?;
    }
    Ok(dir)
}

/// Makes a loader of files out of one for text. Input that is not UTF-8 never reaches it.
fn text_loader(accepts: impl Fn(&str) -> bool + 'static) -> Loader {
    Box::new(move |input| std::str::from_utf8(input).is_ok_and(&accepts))
}

/// Makes a loader of directories out of one; the input becomes the file `name` in `dir`.
fn file_loader(
    dir: TempDir,
    name: &'static str,
    accepts: impl Fn(&Path) -> bool + 'static,
) -> Loader {
    Box::new(move |input| {
        fs::write(dir.path().join(name), input).expect("the temporary directory is writable");
        accepts(dir.path())
    })
}

fn config() -> Result<Target> {
    Ok(Target {
        name: "config",
        seeds: vec![
            read("testdata/golden/model/config.json")?,
            read("assets/tinystories-656k/config.json")?,
        ],
        accepts: text_loader(|text| Config::from_json(text).map(|c| c.to_json()).is_ok()),
    })
}

fn loads(dir: &Path) -> bool {
    llada_model::load(dir, Precision::F32, KeepDtype::AsStored).is_ok()
}

fn safetensors_index() -> Result<Target> {
    let name = "model.safetensors.index.json";
    Ok(Target {
        name: "safetensors-index",
        seeds: vec![read("testdata/golden/model/model.safetensors.index.json")?],
        accepts: file_loader(copy("testdata/golden/model")?, name, loads),
    })
}

/// Mutates the header of a safetensors file alone: its first 8 bytes are the header's length.
fn safetensors_header() -> Result<Target> {
    let file = read("assets/tinystories-656k/model.safetensors")?;
    let (len, _) = file
        .split_first_chunk()
        .context("a safetensors file of 8 bytes or more")?;
    let (header, data) = file.split_at(8 + usize::try_from(u64::from_le_bytes(*len))?);
    let data = data.to_vec();
    let load = file_loader(copy("assets/tinystories-656k")?, "model.safetensors", loads);
    Ok(Target {
        name: "safetensors-header",
        seeds: vec![header.to_vec()],
        accepts: Box::new(move |input| load(&[input, &data].concat())),
    })
}

/// Mutates everything before the first tensor of a GGUF file.
fn gguf_header() -> Result<Target> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.gguf");
    let choice = FormatChoice {
        default: BlockFormat::Q4_0,
        kept: BTreeMap::new(),
    };
    let golden = root().join("testdata/golden/model");
    write_gguf(&golden, &path, &choice, &Metadata::default(), &mut |_| ())?;
    let file = GgufFile::open(&path)?;
    let sizes = file.tensors().map(|(_, tensor)| tensor.num_bytes());
    let num_data_bytes: usize = sizes.map(|size| size.next_multiple_of(32)).sum();
    let mut header = fs::read(&path)?;
    let data = header.split_off(header.len() - num_data_bytes);
    let load = file_loader(dir, "model.gguf", |dir| loads(&dir.join("model.gguf")));
    Ok(Target {
        name: "gguf-header",
        seeds: vec![header],
        accepts: Box::new(move |input| load(&[input, &data].concat())),
    })
}

fn tokenizer_config() -> Result<Target> {
    let directory = "crates/llada-text/testdata/tiny-bpe";
    Ok(Target {
        name: "tokenizer-config",
        seeds: vec![read(
            "crates/llada-text/testdata/tiny-bpe/tokenizer_config.json",
        )?],
        accepts: file_loader(copy(directory)?, "tokenizer_config.json", |dir| {
            Tokenizer::load(dir).is_ok_and(|tokenizer| {
                tokenizer.encode("hello <|MASK|>").is_ok() && tokenizer.chat_template().is_ok()
            })
        }),
    })
}

/// A small tokenizer of each model kind that this project writes.
fn tokenizer() -> Result<Target> {
    let [characters, merges] = [tempfile::tempdir()?, tempfile::tempdir()?];
    Tokenizer::characters("0123+=", &["<|end|>", "<|mask|>"])?.save(characters.path())?;
    Tokenizer::load(root().join("crates/llada-text/testdata/tiny-bpe"))?.save(merges.path())?;
    let name = "tokenizer.json";
    Ok(Target {
        name: "tokenizer",
        seeds: vec![
            fs::read(characters.path().join(name))?,
            fs::read(merges.path().join(name))?,
        ],
        accepts: file_loader(tempfile::tempdir()?, name, |dir| {
            Tokenizer::load(dir).is_ok_and(|tokenizer| {
                let ids = tokenizer.encode("0+1=1").unwrap_or_default();
                tokenizer.decode(&ids).is_ok()
            })
        }),
    })
}

fn chat_template() -> Result<Target> {
    let conversation = Conversation::new([
        message("system", "Be brief."),
        message("user", "Hi"),
        message("assistant", "<think>hm</think>Hello"),
    ]);
    Ok(Target {
        name: "chat-template",
        seeds: vec![read("crates/llada-text/testdata/sdar/chat_template.jinja")?],
        accepts: text_loader(move |text| {
            ChatTemplate::new(text)
                .and_then(|template| template.render(&conversation))
                .is_ok()
        }),
    })
}

fn recipe() -> Result<Target> {
    let entries = fs::read_dir(root().join("recipes")).context("read `recipes`")?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    paths.sort();
    ensure!(!paths.is_empty(), "`recipes` holds no recipe");
    Ok(Target {
        name: "recipe",
        seeds: paths.iter().map(fs::read).collect::<Result<_, _>>()?,
        accepts: text_loader(|text| Recipe::from_toml(text).is_ok()),
    })
}
