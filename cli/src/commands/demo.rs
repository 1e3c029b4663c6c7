//! `avsweep demo`: the whole main job on the pocket family, in about a minute.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::crew::CrewOptions;
use super::run::{refuse_coordinator, run_definition};
use super::{Outcome, best};
use crate::arguments::{CacheArguments, DemoArguments, Format, StoreLocation};
use crate::connection::Place;
use crate::output;
use crate::sweep_file;

/// A file of the pocket family that is part of the program.
struct PocketFile {
    name: &'static str,
    content: &'static [u8],
}

macro_rules! pocket_files {
    ($($name:literal),+ $(,)?) => {
        [$(PocketFile {
            name: $name,
            content: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pocket/", $name)),
        }),+]
    };
}

/// Model, vectors, queries and sweep files: enough to go on where the demo ends.
const POCKET: [PocketFile; 14] = pocket_files![
    "base/config.json",
    "base/generation_config.json",
    "base/model.safetensors",
    "base/tokenizer.json",
    "base/tokenizer_config.json",
    "medical.safetensors",
    "legal.safetensors",
    "financial.safetensors",
    "medical.jsonl",
    "legal.jsonl",
    "financial.jsonl",
    "coarse.yaml",
    "grid.yaml",
    "MODEL_CARD.md",
];

/// `avsweep demo`
pub(super) async fn run(arguments: &DemoArguments, format: Format) -> Result<Outcome> {
    refuse_coordinator(&arguments.coordinator, "demo", "avsweep sweep create FILE --watch")?;
    let folder = &arguments.folder;
    unpack(folder)?;
    output::note(format!(
        "The pocket family: a 0.75M-parameter base and one alignment vector each for medicine, law and finance.\n\
         Files and store are in {}.\n",
        folder.display()
    ));
    let file = folder.join("coarse.yaml");
    let place = Place::Store { location: StoreLocation::File(folder.join("avsweep.db")), named: true };
    let cache = CacheArguments { cache: None }.folder();
    let loaded = sweep_file::load(&file, &cache).await?;
    let crew = CrewOptions { device: arguments.device, memory: None, threads: None, cache: &cache };
    let (outcome, best) = run_definition(&place, &loaded.definition, crew).await?;
    if outcome == Outcome::Interrupted {
        return Ok(outcome);
    }
    output::print(format, &best, best::write_table)?;
    print_next(folder, &place, &loaded.definition.name, &best);
    Ok(outcome)
}

/// Writes the pocket family's files where they are absent or differ from what this program carries.
fn unpack(folder: &Path) -> Result<()> {
    for file in &POCKET {
        let path = folder.join(file.name);
        if std::fs::read(&path).is_ok_and(|content| content == file.content) {
            continue;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("{}: cannot be made", parent.display()))?;
        }
        std::fs::write(&path, file.content)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(())
}

fn print_next(folder: &Path, place: &Place, name: &str, best: &best::BestOutput) {
    let store = place.flag();
    let example = best
        .targets
        .iter()
        .find(|target| target.target == "medical=expert,legal=avoidance,financial=generic")
        .or(best.targets.first());
    let (target, point) = example.map_or((String::new(), String::new()), |answer| {
        (
            answer.target.clone(),
            answer.point.as_ref().map_or_else(String::new, std::string::ToString::to_string),
        )
    });
    output::note(format!(
        "\nNext:\n\
         \x20 one target          avsweep best {name} --target {target}{store}\n\
         \x20 what it says there  avsweep sample {name} --point={point}{store}\n\
         \x20 the picture         avsweep report {name}{store}\n\
         \x20 the full grid       avsweep run {}{store}\n\
         \x20 your own model      avsweep schema, and the sweep files in {} to start from",
        output::shell(folder.join("grid.yaml").display()),
        output::shell(folder.display()),
    ));
}
