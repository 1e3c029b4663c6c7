//! Errors as one line of text.

use std::error::Error;

/// An error with all its sources in one line, for places that hold only text.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl std::fmt::Display for Layer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn a_chain_names_every_cause_once_outermost_first() {
        let inner = Layer("disk full", None);
        let middle = Layer("writing failed", Some(Box::new(inner)));
        assert_eq!(
            error_chain(&Layer("no report", Some(Box::new(middle)))),
            "no report: writing failed: disk full"
        );
        assert_eq!(error_chain(&Layer("alone", None)), "alone");
    }
}
