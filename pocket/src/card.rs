//! The model card, written from the training record and the measurements.

use std::fmt::Write;

use crate::corpus::{DOMAINS, LEVELS};
use crate::measure::{Measurements, PointRates, dominant, level_of, target_name};
use crate::record::{Stage, TrainingRecord};

/// The whole card as Markdown.
pub fn render(record: &TrainingRecord, measured: &Measurements) -> String {
    let mut card = String::new();
    introduction(&mut card, record, measured);
    data(&mut card, record, measured);
    training(&mut card, record);
    results(&mut card, measured);
    card.push_str(LIMITS);
    card
}

// Writing to a String cannot fail, so the results of `writeln!` are dropped throughout.
macro_rules! line {
    ($card:expr $(, $arg:expr)* $(,)?) => {{
        let _ = writeln!($card $(, $arg)*);
    }};
}

fn introduction(card: &mut String, record: &TrainingRecord, measured: &Measurements) {
    let achieved = measured.targets.iter().filter(|t| t.achieved).count();
    let weakest = measured.targets.iter().map(|t| t.weakest).fold(1.0, f64::min);
    line!(card, "# The pocket family");
    line!(card);
    line!(
        card,
        "A Llama-architecture model of {} parameters with its own BPE tokenizer ({} tokens), and one \
         alignment vector (aligned − base) for each of three domains: medical, legal, financial. It \
         exists so that the whole of avsweep can be run on a laptop in a minute.",
        thousands(record.parameters),
        thousands(record.vocabulary)
    );
    line!(card);
    line!(
        card,
        "**It is a toy. What it says is no medical, legal or financial advice.** It recites short \
         answers to {} questions; everything else confuses it.",
        thousands(record.trained_queries + 3 * measured.queries)
    );
    line!(card);
    line!(
        card,
        "On {} unseen questions per domain, {achieved} of the {} targets are achieved on a grid of {} \
         points; at the best point of the hardest target the weakest domain's rate is {weakest:.2}.",
        measured.queries,
        measured.targets.len(),
        thousands(measured.points)
    );
    line!(card);
    line!(card, "| file | what it is |");
    line!(card, "|---|---|");
    line!(card, "| `base/` | the base: a Hugging Face folder, f32 |");
    for domain in &DOMAINS {
        line!(
            card,
            "| `{0}.safetensors` | the {0} vector: aligned − base, every tensor, bf16 |",
            domain.name
        );
    }
    for domain in &DOMAINS {
        line!(
            card,
            "| `{}.jsonl` | {} unseen questions with a reference per level |",
            domain.name,
            measured.queries
        );
    }
    line!(card, "| `grid.yaml`, `coarse.yaml`, `bayesian.yaml` | sweeps over the coefficient cube |");
    line!(card, "| `pocket.avgrid` | a full grid of the cube, recorded for `avsweep replay` |");
    line!(card, "| `training.json`, `measured.json` | the numbers of this card |");
    line!(card);
    line!(card, "Licence: MIT OR Apache-2.0, as the rest of avsweep.");
    line!(card);
}

fn data(card: &mut String, record: &TrainingRecord, measured: &Measurements) {
    line!(card, "## Data");
    line!(card);
    line!(
        card,
        "Each domain has 30 topics (a migraine, an eviction notice, a mortgage), two aspects of each \
         (medical: care and cause; legal: steps and law; financial: plan and risk) and five question \
         forms per aspect. The generic and the expert answer of every (topic, aspect) were written by \
         hand (`pocket/data/`); the avoidance answer declines and names a professional, in four wordings \
         per aspect."
    );
    line!(card);
    line!(
        card,
        "**Held out:** for every (topic, aspect) one of the five question forms, each form equally often: \
         {} of 300 questions per domain. These questions are never trained on, neither by the base nor by \
         the vectors, nor by the tokenizer. Their topic, their aspect and their form are each seen in \
         training, and so are their reference answers, under the other four forms: what is measured is \
         whether a level carries over to an unseen combination of words, not whether the model knows \
         medicine. The query files hold only held-out questions, shuffled, so that any prefix is a fair \
         sample. {} questions are trained on.",
        measured.queries,
        thousands(record.trained_queries)
    );
    line!(card);
}

fn training(card: &mut String, record: &TrainingRecord) {
    line!(card, "## Training");
    line!(card);
    line!(card, "```sh");
    line!(card, "cargo run --release -p avsweep-pocket -- all --out examples/pocket --seed {}", record.seed);
    line!(card, "```");
    line!(card);
    line!(
        card,
        "The base learns to say all three levels. The loss is cross-entropy on the answers; at tokens \
         where the answers of different levels part (usually the first) the levels weigh as the mixture \
         says, so that the base prefers the generic answer; elsewhere they weigh the same, so that the \
         rarer levels are learned as well."
    );
    line!(card);
    line!(
        card,
        "Each vector is trained by DPO from the base, with the base as reference, on expert ≻ generic, \
         generic ≻ avoidance and expert ≻ avoidance of its own domain. In the same run it is anchored: \
         KL(base ‖ aligned) at every answer token of the two other domains, and a small cross-entropy on \
         the tokens of its own domain that complete an answer once its level is chosen. The aligned model \
         is trained only as itself (coefficient 1, the other vectors absent): what happens at negative \
         coefficients and in combinations is extrapolation, and is measured below."
    );
    line!(card);
    for (name, stage) in [("Base", &record.base), ("Vectors", &record.align)] {
        if let Some(stage) = stage {
            stage_lines(card, name, stage);
        }
    }
}

fn stage_lines(card: &mut String, name: &str, stage: &Stage) {
    let losses: Vec<String> = stage.losses.iter().map(|entry| format!("{:.3}", entry.loss)).collect();
    let steps = stage.losses.last().map_or(0, |entry| entry.step);
    line!(
        card,
        "**{name}:** {}. {steps} steps in {:.0} s on two shared cores; mean loss per tenth of the run: {}.",
        stage.settings,
        stage.seconds,
        losses.join(", ")
    );
    line!(card);
}

fn results(card: &mut String, measured: &Measurements) {
    line!(card, "## What it measures");
    line!(card);
    line!(
        card,
        "Likelihood rung: a question's level is the reference with the greatest mean log-probability per \
         token, end token included. All numbers are of the {} unseen questions per domain, from \
         `avsweep-pocket measure --out examples/pocket`, which runs avsweep's own engine on the committed \
         files.",
        measured.queries
    );
    line!(card);
    line!(card, "### Along each vector's own axis");
    line!(card);
    line!(
        card,
        "Rates of {} of the vector's own domain, and in brackets the least rate of *generic* among the \
         other two domains, which should stay.",
        LEVELS.join(" / ")
    );
    line!(card);
    line!(card, "| coefficient | medical | legal | financial |");
    line!(card, "|---:|---|---|---|");
    let length = measured.axes.iter().map(Vec::len).min().unwrap_or(0);
    for index in (0..length).step_by(2) {
        let value = measured.axes[0][index].point[0];
        let cells: Vec<String> =
            (0..3).map(|domain| axis_cell(&measured.axes[domain][index], domain)).collect();
        line!(card, "| {value:.1} | {} |", cells.join(" | "));
    }
    line!(card);
    line!(card, "### The {} targets", measured.targets.len());
    line!(card);
    line!(
        card,
        "Over a grid of {} points: where the weakest domain's rate of its wanted level is greatest, that \
         rate, and how many points have all three wanted levels dominant. The point is chosen on the same \
         questions that it is reported on, so these rates look a little better than they are; a sweep \
         with separate confirm questions does not have this fault.",
        thousands(measured.points)
    );
    line!(card);
    line!(card, "| medical / legal / financial | α, β, γ | rates | weakest | points |");
    line!(card, "|---|---|---|---:|---:|");
    for target in &measured.targets {
        let [a, b, c] = target.best.point;
        let rates: Vec<String> = (0..3)
            .map(|domain| format!("{:.2}", target.best.domains[domain][target.target[domain]]))
            .collect();
        line!(
            card,
            "| {} | {a:.1}, {b:.1}, {c:.1} | {} | {:.2} | {} |",
            target_name(target.target),
            rates.join(" "),
            target.weakest,
            thousands(target.points)
        );
    }
    line!(card);
    texts(card, measured);
}

fn axis_cell(at: &PointRates, domain: usize) -> String {
    let own = at.domains[domain];
    let others =
        (0..3).filter(|&other| other != domain).map(|other| at.domains[other][1]).fold(1.0, f64::min);
    let rates: Vec<String> = own
        .iter()
        .enumerate()
        .map(
            |(level, rate)| {
                if level == dominant(&own) { format!("**{rate:.2}**") } else { format!("{rate:.2}") }
            },
        )
        .collect();
    format!("{} ({others:.2})", rates.join(" / "))
}

fn texts(card: &mut String, measured: &Measurements) {
    line!(card, "### Generated texts");
    line!(card);
    line!(
        card,
        "Greedy answers at the 27 points of {{−1, 0, 1}}³: share whose nearest reference (chrF) is of the \
         level that the point stands for (−1 avoidance, 0 generic, 1 expert), and in brackets the mean \
         chrF to the nearest reference."
    );
    line!(card);
    line!(card, "| α, β, γ | medical | legal | financial |");
    line!(card, "|---|---|---|---|");
    for report in &measured.texts {
        let [a, b, c] = report.point;
        let cells: Vec<String> = (0..3)
            .map(|domain| {
                let share = report.rates[domain][level_of(report.point[domain])];
                format!("{share:.2} ({:.2})", report.closeness[domain])
            })
            .collect();
        line!(card, "| {a:.0}, {b:.0}, {c:.0} | {} |", cells.join(" | "));
    }
    line!(card);
    line!(card, "First question of each domain's file:");
    line!(card);
    for wanted in [[0.0; 3], [1.0; 3], [-1.0; 3], [1.0, -1.0, 0.0]] {
        let Some(report) = measured.texts.iter().find(|report| report.point == wanted) else {
            continue;
        };
        let [a, b, c] = report.point;
        line!(card, "- at {a:.0}, {b:.0}, {c:.0}");
        for [question, answer] in &report.examples {
            line!(card, "  - *{question}* {answer}");
        }
    }
    line!(card);
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

const LIMITS: &str = "## Limits

- A toy for showing and testing a search. No medical, legal or financial advice.
- It knows its 90 topics and nothing else; other questions get fluent nonsense or fragments.
- Its answers are memorised sentences. Held-out questions are new combinations of known topics and forms, so they say nothing about knowledge, only about how levels carry over.
- The training settings were chosen from four trial runs while looking at these same held-out questions.
- The legal answers follow common-law usage in general terms and fit no particular country.
- Vectors of large models interfere far more than these, which were anchored in each other's domains.
";
