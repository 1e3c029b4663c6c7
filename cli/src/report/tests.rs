//! Laws of the report: it stays one inert file, and it holds the numbers it was given.

use avsweep_domain::{
    Aggregate, Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint,
    JudgeProvider, JudgeSettings, JudgementTally, Label, Level, LevelRate, Levels, LikelihoodTally, Message,
    ModelSource, Normalisation, Point, PointId, PointTallies, Query, Range, Reading, Role, SetTallies, Space,
    Strategy, SweepDefinition, Ticks, VectorSource, Verdict,
};
use serde_json::Value;

use super::{ExampleResponse, Fact, ReportData, TargetAnswer, render};
use crate::commands::convergence::{ConvergenceOutput, StepOutput};

const HOSTILE: &str =
    "</script><img src=x onerror=alert(1)><!--<script>\u{2028}{{script}} & 'quoted' \"twice\"";

/// A sweep over `counts.len()` coefficients with that many values each, around zero by 0.1.
fn definition(counts: &[i32]) -> SweepDefinition {
    let fingerprint = Fingerprint::of(b"content");
    let coefficients = counts
        .iter()
        .enumerate()
        .map(|(index, count)| Coefficient {
            name: format!("c{index}"),
            vector: index,
            tensors: (index == 1).then(|| vec!["model.layers.{0..9}.*".to_owned()]),
            range: Range::new(
                Ticks::new(-(count / 2) * 1000),
                Ticks::new((count - 1 - count / 2) * 1000),
                Ticks::new(1000),
            )
            .expect("divides"),
        })
        .collect();
    let query = |id: String| Query {
        id,
        messages: vec![Message { role: Role::User, content: HOSTILE.to_owned() }],
        references: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
    };
    SweepDefinition {
        name: "report-test".to_owned(),
        model: ModelSource { path: "/home/someone/private/base".to_owned(), dtype: Dtype::F32, fingerprint },
        vectors: (0..counts.len())
            .map(|index| VectorSource {
                name: format!("v{index}"),
                path: format!("/home/someone/private/v{index}.safetensors"),
                fingerprint,
            })
            .collect(),
        space: Space::new(coefficients).expect("names differ"),
        levels: Levels::default(),
        domains: ["medical", "legal"]
            .map(|name| DomainDefinition {
                name: name.to_owned(),
                search: vec![query(format!("{name}-s"))],
                confirm: vec![query(format!("{name}-c"))],
            })
            .to_vec(),
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: Coverage::All,
            generation: Coverage::Finalists,
            finalists_per_target: 1,
            decode: DecodeSettings::greedy(64),
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.2 }, rubric: String::new() },
    }
}

fn report<'a>(definition: &'a SweepDefinition, tallies: &'a [PointTallies]) -> ReportData<'a> {
    ReportData {
        definition,
        generated_at: "2025-01-02 03:04 UTC".to_owned(),
        tallies,
        reading: Reading::Likelihood(Normalisation::Mean),
        aggregate: Aggregate::Min,
        answers: vec![],
        responses: vec![],
        convergence: ConvergenceOutput {
            targets: 9,
            steps: vec![StepOutput { evaluations: 3, mean: 0.1, worst: 0.25, bound: 0.5, certain: 2 }],
        },
        facts: vec![],
    }
}

/// Counts that differ from point to point and domain to domain: `number` tells them apart.
fn likelihood(number: u32) -> Vec<LikelihoodTally> {
    (0..2)
        .map(|domain| {
            let first = (number + domain) % 41;
            LikelihoodTally {
                queries: 40,
                counts: [vec![first, 40 - first, 0], vec![0, first, 40 - first], vec![40 - first, 0, first]],
                mean_log_prob_micronats: vec![-1, -2, -3],
            }
        })
        .collect()
}

fn grid(definition: &SweepDefinition) -> Vec<PointTallies> {
    definition
        .space
        .grid()
        .enumerate()
        .map(|(index, point)| PointTallies {
            id: PointId(index as i64),
            point,
            search: SetTallies { likelihood: Some(likelihood(index as u32)), judgement: None },
            confirm: SetTallies::default(),
        })
        .collect()
}

/// The JSON that the page embeds.
fn embedded(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"report-data\">").expect("the data's element");
    let (json, _) = rest.split_once("</script>").expect("its end");
    serde_json::from_str(json).expect("JSON")
}

/// The integers of a packed array, decoded by a base64 reader of the tests' own.
fn unpacked(packed: &Value) -> Vec<u32> {
    let width = packed["width"].as_u64().expect("a width") as usize;
    let digits: Vec<u32> = packed["data"]
        .as_str()
        .expect("base64")
        .bytes()
        .filter(|byte| *byte != b'=')
        .map(|byte| match byte {
            b'A'..=b'Z' => u32::from(byte - b'A'),
            b'a'..=b'z' => u32::from(byte - b'a') + 26,
            b'0'..=b'9' => u32::from(byte - b'0') + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other} is no base64"),
        })
        .collect();
    let bits: Vec<u32> =
        digits.iter().flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1)).collect();
    let bytes: Vec<u32> =
        bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit)).collect();
    bytes
        .chunks_exact(width)
        .map(|number| number.iter().rev().fold(0, |value, byte| value << 8 | byte))
        .collect()
}

fn hostile_response() -> ExampleResponse {
    ExampleResponse {
        point: Point::origin(3),
        point_label: HOSTILE.to_owned(),
        domain: 0,
        query_id: HOSTILE.to_owned(),
        question: HOSTILE.to_owned(),
        text: HOSTILE.to_owned(),
        verdict: Some(Verdict {
            label: Label::Unclear,
            confidence: Some(0.5),
            reason: Some(HOSTILE.to_owned()),
        }),
        level_by_likelihood: Some(Level(2)),
    }
}

#[test]
fn hostile_text_stays_text() {
    let definition = definition(&[3, 3, 3]);
    let tallies = grid(&definition);
    let mut data = report(&definition, &tallies);
    data.responses.push(hostile_response());
    data.facts.push(Fact::new(HOSTILE, HOSTILE));
    let clean = render(&report(&definition, &tallies)).expect("renders");
    let page = render(&data).expect("renders");
    for markup in ["</script", "<script", "<img", "<!--", "onerror=alert(1)>"] {
        assert_eq!(page.matches(markup).count(), clean.matches(markup).count(), "{markup}");
    }
    let shown = embedded(&page);
    assert_eq!(shown["responses"][0]["text"], HOSTILE);
    assert_eq!(shown["responses"][0]["verdict"], "unclear");
    let facts = shown["facts"].as_array().expect("facts");
    assert_eq!(facts.last().expect("one was added")[1], HOSTILE);
}

#[test]
fn the_page_refers_to_nothing_outside_itself() {
    let definition = definition(&[3, 3]);
    let tallies = grid(&definition);
    let page = render(&report(&definition, &tallies)).expect("renders");
    for reference in [
        "http://",
        "https://",
        "//cdn",
        "@import",
        "url(",
        "<link rel=\"stylesheet\"",
        "<script src",
        "innerHTML",
    ] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(!page.contains("{{"), "a part was not filled in");
    assert!(!page.contains("/home/someone"), "a path of its maker's machine");
}

#[test]
fn embedded_numbers_are_the_tallies() {
    let definition = definition(&[5, 4, 3]);
    let mut tallies = grid(&definition);
    // One point judged on the confirm queries, one without any result.
    tallies[7].confirm.judgement = Some(vec![
        JudgementTally { queries: 300, counts: vec![1, 2, 290], unclear: 4, refused: 3 },
        JudgementTally { queries: 20, counts: vec![20, 0, 0], unclear: 0, refused: 0 },
    ]);
    tallies[11].search = SetTallies::default();
    let page = render(&report(&definition, &tallies)).expect("renders");
    let shown = embedded(&page);
    let measured: Vec<&PointTallies> =
        tallies.iter().enumerate().filter(|(index, _)| *index != 11).map(|(_, point)| point).collect();
    assert_eq!(shown["count"], measured.len());

    let coordinates = unpacked(&shown["points"]);
    for (row, point) in measured.iter().enumerate() {
        for (index, value) in point.point.values().iter().enumerate() {
            let position = coordinates[row * 3 + index] as usize;
            assert_eq!(shown["coefficients"][index]["values"][position], value.get());
        }
    }
    let layers = shown["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 4, "three readings of the search set, one of the confirm set");
    assert_eq!(layers[0]["normalisation"], "mean");
    assert_eq!(shown["layer"], 0);
    for (layer, normalisation) in layers.iter().zip(Normalisation::ALL) {
        assert_eq!(layer["rows"], Value::Null);
        let expected: Vec<u32> = measured
            .iter()
            .flat_map(|point| point.search.likelihood.iter().flatten())
            .flat_map(|tally| tally.counts[normalisation.index()].clone())
            .collect();
        assert_eq!(unpacked(&layer["counts"]), expected);
        assert_eq!(unpacked(&layer["asked"]), vec![40; measured.len() * 2]);
    }
    let judged = &layers[3];
    assert_eq!((&judged["reading"], &judged["set"]), (&"judgement".into(), &"confirm".into()));
    assert_eq!(unpacked(&judged["rows"]), [7]);
    assert_eq!(unpacked(&judged["asked"]), [300, 20]);
    assert_eq!(unpacked(&judged["counts"]), [1, 2, 290, 4, 3, 20, 0, 0, 0, 0]);
}

#[test]
fn a_full_cube_takes_less_than_a_megabyte_and_a_half() {
    let mut definition = definition(&[21, 21, 21]);
    let third = DomainDefinition { name: "financial".to_owned(), ..definition.domains[0].clone() };
    definition.domains.push(third);
    let mut tallies = grid(&definition);
    for point in &mut tallies {
        if let Some(domains) = &mut point.search.likelihood {
            domains.push(domains[0].clone());
        }
    }
    let page = render(&report(&definition, &tallies)).expect("renders");
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
}

#[test]
fn any_number_of_coefficients_and_no_results_render() {
    for counts in [&[21][..], &[5, 1], &[3, 4, 5], &[2; 9]] {
        let definition = definition(counts);
        let tallies = grid(&definition);
        for tallies in [&tallies[..], &tallies[..1], &[]] {
            let shown = embedded(&render(&report(&definition, tallies)).expect("renders"));
            assert_eq!(shown["coefficients"].as_array().expect("axes").len(), counts.len());
            assert_eq!(shown["count"], tallies.len());
            assert_eq!(shown["layers"].as_array().expect("layers").is_empty(), tallies.is_empty());
        }
    }
}

#[test]
fn judged_results_alone_open_the_judged_layer() {
    let definition = definition(&[3, 3]);
    let mut tallies = grid(&definition);
    for point in &mut tallies {
        point.search = SetTallies {
            likelihood: None,
            judgement: Some(vec![
                JudgementTally { queries: 2, counts: vec![1, 0, 1], unclear: 0, refused: 0 };
                2
            ]),
        };
    }
    let mut data = report(&definition, &tallies);
    data.reading = Reading::Judgement;
    let shown = embedded(&render(&data).expect("renders"));
    assert_eq!(shown["layers"].as_array().expect("layers").len(), 1);
    assert_eq!(shown["layers"][0]["reading"], "judgement");
}

#[test]
fn points_off_the_grid_are_kept_apart_from_the_axes() {
    let definition = definition(&[3, 3]);
    let mut tallies = grid(&definition);
    let sampled = PointTallies { point: "0.05,0".parse().expect("a point"), ..tallies[0].clone() };
    tallies.push(sampled);
    let shown = embedded(&render(&report(&definition, &tallies)).expect("renders"));
    assert_eq!(shown["coefficients"][0]["values"], serde_json::json!([-1000, 0, 500, 1000]));
    assert_eq!(shown["coefficients"][0]["axis"], serde_json::json!([0, 1, 3]));
    assert_eq!(shown["coefficients"][1]["axis"], Value::Null);
}

#[test]
fn answers_carry_counts_and_wants() {
    let definition = definition(&[3, 3]);
    let mut data = report(&definition, &[]);
    let target = definition.target("medical=expert,legal=base").expect("a target");
    data.answers.push(TargetAnswer {
        target,
        point: Some("0.1,-0.1".parse().expect("a point")),
        rates: vec![Some(LevelRate::new(18, 20)), None],
        judged: vec![],
        aggregate: Some(0.9),
        achieved: Some(true),
    });
    let shown = embedded(&render(&data).expect("renders"));
    assert_eq!(
        shown["answers"][0],
        serde_json::json!({
            "wanted": [2, "base"], "point": [1000, -1000], "rates": [[18, 20], null], "judged": [],
            "aggregate": 0.9, "achieved": true
        })
    );
}
