//! Module names as PEFT matches them: Python's regular expressions, and ends of names.

use fancy_regex::{Error, Regex};

/// A compiled pattern.
pub(super) struct Pattern(Regex);

impl Pattern {
    /// A pattern over whole names, as Python's `re.fullmatch`.
    pub(super) fn whole(pattern: &str) -> Result<Self, Box<Error>> {
        python_match(&format!("(?:{pattern})$"))
    }

    /// Whether a name matches. One on which the pattern runs wild does not.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.0.is_match(name).unwrap_or(false)
    }

    /// The number that the group `idx` stands for.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.0.captures(name).ok()??.name("idx")?.as_str().parse().ok()
    }
}

/// A pattern that is anchored at a name's start alone, as Python's `re.match`.
pub(super) fn python_match(pattern: &str) -> Result<Pattern, Box<Error>> {
    Regex::new(&format!("^(?:{pattern})")).map(Pattern).map_err(Box::new)
}

/// A module of this name, or anything inside it.
pub(super) fn module_pattern(name: &str) -> Result<Pattern, Box<Error>> {
    python_match(&format!(r"(^|.*\.){name}($|\..*)"))
}

/// Which modules are meant.
pub(super) enum Names {
    /// Whole names, or ends of names from a dot on.
    List(Vec<String>),
    /// A pattern over whole names.
    Pattern(Pattern),
    /// Every matrix but the embedding and the output head.
    AllLinear,
}

impl Names {
    /// Whether a module is meant.
    pub(super) fn matches(&self, module: &str) -> bool {
        match self {
            Self::List(list) => list.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }),
            Self::Pattern(pattern) => pattern.matches(module),
            Self::AllLinear => !module.ends_with("lm_head") && !module.ends_with("embed_tokens"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_modules_or_their_ends_and_patterns_whole_names() {
        let list = Names::List(vec!["q_proj".to_owned(), "lm_head".to_owned()]);
        assert!(list.matches("model.layers.0.self_attn.q_proj") && list.matches("lm_head"));
        assert!(!list.matches("model.layers.0.self_attn.xq_proj") && !list.matches("q_proj.inner"));
        let pattern = Pattern::whole(r".*\.(?!0\.)\d+\.self_attn\.(q|v)_proj").expect("well formed");
        assert!(pattern.matches("model.layers.1.self_attn.q_proj"));
        assert!(!pattern.matches("model.layers.0.self_attn.q_proj"));
        assert!(!pattern.matches("model.layers.1.self_attn.q_proj.lora"));
        let saved = module_pattern("lm_head").expect("well formed");
        assert!(saved.matches("lm_head") && saved.matches("model.lm_head.x") && !saved.matches("xlm_head"));
        assert!(Pattern::whole("(").is_err());
    }
}
