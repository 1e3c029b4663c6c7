//! Tensor name patterns: `*`, `?`, `[a-c]`, `{a,b}` and number ranges `{0..9}`.

use globset::{GlobBuilder, GlobMatcher};

/// Alternatives that one range may stand for; more is a slip of the pen.
const LONGEST_RANGE: u32 = 10_000;

/// A compiled pattern over whole tensor names.
#[derive(Debug)]
pub(crate) struct Pattern {
    matcher: GlobMatcher,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(pattern: &str) -> Result<Self, String> {
        let expanded = expand_ranges(pattern)?;
        let glob = GlobBuilder::new(&expanded)
            .literal_separator(false)
            .build()
            .map_err(|error| error.kind().to_string())?;
        Ok(Self { matcher: glob.compile_matcher() })
    }

    /// Whether the whole name matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name)
    }
}

/// Writes `{0..3}` as `{0,1,2,3}` (both ends included); other braces stay as they are.
fn expand_ranges(pattern: &str) -> Result<String, String> {
    let mut expanded = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(open) = rest.find('{') {
        let Some(length) = rest[open..].find('}') else {
            return Err("`{` without `}`".to_owned());
        };
        let inner = &rest[open + 1..open + length];
        expanded.push_str(&rest[..=open]);
        let alternatives = inner.split(',').map(expand_range).collect::<Result<Vec<_>, _>>()?;
        expanded.push_str(&alternatives.join(","));
        expanded.push('}');
        rest = &rest[open + length + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn expand_range(alternative: &str) -> Result<String, String> {
    let Some((first, last)) = alternative.split_once("..") else {
        return Ok(alternative.to_owned());
    };
    let number = |text: &str| {
        text.trim()
            .parse::<u32>()
            .map_err(|_| format!("`{text}` in range `{alternative}` is not a whole number"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("range `{alternative}` runs backwards"));
    }
    if last - first >= LONGEST_RANGE {
        return Err(format!("range `{alternative}` is longer than {LONGEST_RANGE}"));
    }
    Ok((first..=last).map(|index| index.to_string()).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn matching(pattern: &str) -> Vec<&'static str> {
        let names = [
            "model.embed_tokens.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.1.self_attn.q_proj.weight",
            "model.layers.10.mlp.up_proj.weight",
        ];
        let pattern = Pattern::parse(pattern).expect("the pattern is well formed");
        names.into_iter().filter(|name| pattern.matches(name)).collect()
    }

    #[test]
    fn a_range_stands_for_its_numbers_and_no_others() {
        assert_eq!(matching("model.layers.{0..9}.*").len(), 3);
        assert_eq!(matching("model.layers.{1,8..10}.*").len(), 3);
        assert_eq!(matching("model.layers.{2..9}.*").len(), 0);
    }

    #[test]
    fn stars_cross_dots_and_the_whole_name_must_match() {
        assert_eq!(matching("*").len(), 5);
        assert_eq!(matching("*.{q_proj,up_proj}.weight").len(), 4);
        assert_eq!(
            matching("model.layers.?.mlp*"),
            ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
        );
        assert_eq!(matching("model.layers").len(), 0);
    }

    #[test]
    fn malformed_patterns_say_what_is_wrong() {
        for (pattern, reason) in
            [("a{3..1}", "backwards"), ("a{1..x}", "whole number"), ("a{1..2", "without")]
        {
            let error = Pattern::parse(pattern).expect_err("the pattern is malformed");
            assert!(error.contains(reason), "{pattern}: {error}");
        }
    }
}
