//! Requests that run together: each answer is that of the request alone.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use llada_engine::{
    Acceptance, Answer, Capacity, Edit, Engine, Error, Event, LabelAlignment, Method, Options,
    Placed, Policy, Quota, Reopen, Request, RequestId, Sampling, Savings, Window, reference,
};
use llada_model::Model;
use llada_tensor::Precision;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::golden;
use crate::support::{CAPACITY, DENSE, EOS, GOLDEN, generate, load_model, options, prompt};

/// What happened to a request, its events put together.
#[derive(Default)]
struct Heard {
    placed: Vec<Placed>,
    ids: Vec<u32>,
    answer: Option<Answer>,
}

/// Runs an engine dry.
fn finish(engine: &mut Engine<'_>, heard: &mut BTreeMap<RequestId, Heard>) {
    while !engine.is_idle() {
        listen(engine.step(), heard);
    }
}

fn listen(events: Vec<Event>, heard: &mut BTreeMap<RequestId, Heard>) {
    for event in events {
        match event {
            Event::Committed {
                request,
                ids,
                placed,
                ..
            } => {
                let heard = heard.entry(request).or_default();
                heard.ids.extend(ids);
                heard.placed.extend(placed);
            }
            Event::Finished { request, answer } => {
                heard.entry(request).or_default().answer = Some(answer);
            }
            Event::Draft { .. } => {}
            Event::Failed { request, error } => panic!("{request:?}: {error}"),
        }
    }
}

/// Returns what of an answer may not depend on anything but the request. Chunks, preemption and what
/// others left in the cache change how clean rows come in, and nothing else.
fn essence(mut answer: Answer) -> Answer {
    (answer.forwards.prefill, answer.forwards.commit) = (0, 0);
    answer.cached_tokens = 0;
    answer
}

fn assert_alone(model: &Model, options: &Options, request: &Request, heard: Heard) {
    let alone = generate(model, options, request);
    let answer = heard.answer.unwrap();
    assert_eq!(heard.ids, answer.output_ids, "streamed {request:?}");
    assert_eq!(heard.placed, answer.placed, "streamed {request:?}");
    assert_eq!(essence(answer), essence(alone), "{request:?}");
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn with_capacity(change: impl Fn(&mut Capacity)) -> Options {
    let mut options = options(LabelAlignment::Same);
    change(&mut options.capacity);
    options
}

#[test]
fn golden_decodes_are_exact_in_any_company() {
    let runs = golden::runs();
    let crowded = with_capacity(|capacity| {
        capacity.pages = 24;
        capacity.prefill_rows = 16;
    });
    let roomy = with_capacity(|capacity| capacity.pages = 2000);
    let odd = with_capacity(|capacity| {
        capacity.page_rows = 5;
        capacity.slots = 7;
    });
    for options in [crowded, roomy, odd] {
        let mut engine = Engine::new(&GOLDEN, options).unwrap();
        let requests = runs.iter().map(golden::request);
        let ids: Vec<_> = requests.map(|r| engine.submit(&r).unwrap()).collect();
        let free = engine.free_pages();
        let mut heard = BTreeMap::new();
        finish(&mut engine, &mut heard);
        for (case, (id, run)) in ids.iter().zip(&runs).enumerate() {
            let answer = heard.remove(id).unwrap().answer.unwrap();
            golden::assert_equals(&answer, run, case);
        }
        assert_eq!(engine.free_pages(), free);
    }
}

#[test]
fn shipped_children_answer_together_as_alone_and_as_the_oracle() {
    for dir in ["assets/worked-sums/child", "assets/stories-child"] {
        let model = load_model(dir);
        let options = Options::new(&model.config);
        let vocab_size = model.config.vocab_size as u32 - 1;
        let requests: Vec<_> = (0..12u32)
            .map(|seed| Request {
                block_length: [None, Some(4), Some(32)][seed as usize % 3],
                ..Request::new(
                    (0..5 + 3 * seed)
                        .map(|i| (i * 97 + seed * 31) % vocab_size)
                        .collect(),
                    40,
                )
            })
            .collect();
        let mut engine = Engine::new(&model, options.clone()).unwrap();
        let ids: Vec<_> = requests.iter().map(|r| engine.submit(r).unwrap()).collect();
        let mut heard = BTreeMap::new();
        finish(&mut engine, &mut heard);
        for (request, id) in requests.iter().zip(ids) {
            let oracle = reference::generate(&model, &options, request).unwrap();
            let heard = heard.remove(&id).unwrap();
            assert_eq!(heard.ids, oracle.output_ids);
            assert_alone(&model, &options, request, heard);
        }
    }
}

#[test]
fn a_prompt_seen_before_is_found_in_the_cache_and_changes_nothing() {
    // With labels shifted the last clean row decides a token, so its block is computed again.
    let cases = [(LabelAlignment::Same, 32), (LabelAlignment::Shifted, 24)];
    let cases = cases.map(|case| PRECISIONS.map(|kv_precision| (case, kv_precision)));
    for ((alignment, cached), kv_precision) in cases.into_iter().flatten() {
        let options = Options {
            kv_precision,
            ..options(alignment)
        };
        let mut engine = Engine::new(&GOLDEN, options.clone()).unwrap();
        let first = Request::new(prompt(37, 1), 20);
        engine.generate(&first, &mut |_| {}).unwrap();
        let again = engine.generate(&first, &mut |_| {}).unwrap();
        assert_eq!(again.cached_tokens, cached);
        assert_eq!(essence(again), essence(generate(&GOLDEN, &options, &first)));
        // A longer prompt that begins alike, the first answer included.
        let answer = generate(&GOLDEN, &options, &first);
        let longer = Request::new([&first.prompt[..], &answer.output_ids, &[7; 9]].concat(), 9);
        let found = engine.generate(&longer, &mut |_| {}).unwrap();
        assert!(found.cached_tokens > 32, "{}", found.cached_tokens);
        assert_eq!(
            essence(found),
            essence(generate(&GOLDEN, &options, &longer))
        );
    }
}

#[test]
fn the_oldest_goes_on_when_pages_lack_and_the_others_follow() {
    let crowded = with_capacity(|capacity| {
        capacity.pages = 7;
        capacity.slots = 3;
    });
    let requests: Vec<_> = (0..3)
        .map(|seed| Request {
            ignore_eos: true,
            ..Request::new(prompt(3, seed), 50)
        })
        .collect();
    for kv_precision in PRECISIONS {
        let options = Options {
            kv_precision,
            ..crowded.clone()
        };
        let mut engine = Engine::new(&DENSE, options.clone()).unwrap();
        let ids: Vec<_> = requests.iter().map(|r| engine.submit(r).unwrap()).collect();
        let mut heard = BTreeMap::new();
        finish(&mut engine, &mut heard);
        assert!(engine.stats().preemptions > 0);
        for (request, id) in requests.iter().zip(ids) {
            assert_alone(&DENSE, &options, request, heard.remove(&id).unwrap());
        }
    }
}

#[test]
fn a_text_that_can_never_fit_is_refused_at_once() {
    let options = with_capacity(|capacity| capacity.pages = 3);
    let mut engine = Engine::new(&DENSE, options).unwrap();
    let error = engine.submit(&Request::new(prompt(9, 1), 16)).unwrap_err();
    assert_eq!(error, Error::Pages { need: 4, pages: 3 });
    assert!(engine.submit(&Request::new(prompt(8, 1), 16)).is_ok());
}

#[test]
fn a_capacity_of_nothing_is_refused() {
    let changes: [fn(&mut Capacity); 3] = [
        |capacity| capacity.slots = 0,
        |capacity| capacity.pages = 0,
        |capacity| capacity.page_rows = 0,
    ];
    for change in changes {
        let message = Engine::new(&DENSE, with_capacity(change))
            .unwrap_err()
            .to_string();
        assert!(message.ends_with("is 0; expected at least 1"), "{message}");
    }
}

#[test]
fn drafts_show_the_block_of_every_step() {
    let request = Request {
        draft: true,
        trace: true,
        ..Request::new(prompt(9, 1), 12)
    };
    let mut engine = Engine::new(&GOLDEN, options(LabelAlignment::Same)).unwrap();
    engine.submit(&request).unwrap();
    let (mut drafts, mut answer) = (Vec::new(), None);
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                Event::Draft {
                    block,
                    step,
                    start,
                    ids,
                    open,
                    placed,
                    ..
                } => {
                    let is_placed = |i: usize| placed[i - start].is_some();
                    assert!(
                        (start..start + 8).all(|i| is_placed(i) != (i < 9 || open.contains(&i)))
                    );
                    assert_eq!(start, block * 8);
                    let masks = (0..8).filter(|&i| ids[i] == crate::support::MASK);
                    assert!(masks.map(|i| start + i).eq(open));
                    drafts.push((block, step, ids));
                }
                Event::Finished {
                    answer: finished, ..
                } => answer = Some(finished),
                _ => {}
            }
        }
    }
    let trace = answer.unwrap().trace.into_iter();
    assert!(
        trace
            .map(|step| (step.block, step.step, step.ids))
            .eq(drafts)
    );
}

#[test]
fn a_stop_rule_ends_the_text_before_a_later_stop_id_and_after_an_earlier_one() {
    let whole = generate(
        &DENSE,
        &options(LabelAlignment::Same),
        &Request {
            ignore_eos: true,
            ..Request::new(prompt(9, 1), 30)
        },
    );
    for (rule_at, id_at) in [(4, 12), (12, 4), (5, 5)] {
        let request = Request {
            ignore_eos: true,
            stop_ids: vec![whole.output_ids[id_at]],
            ..Request::new(prompt(9, 1), 30)
        };
        let id_at = whole
            .output_ids
            .iter()
            .position(|&id| id == request.stop_ids[0])
            .unwrap();
        let mut seen = 0;
        let stop = move |ids: &[u32]| {
            let before = seen;
            seen += ids.len();
            (before <= rule_at && rule_at < seen).then(|| rule_at + 1 - before)
        };
        let hooks = llada_engine::Hooks {
            stop: Some(Box::new(stop)),
            ..Default::default()
        };
        let mut engine = Engine::new(&DENSE, options(LabelAlignment::Same)).unwrap();
        let id = engine.submit_with(&request, hooks).unwrap();
        let mut heard = BTreeMap::new();
        finish(&mut engine, &mut heard);
        let heard = heard.remove(&id).unwrap();
        let end = rule_at.min(id_at) + 1;
        assert_eq!(heard.ids, whole.output_ids[..end]);
        assert_eq!(heard.answer.unwrap().output_ids, heard.ids);
    }
}

#[test]
fn no_saving_changes_an_answer() {
    let all = Savings::default();
    let without = [
        Savings {
            fused_commit: false,
            ..all
        },
        Savings {
            prefix_cache: false,
            ..all
        },
        Savings {
            needed_rows: false,
            ..all
        },
        Savings {
            fused_head: false,
            ..all
        },
    ];
    for alignment in [LabelAlignment::Same, LabelAlignment::Shifted] {
        for seed in 0..4 {
            let request = Request {
                ignore_eos: true,
                trace: true,
                ..Request::new(prompt(21, seed), 30)
            };
            let expected = essence(generate(&GOLDEN, &options(alignment), &request));
            for savings in without {
                let options = Options {
                    savings,
                    ..options(alignment)
                };
                let mut answer = essence(generate(&GOLDEN, &options, &request));
                // The fused head computes the confidence in single precision.
                for (placed, expected) in answer.placed.iter_mut().zip(&expected.placed) {
                    assert!((placed.confidence - expected.confidence).abs() < 1e-5);
                    placed.confidence = expected.confidence;
                }
                assert_eq!(answer, expected, "{savings:?}");
            }
        }
    }
}

/// Any request that these models can serve.
fn any_request(alignment: LabelAlignment) -> impl Strategy<Value = Request> {
    let lengths = (1usize..40, 0u32..6, 1usize..24, 1usize..12);
    let acceptance = prop_oneof![
        (-0.1f32..1.1).prop_map(Acceptance::Threshold),
        (0.2f32..1.0).prop_map(Acceptance::Credit),
        (0.5f32..1.0).prop_map(|threshold| Acceptance::Hierarchy {
            threshold,
            low: 0.4
        }),
        Just(Acceptance::Bacd {
            low: 0.6,
            high: 0.9
        }),
    ];
    let quota = prop_oneof![
        (1usize..4).prop_map(Quota::MinTransfer),
        (1usize..9).prop_map(Quota::Steps),
    ];
    let edit = prop_oneof![
        4 => Just(Edit::Off),
        2 => (0.0f32..0.9).prop_map(Edit::Above),
        1 => Just(Edit::Revise { above: 0.5, delete_token_id: 508, split_token_id: 509 }),
    ];
    let sampling = prop_oneof![
        3 => Just(Sampling::default()),
        1 => (0.5f32..1.5, 0usize..20, 0u64..4).prop_map(|(temperature, top_k, seed)| Sampling {
            temperature, top_k, seed, ..Sampling::default()
        }),
        1 => Just(Sampling {
            repetition_penalty: 1.2,
            frequency_penalty: 0.1,
            logit_bias: vec![(3, 2.0)],
            ..Sampling::default()
        }),
    ];
    let window = prop_oneof![
        2 => Just(Window::default()),
        1 => (1usize..5, -0.1f32..1.2, 0.0f32..1.1).prop_map(
            |(buffer_blocks, admit_threshold, semi_complete)| Window {
                buffer_blocks, admit_threshold, semi_complete,
            }
        ),
    ];
    let reopen = prop::option::of((1usize..4, 1usize..3));
    let rest = (any::<bool>(), 0u8..5, 0u32..EOS, reopen);
    (lengths, acceptance, quota, edit, sampling, window, rest).prop_map(
        move |(
            (prompt_len, seed, max_new_tokens, block_length),
            acceptance,
            quota,
            edit,
            sampling,
            window,
            rest,
        )| {
            let (ignore_eos, method, stop_id, reopen) = rest;
            let is_same = alignment == LabelAlignment::Same;
            let reopen = reopen.filter(|_| is_same && matches!(edit, Edit::Above(_)));
            let may_begin_early = is_same && edit == Edit::Off;
            Request {
                method: if method == 0 {
                    Method::Autoregression
                } else {
                    Method::BlockDiffusion
                },
                block_length: Some(block_length),
                policy: Policy {
                    acceptance,
                    quota,
                    edit,
                    max_post_edit_steps: 3,
                    window: if may_begin_early {
                        window
                    } else {
                        Window::default()
                    },
                    reopen: reopen.map(|(blocks, rounds)| Reopen { blocks, rounds }),
                    ..Policy::default()
                },
                top_logprobs: match edit {
                    Edit::Revise { .. } => 0,
                    _ => seed as usize % 3,
                },
                sampling,
                stop_ids: vec![stop_id],
                ignore_eos,
                ..Request::new(prompt(prompt_len, seed), max_new_tokens)
            }
        },
    )
}

#[derive(Clone, Debug)]
enum Act {
    Submit(Box<Request>),
    Cancel(prop::sample::Index),
    Step,
}

fn acts(alignment: LabelAlignment, len: usize) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => any_request(alignment).prop_map(|request| Act::Submit(request.into())),
        1 => any::<prop::sample::Index>().prop_map(Act::Cancel),
        4 => Just(Act::Step),
    ];
    proptest::collection::vec(act, 1..len)
}

fn alignment_and_acts() -> impl Strategy<Value = (LabelAlignment, Vec<Act>)> {
    prop_oneof![Just(LabelAlignment::Same), Just(LabelAlignment::Shifted)]
        .prop_flat_map(|alignment| (Just(alignment), acts(alignment, 40)))
}

/// Runs the acts and then all that is left; every answer is that of its request alone.
fn assert_independent(model: &Model, options: &Options, acts: Vec<Act>) {
    let mut engine = Engine::new(model, options.clone()).unwrap();
    let free = engine.free_pages();
    let (mut requests, mut heard) = (BTreeMap::new(), BTreeMap::new());
    for act in acts {
        match act {
            Act::Submit(request) => {
                requests.insert(engine.submit(&request).unwrap(), *request);
            }
            Act::Cancel(which) if !requests.is_empty() => {
                let id = *requests.keys().nth(which.index(requests.len())).unwrap();
                if engine.cancel(id) {
                    requests.remove(&id);
                }
            }
            Act::Cancel(_) => {}
            Act::Step => listen(engine.step(), &mut heard),
        }
    }
    finish(&mut engine, &mut heard);
    assert_eq!(engine.free_pages(), free);
    let alone = Options {
        capacity: CAPACITY,
        ..options.clone()
    };
    for (id, request) in requests {
        assert_alone(model, &alone, &request, heard.remove(&id).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_mix_of_requests_is_answered_as_each_alone(
        (alignment, acts) in alignment_and_acts(),
        page_rows in 1usize..12, slots in 1usize..9, prefill_rows in 1usize..40,
        fused_commit: bool, prefix_cache: bool, is_dense: bool,
        kv_precision in prop::sample::select(&PRECISIONS),
    ) {
        // The longest text has 39 + 23 tokens and a block of 11.
        let capacity = Capacity { slots, page_rows, pages: 90usize.div_ceil(page_rows), prefill_rows };
        let savings = Savings { fused_commit, prefix_cache, ..Savings::default() };
        let options = Options { kv_precision, capacity, savings, ..options(alignment) };
        let model = if is_dense { &*DENSE } else { &*GOLDEN };
        assert_independent(model, &options, acts);
    }
}

/// The children that the program ships.
static CHILDREN: LazyLock<[Model; 2]> =
    LazyLock::new(|| ["assets/worked-sums/child", "assets/stories-child"].map(load_model));

/// Brings the ids of a request into a smaller vocabulary.
fn in_vocabulary(act: Act, num_ids: u32) -> Act {
    let Act::Submit(mut request) = act else {
        return act;
    };
    let lists = [&mut request.prompt, &mut request.stop_ids];
    let ids = lists.into_iter().flatten();
    let edits = match &mut request.policy.edit {
        Edit::Revise {
            delete_token_id,
            split_token_id,
            ..
        } => vec![delete_token_id, split_token_id],
        _ => Vec::new(),
    };
    ids.chain(edits).for_each(|id| *id %= num_ids);
    Act::Submit(request)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn so_it_is_on_the_shipped_children(
        acts in acts(LabelAlignment::Shifted, 30),
        page_rows in 1usize..40, slots in 1usize..9, prefill_rows in 1usize..40,
        fused_commit: bool, prefix_cache: bool, writes_stories: bool,
        kv_precision in prop::sample::select(&PRECISIONS),
    ) {
        let model = &CHILDREN[usize::from(writes_stories)];
        let own = Options::new(&model.config);
        let capacity = Capacity { slots, page_rows, pages: 90usize.div_ceil(page_rows), prefill_rows };
        let savings = Savings { fused_commit, prefix_cache, ..Savings::default() };
        // MASK is the last id.
        let num_ids = own.mask_token_id.unwrap();
        let acts = acts.into_iter().map(|act| in_vocabulary(act, num_ids)).collect();
        assert_independent(model, &Options { kv_precision, capacity, savings, ..own }, acts);
    }
}

/// Bytes of memory in use, where the system tells.
fn resident_bytes() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(4096 * pages.split(' ').nth(1)?.parse::<usize>().ok()?)
}

/// 2,000 requests; with `LLADA_SLOW_TESTS=1` 10,000, and the memory of the process is watched: run
/// this test alone then.
#[test]
fn a_long_run_of_random_requests_leaks_nothing_and_answers_each_as_alone() {
    let is_slow = std::env::var_os("LLADA_SLOW_TESTS").is_some();
    let num_requests = if is_slow { 10_000 } else { 2000 };
    let crowded = with_capacity(|capacity| {
        capacity.slots = 64;
        capacity.pages = 20;
        capacity.prefill_rows = 64;
    });
    let mut engine = Engine::new(&DENSE, crowded).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (any_request(LabelAlignment::Same), 0usize..100);
    let (mut running, mut heard) = (BTreeMap::new(), BTreeMap::new());
    let (mut submitted, mut cancelled, mut answered) = (0, 0, 0);
    let mut resident = None;
    while submitted < num_requests || !engine.is_idle() {
        while submitted < num_requests && running.len() < 100 {
            let (request, luck) = strategy.new_tree(&mut runner).unwrap().current();
            running.insert(engine.submit(&request).unwrap(), request);
            submitted += 1;
            if luck < 10 {
                let id = *running.keys().nth(luck * running.len() / 10).unwrap();
                assert!(engine.cancel(id));
                running.remove(&id);
                heard.remove(&id);
                cancelled += 1;
            }
        }
        listen(engine.step(), &mut heard);
        let done: Vec<RequestId> = heard
            .iter()
            .filter(|(_, heard)| heard.answer.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            let request = running.remove(&id).unwrap();
            let heard = heard.remove(&id).unwrap();
            assert_alone(&DENSE, &options(LabelAlignment::Same), &request, heard);
            answered += 1;
        }
        if resident.is_none() && answered >= num_requests / 5 {
            resident = resident_bytes();
        }
    }
    assert_eq!(answered + cancelled, num_requests);
    assert_eq!(engine.free_pages(), 20);
    let stats = engine.stats();
    assert!(stats.preemptions > 0 && stats.cached_rows > 0, "{stats:?}");
    if let (true, Some(before), Some(after)) = (is_slow, resident, resident_bytes()) {
        assert!(after < before + (8 << 20), "{before} bytes grew to {after}");
    }
}
