//! `llada merge`: the mean of several checkpoints, or a base with its adapter.

use std::path::{Path, PathBuf};

use llada_model::StorageDtype;
use llada_train::{Error, best_checkpoints, merge, merge_adapter};

use super::models;
use crate::args::{MergeArgs, PrecisionArg};
use crate::{failure, ui};

/// Checkpoints taken of a run if nobody says how many (`training.md` section 6.4).
const BEST: usize = 5;

pub(crate) fn run(args: &MergeArgs) -> anyhow::Result<()> {
    let dtype = args.dtype.map(|dtype| match dtype {
        PrecisionArg::F32 => StorageDtype::F32,
        PrecisionArg::Bf16 => StorageDtype::Bf16,
    });
    match &args.adapter {
        Some(adapter) => with_adapter(args, adapter, dtype),
        None => mean(args, dtype.unwrap_or(StorageDtype::Bf16)),
    }
}

fn with_adapter(
    args: &MergeArgs,
    adapter: &Path,
    dtype: Option<StorageDtype>,
) -> anyhow::Result<()> {
    let [base] = &args.checkpoints[..] else {
        let found = args.checkpoints.len();
        return Err(failure::usage(format!(
            "--adapter takes one checkpoint, its base; found {found}"
        )));
    };
    merge_adapter(&models::whole(base)?, adapter, &args.out, dtype)?;
    ui::say(format!(
        "`{}`: `{}` with `{}`",
        args.out.display(),
        base.display(),
        adapter.display()
    ));
    Ok(())
}

fn mean(args: &MergeArgs, dtype: StorageDtype) -> anyhow::Result<()> {
    let checkpoints = checkpoints(args)?;
    merge(&checkpoints, &args.out, dtype)?;
    ui::say(format!(
        "`{}`: the mean of {} checkpoints",
        args.out.display(),
        checkpoints.len()
    ));
    Ok(())
}

fn checkpoints(args: &MergeArgs) -> anyhow::Result<Vec<PathBuf>> {
    let (Some(run), Some(metric)) = (&args.run, &args.metric) else {
        return args
            .checkpoints
            .iter()
            .map(|given| models::whole(given))
            .collect();
    };
    let count = args.best.map_or(BEST, |best| best.get());
    let best = best_checkpoints(run, metric, count).map_err(|error| match error {
        Error::UnknownMetric(_) => failure::usage(format!("--metric: {error}")),
        error => error.into(),
    })?;
    for scored in &best {
        ui::say(format!(
            "step {:>6}  {metric} {:.4}",
            scored.step, scored.score
        ));
    }
    Ok(best.into_iter().map(|scored| scored.path).collect())
}
