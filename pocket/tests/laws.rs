//! Laws of the data, the tokenizer, the trainable model and the training steps.

use std::collections::HashSet;

use anyhow::Result;
use avsweep_pocket::align::{self, AlignSettings};
use avsweep_pocket::base::{self, BaseSettings};
use avsweep_pocket::batch::{Batch, EncodedQuery, encode_all};
use avsweep_pocket::corpus::{Corpus, DOMAINS, FORMS, Query};
use avsweep_pocket::model::{Llama, Shape, Weights, sum_by_row};
use avsweep_pocket::vocabulary::{ASSISTANT_ID, END_ID, USER_ID, Vocabulary};
use candle_core::Device;

const SMALL_VOCABULARY: usize = 600;

fn small_shape(vocabulary: &Vocabulary) -> Shape {
    Shape { hidden: 32, mlp: 48, ..Shape::pocket(vocabulary.size()) }
}

fn few(corpus: &Corpus, per_domain: usize) -> Vec<Query> {
    (0..DOMAINS.len())
        .flat_map(|d| corpus.train_of(d).into_iter().take(per_domain).cloned().collect::<Vec<_>>())
        .collect()
}

#[test]
fn every_domain_has_60_held_out_and_240_trained_questions() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    for domain in 0..DOMAINS.len() {
        assert_eq!(corpus.held_out_of(domain).len(), 60);
        assert_eq!(corpus.train_of(domain).len(), 240);
    }
    Ok(())
}

#[test]
fn ids_and_questions_are_unique_over_both_splits() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    let all: Vec<&Query> = corpus.train.iter().chain(&corpus.held_out).collect();
    let ids: HashSet<&str> = all.iter().map(|q| q.id.as_str()).collect();
    let texts: HashSet<&str> = all.iter().map(|q| q.text.as_str()).collect();
    assert_eq!(ids.len(), all.len());
    assert_eq!(texts.len(), all.len());
    Ok(())
}

#[test]
fn held_out_combination_is_never_trained_while_its_parts_are() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    let trained: HashSet<_> = corpus.train.iter().map(|q| (q.domain, q.topic, q.aspect, q.form)).collect();
    let mut held_out_by_form = [0; FORMS];
    for query in &corpus.held_out {
        let Query { domain, topic, aspect, form, .. } = *query;
        assert!(!trained.contains(&(domain, topic, aspect, form)), "{}", query.text);
        assert_eq!(trained.iter().filter(|t| (t.0, t.1, t.2) == (domain, topic, aspect)).count(), FORMS - 1);
        held_out_by_form[form] += 1;
    }
    assert!(held_out_by_form.iter().all(|&count| count == held_out_by_form[0]));
    Ok(())
}

#[test]
fn references_differ_between_levels_and_read_as_sentences() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    for query in corpus.train.iter().chain(&corpus.held_out) {
        let distinct: HashSet<&String> = query.references.iter().collect();
        assert_eq!(distinct.len(), 3, "{}", query.id);
        for text in query.references.iter().chain([&query.text]) {
            assert!(text.starts_with(|c: char| c.is_uppercase()), "{text}");
            assert!(text.ends_with(['.', '?']), "{text}");
            assert!(!text.contains("  ") && !text.contains(['{', '}', '|']), "{text}");
        }
    }
    Ok(())
}

#[test]
fn generic_and_expert_answers_belong_to_one_question_only() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    for level in [1, 2] {
        let answers: HashSet<&String> = corpus.held_out.iter().map(|q| &q.references[level]).collect();
        // The same sentence under two topics would make a level undecidable there.
        assert!(answers.len() + 2 >= corpus.held_out.len(), "{}", answers.len());
    }
    Ok(())
}

#[test]
fn corpus_and_tokenizer_are_functions_of_the_seed() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    assert_eq!(corpus, Corpus::generate(7)?);
    assert_ne!(corpus.held_out, Corpus::generate(8)?.held_out);
    assert_eq!(corpus.train, Corpus::generate(8)?.train);
    let first = Vocabulary::train(&corpus.train, SMALL_VOCABULARY)?.to_json()?;
    let second = Vocabulary::train(&corpus.train, SMALL_VOCABULARY)?.to_json()?;
    assert_eq!(first, second);
    Ok(())
}

#[test]
fn encoding_wraps_the_question_and_decodes_back() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    let vocabulary = Vocabulary::train(&corpus.train, SMALL_VOCABULARY)?;
    for query in corpus.held_out.iter().step_by(17) {
        let encoded = EncodedQuery::new(&vocabulary, query)?;
        assert_eq!(encoded.prompt.first(), Some(&USER_ID));
        assert_eq!(encoded.prompt.last(), Some(&ASSISTANT_ID));
        assert_eq!(vocabulary.decode(&encoded.prompt)?, query.text);
        for (answer, text) in encoded.answers.iter().zip(&query.references) {
            assert_eq!(answer.last(), Some(&END_ID));
            assert_eq!(&vocabulary.decode(answer)?, text);
        }
    }
    Ok(())
}

#[test]
fn first_answer_token_always_chooses_the_level_and_the_last_never_does() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    let vocabulary = Vocabulary::train(&corpus.train, SMALL_VOCABULARY)?;
    for query in encode_all(&vocabulary, &corpus.held_out)? {
        for (level, answer) in query.answers.iter().enumerate() {
            assert!(query.is_decision(level, 0));
            assert!(!query.is_decision(level, answer.len() - 1));
        }
    }
    Ok(())
}

#[test]
fn batching_does_not_change_an_answer_s_log_probability() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    let vocabulary = Vocabulary::train(&corpus.train, SMALL_VOCABULARY)?;
    let shape = small_shape(&vocabulary);
    let weights = shape.initial_weights(1, &Device::Cpu)?;
    let queries = encode_all(&vocabulary, &few(&corpus, 2))?;
    let sums = |queries: &[&EncodedQuery]| -> Result<Vec<f32>> {
        let batch = Batch::new(queries, &Device::Cpu)?;
        let log_probs = Llama::new(&shape, &weights).token_log_probs(&batch)?;
        Ok(sum_by_row(&log_probs, &batch)?.to_vec1()?)
    };
    let together = sums(&queries.iter().collect::<Vec<_>>())?;
    let mut alone = Vec::new();
    for query in &queries {
        alone.extend(sums(&[query])?);
    }
    for (a, b) in together.iter().zip(&alone) {
        assert!((a - b).abs() < 1e-3 * a.abs(), "{a} {b}");
    }
    Ok(())
}

#[test]
fn training_the_base_lowers_the_loss_and_repeats_exactly() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    let vocabulary = Vocabulary::train(&corpus.train, SMALL_VOCABULARY)?;
    let shape = small_shape(&vocabulary);
    let queries = encode_all(&vocabulary, &few(&corpus, 4))?;
    let settings = BaseSettings { epochs: 12, batch: 6, ..BaseSettings::default() };
    let train = || -> Result<(Weights, Vec<f32>)> {
        let mut losses = Vec::new();
        let weights = base::train(&shape, &queries, &settings, |p| losses.push(p.loss))?;
        Ok((weights, losses))
    };
    let (weights, losses) = train()?;
    assert!(losses[losses.len() - 1] < 0.7 * losses[0], "{losses:?}");
    let (again, losses_again) = train()?;
    assert_eq!(losses, losses_again);
    for (name, tensor) in &weights {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        assert_eq!(values, again[name].flatten_all()?.to_vec1::<f32>()?, "{name}");
    }
    Ok(())
}

#[test]
fn aligning_raises_expert_over_avoidance_in_its_own_domain_most() -> Result<()> {
    let corpus = Corpus::generate(7)?;
    let vocabulary = Vocabulary::train(&corpus.train, SMALL_VOCABULARY)?;
    let shape = small_shape(&vocabulary);
    let queries = encode_all(&vocabulary, &few(&corpus, 4))?;
    let base_settings = BaseSettings { epochs: 12, batch: 6, ..BaseSettings::default() };
    let base = base::train(&shape, &queries, &base_settings, |_| {})?;
    let settings = AlignSettings { steps: 24, batch: 4, ..AlignSettings::default() };
    let vectors = align::train(&shape, &base, &queries, &settings, |_| {})?;
    let batch = Batch::new(&queries.iter().collect::<Vec<_>>(), &Device::Cpu)?;
    let margins = |weights: &Weights| -> Result<Vec<f32>> {
        let log_probs = Llama::new(&shape, weights).token_log_probs(&batch)?;
        let sums: Vec<f32> = sum_by_row(&log_probs, &batch)?.to_vec1()?;
        Ok(sums.chunks_exact(3).map(|levels| levels[2] - levels[0]).collect())
    };
    let before = margins(&base)?;
    for (domain, vector) in vectors.iter().enumerate() {
        let after = margins(&align::merge(&base, std::slice::from_ref(vector), &[1.0])?)?;
        let mean_gain = |of: usize| {
            queries
                .iter()
                .zip(after.iter().zip(&before))
                .filter(|(q, _)| q.domain == of)
                .map(|(_, (a, b))| a - b)
                .sum::<f32>()
                / 4.0
        };
        for other in (0..DOMAINS.len()).filter(|&other| other != domain) {
            assert!(mean_gain(domain) > mean_gain(other), "{domain} {other}");
        }
        assert!(mean_gain(domain) > 0.5, "{}", mean_gain(domain));
    }
    Ok(())
}
