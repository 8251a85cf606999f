//! From documents to the forward passes of one optimiser step.
//!
//! Noise is drawn per document by its number, before anything is divided: which micro-batch a
//! document lands in, and beside which others, changes nothing. The denominator of the loss is
//! counted over the whole batch before the first forward, and divided into the row weights, so that
//! micro-batches simply add up.
//!
//! Every turn of a conversation has a noisy copy of its own, which sees the true text before its blocks
//! and EOS after its end ([`Document::turns`]); all copies share the clean rows.

mod edit;

use std::borrow::Cow;

use llada_diffusion::{
    BlockSize, Corruption, Counts, Draft, Elbos, Elision, Grouped, Grouping, LabelAlignment,
    NoiseSchedule, NoisyCopy, NoisyDocument, Normalisation, Objective, Recorded, Rng, Role, Stream,
    TrainRows, TrajectoryNoise, loss_weights,
};

use llada_model::Config;

pub(crate) use self::edit::weigh_edits;
pub use self::edit::{DraftNoise, EditWeights, Editing};
use crate::adapter_dropout::AdapterDropout;
use crate::data::{Document, Drawn, Turn, Unit};
use crate::error::{Error, Result};
use crate::mask_noise::MaskNoise;

/// How documents become rows. Fixed for a run.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// What is to be predicted from what.
    pub task: Task,
    /// What is drawn together.
    pub unit: Unit,
    /// What the loss is divided by.
    pub normalisation: Normalisation,
    /// Seed of the noise.
    pub seed: u64,
    /// Rows of one forward pass at most; one document may have more.
    pub micro_batch_rows: usize,
    /// Whether needless rows are left out.
    pub elision: Elision,
}

/// What is to be predicted from what.
#[derive(Clone, Debug)]
pub enum Task {
    /// The next token, from the ones before.
    Causal {
        /// Whether prompts are scored too.
        loss_on_prompt: bool,
    },
    /// Masked tokens, from the block around them and the blocks before.
    Diffusion(Diffusion),
}

/// Settings of denoising.
#[derive(Clone, Debug)]
pub struct Diffusion {
    /// Decides the block size of a document together with the schedule.
    pub objective: Objective,
    /// How each mask of a document is drawn, at least one.
    pub noises: Vec<NoiseSchedule>,
    /// Blocks denoised at the same time, at least 1.
    pub group_blocks: usize,
    /// Whether each mask comes with its complement.
    pub complementary: bool,
    /// Token that fills turns up to the end of their block, if they are filled.
    pub fill: Option<u32>,
    /// How drafts are made, if there are any.
    pub editing: Option<Editing>,
    /// Which states of a recorded decoding take the place of masks, if documents are recorded.
    pub trajectory: Option<TrajectoryNoise>,
    /// What the checkpoint says about its rows.
    pub reading: Reading,
}

/// How a diffusion checkpoint is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Id of the MASK token.
    pub mask_token_id: u32,
    /// Which row predicts a position.
    pub alignment: LabelAlignment,
}

impl Reading {
    /// Returns what `config` says.
    ///
    /// # Errors
    /// If it is not the configuration of a diffusion model.
    pub fn of(config: &Config) -> Result<Self> {
        let mask_token_id = config
            .mask_token_id
            .ok_or(Error::NotDiffusion("mask_token_id"))?;
        let alignment = config
            .label_alignment
            .ok_or(Error::NotDiffusion("label_alignment"))?;
        Ok(Self {
            mask_token_id,
            alignment,
        })
    }
}

/// One forward pass.
#[derive(Clone, Debug, Default)]
pub struct MicroBatch {
    /// Rows to compute.
    pub rows: TrainRows,
    /// Weight of each loss row in the loss, denominators included, `[loss rows]`.
    pub weights: Vec<f32>,
    /// Mask ratio under which each loss row was drawn, `[loss rows]`.
    pub rates: Vec<f32>,
    /// What each loss row's position holds, `[loss rows]`; empty if no draft was made.
    pub roles: Vec<Role>,
    /// What each row's position holds in the text, where a draft of it is to be learned, `[N]`; empty if no draft
    /// was made.
    pub texts: Vec<Option<u32>>,
    /// Noise on the embeddings of MASK, if there is some.
    pub mask_noise: Option<MaskNoise>,
    /// Weight of the z-loss of every row's router logits.
    pub router_z_weight: f32,
    /// What the adapter does not see, if there is one with dropout.
    pub dropout: Option<AdapterDropout>,
}

/// What is known of answers that a policy wrote. A batch of them has one document per answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// How much better than its group each answer is.
    pub advantages: Vec<f64>,
    /// Bounds on their log-likelihood by the policy that wrote them; `None` while that is the policy.
    pub old_bounds: Option<Vec<f64>>,
    /// How many there were, those that were not worth comparing included.
    pub count: usize,
}

/// The forward passes of one step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Forward passes; none if nothing is scored.
    pub micro_batches: Vec<MicroBatch>,
    /// What the denominator was taken from.
    pub counts: Counts,
    /// Tokens of the documents.
    pub num_tokens: u64,
    /// Tokens of the longest of them.
    pub longest: usize,
    /// The documents.
    pub drawn: Vec<Drawn>,
    /// What is known of them, if they are answers.
    pub answers: Answers,
    /// Bounds of a frozen model on the answers of each pair, if they are known before it is scored.
    pub reference: Vec<Elbos>,
}

impl Batch {
    /// Returns the number of rows computed.
    pub fn num_rows(&self) -> usize {
        self.micro_batches
            .iter()
            .map(|micro_batch| micro_batch.rows.len())
            .sum()
    }

    /// Adds noise to the embeddings of MASK in all forward passes.
    pub fn set_mask_noise(&mut self, noise: Option<&MaskNoise>) {
        for micro_batch in &mut self.micro_batches {
            micro_batch.mask_noise = noise.cloned();
        }
    }

    /// Drops inputs of the adapter in all forward passes that are learned from.
    pub fn set_dropout(&mut self, dropout: Option<&AdapterDropout>) {
        for micro_batch in &mut self.micro_batches {
            micro_batch.dropout = dropout.cloned();
        }
    }

    /// Adds `coefficient * mean over rows of lse(router logits)^2`, summed over layers, to the loss that is
    /// differentiated. The mean is over all rows of the batch, in every layer.
    pub fn set_router_z_loss(&mut self, coefficient: f32) {
        let weight = coefficient / self.num_rows().max(1) as f32;
        for micro_batch in &mut self.micro_batches {
            micro_batch.router_z_weight = weight;
        }
    }

    /// Returns the share of supervised tokens that is masked.
    pub fn mask_ratio(&self) -> f64 {
        self.counts.masked as f64 / self.counts.supervised.max(1) as f64
    }
}

impl Assembly {
    /// Builds the forward passes over some documents of a corpus.
    ///
    /// # Panics
    /// If a document number is not in the corpus.
    pub fn batch(&self, corpus: &[Document], drawn: Vec<Drawn>, block_size: BlockSize) -> Batch {
        let unit = |&drawn: &Drawn| (drawn, self.unit.documents(corpus, drawn));
        self.batch_of(&drawn.iter().map(unit).collect::<Vec<_>>(), block_size)
    }

    /// Returns the tokens of the documents of a draw.
    ///
    /// # Panics
    /// If they are not in the corpus.
    pub fn num_tokens(&self, corpus: &[Document], drawn: Drawn) -> usize {
        let documents = self.unit.documents(corpus, drawn);
        documents.iter().map(|document| document.ids.len()).sum()
    }

    /// Builds the forward passes over units of documents, each under the noise of what it was drawn as.
    pub fn batch_of(&self, units: &[(Drawn, &[Document])], block_size: BlockSize) -> Batch {
        let prepare = |&(drawn, documents): &(Drawn, &[Document])| {
            let prepare = |document| self.prepare(document, drawn, block_size);
            documents.iter().map(prepare).collect::<Vec<_>>()
        };
        let documents: Vec<Prepared> = units.iter().flat_map(prepare).collect();
        let mut counts = Counts::default();
        documents
            .iter()
            .flat_map(Prepared::counts)
            .for_each(|copy| counts += copy);
        let denominator = match self.unit {
            Unit::Document => self.normalisation.denominator(&counts),
            Unit::Pair => documents
                .first()
                .map_or(0, |first| first.copies.len() as u64),
        };
        // A denominator of 0 has no masked row to divide, and what is not scored is left out.
        let mut micro_batches = self.micro_batches(&documents, denominator.max(1) as f64);
        if let Some(editing) = self.task.editing() {
            weigh_edits(&mut micro_batches, editing.weights);
        }
        let lens = documents.iter().map(|document| document.ids.len());
        Batch {
            micro_batches,
            counts,
            num_tokens: lens.clone().sum::<usize>() as u64,
            longest: lens.max().unwrap_or(0),
            drawn: units.iter().map(|&(drawn, _)| drawn).collect(),
            answers: Answers::default(),
            reference: Vec::new(),
        }
    }

    fn prepare(&self, document: &Document, drawn: Drawn, block_size: BlockSize) -> Prepared {
        match &self.task {
            Task::Causal { loss_on_prompt } => Prepared::causal(document, *loss_on_prompt),
            Task::Diffusion(diffusion) => diffusion.prepare(document, drawn, block_size, self.seed),
        }
    }

    /// Fills forward passes in order of the documents.
    fn micro_batches(&self, documents: &[Prepared], denominator: f64) -> Vec<MicroBatch> {
        let mut micro_batches = vec![MicroBatch::default()];
        let mut docs = 0..;
        for unit in documents.chunks(self.unit.size()) {
            let last = micro_batches.last().expect("there is a first one");
            let most_rows: usize = unit.iter().map(Prepared::most_rows).sum();
            let is_full = last.rows.len() + most_rows > self.micro_batch_rows;
            if is_full && !last.rows.is_empty() {
                micro_batches.push(MicroBatch::default());
            }
            let last = micro_batches.last_mut().expect("there is a first one");
            for (document, doc) in unit.iter().zip(&mut docs) {
                self.push(last, doc, document, 1.0 / denominator);
            }
        }
        micro_batches.retain(|micro_batch| !micro_batch.rows.loss_rows.is_empty());
        micro_batches
    }

    fn push(&self, micro_batch: &mut MicroBatch, doc: u32, document: &Prepared, scale: f64) {
        let first = micro_batch.rows.len();
        match &self.task {
            Task::Causal { .. } => micro_batch.push_causal(doc, document),
            Task::Diffusion(diffusion) => {
                micro_batch.push_diffusion(doc, document, diffusion.reading, self.elision);
            }
        }
        if document.copies.iter().all(|copy| copy.draft.is_some()) {
            micro_batch.push_drafts(document, first);
        }
        micro_batch.push_weights(document, self.normalisation, scale);
    }
}

impl Task {
    fn editing(&self) -> Option<&Editing> {
        match self {
            Self::Causal { .. } => None,
            Self::Diffusion(diffusion) => diffusion.editing.as_ref(),
        }
    }
}

impl Diffusion {
    fn prepare(
        &self,
        document: &Document,
        drawn: Drawn,
        scheduled: BlockSize,
        seed: u64,
    ) -> Prepared {
        // A document that is one block ends where its text does.
        let fill_size = match self.objective {
            Objective::Mdlm => BlockSize::ONE,
            Objective::Ar | Objective::Bdlm => scheduled,
        };
        let turns = document.turns(self.fill, fill_size);
        let longest = turns.iter().map(|turn| turn.ids.len()).max().unwrap_or(0);
        let block_size = self.objective.block_size(scheduled, longest);
        let grouping = self.grouping(drawn, seed);
        let noisy = |turn: Turn| {
            if let Some(trajectory) = self.trajectory {
                return vec![self.recorded(trajectory, turn, drawn, block_size, seed)];
            }
            // To the noise, every draw is a document of its own.
            let of = |draw| Grouped {
                seed,
                epoch: drawn.epoch,
                document: (drawn.document * self.noises.len() + draw) as u64,
                supervised: &turn.supervised,
                block_size,
            };
            let noises = self.noises.iter().enumerate();
            let noises =
                noises.flat_map(|(draw, noise)| self.corruptions(noise, &of(draw), grouping));
            noises
                .map(|noise| Noisy::new(turn.clone(), noise))
                .collect::<Vec<_>>()
        };
        let mut prepared = Prepared {
            ids: document.ids.clone(),
            copies: turns.into_iter().flat_map(noisy).collect(),
            block_size,
            grouping,
        };
        if let Some(editing) = &self.editing {
            let mask_token_id = self.reading.mask_token_id;
            editing.draw(&mut prepared, drawn, seed, mask_token_id);
        }
        prepared
    }

    /// Returns a copy in a state that its decoder was in.
    fn recorded(
        &self,
        trajectory: TrajectoryNoise,
        turn: Turn,
        drawn: Drawn,
        block_size: BlockSize,
        seed: u64,
    ) -> Noisy {
        let of = Recorded {
            seed,
            epoch: drawn.epoch,
            document: drawn.document as u64,
            ids: &turn.ids,
            supervised: &turn.supervised,
            steps: &turn.steps,
        };
        let (noise, draft) = trajectory.draw(&of, block_size, self.reading.mask_token_id);
        Noisy {
            turn,
            noise,
            draft: Some(draft),
        }
    }

    /// Returns a mask and, with twins, its complement.
    fn corruptions(
        &self,
        noise: &NoiseSchedule,
        of: &Grouped<'_>,
        grouping: Grouping,
    ) -> impl Iterator<Item = Corruption> + use<> {
        let first = self.corrupt(noise, of, grouping);
        let twin = self.complementary.then(|| first.complement(of.supervised));
        std::iter::once(first).chain(twin)
    }

    fn corrupt(&self, noise: &NoiseSchedule, of: &Grouped<'_>, grouping: Grouping) -> Corruption {
        if self.group_blocks > 1 {
            return noise.corrupt_groups(of, grouping);
        }
        noise.corrupt(of.seed, of.epoch, of.document, of.supervised, of.block_size)
    }

    /// Returns how the blocks of a document are grouped: over the epochs, every shift comes up.
    fn grouping(&self, drawn: Drawn, seed: u64) -> Grouping {
        let size = self.group_blocks;
        let first = Rng::new(seed, Stream::Data).at(0, drawn.document as u64, 1)[0] as usize;
        Grouping::new(size, (first + drawn.epoch as usize) % size)
    }
}

/// A document with its noise.
pub(crate) struct Prepared {
    pub(crate) ids: Vec<u32>,
    /// Noisy copies: one per turn and draw, with twins two.
    pub(crate) copies: Vec<Noisy>,
    pub(crate) block_size: BlockSize,
    pub(crate) grouping: Grouping,
}

/// A noisy copy of a document, as one of its turns is learned.
pub(crate) struct Noisy {
    pub(crate) turn: Turn,
    pub(crate) noise: Corruption,
    /// Input and targets, if they are not those of the mask.
    pub(crate) draft: Option<Draft>,
}

impl Noisy {
    pub(crate) fn new(turn: Turn, noise: Corruption) -> Self {
        Self {
            turn,
            noise,
            draft: None,
        }
    }

    /// Returns the draft.
    ///
    /// # Panics
    /// If none was made.
    fn draft(&self) -> &Draft {
        self.draft.as_ref().expect("every copy is a draft")
    }

    /// Returns which positions are scored.
    fn scored(&self) -> Cow<'_, [bool]> {
        match &self.draft {
            None => Cow::Borrowed(&self.noise.masked),
            Some(draft) => draft.roles.iter().map(Option::is_some).collect(),
        }
    }

    pub(crate) fn num_supervised(&self) -> u64 {
        self.counts().supervised
    }

    fn counts(&self) -> Counts {
        Counts::of(&self.turn.supervised, &self.noise)
    }

    /// Returns how many rows the copy has at most: from the group of its first block with a token to
    /// learn.
    fn most_rows(&self, block_size: BlockSize, grouping: Grouping) -> usize {
        let supervised = &self.turn.supervised;
        let first = supervised.iter().position(|&sup| sup);
        let start = first.map_or(supervised.len(), |first| {
            let group = grouping.first_block(block_size.of(first));
            block_size.rows(group, supervised.len()).start
        });
        supervised.len() - start
    }
}

impl Prepared {
    /// Every supervised token is scored: the mask is full and its ratio 1.
    pub(crate) fn causal(document: &Document, loss_on_prompt: bool) -> Self {
        let mut supervised = document.supervised();
        if loss_on_prompt {
            supervised.iter_mut().skip(1).for_each(|sup| *sup = true);
        }
        let noise = Corruption {
            rates: vec![1.0; supervised.len()],
            masked: supervised.clone(),
        };
        let ids = document.ids.clone();
        let steps = Vec::new();
        let turn = Turn {
            ids,
            supervised,
            steps,
        };
        Self {
            ids: document.ids.clone(),
            copies: vec![Noisy::new(turn, noise)],
            block_size: BlockSize::ONE,
            grouping: Grouping::default(),
        }
    }

    fn counts(&self) -> impl Iterator<Item = Counts> {
        self.copies.iter().map(Noisy::counts)
    }

    /// Returns how many rows the document has at most.
    pub(crate) fn most_rows(&self) -> usize {
        let copies = self
            .copies
            .iter()
            .map(|copy| copy.most_rows(self.block_size, self.grouping));
        self.ids.len() + copies.sum::<usize>()
    }
}

impl MicroBatch {
    pub(crate) fn push_causal(&mut self, doc: u32, document: &Prepared) {
        let first = self.rows.loss_rows.len();
        self.rows.push_causal(doc, &document.ids);
        let supervised = &document.copies[0].turn.supervised;
        let scored = |row: &llada_diffusion::LossRow| supervised[row.position as usize];
        let rows: Vec<_> = self.rows.loss_rows.drain(first..).filter(scored).collect();
        self.rows.loss_rows.extend(rows);
    }

    pub(crate) fn push_diffusion(
        &mut self,
        doc: u32,
        document: &Prepared,
        reading: Reading,
        elision: Elision,
    ) {
        let scored: Vec<_> = document.copies.iter().map(Noisy::scored).collect();
        let copies: Vec<_> = document
            .copies
            .iter()
            .zip(&scored)
            .map(|(copy, scored)| NoisyCopy {
                ids: &copy.turn.ids,
                masked: scored,
            })
            .collect();
        let noisy = NoisyDocument {
            clean_ids: &document.ids,
            copies: &copies,
            block_size: document.block_size,
            grouping: document.grouping,
        };
        let Reading {
            mask_token_id,
            alignment,
        } = reading;
        self.rows
            .push_diffusion(doc, &noisy, mask_token_id, alignment, elision);
    }

    /// Gives the loss rows that the document added their weights.
    pub(crate) fn push_weights(
        &mut self,
        document: &Prepared,
        normalisation: Normalisation,
        scale: f64,
    ) {
        let weigh = |copy: &Noisy| loss_weights(normalisation, &copy.turn.supervised, &copy.noise);
        let weights: Vec<Vec<f32>> = document.copies.iter().map(weigh).collect();
        for row in &self.rows.loss_rows[self.weights.len()..] {
            let weight = weights[row.copy as usize][row.position as usize];
            self.weights.push((f64::from(weight) * scale) as f32);
            let noise = &document.copies[row.copy as usize].noise;
            self.rates.push(noise.rates[row.position as usize]);
        }
    }
}

#[cfg(test)]
mod tests;
