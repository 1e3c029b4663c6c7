//! When a server asks to be asked again.

use std::time::{Duration, SystemTime};

/// The wait that a `Retry-After` header asks for: whole seconds or an HTTP date (RFC 9110, 10.2.3).
///
/// A date in the past asks for no wait; `None` for a value of neither form.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds still mean "very long".
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_retry_after_is_read_or_refused_without_panic(value in ".{0,40}") {
            let _ = parse_retry_after(&value, SystemTime::UNIX_EPOCH);
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        // The date of RFC 9110's examples: 784,111,777 seconds after 1970.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        let read = |value| parse_retry_after(value, now);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read(" 0 "), Some(Duration::ZERO));
        assert_eq!(read("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(read("Sat, 05 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        for neither in ["", "soon", "-5", "1.5"] {
            assert_eq!(read(neither), None, "{neither:?}");
        }
    }
}
