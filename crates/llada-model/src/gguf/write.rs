//! Writing: the header, and padding between tensors.

use llada_tensor::BlockFormat;

use super::{ALIGNMENT, FORMATS, MAGIC, Metadata, Value};

/// What the header says about a tensor.
pub(super) struct Info<'a> {
    pub(super) name: &'a str,
    /// Outermost first.
    pub(super) shape: &'a [usize],
    pub(super) format: BlockFormat,
}

impl Info<'_> {
    pub(super) fn num_bytes(&self) -> usize {
        let values: usize = self.shape.iter().product();
        values / self.format.block_values() * self.format.block_bytes()
    }
}

/// Returns everything before the first tensor, whose data follow in the same order, each padded.
pub(super) fn header(metadata: &Metadata, infos: &[Info<'_>]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((infos.len() as u64).to_le_bytes());
    bytes.extend((metadata.iter().len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        text(&mut bytes, key);
        pair(&mut bytes, value);
    }
    let mut offset = 0;
    for info in infos {
        text(&mut bytes, info.name);
        bytes.extend((info.shape.len() as u32).to_le_bytes());
        for dim in info.shape.iter().rev() {
            bytes.extend((*dim as u64).to_le_bytes());
        }
        bytes.extend(number_of(info.format).to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += info.num_bytes().next_multiple_of(ALIGNMENT as usize);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    bytes
}

/// Returns the zeros that follow `len` bytes of a tensor.
pub(super) fn padding(len: usize) -> &'static [u8] {
    const ZEROS: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];
    &ZEROS[..len.next_multiple_of(ZEROS.len()) - len]
}

fn number_of(format: BlockFormat) -> u32 {
    let entry = FORMATS.iter().find(|(_, known)| *known == format);
    entry.expect("every format has a number").0
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Appends the type of a value and the value.
fn pair(bytes: &mut Vec<u8>, value: &Value) {
    let mut kind = |kind: u32| bytes.extend(kind.to_le_bytes());
    match value {
        Value::Int(int) => match u32::try_from(*int) {
            Ok(int) => {
                kind(4);
                bytes.extend(int.to_le_bytes());
            }
            Err(_) => {
                kind(11);
                bytes.extend(int.to_le_bytes());
            }
        },
        Value::Float(float) => {
            kind(6);
            bytes.extend((*float as f32).to_le_bytes());
        }
        Value::Bool(on) => {
            kind(7);
            bytes.push(u8::from(*on));
        }
        Value::Text(string) => {
            kind(8);
            text(bytes, string);
        }
        Value::Texts(texts) => {
            list(bytes, 8, texts.len());
            texts.iter().for_each(|string| text(bytes, string));
        }
        Value::Floats(floats) => {
            list(bytes, 6, floats.len());
            bytes.extend(
                floats
                    .iter()
                    .flat_map(|float| (*float as f32).to_le_bytes()),
            );
        }
        Value::Ints(ints) => match ints.iter().map(|int| i32::try_from(*int)).collect() {
            Ok(ints) => {
                let ints: Vec<i32> = ints;
                list(bytes, 5, ints.len());
                bytes.extend(ints.iter().flat_map(|int| int.to_le_bytes()));
            }
            Err(_) => {
                list(bytes, 11, ints.len());
                bytes.extend(ints.iter().flat_map(|int| int.to_le_bytes()));
            }
        },
    }
}

fn list(bytes: &mut Vec<u8>, kind: u32, len: usize) {
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
}
