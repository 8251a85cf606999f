//! Noise on the embedding of MASK at the start of continued pre-training (`training.md` 6.2).
//!
//! A parent has never seen MASK: its embedding row is near zero, and a text of masks alone is a text of
//! equal, tiny rows, whose gradients explode. So for the first steps every masked row is
//!
//! ```text
//! h_i = E[MASK] + eps_i,    eps_i ~ N(0, s^2 I)     s = RMS entry of E without the MASK row,
//!                                                   falling to 0 in a straight line
//! ```
//!
//! The noise is a function of (seed, epoch, document, position, copy), and the backward takes it as a
//! constant. Likelihoods are measured without it.

use llada_diffusion::{Rng, Stream, TrainRows};
use llada_model::Model;
use llada_tensor::Tensor;

use crate::data::Drawn;

/// The noise of one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskNoise {
    seed: u64,
    sigma: f32,
    mask_token_id: u32,
    /// The documents of the batch.
    drawn: Vec<Drawn>,
}

impl MaskNoise {
    /// Returns the noise of a batch after `step` of `num_steps` noisy steps; `None` when they are over,
    /// or the model has no MASK.
    pub fn at(
        model: &Model,
        step: u64,
        num_steps: u64,
        seed: u64,
        drawn: &[Drawn],
    ) -> Option<Self> {
        let mask_token_id = model.config.mask_token_id?;
        let left = num_steps.saturating_sub(step);
        (left > 0).then(|| Self {
            seed,
            sigma: (rms_without(model, mask_token_id) * left as f64 / num_steps as f64) as f32,
            mask_token_id,
            drawn: drawn.to_vec(),
        })
    }

    /// Adds the noise to the embeddings of the rows. # Shapes: embedded [N, D].
    pub(crate) fn add(&self, rows: &TrainRows, embedded: &mut Tensor) {
        let [_, width] = embedded.dims2();
        let rng = Rng::new(self.seed, Stream::EmbeddingNoise);
        let hidden_rows = embedded.f32s_mut().chunks_exact_mut(width);
        for ((row, &id), hidden) in rows.rows.iter().zip(&rows.ids).zip(hidden_rows) {
            // The id decides: the noise belongs to its embedding. Documents hold no MASK.
            if id != self.mask_token_id {
                continue;
            }
            let Drawn { epoch, document } = self.drawn[row.doc as usize];
            let rng = rng.fork(epoch, document as u64, row.pos);
            for (dim, value) in (0..).zip(hidden) {
                *value += self.sigma * rng.normal(row.copy, 0, dim);
            }
        }
    }
}

/// Returns the root mean square of the embedding's entries, the row of MASK left out.
fn rms_without(model: &Model, mask_token_id: u32) -> f64 {
    let embedding = model.weights.embedding.values();
    let [num_rows, width] = embedding.dims2();
    let mut row = vec![0.0; width];
    let mut squares = |sum: f64, index: usize| {
        embedding.read_row(index, &mut row);
        row.iter().fold(sum, |sum, &x| sum + f64::from(x).powi(2))
    };
    let sum = (0..num_rows).fold(0.0, &mut squares) - squares(0.0, mask_token_id as usize);
    let count = (num_rows - 1).max(1) * width;
    (sum.max(0.0) / count as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use llada_diffusion::{BlockSize, Elision, LabelAlignment};

    use super::*;
    use crate::testing::{MASK, assembly, corpus, drawn, model};

    fn noise(step: u64, drawn: &[Drawn]) -> Option<MaskNoise> {
        MaskNoise::at(&model(LabelAlignment::Same), step, 4, 3, drawn)
    }

    /// Returns what is added to the rows of the documents, by (document, position).
    fn added(drawn: Vec<Drawn>) -> Vec<(usize, u32, Vec<f32>)> {
        let noise = noise(0, &drawn).expect("it is the first step");
        let size = BlockSize::new(4).unwrap();
        let batch = assembly(LabelAlignment::Same, Elision::On).batch(&corpus(), drawn, size);
        let rows = &batch.micro_batches[0].rows;
        let mut embedded = Tensor::zeros(&[rows.len(), 16]);
        noise.add(rows, &mut embedded);
        let place = |row: usize| {
            (
                batch.drawn[rows.rows[row].doc as usize].document,
                rows.rows[row].pos,
            )
        };
        (0..rows.len())
            .map(|row| {
                (
                    place(row).0,
                    place(row).1,
                    embedded.row(row).to_vec(),
                    rows.ids[row],
                )
            })
            .inspect(|(_, _, values, id)| {
                let is_still = values.iter().all(|&x| x == 0.0);
                assert_eq!(*id != MASK, is_still, "noise is on MASK rows only");
            })
            .filter(|(.., id)| *id == MASK)
            .map(|(document, position, values, _)| (document, position, values))
            .collect()
    }

    #[test]
    fn noise_belongs_to_a_masked_token_and_not_to_its_place_in_the_batch() {
        let forward = added(drawn());
        let mut backward = added(drawn().into_iter().rev().collect());
        backward.sort_by_key(|(document, position, _)| (*document, *position));
        assert_eq!(forward, backward);
        assert_ne!(forward[0].2, forward[1].2, "every position has its own");
        let later = drawn().into_iter().map(|drawn| Drawn { epoch: 1, ..drawn });
        assert_ne!(added(later.collect()), forward);
    }

    #[test]
    fn its_size_is_that_of_embeddings_and_falls_to_nothing() {
        let sigma = |step| noise(step, &drawn()).map(|noise| noise.sigma);
        let first = sigma(0).expect("it is the first step");
        let model = model(LabelAlignment::Same);
        let entries = (0..32).filter(|&row| row != MASK as usize);
        let squares: f32 = entries
            .flat_map(|row| model.weights.embedding.values().row(row).to_vec())
            .map(|x| x * x)
            .sum();
        assert!((first - (squares / (31.0 * 16.0)).sqrt()).abs() < 1e-5);
        assert_eq!(sigma(3), Some(first / 4.0));
        assert_eq!(sigma(4), None);
        let values: Vec<f32> = added(drawn()).into_iter().flat_map(|row| row.2).collect();
        let spread = (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
        assert!((spread / first - 1.0).abs() < 0.2, "{spread} of {first}");
    }
}
