//! The committed family: its files agree with the program, the training forward agrees with
//! the engine on them, and they do what the model card says.

use std::path::PathBuf;

use anyhow::{Context, Result};
use avsweep_pocket::align::merge;
use avsweep_pocket::batch::{Batch, EncodedQuery, encode_all};
use avsweep_pocket::card;
use avsweep_pocket::corpus::{Corpus, DOMAINS, QueryLine};
use avsweep_pocket::error::read_text;
use avsweep_pocket::measure::{Measurements, dominant, level_of};
use avsweep_pocket::model::{Llama, sum_by_row};
use avsweep_pocket::probe::{Probe, read_queries};
use avsweep_pocket::products::Layout;
use avsweep_pocket::record::TrainingRecord;
use avsweep_pocket::vocabulary::Vocabulary;
use candle_core::Device;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/pocket")
}

fn layout() -> Layout {
    Layout::new(folder())
}

fn measurements() -> Result<Measurements> {
    Ok(serde_json::from_str(&read_text(&layout().measurements())?)?)
}

fn record() -> Result<TrainingRecord> {
    Ok(serde_json::from_str(&read_text(&layout().training_record())?)?)
}

#[test]
fn query_files_hold_exactly_the_held_out_questions() -> Result<()> {
    let corpus = Corpus::generate(record()?.seed)?;
    for domain in 0..DOMAINS.len() {
        let found: Vec<String> =
            read_queries(&layout(), domain)?.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let wanted: Vec<String> = corpus
            .held_out_of(domain)
            .into_iter()
            .map(|query| serde_json::to_string(&QueryLine::from(query)))
            .collect::<Result<_, _>>()?;
        assert_eq!(found, wanted);
    }
    Ok(())
}

#[test]
fn committed_tokenizer_is_the_one_the_program_trains() -> Result<()> {
    let record = record()?;
    let corpus = Corpus::generate(record.seed)?;
    let trained = Vocabulary::train(&corpus.train, record.vocabulary)?;
    assert_eq!(trained.to_json()?, read_text(&layout().tokenizer())?);
    Ok(())
}

#[test]
fn products_stay_below_twelve_megabytes() -> Result<()> {
    let mut bytes = 0;
    for folder in [folder(), layout().base()] {
        for entry in std::fs::read_dir(&folder).context("listing the products")? {
            let metadata = entry?.metadata()?;
            bytes += if metadata.is_file() { metadata.len() } else { 0 };
        }
    }
    assert!(bytes <= 12_000_000, "{bytes} bytes");
    Ok(())
}

#[test]
fn engine_and_training_forward_agree_on_logits_and_scores() -> Result<()> {
    let layout = layout();
    let shape = layout.read_shape()?;
    let vocabulary = Vocabulary::load(&layout.tokenizer())?;
    let (base, vectors) = layout.read_weights()?;
    let corpus = Corpus::generate(record()?.seed)?;
    let queries = encode_all(&vocabulary, &corpus.held_out)?;
    let mut probe = Probe::open(&layout)?;
    for point in [[0.0; 3], [1.0, -1.0, 0.3]] {
        let weights = merge(&base, &vectors, &point)?;
        let model = Llama::new(&shape, &weights);
        let by_engine: Vec<[f64; 3]> = probe.scores(point)?.into_iter().flatten().collect();
        let batch = Batch::new(&queries.iter().collect::<Vec<_>>(), &Device::Cpu)?;
        let sums: Vec<f32> = sum_by_row(&model.token_log_probs(&batch)?, &batch)?.to_vec1()?;
        for (row, &sum) in sums.iter().enumerate() {
            let mean = f64::from(sum) / batch.lengths[row] as f64;
            let engine = by_engine[row / 3][row % 3];
            assert!((mean - engine).abs() < 1e-4, "row {row}: {mean} and {engine}");
        }
        // Every logit after a prompt, up to the constant that the softmax takes away.
        let query: &EncodedQuery = &queries[0];
        assert_eq!(probe.prompt_tokens(&corpus.held_out[0].text)?, query.prompt);
        let logits = probe.logits(&query.prompt)?;
        let last = &logits[logits.len() - 1];
        let single = Batch::new(&[query], &Device::Cpu)?;
        let log_probs: Vec<f32> = model.answer_log_probs(&single)?.get(0)?.to_vec1()?;
        let shift = last[0] - log_probs[0];
        for (logit, log_prob) in last.iter().zip(&log_probs) {
            assert!((logit - log_prob - shift).abs() < 1e-3, "{logit} {log_prob} {shift}");
        }
    }
    Ok(())
}

#[test]
fn own_coefficient_takes_each_domain_through_its_levels_while_the_others_stay() -> Result<()> {
    let mut probe = Probe::open(&layout())?;
    for domain in 0..DOMAINS.len() {
        for value in [-1.0, 0.0, 1.0] {
            let mut point = [0.0; 3];
            point[domain] = value;
            let rates = probe.rates(point)?;
            for (measured, &coefficient) in point.iter().enumerate() {
                let found = dominant(&rates.domains[measured]);
                assert_eq!(found, level_of(coefficient), "{point:?} {}", DOMAINS[measured].name);
            }
        }
    }
    Ok(())
}

#[test]
fn engine_repeats_the_committed_rates_of_every_target() -> Result<()> {
    let mut probe = Probe::open(&layout())?;
    let measured = measurements()?;
    assert_eq!(measured.targets.len(), 27);
    assert!(measured.targets.iter().filter(|target| target.achieved).count() >= 22);
    for target in &measured.targets {
        let again = probe.rates(target.best.point)?;
        for (found, wanted) in again.domains.iter().zip(&target.best.domains) {
            for (found, wanted) in found.iter().zip(wanted) {
                // One query may lie on the edge on another kind of processor.
                assert!((found - wanted).abs() < 1.5 / measured.queries as f64);
            }
        }
    }
    Ok(())
}

#[test]
fn card_is_what_record_and_measurements_render_to() -> Result<()> {
    assert_eq!(card::render(&record()?, &measurements()?), read_text(&layout().card())?);
    Ok(())
}
