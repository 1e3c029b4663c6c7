//! `avsweep sweep create`

use anyhow::Result;
use avsweep_proto::v1;
use serde::Serialize;

use super::{Outcome, watch};
use crate::arguments::{CreateArguments, Format};
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::output;
use crate::sweep_file;
use crate::usage::UsageError;

#[derive(Serialize)]
struct CreatedOutput {
    number: i64,
    name: String,
    /// `false` when it was there already.
    created: bool,
    state: String,
    priority: i32,
    fingerprint: String,
}

/// `avsweep sweep create`
pub(super) async fn run(place: &Place, arguments: &CreateArguments, format: Format) -> Result<Outcome> {
    if place.is_default() {
        return Err(UsageError::new(format!(
            "no coordinator is named. To run the sweep here: avsweep run {0}. To give it to a cluster: --coordinator URL \
             (or AVSWEEP_COORDINATOR). To write it into a store that a coordinator will open: --store FILE",
            output::shell(arguments.file.display())
        ))
        .into());
    }
    let loaded = sweep_file::load(&arguments.file, &arguments.cache.folder()).await?;
    loaded.notes().into_iter().for_each(output::note);
    let definition = loaded.definition;
    let connection = Connection::open(place, Access::Create).await?;
    let request =
        v1::CreateSweepRequest { definition: Some((&definition).into()), priority: arguments.priority };
    let created = connection.sweeps().create_sweep(request).await.map_err(explain)?.into_inner();
    let (progress, _) = connection.sweep(&created.sweep.to_string()).await?;
    let shown = CreatedOutput {
        number: created.sweep,
        name: definition.name.clone(),
        created: created.created,
        state: avsweep_domain::SweepState::try_from(created.state())?.to_string(),
        priority: progress.priority,
        fingerprint: definition.fingerprint().short(),
    };
    // What is watched prints its own JSON, one object a line.
    if !(arguments.watch && format == Format::Json) {
        output::print(format, &shown, |shown, out| {
            let how = if shown.created { "created" } else { "there already" };
            writeln!(out, "sweep '{}' (number {}) is {how}: {}", shown.name, shown.number, shown.state)
        })?;
    }
    if !created.created && progress.priority != arguments.priority && arguments.priority != 0 {
        output::note(format!(
            "it keeps its priority {}; 'avsweep sweep priority {} {}{}' changes it",
            progress.priority,
            definition.name,
            arguments.priority,
            place.flag()
        ));
    }
    if arguments.watch {
        if !place.is_remote() {
            output::note("nothing runs on a store by itself: 'avsweep run' on the file does");
        }
        return watch::follow(&connection, created.sweep, place, format).await;
    }
    connection.close().await;
    Ok(Outcome::Done)
}
