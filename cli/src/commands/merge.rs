//! `avsweep merge`

use anyhow::Result;
use avsweep_engine::{MergedModel, merge_to_folder};

use crate::arguments::MergeArguments;
use crate::output;

/// Writes the merged model.
pub(super) fn run(arguments: &MergeArguments) -> Result<()> {
    merge_to_folder(&MergedModel::weighted(&arguments.base, &arguments.vectors), &arguments.out)?;
    output::note(format!("wrote {}", arguments.out.display()));
    Ok(())
}
