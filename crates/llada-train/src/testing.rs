//! Small models and documents for tests.

use llada_diffusion::{
    Band, Elision, LabelAlignment, NoiseSchedule, Normalisation, Objective, RateScope,
};
use llada_model::{Config, Model, Weights};
use llada_tensor::Precision;

use crate::batch::{Assembly, Diffusion, Reading, Task};
use crate::data::{Document, Drawn, Unit};

pub(crate) const MASK: u32 = 30;
pub(crate) const EOS: u32 = 31;

/// A dense diffusion model of two layers and 32 tokens.
pub(crate) fn config(alignment: LabelAlignment) -> Config {
    let text = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true, "initializer_range": 0.2, "torch_dtype": "float32",
        "eos_token_id": {EOS}, "mask_token_id": {MASK}, "block_size": 4,
        "label_alignment": "{alignment}"}}"#
    );
    Config::from_json(&text).expect("the test config is valid")
}

/// The same with a second layer of 8 experts, 2 per token and a shared one.
pub(crate) fn moe_config(alignment: LabelAlignment) -> Config {
    let text = format!(
        r#"{{"architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 32,
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
        "num_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "tie_word_embeddings": false, "initializer_range": 0.2,
        "torch_dtype": "float32", "eos_token_id": {EOS}, "mask_token_id": {MASK},
        "block_size": 4, "label_alignment": "{alignment}"}}"#
    );
    Config::from_json(&text).expect("the test config is valid")
}

pub(crate) fn model(alignment: LabelAlignment) -> Model {
    let config = config(alignment);
    let weights = Weights::random(&config, 1, Precision::F32);
    Model::new(config, weights)
}

/// Documents of different lengths, the last one an answer to a prompt of 5 tokens.
pub(crate) fn corpus() -> Vec<Document> {
    let ids = |len: u32, step: u32| (0..len).map(|i| (i * step + step) % 29).collect();
    vec![
        Document::text(ids(13, 3)),
        Document::text(ids(7, 5)),
        Document::text(ids(4, 11)),
        Document::answer(ids(10, 7), 5),
    ]
}

/// Block denoising with one rate per block, all documents in one forward pass.
pub(crate) fn assembly(alignment: LabelAlignment, elision: Elision) -> Assembly {
    Assembly {
        task: Task::Diffusion(Diffusion {
            objective: Objective::Bdlm,
            noises: vec![NoiseSchedule::new(
                RateScope::Block,
                Band::new(0.2, 0.8).expect("a band"),
            )],
            group_blocks: 1,
            complementary: false,
            fill: Some(EOS),
            editing: None,
            trajectory: None,
            reading: Reading {
                mask_token_id: MASK,
                alignment,
            },
        }),
        unit: Unit::Document,
        normalisation: Normalisation::ElboToken,
        seed: 5,
        micro_batch_rows: 1000,
        elision,
    }
}

/// Every document of [`corpus`], in order.
pub(crate) fn drawn() -> Vec<Drawn> {
    (0..corpus().len())
        .map(|document| Drawn { epoch: 0, document })
        .collect()
}
