//! Targets: a wanted level for every domain.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Level, Levels, nearest_name};

/// What is wanted of one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// This level.
    Level(Level),
    /// Whatever level the base model has (its dominant one).
    AsBase,
    /// Nothing: the domain is left free.
    Free,
}

/// A preference: what is wanted of every domain, in the domains' order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Target(Vec<Wanted>);

/// Why a text is no target of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A part is not `domain=level`.
    #[error("target part '{0}' is not of the form domain=level")]
    NotAPair(String),
    /// A domain that the sweep does not have.
    #[error("target names domain '{name}', which the sweep does not have; it has {known}{}", hint(.nearest))]
    UnknownDomain {
        /// The name found.
        name: String,
        /// The domains there are, joined.
        known: String,
        /// The nearest known name.
        nearest: Option<String>,
    },
    /// A level that the sweep does not have.
    #[error(
        "target asks for level '{name}' of domain '{domain}'; the levels are {known} (or 'any', 'base'){}",
        hint(.nearest)
    )]
    UnknownLevel {
        /// The domain.
        domain: String,
        /// The level found.
        name: String,
        /// The levels there are, joined.
        known: String,
        /// The nearest known name.
        nearest: Option<String>,
    },
    /// A domain stands twice.
    #[error("target names domain '{0}' twice")]
    DuplicateDomain(String),
    /// A domain is left out.
    #[error("target says nothing of domain '{0}': write {0}=LEVEL, {0}=base or {0}=any")]
    MissingDomain(String),
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean '{name}'?)")).unwrap_or_default()
}

impl Target {
    /// A target with these wants, one per domain.
    pub fn new(wanted: Vec<Wanted>) -> Self {
        Self(wanted)
    }

    /// What is wanted, one entry per domain.
    pub fn wanted(&self) -> &[Wanted] {
        &self.0
    }

    /// Reads `medical=expert,legal=any,financial=base`: every domain exactly once, in any order.
    ///
    /// # Errors
    /// When a part is malformed, or a domain or level is unknown, doubled or missing.
    pub fn parse(text: &str, domains: &[&str], levels: &Levels) -> Result<Self, TargetError> {
        let mut wanted: Vec<Option<Wanted>> = vec![None; domains.len()];
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (domain, level) =
                part.split_once('=').ok_or_else(|| TargetError::NotAPair(part.to_owned()))?;
            let (domain, level) = (domain.trim(), level.trim());
            let index = domains.iter().position(|known| *known == domain).ok_or_else(|| {
                TargetError::UnknownDomain {
                    name: domain.to_owned(),
                    known: domains.join(", "),
                    nearest: nearest_name(domain, domains.iter().copied()).map(str::to_owned),
                }
            })?;
            let want = match level {
                "any" => Wanted::Free,
                "base" => Wanted::AsBase,
                name => Wanted::Level(levels.get(name).map_err(|_| TargetError::UnknownLevel {
                    domain: domain.to_owned(),
                    name: name.to_owned(),
                    known: levels.names().join(", "),
                    nearest: nearest_name(name, levels.names().iter().map(String::as_str)).map(str::to_owned),
                })?),
            };
            if wanted[index].replace(want).is_some() {
                return Err(TargetError::DuplicateDomain(domain.to_owned()));
            }
        }
        wanted
            .into_iter()
            .zip(domains)
            .map(|(want, domain)| want.ok_or_else(|| TargetError::MissingDomain((*domain).to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Every combination of a level per domain, Lᴷ of them; the last domain varies fastest.
    pub fn all(domains: usize, levels: &Levels) -> Vec<Self> {
        let mut targets = vec![Vec::new()];
        for _ in 0..domains {
            targets = targets
                .into_iter()
                .flat_map(|target: Vec<Wanted>| {
                    levels.iter().map(move |level| {
                        let mut longer = target.clone();
                        longer.push(Wanted::Level(level));
                        longer
                    })
                })
                .collect();
        }
        targets.into_iter().map(Self).collect()
    }

    /// The text form that [`Target::parse`] reads.
    pub fn display<'a>(&'a self, domains: &'a [&'a str], levels: &'a Levels) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            for (index, (want, domain)) in self.0.iter().zip(domains).enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let level = match want {
                    Wanted::Level(level) => levels.name(*level),
                    Wanted::AsBase => "base",
                    Wanted::Free => "any",
                };
                write!(f, "{comma}{domain}={level}")?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAINS: [&str; 3] = ["medical", "legal", "financial"];

    #[test]
    fn every_target_reads_back_from_its_text() {
        let levels = Levels::default();
        let targets = Target::all(3, &levels);
        assert_eq!(targets.len(), 27);
        for target in targets {
            let text = target.display(&DOMAINS, &levels).to_string();
            assert_eq!(Target::parse(&text, &DOMAINS, &levels), Ok(target));
        }
        let mixed = "legal=any,financial=base,medical=expert";
        let target = Target::parse(mixed, &DOMAINS, &levels).expect("a target");
        assert_eq!(target.wanted(), [Wanted::Level(Level(2)), Wanted::Free, Wanted::AsBase]);
    }

    #[test]
    fn bad_targets_say_what_is_wanted() {
        let levels = Levels::default();
        let error = |text: &str| Target::parse(text, &DOMAINS, &levels).expect_err("bad").to_string();
        assert!(error("medcal=expert,legal=any,financial=any").contains("did you mean 'medical'?"));
        assert!(error("medical=export,legal=any,financial=any").contains("did you mean 'expert'?"));
        assert!(error("medical=expert,legal=any").contains("'financial'"));
        assert!(error("medical").contains("domain=level"));
        assert!(error("medical=any,medical=any").contains("twice"));
    }
}
