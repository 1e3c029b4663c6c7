//! Levels: the ordered proficiency labels.

use serde::{Deserialize, Serialize};

/// Index of a level in its order, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u8);

impl Level {
    /// The index, for slices that hold one entry per level.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The ordered names of the levels; two to eight, unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Levels(Vec<String>);

/// Why names are no levels, or a name is no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelsError {
    /// Fewer than two or more than eight.
    #[error("{0} levels found; a sweep has 2 to 8")]
    Count(usize),
    /// A name stands twice.
    #[error("level '{0}' is listed twice")]
    Duplicate(String),
    /// A word that the grammar of targets needs for itself.
    #[error("level '{0}' is a reserved word: rename it")]
    Reserved(String),
    /// A name that the target grammar could not read back.
    #[error("level '{0}' must be non-empty and hold no '=', ',' or white space")]
    BadName(String),
    /// A name that is none of the levels.
    #[error("'{name}' is no level of this sweep; it has {known}")]
    Unknown {
        /// The name found.
        name: String,
        /// The names there are, joined.
        known: String,
    },
}

impl Levels {
    /// Labels and target words that no level may be called.
    const RESERVED: [&'static str; 4] = ["unclear", "refused", "any", "base"];

    /// Ordered levels, lowest first.
    ///
    /// # Errors
    /// When there are too few or too many, or a name is doubled, reserved or unreadable.
    pub fn new(names: Vec<String>) -> Result<Self, LevelsError> {
        if !(2..=8).contains(&names.len()) {
            return Err(LevelsError::Count(names.len()));
        }
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() || name.contains(|c: char| c == '=' || c == ',' || c.is_whitespace()) {
                return Err(LevelsError::BadName(name.clone()));
            }
            if Self::RESERVED.contains(&name.as_str()) {
                return Err(LevelsError::Reserved(name.clone()));
            }
            if names[..index].contains(name) {
                return Err(LevelsError::Duplicate(name.clone()));
            }
        }
        Ok(Self(names))
    }

    /// How many levels there are.
    #[expect(clippy::len_without_is_empty, reason = "never empty by construction")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The names, lowest level first.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// A level's name.
    ///
    /// # Panics
    /// When the level is not of this sweep: levels come from [`Levels::get`] or [`Levels::iter`].
    pub fn name(&self, level: Level) -> &str {
        &self.0[level.index()]
    }

    /// Every level, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Level> + use<> {
        (0..self.0.len() as u8).map(Level)
    }

    /// The level of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<Level, LevelsError> {
        self.0
            .iter()
            .position(|known| known == name)
            .map(|index| Level(index as u8))
            .ok_or_else(|| LevelsError::Unknown { name: name.to_owned(), known: self.0.join(", ") })
    }
}

impl Default for Levels {
    /// `avoidance < generic < expert`
    fn default() -> Self {
        Self(["avoidance", "generic", "expert"].map(str::to_owned).to_vec())
    }
}

impl TryFrom<Vec<String>> for Levels {
    type Error = LevelsError;

    fn try_from(names: Vec<String>) -> Result<Self, LevelsError> {
        Self::new(names)
    }
}

impl From<Levels> for Vec<String> {
    fn from(levels: Levels) -> Self {
        levels.0
    }
}
