//! Which rows are computed together, and which independently of each other.

use std::ops::Range;

use super::{KeyRanges, RowGroup};

/// Rows in a run: enough work for a task, few enough that a long document is many tasks.
const MAX_ROWS: usize = 32;

/// Consecutive rows whose keys start alike, hence overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) rows: Range<usize>,
    /// The keys of its rows in order: of ranges the two longest, as [`visible`] orders them; of pages
    /// as many as its longest row sees.
    pub(super) pieces: Vec<Range<usize>>,
}

impl Run {
    /// Returns the number of keys that some row sees.
    pub(super) fn num_keys(&self) -> usize {
        self.pieces.iter().map(Range::len).sum()
    }
}

/// What the rows see of the keys of their run.
#[derive(Clone, Copy)]
pub(super) enum Seen<'a> {
    /// The first keys of each piece.
    Ranges(&'a [KeyRanges]),
    /// This many keys, over all pieces.
    Prefix(&'a [u32]),
}

impl Seen<'_> {
    /// Returns which keys of its run a row does not see, counted over all pieces.
    pub(super) fn hidden(self, row: usize, run: &Run) -> [Range<usize>; 2] {
        match self {
            Self::Ranges(ranges) => {
                let [first, second] = visible(&ranges[row]).map(|piece| piece.len());
                let middle = run.pieces[0].len();
                [first..middle, middle + second..run.num_keys()]
            }
            Self::Prefix(lens) => [lens[row] as usize..run.num_keys(), 0..0],
        }
    }

    /// Returns the number of visible keys, summed over rows.
    pub(super) fn num_pairs(self) -> usize {
        match self {
            Self::Ranges(ranges) => ranges
                .iter()
                .flat_map(visible)
                .map(|piece| piece.len())
                .sum(),
            Self::Prefix(lens) => lens.iter().map(|&len| len as usize).sum(),
        }
    }
}

/// Runs that share keys, directly or through other runs. No run of another segment sees these keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Disjoint ascending ranges of keys.
    pub(super) spans: Vec<Range<usize>>,
    /// In ascending order.
    pub(super) runs: Vec<Run>,
}

impl Segment {
    /// Returns the range from the first to the last key, gaps included.
    pub(super) fn extent(&self) -> Range<usize> {
        let start = self.spans.first().map_or(0, |span| span.start);
        start..self.spans.last().map_or(start, |span| span.end)
    }
}

/// Returns the ranges of a row. The first is not empty; the second is 0..0 if it is.
pub(super) fn visible(row: &KeyRanges) -> [Range<usize>; 2] {
    let [a0, a1, b0, b1] = row.map(|end| end as usize);
    match (a0..a1, b0..b1) {
        (a, b) if a.is_empty() => [b, 0..0],
        (a, b) if b.is_empty() => [a, 0..0],
        (a, b) => [a, b],
    }
}

/// Splits rows into runs.
pub(super) fn runs(ranges: &[KeyRanges]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (row, range) in ranges.iter().enumerate() {
        let pieces = visible(range);
        match runs.last_mut() {
            Some(run) if run.rows.len() < MAX_ROWS && starts(&run.pieces) == starts(&pieces) => {
                run.rows.end += 1;
                for (longest, piece) in run.pieces.iter_mut().zip(pieces) {
                    longest.end = longest.end.max(piece.end);
                }
            }
            _ => runs.push(Run {
                rows: row..row + 1,
                pieces: pieces.into(),
            }),
        }
    }
    runs
}

/// Returns where the pieces start and which are empty.
fn starts(pieces: &[Range<usize>]) -> [(usize, bool); 2] {
    [0, 1].map(|i| (pieces[i].start, pieces[i].is_empty()))
}

/// Splits the rows of every group into runs.
pub(super) fn paged_runs(groups: &[RowGroup]) -> Vec<Run> {
    let mut runs = Vec::new();
    for group in groups {
        let (first, visible) = (group.rows.start, &group.visible);
        for (index, visible) in visible.chunks(MAX_ROWS).enumerate() {
            let start = first + index * MAX_ROWS;
            let longest = visible.iter().max().map_or(0, |&len| len as usize);
            runs.push(Run {
                rows: start..start + visible.len(),
                pieces: first_keys(&group.keys, longest),
            });
        }
    }
    runs
}

/// Returns the pieces of the first `len` keys; neighbours become one.
fn first_keys(keys: &[Range<usize>], len: usize) -> Vec<Range<usize>> {
    let (mut pieces, mut left): (Vec<Range<usize>>, _) = (Vec::new(), len);
    for piece in keys {
        let piece = piece.start..piece.end.min(piece.start + left);
        left -= piece.len();
        match pieces.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ if piece.is_empty() => break,
            _ => pieces.push(piece),
        }
    }
    pieces
}

/// Splits runs into segments, in the order of their first keys.
pub(super) fn segments(runs: Vec<Run>) -> Vec<Segment> {
    let spans = merged_spans(&runs);
    let segment_of = segment_of_spans(&runs, &spans);
    let num_segments = segment_of
        .iter()
        .map(|segment| segment + 1)
        .max()
        .unwrap_or(0);
    let mut segments: Vec<Segment> = (0..num_segments).map(|_| Segment::default()).collect();
    for run in runs {
        segments[segment_of[span_at(&spans, run.pieces[0].start)]]
            .runs
            .push(run);
    }
    for (span, segment) in spans.into_iter().zip(segment_of) {
        segments[segment].spans.push(span);
    }
    segments
}

/// Returns the union of all pieces as disjoint ascending spans. Pieces that only touch stay apart, as
/// neighbouring documents do.
fn merged_spans(runs: &[Run]) -> Vec<Range<usize>> {
    let pieces = runs.iter().flat_map(|run| run.pieces.iter().cloned());
    let mut spans: Vec<Range<usize>> = pieces.filter(|piece| !piece.is_empty()).collect();
    spans.sort_unstable_by_key(|span| span.start);
    spans.dedup_by(|next, span| {
        let overlap = next.start < span.end;
        if overlap {
            span.end = span.end.max(next.end);
        }
        overlap
    });
    spans
}

/// Returns the index of the span that contains `key`.
fn span_at(spans: &[Range<usize>], key: usize) -> usize {
    spans.partition_point(|span| span.start <= key) - 1
}

/// Returns for every span the number of its segment: spans that one run sees belong together.
fn segment_of_spans(runs: &[Run], spans: &[Range<usize>]) -> Vec<usize> {
    // A forest in which every span points to an earlier span of its segment, the first to itself.
    let mut earlier: Vec<usize> = (0..spans.len()).collect();
    for run in runs {
        let (first, second) = (&run.pieces[0], &run.pieces[1]);
        if !second.is_empty() {
            let first = root(&mut earlier, span_at(spans, first.start));
            let second = root(&mut earlier, span_at(spans, second.start));
            earlier[first.max(second)] = first.min(second);
        }
    }
    let mut num_segments = 0;
    for span in 0..spans.len() {
        // Earlier spans hold their segment's number by now.
        if earlier[span] == span {
            earlier[span] = num_segments;
            num_segments += 1;
        } else {
            earlier[span] = earlier[earlier[span]];
        }
    }
    earlier
}

/// Returns the first span of the segment, and shortens the way to it.
fn root(earlier: &mut [usize], mut span: usize) -> usize {
    while earlier[span] != span {
        earlier[span] = earlier[earlier[span]];
        span = earlier[span];
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the keys and the rows of every segment.
    fn split(ranges: &[KeyRanges]) -> Vec<[Vec<usize>; 2]> {
        let parts = |segment: Segment| {
            let rows = segment.runs.into_iter().flat_map(|run| run.rows);
            [
                segment.spans.into_iter().flatten().collect(),
                rows.collect(),
            ]
        };
        segments(runs(ranges)).into_iter().map(parts).collect()
    }

    #[test]
    fn touching_documents_are_separate_segments() {
        let ranges = [[0, 2, 0, 0], [0, 2, 0, 0], [2, 3, 0, 0], [2, 4, 0, 0]];
        assert_eq!(
            split(&ranges),
            [[vec![0, 1], vec![0, 1]], [vec![2, 3], vec![2, 3]]]
        );
    }

    #[test]
    fn rows_that_share_keys_through_others_are_one_segment() {
        // Row 0 joins spans 0..2 and 8..9, row 3 joins 8..9 and 4..6.
        let ranges = [[0, 2, 8, 9], [4, 6, 0, 0], [20, 21, 0, 0], [8, 9, 4, 5]];
        let joined = [vec![0, 1, 4, 5, 8], vec![0, 1, 3]];
        assert_eq!(split(&ranges), [joined, [vec![20], vec![2]]]);
    }

    #[test]
    fn runs_hold_rows_whose_ranges_start_alike() {
        let ranges = [
            [0, 1, 0, 0],
            [0, 3, 5, 5],
            [7, 7, 0, 2],
            [0, 2, 1, 3],
            [1, 3, 0, 0],
        ];
        let rows: Vec<_> = runs(&ranges)
            .into_iter()
            .map(|run| (run.rows, run.pieces))
            .collect();
        assert_eq!(
            rows,
            [
                (0..3, vec![0..3, 0..0]),
                (3..4, vec![0..2, 1..3]),
                (4..5, vec![1..3, 0..0])
            ]
        );
    }

    #[test]
    fn an_empty_range_and_one_from_key_zero_do_not_mix() {
        let ranges = [[5, 8, 0, 2], [5, 8, 0, 0]];
        assert_eq!(runs(&ranges).len(), 2);
    }

    #[test]
    fn paged_runs_read_no_more_than_their_longest_row_sees() {
        let keys = vec![8..12, 12..16, 0..4];
        let groups = [
            RowGroup {
                rows: 0..34,
                keys: keys.clone(),
                visible: [3, 10].repeat(17),
            },
            RowGroup {
                rows: 34..35,
                keys: keys[1..].to_vec(),
                visible: vec![6],
            },
        ];
        let runs: Vec<_> = paged_runs(&groups)
            .into_iter()
            .map(|run| (run.rows, run.pieces))
            .collect();
        let pieces = vec![8..16, 0..2];
        assert_eq!(
            runs,
            [
                (0..32, pieces.clone()),
                (32..34, pieces),
                (34..35, vec![12..16, 0..2])
            ]
        );
    }

    #[test]
    fn a_long_run_is_cut() {
        let lens: Vec<_> = runs(&[[0, 9, 0, 0]; 70])
            .iter()
            .map(|run| run.rows.len())
            .collect();
        assert_eq!(lens, [MAX_ROWS, MAX_ROWS, 6]);
    }
}
