//! The forward over a store: a row comes out the same whatever else is computed, wherever its keys
//! lie, on any number of threads, and as without a store.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod support;

use llada_diffusion::{BlockSize, prefill_ranges};
use llada_model::{CachedInput, CachedOutput, Error, Input, KvStore, Model, RowGroup};
use llada_tensor::{Precision, Tensor};

use support::{golden_models, tiny};

/// Lengths of the texts: parts of a block, a block, several blocks and a part.
const LENS: [usize; 5] = [37, 8, 50, 3, 21];

/// A dense model, one with experts, and one that chooses them block by block.
fn models() -> [Model; 3] {
    let (config, weights) = tiny("LlamaForCausalLM", serde_json::json!({}));
    let [golden, routed] = golden_models(6);
    [Model::new(config, weights), golden, routed]
}

/// A small generator of numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        let Self(state) = self;
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*state >> 33) as usize % end
    }
}

/// A text whose rows lie in pages of a store.
struct Text {
    ids: Vec<u32>,
    /// Rows of the store, in pages of `page_rows`.
    table: Vec<usize>,
    page_rows: usize,
    done: usize,
}

impl Text {
    /// Returns the texts with their pages in random order, and the number of rows of the store.
    fn all(page_rows: usize, random: &mut Random) -> (Vec<Self>, usize) {
        let num_pages: usize = LENS.iter().map(|len| len.div_ceil(page_rows)).sum();
        let mut free: Vec<usize> = (0..num_pages).collect();
        let text = |len: usize| Self {
            ids: (0..len).map(|i| ((11 * i + len) % 500) as u32).collect(),
            table: (0..len.div_ceil(page_rows))
                .map(|_| free.swap_remove(random.below(free.len())))
                .flat_map(|page| page * page_rows..(page + 1) * page_rows)
                .collect(),
            page_rows,
            done: 0,
        };
        (LENS.map(text).into(), num_pages * page_rows)
    }
}

/// Owned counterpart of [`CachedInput`].
#[derive(Default)]
struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    groups: Vec<RowGroup>,
    outputs: Vec<u32>,
}

impl Batch {
    /// Adds the next rows of a text, up to `end`.
    fn push(&mut self, text: &mut Text, end: usize, block: usize) {
        let first = self.ids.len();
        let positions = text.done..end;
        self.ids.extend(&text.ids[positions.clone()]);
        let slots = text.table[positions.clone()].iter();
        self.slots.extend(slots.map(|&row| row as u32));
        let pages = text.table[..end].chunks(text.page_rows);
        let block_end = |position: usize| ((position / block + 1) * block).min(end) as u32;
        self.groups.push(RowGroup {
            rows: first..self.ids.len(),
            keys: pages.map(|page| page[0]..page[0] + page.len()).collect(),
            visible: positions.clone().map(block_end).collect(),
        });
        self.positions
            .extend(positions.map(|position| position as u32));
        text.done = end;
    }

    fn run(&self, model: &Model, store: &mut KvStore) -> CachedOutput {
        let input = CachedInput {
            ids: &self.ids,
            positions: &self.positions,
            slots: &self.slots,
            groups: &self.groups,
            outputs: &self.outputs,
        };
        model.forward_cached(&input, store)
    }
}

/// Returns all hidden states of a text, computed alone and without a store.
fn uncached(model: &Model, ids: &[u32], block: usize) -> Tensor {
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    let input = Input {
        ids,
        positions: &rows,
        ranges: &prefill_ranges(0, ids.len(), BlockSize::new(block).unwrap()),
        outputs: &rows,
        dropout: None,
    };
    model.forward(&input)
}

/// Returns all hidden states of a text, computed alone and at once over rounded keys and values.
fn at_once(model: &Model, ids: &[u32], block: usize) -> Tensor {
    let mut store = KvStore::new(&model.config, Precision::Bf16, ids.len()).unwrap();
    let mut text = Text {
        ids: ids.to_vec(),
        table: (0..ids.len()).collect(),
        page_rows: ids.len(),
        done: 0,
    };
    let mut batch = Batch::default();
    batch.push(&mut text, ids.len(), block);
    batch.outputs = (0..ids.len() as u32).collect();
    batch.run(model, &mut store).hidden
}

/// Runs all texts in random batches and compares the hidden states of random rows.
fn check_random_batches(
    model: &Model,
    precision: Precision,
    block: usize,
    page_rows: usize,
    random: &mut Random,
) {
    let (mut texts, num_rows) = Text::all(page_rows, random);
    let mut store = KvStore::new(&model.config, precision, num_rows).unwrap();
    let expected = match precision {
        Precision::F32 => uncached,
        Precision::Bf16 => at_once,
    };
    let want: Vec<Tensor> = texts
        .iter()
        .map(|text| expected(model, &text.ids, block))
        .collect();
    while texts.iter().any(|text| text.done < text.ids.len()) {
        let (mut batch, mut rows) = (Batch::default(), Vec::new());
        for (text, want) in texts.iter_mut().zip(&want) {
            let start = text.done;
            let end = text
                .ids
                .len()
                .min((start / block + random.below(4)) * block);
            if start < end {
                batch.push(text, end, block);
                rows.extend((start..end).map(|position| want.row(position)));
            }
        }
        if rows.is_empty() {
            continue;
        }
        let is_output: Vec<bool> = rows.iter().map(|_| random.below(2) == 0).collect();
        let outputs = (0..rows.len()).filter(|&row| is_output[row]);
        batch.outputs = outputs.map(|row| row as u32).collect();
        let hidden = batch.run(model, &mut store).hidden;
        for (i, &row) in batch.outputs.iter().enumerate() {
            assert_eq!(hidden.row(i), rows[row as usize], "row {row}");
        }
    }
}

fn with_threads<T: Send>(threads: usize, body: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(body)
}

#[test]
fn a_row_is_bit_identical_in_any_batch_page_layout_and_number_of_threads() {
    for model in &models() {
        for threads in [1, 3] {
            for (block, page_rows) in [(8, 4), (8, 8), (8, 32), (1, 5), (32, 16)] {
                let mut random = Random(threads as u64);
                with_threads(threads, || {
                    for precision in [Precision::F32, Precision::Bf16] {
                        check_random_batches(model, precision, block, page_rows, &mut random);
                    }
                });
            }
        }
    }
}

#[test]
fn rounded_keys_and_values_move_the_hidden_states_a_little() {
    let [dense, golden, _] = models();
    // The golden model's router scores are nearly level: another expert at two rows moves those by more.
    for (model, most, flips) in [(dense, 0.01, 0), (golden, 0.1, 2)] {
        let ids: Vec<u32> = (0..50).map(|i| 11 * i % 500).collect();
        let (exact, rounded) = (uncached(&model, &ids, 8), at_once(&model, &ids, 8));
        let error = |row| {
            let pairs = exact.row(row).iter().zip(rounded.row(row));
            pairs.fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()))
        };
        let errors: Vec<f32> = (0..ids.len()).map(error).collect();
        let large = errors.iter().filter(|error| **error > most).count();
        assert!(
            errors.iter().all(|error| *error > 0.0) && large <= flips,
            "{errors:?}"
        );
    }
}

/// Returns the experts per layer that the first `len` rows of a text use.
fn experts(model: &Model, len: usize, outputs: &[u32]) -> Vec<u32> {
    let mut random = Random(1);
    let (mut texts, num_rows) = Text::all(8, &mut random);
    let mut store = KvStore::new(&model.config, Precision::F32, num_rows).unwrap();
    let mut batch = Batch::default();
    batch.push(&mut texts[2], len, 8);
    batch.outputs.extend(outputs);
    batch.run(model, &mut store).experts
}

#[test]
fn distinct_experts_are_counted_per_layer_that_has_them() {
    let [dense, golden, _] = models();
    let all: Vec<u32> = (0..48).collect();
    assert!(experts(&dense, 8, &all[..8]).is_empty());
    assert_eq!(experts(&golden, 1, &[0]), [4, 4, 4]);
    assert_eq!(experts(&golden, 8, &[])[2], 0);
    let counts = [1, 4].map(|threads| with_threads(threads, || experts(&golden, 48, &all)));
    assert_eq!(counts[0], counts[1]);
    assert!(counts[0].iter().all(|count| (5..=16).contains(count)));
}

#[test]
fn a_block_uses_no_more_experts_than_its_pool_has() {
    let [golden, routed] = golden_models(4);
    let outputs: Vec<u32> = (0..8).collect();
    assert_eq!(experts(&routed, 8, &outputs), [4, 4, 4]);
    assert!(experts(&golden, 8, &outputs).iter().all(|&count| count > 4));
}

#[test]
fn a_store_knows_its_size_and_refuses_what_memory_cannot_hold() {
    let [golden, _] = golden_models(6);
    for (precision, size) in [(Precision::F32, 4), (Precision::Bf16, 2)] {
        let bytes = KvStore::bytes_per_row(&golden.config, precision);
        assert_eq!(bytes, 2 * 4 * 2 * 16 * size);
        let store = KvStore::new(&golden.config, precision, 7).unwrap();
        assert_eq!(store.num_rows(), 7);
        for rows in [usize::MAX, usize::MAX >> 8] {
            let error = KvStore::new(&golden.config, precision, rows).unwrap_err();
            assert!(matches!(error, Error::Memory { bytes_per_row, .. } if bytes_per_row == bytes));
        }
    }
}
