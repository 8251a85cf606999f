//! Independent parts of an attention: rows grouped by the keys they share.

use std::ops::Range;

use super::KeyRanges;

/// Consecutive packed keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// First packed key; 0 if there is none.
    pub(super) start: usize,
    /// Number of keys.
    pub(super) len: usize,
}

/// A query row and the packed keys it sees. The first piece is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Row of the query array.
    pub(super) index: usize,
    pub(super) pieces: [Piece; 2],
}

/// Rows that share keys, directly or through other rows. No row of another segment sees these keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Disjoint ranges of keys, packed one behind the other.
    spans: Vec<Range<usize>>,
    /// Sum of their lengths.
    pub(super) num_keys: usize,
    /// Rows in ascending order.
    rows: Vec<Row>,
}

impl Segment {
    /// Returns the keys in packed order.
    pub(super) fn keys(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().cloned().flatten()
    }

    /// Returns runs of at most `max_rows` rows whose pieces start at the same keys.
    pub(super) fn tiles(&self, max_rows: usize) -> impl Iterator<Item = &[Row]> {
        let starts = |row: &Row| row.pieces.map(|piece| piece.start);
        let alike = self.rows.chunk_by(move |a, b| starts(a) == starts(b));
        alike.flat_map(move |rows| rows.chunks(max_rows))
    }
}

/// Splits rows into segments, in the order of their first keys.
pub(super) fn segments(ranges: &[KeyRanges]) -> Vec<Segment> {
    let spans = merged_spans(ranges);
    let segment_of = segment_of_spans(ranges, &spans);
    let num_segments = segment_of
        .iter()
        .map(|segment| segment + 1)
        .max()
        .unwrap_or(0);
    let mut segments: Vec<Segment> = (0..num_segments)
        .map(|_| Segment {
            spans: Vec::new(),
            num_keys: 0,
            rows: Vec::new(),
        })
        .collect();
    let mut packed_starts = Vec::with_capacity(spans.len());
    for (span, &segment) in spans.iter().zip(&segment_of) {
        packed_starts.push(segments[segment].num_keys);
        segments[segment].num_keys += span.len();
        segments[segment].spans.push(span.clone());
    }
    for (index, row) in ranges.iter().enumerate() {
        let piece = |range: Range<usize>| {
            let at = span_at(&spans, range.start);
            Piece {
                start: packed_starts[at] + range.start - spans[at].start,
                len: range.len(),
            }
        };
        let (first, second) = visible(row);
        let segment = segment_of[span_at(&spans, first.start)];
        let pieces = [
            piece(first),
            second.map_or(Piece { start: 0, len: 0 }, piece),
        ];
        segments[segment].rows.push(Row { index, pieces });
    }
    segments
}

/// Returns the non-empty ranges of a row.
fn visible(row: &KeyRanges) -> (Range<usize>, Option<Range<usize>>) {
    let [a0, a1, b0, b1] = row.map(|end| end as usize);
    match (a0..a1, b0..b1) {
        (a, b) if a.is_empty() => (b, None),
        (a, b) if b.is_empty() => (a, None),
        (a, b) => (a, Some(b)),
    }
}

/// Returns the union of all ranges as disjoint ascending spans. Ranges that only touch stay apart, as
/// neighbouring documents do.
fn merged_spans(ranges: &[KeyRanges]) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for ends in [0, 2] {
        for row in ranges {
            let (start, end) = (row[ends] as usize, row[ends + 1] as usize);
            match spans.last_mut() {
                // Usual for consecutive rows, and saves most of the sorting.
                Some(last) if last.start == start => last.end = last.end.max(end),
                _ => spans.push(start..end),
            }
        }
    }
    spans.retain(|span| !span.is_empty());
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

/// Returns for every span the number of its segment: spans that one row sees belong together.
fn segment_of_spans(ranges: &[KeyRanges], spans: &[Range<usize>]) -> Vec<usize> {
    // A forest in which every span points to an earlier span of its segment, the first to itself.
    let mut earlier: Vec<usize> = (0..spans.len()).collect();
    for row in ranges {
        if let (first, Some(second)) = visible(row) {
            let first = root(&mut earlier, span_at(spans, first.start));
            let second = root(&mut earlier, span_at(spans, second.start));
            earlier[first.max(second)] = first.min(second);
        }
    }
    let mut num_segments = 0;
    for span in 0..spans.len() {
        // Earlier spans hold their segment's number by now.
        earlier[span] = if earlier[span] == span {
            num_segments += 1;
            num_segments - 1
        } else {
            earlier[earlier[span]]
        };
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

    /// Returns (keys, row indices) of every segment.
    fn split(ranges: &[KeyRanges]) -> Vec<(Vec<usize>, Vec<usize>)> {
        segments(ranges)
            .iter()
            .map(|s| {
                (
                    s.keys().collect(),
                    s.rows.iter().map(|row| row.index).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn touching_documents_are_separate_segments() {
        let ranges = [[0, 2, 0, 0], [0, 2, 0, 0], [2, 3, 0, 0], [2, 4, 0, 0]];
        assert_eq!(
            split(&ranges),
            [(vec![0, 1], vec![0, 1]), (vec![2, 3], vec![2, 3])]
        );
    }

    #[test]
    fn rows_that_share_keys_through_others_are_one_segment() {
        // Spans 0..2, 4..6 and 8..9: row 0 joins the outer two, row 3 the last two.
        let ranges = [[0, 2, 8, 9], [4, 6, 0, 0], [20, 21, 0, 0], [8, 9, 4, 5]];
        let joined = (vec![0, 1, 4, 5, 8], vec![0, 1, 3]);
        assert_eq!(split(&ranges), [joined, (vec![20], vec![2])]);
    }

    #[test]
    fn pieces_name_packed_keys() {
        let ranges = [[10, 13, 30, 32], [31, 32, 10, 11], [7, 7, 12, 13]];
        let segment = &segments(&ranges)[0];
        let pieces: Vec<_> = segment
            .rows
            .iter()
            .map(|row| row.pieces.map(|p| (p.start, p.len)))
            .collect();
        assert_eq!(
            pieces,
            [[(0, 3), (3, 2)], [(4, 1), (0, 1)], [(2, 1), (0, 0)]]
        );
    }

    #[test]
    fn tiles_hold_rows_whose_pieces_start_alike() {
        let ranges = [
            [0, 1, 0, 0],
            [0, 2, 0, 0],
            [0, 3, 0, 0],
            [1, 3, 0, 0],
            [0, 3, 0, 0],
        ];
        let lens: Vec<_> = segments(&ranges)[0].tiles(2).map(<[Row]>::len).collect();
        assert_eq!(lens, [2, 1, 1, 1]);
    }
}
