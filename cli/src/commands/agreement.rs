//! How well a sweep's likelihoods predict its judge, and how far its ladder judges.

use std::fmt;

use anyhow::Result;
use avsweep_proto::v1;
use serde::Serialize;

use crate::connection::{Connection, explain};

/// How the rungs agree.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AgreementOutput {
    /// One entry per domain.
    pub(super) domains: Vec<DomainAgreement>,
    /// Absent without a ladder.
    pub(super) ladder: Option<LadderOutput>,
}

/// Spearman's rank correlation of the mean level on both rungs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DomainAgreement {
    pub(super) domain: String,
    /// Points measured in full on both rungs.
    pub(super) points: u64,
    pub(super) rank_correlation: Option<f64>,
}

/// How far the ladder judges, by what is measured so far.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LadderOutput {
    points: u64,
    first: u64,
    /// The least rank correlation of any domain that the sample leaves likely.
    correlation: Option<f64>,
    /// The share of the points that is judged for every target, and that as a number.
    share: Option<f64>,
    per_target: u64,
    wanted: u64,
    judged: u64,
    /// The share asks for more points than may be judged.
    cut: bool,
}

impl fmt::Display for LadderOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, first, per_target, wanted, judged, .. } = self;
        match self.share.zip(self.correlation) {
            None => write!(f, "{judged} points judged; {first} are judged before the share is known"),
            Some((share, correlation)) => {
                let percent = 100.0 * share;
                write!(
                    f,
                    "{judged} of {wanted} points judged: for each target the best {per_target} of {points} by likelihood \
                     ({percent:.1} %), as a correlation of at least {correlation:.2} asks for"
                )?;
                if self.cut { write!(f, ", cut off by evaluation.ladder.most") } else { Ok(()) }
            }
        }
    }
}

impl AgreementOutput {
    /// What it says, as facts of the sweep: names and values.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let domain = |domain: &DomainAgreement| {
            let name = format!("likelihood against judge, {}", domain.domain);
            Some((
                name,
                format!("rank correlation {:.2} at {} points", domain.rank_correlation?, domain.points),
            ))
        };
        let ladder = self.ladder.iter().map(|ladder| ("ladder".to_owned(), ladder.to_string()));
        self.domains.iter().filter_map(domain).chain(ladder).collect()
    }
}

/// How a sweep's rungs agree; `None` where nothing is judged.
pub(super) async fn ask(connection: &Connection, sweep: i64) -> Result<Option<AgreementOutput>> {
    let request = v1::AgreementRequest { sweep: sweep.to_string() };
    let response = connection.sweeps().agreement(request).await.map_err(explain)?.into_inner();
    let domain = |domain: v1::DomainAgreement| DomainAgreement {
        domain: domain.domain,
        points: domain.points,
        rank_correlation: domain.rank_correlation,
    };
    let ladder = |climb: v1::Climb| LadderOutput {
        points: climb.points,
        first: climb.first,
        correlation: climb.correlation,
        share: climb.share,
        per_target: climb.per_target,
        wanted: climb.wanted,
        judged: climb.judged,
        cut: climb.is_cut,
    };
    let domains: Vec<_> = response.domains.into_iter().map(domain).collect();
    Ok((!domains.is_empty()).then(|| AgreementOutput { domains, ladder: response.climb.map(ladder) }))
}
