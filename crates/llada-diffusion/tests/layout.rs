//! Batch layout: every small batch, compared with the definition of visibility.

use std::collections::BTreeSet;

use llada_diffusion::{
    BlockSize, Elision, Grouping, LabelAlignment, LossRow, NoisyCopy, NoisyDocument, Predictor,
    Row, TrainRows, visible,
};

const MASK: u32 = 99;
const ALIGNMENTS: [LabelAlignment; 2] = [LabelAlignment::Same, LabelAlignment::Shifted];

/// A document whose token at position i is 10 + i.
struct Case {
    len: usize,
    block_size: BlockSize,
    copies: Vec<Vec<bool>>,
    alignment: LabelAlignment,
    grouping: Grouping,
}

impl Case {
    fn push(&self, batch: &mut TrainRows, doc: u32, elision: Elision) {
        let clean_ids: Vec<u32> = (10..).take(self.len).collect();
        let Self {
            block_size, copies, ..
        } = self;
        let copy = |masked| NoisyCopy {
            ids: &clean_ids,
            masked,
        };
        let copies: Vec<_> = copies.iter().map(|masked| copy(masked)).collect();
        let document = NoisyDocument {
            clean_ids: &clean_ids,
            copies: &copies,
            block_size: *block_size,
            grouping: self.grouping,
        };
        batch.push_diffusion(doc, &document, MASK, self.alignment, elision);
    }

    fn batch(&self, elision: Elision) -> TrainRows {
        let mut batch = TrainRows::new();
        self.push(&mut batch, 0, elision);
        batch
    }
}

fn blocks_of(size: usize) -> BlockSize {
    BlockSize::new(size).expect("sizes are above 0")
}

fn mask(len: usize, bits: usize) -> Vec<bool> {
    (0..len).map(|i| bits >> i & 1 == 1).collect()
}

/// Every length, block size, mask (pairs of masks up to length 4) and alignment.
fn all_cases() -> impl Iterator<Item = Case> {
    (0..=9).flat_map(|len| {
        (1..=5).flat_map(move |size| {
            let one_copy = (0..1 << len).map(move |bits| vec![mask(len, bits)]);
            let pairs = if len <= 4 { 1 << (2 * len) } else { 0 };
            let two_copies =
                (0..pairs).map(move |bits| vec![mask(len, bits), mask(len, bits >> len)]);
            one_copy.chain(two_copies).flat_map(move |copies| {
                ALIGNMENTS.map(|alignment| Case {
                    len,
                    block_size: blocks_of(size),
                    copies: copies.clone(),
                    alignment,
                    grouping: Grouping::default(),
                })
            })
        })
    })
}

/// Every mask of some lengths, with blocks of two in groups of two and three.
fn grouped_cases() -> impl Iterator<Item = Case> {
    let groupings = [(2, 0), (2, 1), (3, 0), (3, 2)];
    groupings.into_iter().flat_map(|(size, shift)| {
        (0..=9).flat_map(move |len| {
            (0..1 << len).flat_map(move |bits| {
                ALIGNMENTS.map(|alignment| Case {
                    len,
                    block_size: blocks_of(2),
                    copies: vec![mask(len, bits), mask(len, !bits)],
                    alignment,
                    grouping: Grouping::new(size, shift),
                })
            })
        })
    })
}

/// Row numbers that `row` sees according to its ranges.
fn seen(batch: &TrainRows, row: usize) -> Vec<usize> {
    let [a0, a1, b0, b1] = batch.ranges[row];
    let mut keys: Vec<usize> = (a0..a1).chain(b0..b1).map(|key| key as usize).collect();
    keys.sort_unstable();
    keys
}

/// Rows that can influence the output of `row` through any number of layers.
fn receptive_field(batch: &TrainRows, row: usize) -> BTreeSet<usize> {
    let mut field = BTreeSet::from([row]);
    let mut frontier = vec![row];
    while let Some(row) = frontier.pop() {
        frontier.extend(
            seen(batch, row)
                .into_iter()
                .filter(|&key| field.insert(key)),
        );
    }
    field
}

/// What a row is, whatever its number in a batch.
fn identity(batch: &TrainRows, row: usize) -> (bool, u32, u32, u32) {
    let Row {
        clean, pos, copy, ..
    } = batch.rows[row];
    (clean, copy, pos, batch.ids[row])
}

#[test]
fn ranges_are_exactly_the_visible_rows() {
    for case in all_cases() {
        for elision in [Elision::On, Elision::Off] {
            let mut batch = TrainRows::new();
            batch.push_causal(7, &[1, 2]);
            case.push(&mut batch, 0, elision);
            for (row, query) in batch.rows.iter().enumerate() {
                let keys = (0..batch.len()).filter(|&key| visible(query, &batch.rows[key]));
                assert!(keys.eq(seen(&batch, row)), "row {row} of {batch:?}");
            }
        }
    }
}

#[test]
fn depth_shows_a_row_nothing_new() {
    // Visibility is transitive: what a row's keys saw, it sees itself. So no layer leaks, and a
    // token can change only the rows that see it.
    for case in all_cases() {
        for elision in [Elision::On, Elision::Off] {
            let batch = case.batch(elision);
            for row in 0..batch.len() {
                assert!(
                    receptive_field(&batch, row)
                        .into_iter()
                        .eq(seen(&batch, row))
                );
            }
        }
    }
}

#[test]
fn every_masked_position_is_scored_once_by_its_predictor() {
    for case in all_cases() {
        for elision in [Elision::On, Elision::Off] {
            let batch = case.batch(elision);
            let mut expected = Vec::new();
            for (copy, masked) in case.copies.iter().enumerate() {
                for position in (0..case.len).filter(|&i| masked[i]) {
                    let predictor = case.alignment.predictor(position, case.block_size);
                    expected.extend(predictor.map(|predictor| (copy, position, predictor)));
                }
            }
            let scored = batch.loss_rows.iter().map(
                |&LossRow {
                     row,
                     target,
                     position,
                     copy,
                     ..
                 }| {
                    assert_eq!(target, 10 + position);
                    let row = batch.rows[row as usize];
                    assert!(row.clean || row.copy == copy);
                    let pos = row.pos as usize;
                    let predictor = if row.clean {
                        Predictor::Clean(pos)
                    } else {
                        Predictor::Noisy(pos)
                    };
                    (copy as usize, position as usize, predictor)
                },
            );
            assert!(scored.eq(expected));
        }
    }
}

#[test]
fn elision_drops_all_rows_that_cannot_matter_and_no_other() {
    for case in all_cases() {
        let (elided, full) = (case.batch(Elision::On), case.batch(Elision::Off));
        assert_eq!(elided.loss_rows.len(), full.loss_rows.len());
        let mut used = BTreeSet::new();
        for (kept, all) in elided.loss_rows.iter().zip(&full.loss_rows) {
            let field = receptive_field(&elided, kept.row as usize);
            let full_field = receptive_field(&full, all.row as usize);
            let identities = field.iter().map(|&row| identity(&elided, row));
            assert!(identities.eq(full_field.iter().map(|&row| identity(&full, row))));
            used.extend(field);
        }
        assert_eq!(used.len(), elided.len(), "a row nobody needs: {elided:?}");
    }
}

#[test]
fn no_masked_token_reaches_the_row_that_predicts_it() {
    for case in all_cases() {
        let batch = case.batch(Elision::On);
        for loss_row in &batch.loss_rows {
            let field = receptive_field(&batch, loss_row.row as usize);
            assert!(field.iter().all(|&row| batch.ids[row] != loss_row.target));
        }
    }
}

#[test]
fn a_document_has_the_same_rows_alone_and_packed() {
    for case in all_cases().filter(|case| case.len == 5) {
        let alone = case.batch(Elision::On);
        let mut packed = TrainRows::new();
        packed.push_causal(3, &[1, 2, 3]);
        case.push(&mut packed, 0, Elision::On);
        packed.push_causal(4, &[1, 2]);
        let rows = 3..3 + alone.len();
        assert_eq!(packed.ids[rows.clone()], alone.ids);
        assert_eq!(packed.rows[rows.clone()], alone.rows);
        assert_eq!(packed.positions[rows.clone()], alone.positions);
        let shifted = alone
            .ranges
            .iter()
            .map(|ranges| ranges.map(|bound| bound + 3));
        assert!(packed.ranges[rows].iter().copied().eq(shifted));
        let shifted = alone.loss_rows.iter().map(|loss| LossRow {
            row: loss.row + 3,
            ..*loss
        });
        let of_document = packed
            .loss_rows
            .iter()
            .copied()
            .filter(|loss| loss.doc == 0);
        assert!(of_document.eq(shifted));
    }
}

#[test]
fn a_doubled_document_has_l_squared_plus_l_b_visible_pairs() {
    for (size, num_blocks) in [(2, 2), (1, 6), (4, 3), (5, 1)] {
        let len = size * num_blocks;
        let case = Case {
            grouping: Grouping::default(),
            len,
            block_size: blocks_of(size),
            copies: vec![vec![true; len]],
            alignment: LabelAlignment::Same,
        };
        let full = case.batch(Elision::Off);
        assert_eq!(full.len(), 2 * len);
        let pairs: usize = (0..full.len()).map(|row| seen(&full, row).len()).sum();
        assert_eq!(pairs, len * len + len * size);
    }
}

#[test]
fn four_tokens_in_blocks_of_two_look_as_in_the_module_documentation() {
    let case = Case {
        grouping: Grouping::default(),
        len: 4,
        block_size: blocks_of(2),
        copies: vec![vec![true, false, false, true]],
        alignment: LabelAlignment::Same,
    };
    let full = case.batch(Elision::Off);
    assert_eq!(full.ids, [10, 11, 12, 13, MASK, 11, 12, MASK]);
    assert_eq!(full.positions, [0, 1, 2, 3, 0, 1, 2, 3]);
    let sees: Vec<Vec<usize>> = (0..8).map(|row| seen(&full, row)).collect();
    assert_eq!(sees[..2], [[0, 1], [0, 1]]);
    assert_eq!(sees[2..4], [[0, 1, 2, 3], [0, 1, 2, 3]]);
    assert_eq!(sees[4..6], [[4, 5], [4, 5]]);
    assert_eq!(sees[6..], [[0, 1, 6, 7], [0, 1, 6, 7]]);
    // The last clean block serves nobody.
    assert_eq!(case.batch(Elision::On).ids, [10, 11, MASK, 11, 12, MASK]);
}

#[test]
fn a_prompt_and_an_answer_of_three_blocks_take_sixteen_rows() {
    // Blocks [p0 p1 p2 p3] [p4 a0 a1 a2] [a3 r e e]: the first has nothing to predict.
    let supervised: Vec<bool> = (0..12).map(|i| i >= 5).collect();
    let case = Case {
        grouping: Grouping::default(),
        len: 12,
        block_size: blocks_of(4),
        copies: vec![supervised],
        alignment: LabelAlignment::Same,
    };
    let batch = case.batch(Elision::On);
    assert_eq!(batch.len(), 16);
    assert_eq!(batch.positions[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(batch.positions[8..], [4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(
        batch.ids[8], 14,
        "the prompt's tail stays clean in the noisy block"
    );
    assert_eq!(batch.loss_rows.len(), 7);
    assert_eq!(case.batch(Elision::Off).len(), 24);
}

#[test]
fn one_covering_block_leaves_full_sequence_diffusion() {
    let case = Case {
        grouping: Grouping::default(),
        len: 5,
        block_size: blocks_of(8),
        copies: vec![vec![false, true, false, true, true]],
        alignment: LabelAlignment::Same,
    };
    let batch = case.batch(Elision::On);
    assert_eq!(batch.ids, [10, MASK, 12, MASK, MASK]);
    assert_eq!(batch.ranges, [[0, 5, 5, 5]; 5]);
    let exact = Case {
        grouping: Grouping::default(),
        block_size: BlockSize::covering(5),
        ..case
    };
    assert_eq!(exact.batch(Elision::On), batch);
}

#[test]
fn shifted_labels_in_blocks_of_one_are_the_causal_parent() {
    let ids: Vec<u32> = (10..16).collect();
    let case = Case {
        grouping: Grouping::default(),
        len: 6,
        block_size: BlockSize::ONE,
        copies: vec![vec![true; 6]],
        alignment: LabelAlignment::Shifted,
    };
    let (child, mut parent) = (case.batch(Elision::On), TrainRows::new());
    parent.push_causal(0, &ids);
    // The parent's last row predicts nothing that is scored; elision drops it.
    assert_eq!(child.rows, parent.rows[..5]);
    assert_eq!(child.ids, parent.ids[..5]);
    assert_eq!(child.ranges, parent.ranges[..5]);
    assert_eq!(child.loss_rows, parent.loss_rows);
}

#[test]
fn a_block_masked_only_at_its_start_needs_no_noisy_rows_when_shifted() {
    let case = Case {
        grouping: Grouping::default(),
        len: 6,
        block_size: blocks_of(3),
        copies: vec![mask(6, 0b001000)],
        alignment: LabelAlignment::Shifted,
    };
    let batch = case.batch(Elision::On);
    assert_eq!(batch.ids, [10, 11, 12]);
    assert_eq!(
        batch
            .loss_rows
            .iter()
            .map(|loss| (loss.row, loss.target))
            .next(),
        Some((2, 13))
    );
}

#[test]
fn a_clean_row_predicts_once_for_each_copy() {
    let case = Case {
        grouping: Grouping::default(),
        len: 4,
        block_size: blocks_of(2),
        copies: vec![mask(4, 0b1100), mask(4, 0b0100)],
        alignment: LabelAlignment::Shifted,
    };
    let batch = case.batch(Elision::On);
    let by_first_copy = batch
        .loss_rows
        .iter()
        .find(|l| (l.copy, l.position) == (0, 2))
        .unwrap();
    let by_second_copy = batch
        .loss_rows
        .iter()
        .find(|l| (l.copy, l.position) == (1, 2))
        .unwrap();
    assert_eq!((by_first_copy.row, by_second_copy.row), (1, 1));
    assert_eq!(batch.loss_rows.len(), 3);
}

#[test]
fn twins_share_the_clean_half() {
    let masked = mask(8, 0b0110_1001);
    let case = Case {
        grouping: Grouping::default(),
        len: 8,
        block_size: blocks_of(4),
        copies: vec![masked.clone(), masked.iter().map(|&m| !m).collect()],
        alignment: LabelAlignment::Same,
    };
    assert_eq!(case.batch(Elision::Off).len(), 3 * 8);
}

#[test]
fn a_mask_id_in_the_text_is_no_target() {
    let ids = [MASK, 5];
    let document = NoisyDocument {
        clean_ids: &ids,
        copies: &[NoisyCopy {
            ids: &ids,
            masked: &[false, true],
        }],
        block_size: BlockSize::covering(2),
        grouping: Grouping::default(),
    };
    let mut batch = TrainRows::new();
    batch.push_diffusion(0, &document, MASK, LabelAlignment::Same, Elision::On);
    assert_eq!(batch.ids, [MASK, MASK]);
    assert_eq!(
        batch
            .loss_rows
            .iter()
            .map(|loss| loss.position)
            .collect::<Vec<_>>(),
        [1]
    );
}

/// Two turns in blocks of 4: the first is positions 2 to 4, the second positions 8 to 11. The copy of
/// the first goes on with filling (50) where the text has other tokens; the second ends a block, so its
/// copy has a block of filling more.
#[test]
fn a_copy_of_a_turn_ends_with_its_own_filling_and_leaves_the_clean_text_alone() {
    let clean_ids: Vec<u32> = (10..22).collect();
    let first: Vec<u32> = (10..15).chain([50; 3]).collect();
    let second: Vec<u32> = (10..22).chain([50; 4]).collect();
    let supervised = |from: usize, len: usize| (0..len).map(|i| i >= from).collect::<Vec<_>>();
    let (first_masked, second_masked) = (supervised(2, 8), supervised(8, 16));
    let copies = [
        NoisyCopy {
            ids: &first,
            masked: &first_masked,
        },
        NoisyCopy {
            ids: &second,
            masked: &second_masked,
        },
    ];
    let document = NoisyDocument {
        clean_ids: &clean_ids,
        copies: &copies,
        block_size: blocks_of(4),
        grouping: Grouping::default(),
    };
    for alignment in ALIGNMENTS {
        let mut batch = TrainRows::new();
        batch.push_diffusion(0, &document, MASK, alignment, Elision::On);
        let clean: Vec<u32> = (0..batch.len())
            .filter(|&row| batch.rows[row].clean)
            .map(|row| batch.ids[row])
            .collect();
        assert_eq!(clean, clean_ids, "the second turn follows the true text");
        let targets = |copy| {
            let rows = batch.loss_rows.iter().filter(move |row| row.copy == copy);
            rows.map(|row| row.target).collect::<Vec<_>>()
        };
        assert_eq!(targets(0), [12, 13, 14, 50, 50, 50]);
        assert_eq!(targets(1), [18, 19, 20, 21, 50, 50, 50, 50]);
        assert_eq!(batch.len(), 12 + 8 + 8);
        for (row, query) in batch.rows.iter().enumerate() {
            let [a0, a1, b0, b1] = batch.ranges[row];
            let seen =
                (0..batch.len() as u32).filter(|k| (a0..a1).contains(k) || (b0..b1).contains(k));
            let expected =
                (0..batch.len() as u32).filter(|&k| visible(query, &batch.rows[k as usize]));
            assert!(seen.eq(expected), "row {row}");
        }
    }
}

#[test]
fn grouped_rows_see_their_group_and_what_is_finished() {
    for case in grouped_cases() {
        for elision in [Elision::On, Elision::Off] {
            let batch = case.batch(elision);
            for (row, query) in batch.rows.iter().enumerate() {
                let keys = (0..batch.len()).filter(|&key| visible(query, &batch.rows[key]));
                assert!(keys.eq(seen(&batch, row)), "row {row} of {batch:?}");
                let field = receptive_field(&batch, row);
                assert!(
                    field.into_iter().eq(seen(&batch, row)),
                    "row {row} of {batch:?}"
                );
            }
        }
    }
}

#[test]
fn eliding_rows_of_groups_changes_no_prediction() {
    for case in grouped_cases() {
        let (elided, full) = (case.batch(Elision::On), case.batch(Elision::Off));
        assert_eq!(elided.loss_rows.len(), full.loss_rows.len());
        for (a, b) in elided.loss_rows.iter().zip(&full.loss_rows) {
            let sees = |batch: &TrainRows, row: u32| -> BTreeSet<_> {
                let field = receptive_field(batch, row as usize);
                field.into_iter().map(|key| identity(batch, key)).collect()
            };
            assert_eq!(
                (a.target, a.position, a.copy),
                (b.target, b.position, b.copy)
            );
            assert_eq!(
                identity(&elided, a.row as usize),
                identity(&full, b.row as usize)
            );
            assert_eq!(sees(&elided, a.row), sees(&full, b.row));
        }
    }
}

#[test]
fn a_group_never_sees_its_own_answer() {
    for case in grouped_cases() {
        let batch = case.batch(Elision::On);
        for row in batch.rows.iter().filter(|row| !row.clean) {
            let clean = batch
                .rows
                .iter()
                .filter(|key| key.clean && visible(row, key));
            assert!(clean.clone().all(|key| key.block < row.group));
            assert!(clean.count() == (row.group as usize * 2).min(case.len));
        }
    }
}
