//! Levenshtein labels: what a model that inserts and deletes is to say of a draft (LLaDA2.2).
//!
//! Draft and target are as long as each other, at most a block. Every position of the draft gets one
//! label: the token that belongs there, DELETE, or INSERT, which opens a MASK before it. What both
//! have in common, a longest common subsequence, anchors the labels; between two anchors tokens are
//! replaced one by one, what is left over is deleted, and what is missing is one INSERT at the
//! following anchor, however much is missing: the next round inserts again.
//!
//! ```text
//! draft   a c d e f g          labels   a INSERT d e f DELETE
//! target  a b c d e f          applied  a MASK c d e f
//! ```
//!
//! Applied again and again, with labels made anew each time and [`Masks::MatchAll`], a draft becomes its
//! target: the tests do so. The decoder that obeys such proposals is [`crate::revise`], where INSERT is called SPLIT.

/// Ids of the operations, from the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations {
    /// An open position.
    pub mask: u32,
    /// Drops a position.
    pub delete: u32,
    /// Opens a position before a token.
    pub insert: u32,
}

/// What a MASK of the draft may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masks {
    /// Any token, so that it learns one: wherever a draft has open positions to be filled.
    MatchAll,
    /// None: at the end of a draft it is deleted, which opens it again.
    MatchNone,
}

/// Returns the label of every position of `draft`.
///
/// # Panics
/// Unless draft and target have the same length.
pub fn levenshtein_labels(
    draft: &[u32],
    target: &[u32],
    operations: Operations,
    masks: Masks,
) -> Vec<u32> {
    assert_eq!(
        draft.len(),
        target.len(),
        "a draft is as long as its target"
    );
    let is_free = |i: usize| masks == Masks::MatchAll && draft[i] == operations.mask;
    let mut anchors = common(draft.len(), |i, j| draft[i] == target[j] || is_free(i));
    centre(&mut anchors, target.len(), is_free);
    let mut labels = vec![operations.delete; draft.len()];
    let (mut next_i, mut next_j) = (0, 0); // after the last anchor
    for (i, j) in anchors {
        let (gap_i, gap_j) = (i - next_i, j - next_j);
        let paired = gap_i.min(gap_j);
        labels[next_i..][..paired].copy_from_slice(&target[next_j..][..paired]);
        let is_short = gap_j > gap_i;
        labels[i] = if is_short {
            operations.insert
        } else {
            target[j]
        };
        (next_i, next_j) = (i + 1, j + 1);
    }
    labels
}

/// Returns the draft that follows labels; its length stays, so that tokens fall out of it or open
/// positions come in.
pub fn apply_labels(draft: &[u32], labels: &[u32], operations: Operations) -> Vec<u32> {
    let mut next = Vec::with_capacity(2 * draft.len());
    for (&token, &label) in draft.iter().zip(labels) {
        if label == operations.insert {
            next.extend([operations.mask, token]);
        } else if label != operations.delete {
            next.push(label);
        }
    }
    next.resize(draft.len(), operations.mask);
    next
}

/// Returns a longest common subsequence of two sequences of length `len` as pairs of indices. Among
/// several: matches first, then skips of the first sequence.
fn common(len: usize, matches: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let mut longest = vec![vec![0_usize; len + 1]; len + 1]; // of the ends from (i, j)
    for i in (0..len).rev() {
        for j in (0..len).rev() {
            longest[i][j] = if matches(i, j) {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < len && j < len {
        if matches(i, j) {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] == longest[i][j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

/// Moves the free anchors to the target index nearest to their own that their neighbours leave.
fn centre(anchors: &mut [(usize, usize)], len: usize, is_free: impl Fn(usize) -> bool) {
    for at in 0..anchors.len() {
        let i = anchors[at].0;
        if is_free(i) {
            let first = at.checked_sub(1).map_or(0, |before| anchors[before].1 + 1);
            let end = anchors.get(at + 1).map_or(len, |after| after.1);
            anchors[at].1 = i.clamp(first, end - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPERATIONS: Operations = Operations {
        mask: '_' as u32,
        delete: 'D' as u32,
        insert: 'I' as u32,
    };

    fn ids(text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }

    fn text(ids: &[u32]) -> String {
        ids.iter().filter_map(|&id| char::from_u32(id)).collect()
    }

    fn labels(draft: &str, target: &str, masks: Masks) -> String {
        text(&levenshtein_labels(
            &ids(draft),
            &ids(target),
            OPERATIONS,
            masks,
        ))
    }

    #[test]
    fn labels_keep_replace_delete_and_insert() {
        for (draft, expected, applied) in [
            ("acdefg", "aIdefD", "a_cdef"),
            ("aabcde", "aDbcde", "abcde_"),
            ("axxdef", "abcdef", "abcdef"),
            ("uvwxyz", "DDDDDD", "______"),
            ("abcdef", "abcdef", "abcdef"),
        ] {
            let labels = labels(draft, "abcdef", Masks::MatchNone);
            assert_eq!(labels, expected, "{draft}");
            let next = apply_labels(&ids(draft), &ids(&labels), OPERATIONS);
            assert_eq!(text(&next), applied, "{draft}");
        }
    }

    #[test]
    fn an_anchored_mask_stands_for_the_token_at_its_place() {
        assert_eq!(labels("______", "abcdef", Masks::MatchAll), "abcdef");
        assert_eq!(labels("a__d_f", "abcdef", Masks::MatchAll), "abcdef");
        assert_eq!(labels("______", "abcdef", Masks::MatchNone), "DDDDDD");
    }

    proptest! {
        #[test]
        fn anchors_are_a_longest_common_subsequence(
            draft in prop::collection::vec(0_u32..4, 6),
            target in prop::collection::vec(0_u32..4, 6),
        ) {
            let anchors = common(6, |i, j| draft[i] == target[j]);
            prop_assert!(anchors.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1));
            prop_assert!(anchors.iter().all(|&(i, j)| draft[i] == target[j]));
            // Every subset of the draft's positions, the slow way.
            let is_common = |subset: u32| {
                let chosen = (0..6).filter(|i| subset >> i & 1 == 1).map(|i| draft[i]);
                let mut rest = target.iter();
                chosen.into_iter().all(|token| rest.any(|&other| other == token))
            };
            let longest = (0..64).filter(|&subset| is_common(subset)).map(u32::count_ones).max();
            prop_assert_eq!(Some(anchors.len() as u32), longest);
        }

        #[test]
        fn repeated_rounds_reach_the_target(
            draft in prop::collection::vec(0_u32..6, 12),
            target in prop::collection::vec(0_u32..6, 12),
        ) {
            let mut now = draft;
            for _ in 0..12 {
                let labels = levenshtein_labels(&now, &target, OPERATIONS, Masks::MatchAll);
                now = apply_labels(&now, &labels, OPERATIONS);
            }
            prop_assert_eq!(now, target);
        }
    }
}
