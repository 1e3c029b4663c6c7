//! The sweep's facts in words.

use avsweep_domain::{Coverage, JudgeProvider, Strategy, SweepDefinition};

use super::{Fact, ReportData};

/// What the report states of its sweep, before what the caller adds.
///
/// Of a path only the last component is shown: a report is passed on, and where its maker keeps files is nobody's
/// business. Fingerprints say what the content was.
pub(super) fn facts(report: &ReportData<'_>, measured: usize) -> Vec<Fact> {
    let definition = report.definition;
    let mut facts = vec![Fact::new(
        "Base model",
        format!(
            "{}, {}, fingerprint {}",
            last_component(&definition.model.path),
            definition.model.dtype.as_str(),
            definition.model.fingerprint.short()
        ),
    )];
    for vector in &definition.vectors {
        facts.push(Fact::new(
            format!("Vector {}", vector.name),
            format!("{}, fingerprint {}", last_component(&vector.path), vector.fingerprint.short()),
        ));
    }
    for coefficient in definition.space.coefficients() {
        let range = &coefficient.range;
        let vector = definition.vectors.get(coefficient.vector).map_or("?", |vector| vector.name.as_str());
        let tensors = coefficient
            .tensors
            .as_ref()
            .map(|patterns| format!(", on {}", patterns.join(", ")))
            .unwrap_or_default();
        facts.push(Fact::new(
            format!("Coefficient {}", coefficient.name),
            format!(
                "{vector}, {} to {} by {} ({} values){tensors}",
                range.min(),
                range.max(),
                range.step(),
                range.count()
            ),
        ));
    }
    facts.push(Fact::new("Queries", queries(definition)));
    facts.push(Fact::new("Levels", definition.levels.names().join(" < ")));
    facts.push(Fact::new("Strategy", strategy(definition)));
    facts.push(Fact::new("Points measured", thousands(measured as u64)));
    facts.push(Fact::new("Likelihood", coverage(definition.evaluation.likelihood)));
    facts.push(Fact::new("Generation", generation(definition)));
    if definition.evaluation.generation != Coverage::None {
        facts.push(Fact::new("Judge", judge(definition)));
    }
    facts.push(Fact::new("Sweep fingerprint", definition.fingerprint().short()));
    facts.extend(report.facts.iter().cloned());
    facts
}

fn last_component(path: &str) -> &str {
    path.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(path)
}

fn queries(definition: &SweepDefinition) -> String {
    let parts: Vec<String> = definition
        .domains
        .iter()
        .map(|domain| {
            format!("{} {} search + {} confirm", domain.name, domain.search.len(), domain.confirm.len())
        })
        .collect();
    parts.join("; ")
}

fn strategy(definition: &SweepDefinition) -> String {
    match &definition.strategy {
        Strategy::Grid => match definition.space.grid_size() {
            Ok(size) => format!("grid of {} points", thousands(size)),
            Err(_) => "grid".to_owned(),
        },
        other => other.kind().to_owned(),
    }
}

fn coverage(coverage: Coverage) -> &'static str {
    match coverage {
        Coverage::None => "not measured",
        Coverage::Finalists => "at the best points of each target",
        Coverage::All => "at every point",
    }
}

fn generation(definition: &SweepDefinition) -> String {
    let evaluation = &definition.evaluation;
    let place = match evaluation.generation {
        Coverage::None => return "not measured".to_owned(),
        Coverage::Finalists => {
            format!("at the {} best points of each target", evaluation.finalists_per_target)
        }
        Coverage::All => "at every point".to_owned(),
    };
    let decode = &evaluation.decode;
    let how = if decode.temperature > 0.0 {
        format!("temperature {}, top-p {}, seed {}", decode.temperature, decode.top_p, decode.seed)
    } else {
        "greedy".to_owned()
    };
    let stop = match decode.stop.as_slice() {
        [] => String::new(),
        stops => format!(
            ", up to {}",
            stops.iter().map(|stop| format!("{stop:?}")).collect::<Vec<_>>().join(" or ")
        ),
    };
    format!("{place}; {how}, at most {} tokens{stop}", decode.max_new_tokens)
}

fn judge(definition: &SweepDefinition) -> String {
    match &definition.judge.provider {
        JudgeProvider::Reference { threshold } => {
            format!("nearest reference response, unclear below {threshold}")
        }
        JudgeProvider::Openai { model, .. } => format!("{model} over a chat-completions endpoint"),
    }
}

/// `9,261`
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_paths_are_written_for_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(9261), "9,261");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(last_component("/home/someone/models/base/"), "base");
        assert_eq!(last_component("medical.safetensors"), "medical.safetensors");
    }
}
