//! `avsweep-pocket`: makes the pocket model family, step by step or all at once.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use avsweep_pocket::align::{self, AlignSettings};
use avsweep_pocket::base::{self, BaseSettings, Progress};
use avsweep_pocket::batch::{EncodedQuery, encode_all};
use avsweep_pocket::card;
use avsweep_pocket::corpus::{Corpus, DOMAINS};
use avsweep_pocket::error::{read_text, write_text};
use avsweep_pocket::measure::{Measurements, measure};
use avsweep_pocket::model::Shape;
use avsweep_pocket::probe::Probe;
use avsweep_pocket::products::{Layout, Stored, read_weights, write_json, write_weights};
use avsweep_pocket::record::{LossLog, Stage, TrainingRecord};
use avsweep_pocket::vocabulary::Vocabulary;
use clap::{Args, Parser, Subcommand};

/// Makes the pocket model family: data, base, three alignment vectors, measurements.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the held-out query files and the sweep files.
    Data(Common),
    /// Trains tokenizer and base.
    Base(Common),
    /// Trains the three alignment vectors on the base found in the folder.
    Align(Common),
    /// Measures the products with the engine and writes the model card.
    Measure(Common),
    /// Writes the model card again from the recorded numbers.
    Card(Common),
    /// Data, base, align and measure, in this order.
    All(Common),
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// The family's folder.
    #[arg(long)]
    out: PathBuf,
    /// Seed of everything random.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Steps a side of the measured grid from −1 to 1.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=200))]
    grid_steps: u16,
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("avsweep-pocket: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Data(common) => make_data(common),
        Command::Base(common) => make_base(common),
        Command::Align(common) => make_vectors(common),
        Command::Measure(common) => take_measurements(common),
        Command::Card(common) => write_card(&Layout::new(&common.out)),
        Command::All(common) => {
            make_data(common)?;
            make_base(common)?;
            make_vectors(common)?;
            take_measurements(common)
        }
    }
}

fn make_data(common: &Common) -> Result<()> {
    let corpus = Corpus::generate(common.seed)?;
    Layout::new(&common.out).write_queries(&corpus).context("writing the query files")?;
    eprintln!("data: {} training questions, {} held out", corpus.train.len(), corpus.held_out.len());
    Ok(())
}

fn make_base(common: &Common) -> Result<()> {
    let layout = Layout::new(&common.out);
    let corpus = Corpus::generate(common.seed)?;
    let settings = BaseSettings { seed: common.seed, ..BaseSettings::default() };
    let vocabulary = Vocabulary::train(&corpus.train, settings.vocabulary)?;
    let shape = Shape::pocket(vocabulary.size());
    let queries = encode_all(&vocabulary, &corpus.train)?;
    let mut stage = StageLog::start("base");
    let weights = base::train(&shape, &queries, &settings, |progress| stage.note(progress))?;
    layout.write_base_configuration(&shape, &vocabulary)?;
    write_weights(&layout.base_weights(), &weights, Stored::F32)?;
    let record = TrainingRecord {
        seed: common.seed,
        parameters: shape.parameter_count(),
        vocabulary: shape.vocab,
        trained_queries: queries.len(),
        base: Some(stage.end(settings.in_words())),
        align: None,
    };
    write_json(&layout.training_record(), &record)?;
    Ok(())
}

fn make_vectors(common: &Common) -> Result<()> {
    let layout = Layout::new(&common.out);
    let corpus = Corpus::generate(common.seed)?;
    let vocabulary = Vocabulary::load(&layout.tokenizer())?;
    let shape = layout.read_shape()?;
    let weights = read_weights(&layout.base_weights())?;
    let queries: Vec<EncodedQuery> = encode_all(&vocabulary, &corpus.train)?;
    let settings = AlignSettings { seed: common.seed, ..AlignSettings::default() };
    let mut stage = StageLog::start("align");
    let vectors = align::train(&shape, &weights, &queries, &settings, |progress| {
        stage.note(progress);
    })?;
    for (domain, vector) in vectors.iter().enumerate() {
        write_weights(&layout.vector(domain), vector, Stored::Bf16)
            .with_context(|| format!("the {} vector", DOMAINS[domain].name))?;
    }
    let mut record = read_record(&layout)?;
    record.align = Some(stage.end(settings.in_words()));
    write_json(&layout.training_record(), &record)?;
    Ok(())
}

fn take_measurements(common: &Common) -> Result<()> {
    let layout = Layout::new(&common.out);
    let mut probe = Probe::open(&layout).context("opening the products")?;
    let clock = Instant::now();
    let measurements: Measurements = measure(&mut probe, common.grid_steps, |done, points| {
        if done % (points / 10).max(1) == 0 {
            eprintln!("measure: {done} of {points} points, {:.0?}", clock.elapsed());
        }
    })?;
    write_json(&layout.measurements(), &measurements)?;
    write_card(&layout)?;
    eprintln!(
        "measure: {} of {} targets achieved, weakest rate {:.2}; {:.0?}",
        measurements.targets.iter().filter(|t| t.achieved).count(),
        measurements.targets.len(),
        measurements.targets.iter().map(|t| t.weakest).fold(1.0, f64::min),
        clock.elapsed()
    );
    Ok(())
}

fn write_card(layout: &Layout) -> Result<()> {
    let path = layout.measurements();
    let measurements: Measurements =
        serde_json::from_str(&read_text(&path)?).with_context(|| format!("reading {}", path.display()))?;
    write_text(&layout.card(), &card::render(&read_record(layout)?, &measurements))?;
    Ok(())
}

fn read_record(layout: &Layout) -> Result<TrainingRecord> {
    let path = layout.training_record();
    serde_json::from_str(&read_text(&path)?).with_context(|| format!("reading {}", path.display()))
}

/// Prints and keeps the losses of one stage.
struct StageLog {
    name: &'static str,
    clock: Instant,
    losses: LossLog,
}

impl StageLog {
    fn start(name: &'static str) -> Self {
        Self { name, clock: Instant::now(), losses: LossLog::default() }
    }

    fn note(&mut self, progress: Progress) {
        if let Some(entry) = self.losses.note(progress) {
            eprintln!(
                "{}: step {} of {}, loss {:.4}, {:.0?}",
                self.name,
                entry.step,
                progress.steps,
                entry.loss,
                self.clock.elapsed()
            );
        }
    }

    fn end(self, settings: String) -> Stage {
        Stage {
            settings,
            seconds: self.clock.elapsed().as_secs_f64().round(),
            losses: self.losses.into_entries(),
        }
    }
}
