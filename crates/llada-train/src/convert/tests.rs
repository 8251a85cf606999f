use std::path::PathBuf;

use llada_model::{Model, Weights, save};

use super::*;
use crate::data::Document;
use crate::evaluate::{Mode, nll};

/// A parent with 8 letters, EOS, and `vocab_size` rows.
fn parent(dir: &Path, vocab_size: usize, tied: bool) -> PathBuf {
    let text = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "vocab_size": {vocab_size},
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.2,
        "tie_word_embeddings": {tied}, "torch_dtype": "float32", "eos_token_id": 8}}"#
    );
    let config = Config::from_json(&text).unwrap();
    let weights = Weights::random(&config, 3, Precision::F32);
    let path = dir.join("parent");
    save(&path, &config, &weights, &SaveOptions::default()).unwrap();
    Tokenizer::characters("abcdefgh", &["<|end|>"])
        .unwrap()
        .save(&path)
        .unwrap();
    path
}

fn options(mask: MaskChoice) -> ConvertOptions {
    let block_size = BlockSize::new(4).unwrap();
    ConvertOptions {
        mask,
        block_size,
        label_alignment: LabelAlignment::Shifted,
    }
}

fn open(dir: &Path) -> (Config, Weights<Weight>) {
    let loaded = load(dir, Precision::F32, KeepDtype::F32).unwrap();
    (loaded.config, loaded.weights)
}

#[test]
fn a_child_has_a_mask_token_and_says_how_it_is_read() {
    for (vocab_size, grown) in [(9, true), (12, false)] {
        for tied in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (parent, out) = (
                parent(dir.path(), vocab_size, tied),
                dir.path().join("child"),
            );
            let converted = convert(&parent, &out, &options(MaskChoice::Auto)).unwrap();
            assert_eq!((converted.mask_token_id, converted.grown), (9, grown));
            let (config, weights) = open(&out);
            assert_eq!(config.vocab_size, vocab_size.max(10));
            assert_eq!(
                (config.mask_token_id, config.block_size),
                (Some(9), Some(4))
            );
            assert_eq!(config.label_alignment, Some(LabelAlignment::Shifted));
            assert_eq!(weights.head.is_none(), tied);
            let (_, before) = open(&parent);
            let kept = |weight: &Weight| weight.values().f32s()[..9 * 16].to_vec();
            assert_eq!(kept(&weights.embedding), kept(&before.embedding));
            let tokenizer = Tokenizer::load(&out).unwrap();
            assert_eq!(tokenizer.specials().mask, Some(9));
            assert_eq!(tokenizer.text(9).as_deref(), Some("<|mask|>"));
        }
    }
}

#[test]
fn a_new_row_is_the_mean_of_the_others_and_a_little_noise() {
    let dir = tempfile::tempdir().unwrap();
    let (parent, out) = (parent(dir.path(), 9, true), dir.path().join("child"));
    convert(&parent, &out, &options(MaskChoice::Auto)).unwrap();
    let (_, before) = open(&parent);
    let (mean, spread) = mean_and_spread(before.embedding.values());
    let (_, after) = open(&out);
    let differences = after
        .embedding
        .values()
        .row(9)
        .iter()
        .zip(&mean)
        .map(|(a, b)| a - b);
    let squares: f32 = differences.map(|d| d * d).sum();
    let noise = (squares / 16.0).sqrt();
    assert!(
        noise > 0.05 * spread && noise < 0.2 * spread,
        "{noise} of {spread}"
    );
}

#[test]
fn a_shifted_child_at_block_one_is_its_parent_before_any_training() {
    let dir = tempfile::tempdir().unwrap();
    let (parent, out) = (parent(dir.path(), 12, false), dir.path().join("child"));
    convert(&parent, &out, &options(MaskChoice::Auto)).unwrap();
    let document = Document::text(vec![0, 3, 1, 7, 5, 8]);
    let likelihood = |dir: &Path, mode| {
        let (config, weights) = open(dir);
        nll(
            &Model::new(config, weights),
            std::slice::from_ref(&document),
            mode,
            1,
        )
        .unwrap()
    };
    let (exact, bound) = (
        likelihood(&parent, Mode::Ar),
        likelihood(&out, Mode::Block(BlockSize::ONE)),
    );
    assert_eq!(exact.tokens, bound.tokens);
    // The logit of the new row is in the child's denominator, and an untrained one in the parent's.
    assert!(
        (exact.nll_per_token - bound.nll_per_token).abs() < 0.1,
        "{exact:?} {bound:?}"
    );
}

#[test]
fn a_mask_token_can_be_chosen_by_text_or_by_id() {
    for (choice, text) in [
        (MaskChoice::Text("<blank>".into()), "<blank>"),
        (MaskChoice::Id(9), "<|mask|>"),
        (MaskChoice::Id(8), "<|end|>"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (parent, out) = (parent(dir.path(), 9, true), dir.path().join("child"));
        let converted = convert(&parent, &out, &options(choice)).unwrap();
        assert_eq!(converted.mask_text, text);
    }
}

#[test]
fn impossible_mask_tokens_are_refused_and_leave_nothing_behind() {
    for (choice, problem) in [
        (MaskChoice::Id(3), "`d`: it is an ordinary token"),
        (MaskChoice::Text("d".into()), "ordinary token"),
        (MaskChoice::Id(11), "can add only id 9"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (parent, out) = (parent(dir.path(), 12, true), dir.path().join("child"));
        let message = convert(&parent, &out, &options(choice))
            .unwrap_err()
            .to_string();
        assert!(message.contains(problem), "{message}");
        assert!(!out.exists());
    }
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (parent, out) = (parent(dir.path(), 9, true), dir.path().join("child"));
    let larger = Tokenizer::characters("abcdefghijkl", &["<|end|>"]).unwrap();
    larger.save(&parent).unwrap();
    let message = convert(&parent, &out, &options(MaskChoice::Auto))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("ids up to 12, but the model's vocabulary has 9 rows"),
        "{message}"
    );
}

#[test]
fn a_ling_parent_becomes_a_llada2_child() {
    let golden = include_str!("../../../../testdata/golden/model/config.json");
    let ling = golden
        .replace("LLaDA2MoeModelLM", "BailingMoeV2ForCausalLM")
        .replace(
            "\"hidden_act\"",
            "\"num_nextn_predict_layers\": 1, \"hidden_act\"",
        );
    let config = Config::from_json(&ling).unwrap();
    let mask = MaskToken {
        id: 511,
        text: "<|mask|>".into(),
        is_new: false,
    };
    let child = child_config(&config, &mask, &options(MaskChoice::Auto)).unwrap();
    assert_eq!(child.family, Family::Llada2Moe);
    assert_eq!(child.mask_token_id, Some(511));
    assert_eq!(
        Weights::specs(&child).params().len(),
        Weights::specs(&config).params().len()
    );
}
