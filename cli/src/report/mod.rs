//! The picture of a sweep: one self-contained HTML page with heat maps, curves, targets and responses.
//!
//! The page is the template `assets/page.html` with its style, its scripts and the sweep's numbers put in. It loads
//! nothing: its content security policy forbids every request and every script but its own. Queries and responses
//! are untrusted text; they travel as JSON in which no markup can end the script element ([`embed`]), and the
//! page's scripts show them as text only.

mod embed;
mod facts;
mod payload;
#[cfg(test)]
mod tests;

use avsweep_domain::{
    Aggregate, Level, LevelRate, Point, PointTallies, Reading, SweepDefinition, Target, Verdict,
};

use crate::commands::convergence::ConvergenceOutput;

/// Everything that a report shows.
#[derive(Clone, Debug)]
pub(crate) struct ReportData<'a> {
    /// The sweep.
    pub(crate) definition: &'a SweepDefinition,
    /// When the numbers were read from the store, as text for people.
    pub(crate) generated_at: String,
    /// What was counted, per point; points without any result may be among them.
    pub(crate) tallies: &'a [PointTallies],
    /// What the answers were chosen by; the page opens on it.
    pub(crate) reading: Reading,
    /// How an answer's rates are summed up.
    pub(crate) aggregate: Aggregate,
    /// The table of targets.
    pub(crate) answers: Vec<TargetAnswer>,
    /// Responses worth showing.
    pub(crate) responses: Vec<ExampleResponse>,
    /// How the search converged; without steps where that cannot be said.
    pub(crate) convergence: ConvergenceOutput,
    /// Further facts of the sweep for its table of facts, such as state, progress and timing.
    pub(crate) facts: Vec<Fact>,
}

/// One row of the table of targets.
#[derive(Clone, Debug)]
pub(crate) struct TargetAnswer {
    /// What was asked for.
    pub(crate) target: Target,
    /// The best point; `None` when nothing was measured that could answer.
    pub(crate) point: Option<Point>,
    /// Per domain, the rate of the wanted level on the reported queries (see
    /// [`SweepDefinition::reported_set`]); `None` where the domain is free or nothing was measured.
    pub(crate) rates: Vec<Option<LevelRate>>,
    /// The same by the judge's verdicts; empty when nothing was judged.
    pub(crate) judged: Vec<Option<LevelRate>>,
    /// The aggregate of `rates`.
    pub(crate) aggregate: Option<f64>,
    /// Whether every domain's dominant level is the wanted one.
    /// `None` when the point is not measured on the reported queries.
    pub(crate) achieved: Option<bool>,
}

/// One response with what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct ExampleResponse {
    /// Where it was generated.
    pub(crate) point: Point,
    /// Why the point is of interest, for people (`origin`, `best for medical=expert,legal=generic`).
    pub(crate) point_label: String,
    /// Index of its query's domain.
    pub(crate) domain: usize,
    /// Its query.
    pub(crate) query_id: String,
    /// What was asked.
    pub(crate) question: String,
    /// What the model said.
    pub(crate) text: String,
    /// The judge's verdict.
    pub(crate) verdict: Option<Verdict>,
    /// The level that the likelihood rung gives the same query there.
    pub(crate) level_by_likelihood: Option<Level>,
}

/// A line of the table of facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// What is stated.
    pub(crate) label: String,
    /// Its value.
    pub(crate) value: String,
}

impl Fact {
    /// A fact.
    pub(crate) fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label: label.into(), value: value.into() }
    }
}

/// The page's scripts, in the order in which they build on each other; they share one scope.
const SCRIPTS: [&str; 12] = [
    include_str!("assets/data.js"),
    include_str!("assets/colour.js"),
    include_str!("assets/view.js"),
    include_str!("assets/draw.js"),
    include_str!("assets/maps.js"),
    include_str!("assets/strip.js"),
    include_str!("assets/pin.js"),
    include_str!("assets/curves.js"),
    include_str!("assets/convergence.js"),
    include_str!("assets/targets.js"),
    include_str!("assets/responses.js"),
    include_str!("assets/page.js"),
];

/// The report as the text of an HTML file.
///
/// # Errors
/// When a number or text cannot be written as JSON; none of the domain's values is known to cause that.
pub(crate) fn render(report: &ReportData<'_>) -> Result<String, serde_json::Error> {
    let payload = serde_json::to_string(&payload::payload(report))?;
    // Only has to differ from what a query or response can hold: an injected element would need it to run.
    let nonce = report.definition.fingerprint().to_string();
    Ok(embed::fill(
        include_str!("assets/page.html"),
        &[
            ("nonce", &nonce),
            ("title", &embed::escape_html(&report.definition.name)),
            ("style", include_str!("assets/style.css")),
            ("data", &embed::escape_script_json(&payload)),
            ("script", &SCRIPTS.concat()),
        ],
    ))
}
