use std::io::Write;
use std::path::Path;

use super::ids;
use crate::data::{Corpus, Overflow, Reader, Unit};
use crate::error::Result;

/// Reads pre-tokenised rows.
fn read(path: &Path) -> Result<Corpus> {
    let reader = Reader {
        unit: Unit::Document,
        tokenizer: None,
        vocab_size: 11,
        mask_token_id: None,
        operations: None,
        eos_token_id: None,
        append_eos: false,
        max_len: 6,
        overflow: Overflow::Cut,
        recorded: None,
    };
    reader.read(&[path.to_owned()])
}

fn row(first: u32) -> String {
    format!("{{\"input_ids\": [{first}, {}]}}\n", first + 1)
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zst(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 1).unwrap()
}

#[test]
fn packed_files_are_read_to_the_end_of_their_last_member() {
    let dir = tempfile::tempdir().unwrap();
    for (name, pack) in [
        ("a.jsonl.gz", gz as fn(&str) -> Vec<u8>),
        ("a.jsonl.zst", zst),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, [pack(&row(1)), pack(&row(3))].concat()).unwrap();
        assert_eq!(ids(&read(&path).unwrap()), [&[1, 2], &[3, 4]], "{name}");
        let damaged = std::fs::read(&path).unwrap();
        std::fs::write(&path, &damaged[..damaged.len() - 9]).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("cannot read"), "{message}");
    }
}

#[test]
fn a_directory_is_its_data_files_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("b")).unwrap();
    std::fs::write(path("c.jsonl.gz"), gz(&row(5))).unwrap();
    std::fs::write(path("b/x.jsonl"), row(3)).unwrap();
    std::fs::write(path("a.jsonl"), row(1)).unwrap();
    std::fs::write(path("README.md"), "no row").unwrap();
    std::fs::write(path(".a.jsonl"), "a file being written").unwrap();
    let corpus = read(dir.path()).unwrap();
    assert_eq!(ids(&corpus), [&[1, 2], &[3, 4], &[5, 6]]);
}

#[test]
fn a_directory_without_data_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.csv"), "1,2").unwrap();
    let message = read(dir.path()).unwrap_err().to_string();
    assert!(message.contains("has no data file"), "{message}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_files_need_a_feature() {
    let message = read(Path::new("rows.parquet")).unwrap_err().to_string();
    assert!(message.contains("feature `parquet`"), "{message}");
}

#[cfg(feature = "parquet")]
mod parquet {
    use std::fs::File;
    use std::sync::Arc;

    use ::parquet::basic::{Compression, ZstdLevel};
    use ::parquet::data_type::Int64Type;
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    /// Writes rows of `input_ids` and an empty column `text`.
    fn write(path: &Path, compression: Compression) {
        let schema = "message rows {
            optional group input_ids (LIST) {
                repeated group list { required int64 element; }
            }
            optional binary text (UTF8);
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder().set_compression(compression);
        let file = File::create(path).unwrap();
        let mut writer =
            SerializedFileWriter::new(file, schema, Arc::new(properties.build())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let (definition, repetition) = (&[2, 2, 2, 2], &[0, 1, 0, 1]);
        column
            .typed::<Int64Type>()
            .write_batch(&[1, 2, 3, 4], Some(definition), Some(repetition))
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<::parquet::data_type::ByteArrayType>()
            .write_batch(&[], Some(&[0, 0]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn rows_of_parquet_files_are_rows_without_their_empty_cells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            write(&path, compression);
            assert_eq!(ids(&read(&path).unwrap()), [&[1, 2], &[3, 4]]);
        }
    }

    #[test]
    fn a_damaged_parquet_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        std::fs::write(&path, "PAR1 and nothing else").unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(
            message.contains("rows.parquet` is no Parquet file"),
            "{message}"
        );
    }
}
