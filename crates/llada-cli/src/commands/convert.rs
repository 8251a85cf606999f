//! `llada convert`: an AR parent becomes a block-diffusion checkpoint.

use llada_diffusion::BlockSize;
use llada_train::{ConvertOptions, MaskChoice, convert};

use super::models;
use crate::args::ConvertArgs;
use crate::{failure, ui};

pub(crate) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let mask = match (&args.mask_token, args.mask_id) {
        (Some(text), _) => MaskChoice::Text(text.clone()),
        (None, Some(id)) => MaskChoice::Id(id),
        (None, None) => MaskChoice::Auto,
    };
    let options = ConvertOptions {
        mask,
        block_size: BlockSize::new(args.block_size).map_err(failure::usage)?,
        label_alignment: args.label_alignment,
    };
    let converted = convert(&models::whole(&args.parent)?, &args.out, &options)?;
    for warning in &converted.warnings {
        ui::say(format!("warning: {warning}"));
    }
    ui::say(format!(
        "`{}`: MASK is {} ({}), block size {}, labels {}",
        args.out.display(),
        converted.mask_token_id,
        if converted.grown {
            "a new row"
        } else {
            "an existing row"
        },
        args.block_size,
        args.label_alignment,
    ));
    Ok(())
}
