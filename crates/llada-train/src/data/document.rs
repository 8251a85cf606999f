//! A document: its tokens, and which stretches of them are learned.

use std::ops::Range;

use llada_diffusion::BlockSize;

/// The tokens of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Token ids, `[L]`; nothing follows the last span.
    pub ids: Vec<u32>,
    /// What is learned, in order and apart from each other.
    pub spans: Vec<Span>,
    /// Step of its block in which a decoder placed each token, `[L]`; empty if that is not known.
    pub steps: Vec<u32>,
}

/// A stretch of a document that is learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its tokens.
    pub range: Range<usize>,
    /// Whether a turn ends with it, so that nothing but EOS may follow in its block.
    pub ends_turn: bool,
}

/// A document as one of its spans is learned: what came before, the span, and its filling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Token ids, `[M]`.
    pub ids: Vec<u32>,
    /// Whether each token is learned, `[M]`.
    pub supervised: Vec<bool>,
    /// Step of its block in which each token was placed, `[M]`; empty if that is not known.
    pub steps: Vec<u32>,
}

impl Document {
    /// Returns a document of which every token is learned.
    pub fn text(ids: Vec<u32>) -> Self {
        let range = 0..ids.len();
        let ends_turn = false;
        Self::new(ids, vec![Span { range, ends_turn }])
    }

    /// Returns a document whose first `prompt_len` tokens are given and whose others are an answer.
    pub fn answer(ids: Vec<u32>, prompt_len: usize) -> Self {
        let range = prompt_len..ids.len();
        let ends_turn = true;
        Self::new(ids, vec![Span { range, ends_turn }])
    }

    /// Returns a document with several spans. The first token, which has nothing before it, is never
    /// learned; spans that have no other token, and tokens after the last span, are dropped.
    ///
    /// # Panics
    /// If a span ends after the tokens.
    pub fn new(mut ids: Vec<u32>, mut spans: Vec<Span>) -> Self {
        for span in &mut spans {
            span.range.start = span.range.start.max(1);
        }
        spans.retain(|span| !span.range.is_empty());
        if let Some(last) = spans.last() {
            assert!(last.range.end <= ids.len(), "spans lie within the tokens");
            ids.truncate(last.range.end);
        }
        let steps = Vec::new();
        Self { ids, spans, steps }
    }

    /// Returns whether each token is learned, `[L]`.
    pub fn supervised(&self) -> Vec<bool> {
        let mut supervised = vec![false; self.ids.len()];
        for span in &self.spans {
            supervised[span.range.clone()].fill(true);
        }
        supervised
    }

    /// Returns the number of tokens that are learned.
    pub fn num_supervised(&self) -> usize {
        self.spans.iter().map(|span| span.range.len()).sum()
    }

    /// Returns the document once per span, with EOS from the end of a turn to the end of its block
    /// (`training.md` 7): what follows the turn in the text is not seen while it is written. A turn
    /// that does not end with EOS itself has at least one after it, if need be a block of its own:
    /// that is how the model learns to stop. Without `eos` nothing is filled.
    pub fn turns(&self, eos: Option<u32>, block_size: BlockSize) -> Vec<Turn> {
        let turn = |span: &Span| {
            let end = span.range.end;
            let mut ids = self.ids[..end].to_vec();
            if let Some(eos) = eos.filter(|_| span.ends_turn) {
                let stop = usize::from(ids.last() != Some(&eos));
                ids.resize((end + stop).next_multiple_of(block_size.get()), eos);
            }
            let supervised = (0..ids.len()).map(|i| i >= span.range.start).collect();
            let mut steps = self.steps.get(..end).unwrap_or_default().to_vec();
            if let Some(&last) = steps.last() {
                steps.resize(ids.len(), last); // the filling comes with what ends the turn
            }
            Turn {
                ids,
                supervised,
                steps,
            }
        };
        self.spans.iter().map(turn).collect()
    }

    /// Returns whether every token is learned and no turn ends here.
    pub(super) fn is_text(&self) -> bool {
        matches!(&self.spans[..], [span] if span.range == (1..self.ids.len()) && !span.ends_turn)
    }

    /// Drops all tokens from `len` on. A turn that loses its end is not filled.
    pub(super) fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        self.steps.truncate(len);
        for span in &mut self.spans {
            span.ends_turn &= span.range.end <= len;
            span.range.end = span.range.end.min(len);
        }
        let Self { ids, spans, steps } = std::mem::take(self);
        *self = Self {
            steps,
            ..Self::new(ids, spans)
        };
    }
}
