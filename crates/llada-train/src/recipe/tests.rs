use super::*;

const SMALL: &str = r#"
[model]
path = "parent"
[data]
train = "train.jsonl"
[objective]
kind = "bdlm"
block_size = 8
[optimizer]
lr = 1e-3
[train]
steps = 10
batch_documents = 4
"#;

fn with(overrides: &[&str]) -> Result<Recipe> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Recipe::parse(SMALL, &overrides)
}

fn message(result: Result<Recipe>) -> String {
    result.expect_err("the recipe is invalid").to_string()
}

#[test]
fn a_resolved_recipe_reads_back_as_itself() {
    let recipe = with(&[
        "objective.block_schedule=[{block=1, steps=2}, {block=8, steps=3}]",
        "train.max_seconds=2.5",
    ]);
    assert!(
        recipe.is_err(),
        "a size and a schedule contradict each other"
    );
    let recipe = Recipe::from_toml(SMALL).unwrap();
    assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
    let text = SMALL.replace("block_size = 8", "block_schedule = [{block=1, steps=2}]");
    let recipe = Recipe::parse(&text, &["train.max_seconds=2.5".into()]).unwrap();
    assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let text = SMALL.replace("lr = 1e-3", "lr = 1e-3\nlr_max = 2");
    let message = message(Recipe::from_toml(&text));
    assert!(message.contains("unknown field `lr_max`"), "{message}");
    assert!(message.contains("line 11"), "{message}");
}

#[test]
fn a_wrong_name_lists_the_right_ones() {
    let message = message(with(&["objective.kind=diffusion"]));
    assert!(
        message.contains("expected one of `ar`, `bdlm`, `mdlm`"),
        "{message}"
    );
}

#[test]
fn overrides_take_toml_values_and_bare_words() {
    let recipe = with(&[
        "model.path=a/b-c",
        "train.steps=7",
        "objective.mask_ratio_band=[0.2, 0.8]",
        "optimizer.schedule=linear",
        "data.train=[\"x\", \"y\"]",
    ])
    .unwrap();
    assert_eq!(
        recipe.model.path.as_deref(),
        Some(std::path::Path::new("a/b-c"))
    );
    assert_eq!(recipe.train.steps, 7);
    assert_eq!(recipe.objective.mask_ratio_band, [0.2, 0.8]);
    assert_eq!(recipe.data.train.0.len(), 2);
}

#[test]
fn malformed_overrides_are_refused() {
    for given in ["train.steps", "steps=3", "train.unknown=1"] {
        assert!(with(&[given]).is_err(), "{given}");
    }
}

#[test]
fn contradictions_are_refused_by_key() {
    for (overrides, key) in [
        (&["model.config=config.json"][..], "model.path"),
        (&["train.batch_tokens=5"], "train.batch_documents"),
        (&["train.steps=0"], "train.steps"),
        (&["objective.kind=ar"], "objective.block_size"),
        (
            &["objective.loss_on_prompt=true"],
            "objective.loss_on_prompt",
        ),
        (&["objective.complementary=true"], "objective.normalisation"),
        (&["optimizer.clip=0.0"], "optimizer.clip"),
        (
            &["optimizer.expert_bias_rate=-0.1"],
            "optimizer.expert_bias_rate",
        ),
        (&["optimizer.router_z_loss=nan"], "optimizer.router_z_loss"),
        (&["data.max_len=1"], "data.max_len"),
        (&["objective.group_blocks=0"], "objective.group_blocks"),
        (&["objective.group_blocks=2"], "objective.normalisation"),
        (&["cap.lambda=-1.0"], "cap.lambda"),
        (&["cap.lambda=1.0", "dpo.beta=0.1"], "`dpo`"),
        (&["dpo.beta=0.0"], "dpo.beta"),
        (&["dpo.draws=0"], "dpo.draws"),
        (&["edit.turns=0"], "edit.turns"),
        (&["edit.threshold=1.5"], "edit.threshold"),
        (&["edit.weight=-1.0"], "edit.weight"),
        (&["oput.share=2.0"], "oput.share"),
        (&["levenshtein.rate=-0.1"], "levenshtein.rate"),
        (&["levenshtein.turns=0"], "levenshtein.turns"),
        (&["levenshtein.threshold=2.0"], "levenshtein.threshold"),
        (&["edit.rate=0.1", "oput.share=0.5"], "`edit`"),
        (&["lora.rank=0"], "lora.rank"),
        (&["lora.alpha=0"], "lora.alpha"),
        (&["lora.alpha=inf"], "lora.alpha"),
        (&["lora.dropout=1"], "lora.dropout"),
        (&["lora.targets=[]"], "lora.targets"),
        (&["lora.targets=[\"experts\"]"], "lora.dropout"),
        (
            &["lora.rank=4", "model.freeze=[\"router\"]"],
            "model.freeze",
        ),
        (
            &["lora.rank=4", "optimizer.expert_bias_rate=0.1"],
            "optimizer.expert_bias_rate",
        ),
        (
            &["dpo.beta=0.1", "objective.mask_noise_steps=5"],
            "objective.mask_noise_steps",
        ),
        (
            &["dpo.beta=0.1", "objective.normalisation=masked_mean"],
            "objective.normalisation",
        ),
    ] {
        let message = message(with(overrides));
        assert!(message.contains(key), "{overrides:?}: {message}");
    }
    assert!(with(&["objective.mask_ratio_band=[0.5, 0.2]"]).is_err());
    assert!(with(&["optimizer.warmup_steps=11"]).is_err());
}

#[test]
fn an_adapter_has_defaults_and_reads_back_as_itself() {
    let text = format!("{SMALL}[lora]\n");
    let recipe = Recipe::from_toml(&text).unwrap();
    let lora = recipe.lora.as_ref().unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.dropout), (32, 64.0, 0.05));
    assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
    let wrong = message(with(&["lora.targets=[\"router\"]"]));
    assert!(wrong.contains("expected one of `attention`"), "{wrong}");
    assert!(message(with(&["lora.r=8"])).contains("unknown field `r`"));
}

#[test]
fn policy_optimisation_has_defaults_and_is_refused_by_key() {
    let task = "ebpo.task=worked_sums";
    let recipe = with(&[task]).unwrap();
    let ebpo = recipe.ebpo.as_ref().unwrap();
    assert_eq!(
        (ebpo.group_size, ebpo.updates, ebpo.temperature),
        (8, 2, 1.0)
    );
    assert_eq!(ebpo.levels, [0.3, 0.6, 0.9]);
    assert_eq!((ebpo.eps_low, ebpo.eps_high), (0.2, 0.2));
    assert!((ebpo.weights().iter().sum::<f64>() - 1.0).abs() < 1e-12);
    assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
    let decoder = with(&[task, "ebpo.decoder.threshold=0.9", "ebpo.decoder.edit=0.5"]).unwrap();
    assert_eq!(decoder.ebpo.unwrap().decoder.len(), 2);
    assert!(message(with(&["ebpo.updates=1"])).contains("missing field `task`"));
    assert!(message(with(&[task, "ebpo.kl=0.1"])).contains("unknown field `kl`"));
    for (overrides, key) in [
        (&["ebpo.group_size=1"][..], "ebpo.group_size"),
        (&["ebpo.updates=0"], "ebpo.updates"),
        (&["ebpo.temperature=0"], "ebpo.temperature"),
        (&["ebpo.levels=[]"], "ebpo.levels"),
        (&["ebpo.levels=[0.5, 1.5]"], "ebpo.levels"),
        (&["ebpo.levels=[0.0]"], "ebpo.levels"),
        (&["ebpo.level_weights=[1.0]"], "ebpo.level_weights"),
        (
            &["ebpo.level_weights=[1.0, 0.0, 1.0]"],
            "ebpo.level_weights",
        ),
        (&["ebpo.eps_low=1.0"], "ebpo.eps_low"),
        (&["ebpo.eps_high=nan"], "ebpo.eps_high"),
        (&["ebpo.decoder={temperature=0.7}"], "`ebpo.temperature`"),
        (&["ebpo.decoder={seed=1}"], "`train.seed`"),
        (&["ebpo.decoder={block_length=8}"], "`objective.block_size`"),
        (&["dpo.beta=0.1"], "`ebpo`"),
        (&["lora.rank=4"], "lora.dropout"),
        (&["model.tokenizer=parent"], "model.tokenizer"),
        (&["objective.kind=mdlm"], "objective.block_size"),
        (&["objective.complementary=true"], "objective.normalisation"),
        (
            &["objective.mask_ratio_band=[0.2, 0.8]"],
            "objective.mask_ratio_band",
        ),
        (
            &["objective.normalisation=masked_mean"],
            "objective.normalisation",
        ),
        (
            &["objective.mask_noise_steps=5"],
            "objective.mask_noise_steps",
        ),
    ] {
        let message = message(with(&[&[task], overrides].concat()));
        assert!(message.contains(key), "{overrides:?}: {message}");
    }
    let by_tokens = SMALL.replace("batch_documents = 4", "batch_tokens = 400");
    let by_tokens = message(Recipe::parse(&by_tokens, &[task.into()]));
    assert!(by_tokens.contains("train.batch_documents"), "{by_tokens}");
    let random = SMALL.replace("path = \"parent\"", "config = \"config.json\"");
    let random = message(Recipe::parse(&random, &[task.into()]));
    assert!(random.contains("model.path"), "{random}");
}

#[test]
fn recorded_states_go_with_confidence_and_nothing_else() {
    let given = [
        "trajectory.most_steps=4",
        "objective.normalisation=masked_mean",
    ];
    let recipe = with(&[&given[..], &["cap.lambda=0.5"]].concat()).unwrap();
    assert_eq!(recipe.trajectory.as_ref().unwrap().most_steps.get(), 4);
    assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
    for (change, key) in [
        (
            "objective.normalisation=elbo_token",
            "objective.normalisation",
        ),
        (
            "objective.mask_ratio_band=[0.2, 0.8]",
            "objective.mask_ratio_band",
        ),
        ("objective.rate_scope=document", "objective.rate_scope"),
        ("objective.mask_draw=exact_k", "objective.mask_draw"),
        ("objective.complementary=true", "objective.complementary"),
        ("objective.group_blocks=2", "objective.group_blocks"),
        ("edit.rate=0.1", "`edit`"),
        ("oput.share=0.5", "`oput`"),
        ("trajectory.most_steps=0", "nonzero"),
        ("trajectory.steps=3", "unknown field `steps`"),
    ] {
        let message = message(with(&[&given[..], &[change]].concat()));
        assert!(message.contains(key), "{change}: {message}");
    }
    let stages = SMALL.replace("block_size = 8", "block_schedule = [{block=8, steps=2}]");
    let given = given.map(String::from);
    let message = message(Recipe::parse(&stages, &given));
    assert!(message.contains("objective.block_size"), "{message}");
}

#[test]
fn stages_are_counted_in_steps_or_in_tokens_but_not_both() {
    let schedule = |stages: &str| {
        let text = SMALL.replace("block_size = 8", &format!("block_schedule = [{stages}]"));
        Recipe::from_toml(&text)?.objective.blocks()
    };
    let steps = schedule("{block=1, steps=2}, {block=8, steps=1}").unwrap();
    assert_eq!(
        [0, 1, 2, 9].map(|step| steps.at(step, 1000).get()),
        [1, 1, 8, 8]
    );
    let tokens = schedule("{block=1, tokens=50}, {block=4, tokens=1}").unwrap();
    assert_eq!([0, 49, 50].map(|seen| tokens.at(9, seen).get()), [1, 1, 4]);
    assert!(schedule("{block=1, tokens=50}, {block=4, steps=1}").is_err());
    assert!(schedule("{block=1}").is_err());
}

#[test]
fn every_recipe_of_the_repository_is_valid() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let is_recipe = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "toml");
    let recipes: Vec<_> = entries.filter(is_recipe).collect();
    assert!(recipes.len() >= 12, "{recipes:?}");
    for path in recipes {
        let recipe = Recipe::from_toml(&std::fs::read_to_string(&path).unwrap());
        let recipe = recipe.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let schedule = &recipe.objective.block_schedule;
        let tokens: u64 = schedule.iter().filter_map(|stage| stage.tokens).sum();
        let trained = recipe.train.steps * recipe.train.batch_tokens.unwrap_or(0) as u64;
        let is_met = trained == 0 || trained.abs_diff(tokens) <= tokens / 10 || tokens == 0;
        assert!(
            is_met,
            "{}: {tokens} tokens planned, {trained} trained",
            path.display()
        );
    }
}

#[test]
fn sources_have_weights_or_none_has() {
    let sources = |value: &str| {
        let recipe = with(&[&format!("data.train={value}")])?;
        recipe.data.train.weighted()
    };
    let plain = sources(r#"["a", "b"]"#).unwrap();
    assert!(
        plain.len() == 1 && plain[0].0.len() == 2,
        "one source of two files"
    );
    let mixed = sources(r#"[{path = "a", weight = 3}, {path = "b", weight = 0.5}]"#).unwrap();
    assert_eq!(
        mixed.iter().map(|source| source.1).collect::<Vec<_>>(),
        [3.0, 0.5]
    );
    for (value, problem) in [
        (
            r#"["a", {path = "b", weight = 1.0}]"#,
            "all paths a weight, or none",
        ),
        (r#"{path = "a", weight = 0.0}"#, "greater than 0"),
        (r#"{path = "a"}"#, "expected a path"),
        (
            r#"{path = "a", weight = 1.0, share = 2}"#,
            "expected a path",
        ),
        ("[]", "at least one file"),
    ] {
        let message = sources(value)
            .expect_err("the sources are invalid")
            .to_string();
        assert!(message.contains(problem), "{value}: {message}");
    }
    let recipe = with(&[r#"data.train=[{path = "a", weight = 3}]"#]).unwrap();
    assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
}
