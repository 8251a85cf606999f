//! The loop: plan a forward, run it, decide tokens, say what happened.

use std::collections::BTreeMap;
use std::time::Instant;

use llada_diffusion::FinishReason;
use llada_model::{KvStore, Model};
use llada_tensor::Tensor;

use crate::batch::Batch;
use crate::decoding::{Decoding, Proposed};
use crate::pages::PagePool;
use crate::plan::Plan;
use crate::scheduler::{Group, Limits, Scheduler, Stand};
use crate::{Answer, Error, Event, Hooks, Options, Request, RequestId, Stats};

/// A model, its key-value store and the requests that run on it.
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m Model,
    options: Options,
    store: KvStore,
    scheduler: Scheduler,
    requests: BTreeMap<RequestId, Decoding>,
    next_id: u64,
    batch: Batch,
    stats: Stats,
}

impl<'m> Engine<'m> {
    /// Creates an engine; pack the model first ([`Model::pack`]).
    ///
    /// # Errors
    /// If the capacity is zero somewhere or beyond all counting, or memory for its pages cannot be had.
    pub fn new(model: &'m Model, options: Options) -> Result<Self, Error> {
        let capacity = options.capacity;
        let rows = capacity.rows()?;
        let store = KvStore::new(&model.config, options.kv_precision, rows)
            .map_err(|error| Error::Memory(error.to_string()))?;
        let limits = Limits {
            slots: capacity.slots,
            prefill_rows: capacity.prefill_rows,
            fused: options.savings.fused_commit,
            prefix_cache: options.savings.prefix_cache,
        };
        let pool = PagePool::new(capacity.pages, capacity.page_rows);
        Ok(Self {
            model,
            store,
            scheduler: Scheduler::new(limits, pool),
            requests: BTreeMap::new(),
            next_id: 0,
            batch: Batch::default(),
            stats: Stats::default(),
            options,
        })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// If this model or this engine's capacity cannot serve it.
    pub fn submit(&mut self, request: &Request) -> Result<RequestId, Error> {
        self.submit_with(request, Hooks::default())
    }

    /// As [`Engine::submit`], with rules that need to know the text.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_with(&mut self, request: &Request, hooks: Hooks) -> Result<RequestId, Error> {
        let plan = Plan::new(request, &self.options, &self.model.config)?;
        let decoding = Decoding::new(plan, request, hooks)?;
        let (need, pages) = (
            self.scheduler.pool().pages_for(decoding.max_rows()),
            self.options.capacity.pages,
        );
        if need > pages {
            return Err(Error::Pages { need, pages });
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        tracing::debug!(request = id.0, prompt = request.prompt.len(), "submitted");
        self.requests.insert(id, decoding);
        self.scheduler.submit(id);
        Ok(id)
    }

    /// Ends a request without an answer and frees its pages; returns whether it was there.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        self.scheduler.remove(request);
        self.requests.remove(&request).is_some()
    }

    /// Returns whether no request is left.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns what was done so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns how many pages are not in use, of [`Capacity::pages`](crate::Capacity::pages).
    pub fn free_pages(&self) -> usize {
        self.scheduler.pool().available()
    }

    /// Runs one forward and returns what came of it; nothing if the engine is idle.
    pub fn step(&mut self) -> Vec<Event> {
        let start = Instant::now();
        let requests = &self.requests;
        let groups = self.scheduler.plan(|id| requests[&id].stand());
        self.stats.preemptions = self.scheduler.preemptions() as u64;
        if groups.is_empty() {
            return Vec::new();
        }
        let outputs = self.fill_batch(&groups);
        let rows = self.batch.num_rows();
        let _span = tracing::debug_span!("engine_step", requests = groups.len(), rows).entered();
        let planned = Instant::now();
        let hidden = self.forward(&groups);
        let computed = Instant::now();
        let proposed = self.propose(&groups, &outputs, &hidden);
        let decided = Instant::now();
        let events = self.advance(proposed);
        self.stats.forward_time += computed - planned;
        self.stats.head_time += decided - computed;
        self.stats.other_time += (planned - start) + decided.elapsed();
        events
    }

    /// Answers one request alone. `on_final` receives the ids of the answer as they become final.
    ///
    /// # Errors
    /// If the request cannot be served, or the model produces numbers that are not finite.
    ///
    /// # Panics
    /// If other requests are running: their events would be lost.
    pub fn generate(
        &mut self,
        request: &Request,
        on_final: &mut dyn FnMut(&[u32]),
    ) -> Result<Answer, Error> {
        assert!(self.is_idle(), "generate serves one request alone");
        self.submit(request)?;
        loop {
            for event in self.step() {
                match event {
                    Event::Committed { ids, .. } => on_final(&ids),
                    Event::Draft { .. } => {}
                    Event::Finished { answer, .. } => return Ok(answer),
                    Event::Failed { error, .. } => return Err(error),
                }
            }
        }
    }

    /// Puts the groups' rows into the batch; returns which of them have outputs, group by group.
    fn fill_batch(&mut self, groups: &[Group]) -> Vec<Vec<usize>> {
        self.batch.clear();
        let outputs = groups.iter().map(|group| {
            let decoding = self
                .requests
                .get_mut(&group.request)
                .expect("planned requests exist");
            decoding.count(group, self.scheduler.shared(group.request), &mut self.stats);
            let outputs = match self.options.savings.needed_rows {
                true => decoding.outputs(group),
                false => group.rows.clone().collect(),
            };
            let table = self.scheduler.table(group.request);
            let (tokens, together) = (decoding.tokens(), decoding.together(group));
            self.batch
                .push(tokens, table, group.rows.clone(), together, &outputs);
            outputs
        });
        outputs.collect()
    }

    /// Runs the batch; returns the hidden states of the outputs, [outputs, D].
    fn forward(&mut self, groups: &[Group]) -> Tensor {
        if self.batch.num_rows() == 0 {
            return Tensor::zeros(&[0, self.model.config.hidden_size]);
        }
        let output = self
            .model
            .forward_cached(&self.batch.input(), &mut self.store);
        self.stats.forwards += 1;
        self.stats.rows += self.batch.num_rows() as u64;
        self.stats.count_experts(&output.experts);
        for group in groups {
            let clean = group.clean.min(group.rows.end);
            let decoding = &self.requests[&group.request];
            let frozen = decoding.frozen_len().min(clean);
            self.scheduler
                .commit(group.request, &decoding.tokens()[..clean], frozen);
        }
        output.hidden
    }

    /// Returns what the model proposes to each deciding group. All plain greedy rows go through one
    /// fused head, all others through one product with whole logits.
    fn propose(
        &mut self,
        groups: &[Group],
        outputs: &[Vec<usize>],
        hidden: &Tensor,
    ) -> Vec<(RequestId, Result<Proposed, Error>)> {
        let mut first = 0;
        let (mut plain, mut full) = (Rows::default(), Rows::default());
        for (group, outputs) in groups.iter().zip(outputs) {
            let decoding = self
                .requests
                .get_mut(&group.request)
                .expect("planned requests exist");
            let row_of = |row: usize| first + outputs.partition_point(|&output| output < row);
            let is_plain = self.options.savings.fused_head && decoding.is_plain();
            let rows = if is_plain { &mut plain } else { &mut full };
            decoding.gather(group, |row| hidden.row(row_of(row)), &mut rows.values);
            if group.decides {
                rows.requests.push(group.request);
            }
            first += outputs.len();
        }
        let mut proposed = self.propose_best(plain);
        proposed.extend(self.propose_from_logits(full));
        // In the order of the groups, whichever head they went through.
        proposed.sort_by_key(|(request, _)| groups.iter().position(|g| g.request == *request));
        proposed
    }

    fn propose_best(&mut self, rows: Rows) -> Vec<(RequestId, Result<Proposed, Error>)> {
        let heads =
            self.model
                .head_rows(&rows.tensor(self.model), None, self.options.mask_token_id);
        self.stats.head_rows += heads.len() as u64;
        let mut rest = &heads[..];
        let proposed = rows.requests.into_iter().map(|request| {
            let decoding = &self.requests[&request];
            let (own, others) = rest.split_at(decoding.num_predicted());
            rest = others;
            (request, decoding.propose_best(own))
        });
        proposed.collect()
    }

    fn propose_from_logits(&mut self, rows: Rows) -> Vec<(RequestId, Result<Proposed, Error>)> {
        if rows.requests.is_empty() {
            return Vec::new();
        }
        let logits = self.model.logits(&rows.tensor(self.model));
        let [num_rows, vocab_size] = logits.dims2();
        self.stats.head_rows += num_rows as u64;
        let mut rest = logits.f32s().chunks_exact(vocab_size);
        let proposed = rows.requests.into_iter().map(|request| {
            let decoding = self
                .requests
                .get_mut(&request)
                .expect("planned requests exist");
            let own = rest.by_ref().take(decoding.num_predicted());
            (request, decoding.propose(own))
        });
        proposed.collect()
    }

    /// Takes the steps, and lets go of requests that ended.
    fn advance(&mut self, proposed: Vec<(RequestId, Result<Proposed, Error>)>) -> Vec<Event> {
        let mut events = Vec::new();
        for (request, proposed) in proposed {
            let decoding = self
                .requests
                .get_mut(&request)
                .expect("planned requests exist");
            let ended = match proposed {
                Ok(proposed) => {
                    let (finish, is_settled) =
                        decoding.advance(request, &proposed, &mut self.stats, &mut events);
                    if is_settled && finish.is_none() {
                        let Stand { clean, frozen, .. } = decoding.stand();
                        self.scheduler.commit(request, clean, frozen);
                    }
                    finish.map(Ok)
                }
                Err(error) => Some(Err(error)),
            };
            if let Some(ended) = ended {
                events.extend(self.end(request, ended));
            }
        }
        events
    }

    fn end(&mut self, request: RequestId, ended: Result<FinishReason, Error>) -> Option<Event> {
        self.scheduler.remove(request);
        let decoding = self.requests.remove(&request)?;
        Some(match ended {
            Ok(reason) => {
                let answer = decoding.answer(reason);
                let (tokens, forwards) = (answer.output_ids.len(), answer.forwards.total());
                tracing::debug!(request = request.0, tokens, forwards, %reason, "finished");
                Event::Finished { request, answer }
            }
            Err(error) => {
                tracing::warn!(request = request.0, %error, "failed");
                Event::Failed { request, error }
            }
        })
    }
}

/// Hidden states of the rows that decide, request by request.
#[derive(Default)]
struct Rows {
    requests: Vec<RequestId>,
    values: Vec<f32>,
}

impl Rows {
    /// Returns the states, [rows, D].
    fn tensor(&self, model: &Model) -> Tensor {
        let width = model.config.hidden_size;
        Tensor::from_f32(&[self.values.len() / width, width], self.values.clone())
    }
}
