//! Who may call what.

use std::fmt;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::{Choice, ConditionallySelectable as _};

use crate::authorization::RefusalCode;
use crate::{Secret, TransportError};

/// What the holder of a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Creates, reads and steers sweeps; may also read the metrics.
    User,
    /// Leases likelihood and generation jobs.
    Worker,
    /// Leases judgement jobs.
    Judge,
    /// Reads the metrics.
    Metrics,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::User, Self::Worker, Self::Judge, Self::Metrics];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Worker => "worker",
            Self::Judge => "judge",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The tokens that a server takes. A role may have several (while one replaces the other) or none (nobody gets in as
/// that role).
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    tokens: Vec<(Role, Secret)>,
}

impl Tokens {
    /// The tokens of every role.
    ///
    /// # Errors
    /// When two roles have the same token: it would not say who asks.
    pub fn new(tokens: impl IntoIterator<Item = (Role, Secret)>) -> Result<Self, TransportError> {
        let tokens: Vec<(Role, Secret)> = tokens.into_iter().collect();
        for (index, (first, token)) in tokens.iter().enumerate() {
            let twin =
                tokens[index + 1..].iter().find(|(second, other)| second != first && token.is_same(other));
            if let Some((second, _)) = twin {
                return Err(TransportError::SharedToken { first: *first, second: *second });
            }
        }
        Ok(Self { tokens })
    }

    /// Whether there is none at all, so that nobody could get in.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whose token this is. Every token is looked at, whichever matches.
    pub fn role(&self, presented: &[u8]) -> Option<Role> {
        let digest = blake3::hash(presented);
        let mut found = u8::MAX;
        for (role, token) in &self.tokens {
            let same: Choice = token.has_digest(&digest);
            found.conditional_assign(&(*role as u8), same);
        }
        Role::ALL.into_iter().find(|role| *role as u8 == found)
    }

    /// Whose request this is, by its `authorization: Bearer …` header, and whether `path` is for that role. `None` on
    /// paths that are open to everybody.
    ///
    /// # Errors
    /// Unauthenticated without a known token, forbidden with one of another role.
    pub fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Option<Role>, RefusalCode> {
        let Some(allowed) = allowed(path) else { return Ok(None) };
        let role = bearer(headers).and_then(|token| self.role(token)).ok_or(RefusalCode::Unauthenticated)?;
        if allowed.contains(&role) { Ok(Some(role)) } else { Err(RefusalCode::Forbidden) }
    }
}

/// The roles that may call `path`; `None` when it is open.
fn allowed(path: &str) -> Option<&'static [Role]> {
    match path.strip_prefix('/').unwrap_or(path).split('/').next().unwrap_or_default() {
        "grpc.health.v1.Health" | "healthz" | "readyz" => None,
        "avsweep.v1.JobService" => Some(&[Role::Worker, Role::Judge]),
        "metrics" => Some(&[Role::User, Role::Metrics]),
        // Sweeps, reflection, and whatever a later version adds without a line of its own here.
        _ => Some(&[Role::User]),
    }
}

/// The token of a request. The scheme's name is compared without case, as HTTP has it.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    // Two headers: whoever checks the first and whoever checks the last would disagree.
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tokens() -> Tokens {
        let token = |text| Secret::new(text, "a test").expect("a token");
        Tokens::new([
            (Role::User, token("user-1")),
            (Role::User, token("user-2")),
            (Role::Worker, token("worker-1")),
            (Role::Judge, token("judge-1")),
            (Role::Metrics, token("metrics-1")),
        ])
        .expect("distinct tokens")
    }

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn every_role_reaches_its_own_paths_only() {
        const SWEEPS: &str = "/avsweep.v1.SweepService/ListSweeps";
        const JOBS: &str = "/avsweep.v1.JobService/Lease";
        const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let tokens = tokens();
        for (token, role, paths) in [
            ("Bearer user-1", Role::User, &[SWEEPS, REFLECTION, "/metrics", "/"][..]),
            ("bearer user-2", Role::User, &[SWEEPS, REFLECTION, "/metrics", "/"]),
            ("Bearer worker-1", Role::Worker, &[JOBS]),
            ("Bearer judge-1", Role::Judge, &[JOBS]),
            ("Bearer metrics-1", Role::Metrics, &["/metrics"]),
        ] {
            for path in [SWEEPS, JOBS, REFLECTION, "/metrics", "/"] {
                let wanted = if paths.contains(&path) { Ok(Some(role)) } else { Err(RefusalCode::Forbidden) };
                assert_eq!(tokens.admit(path, &headers(token)), wanted, "{role} on {path}");
            }
        }
    }

    #[test]
    fn without_a_known_token_only_the_open_paths_answer() {
        let tokens = tokens();
        for headers in [
            HeaderMap::new(),
            headers("Bearer user-3"),
            headers("Bearer "),
            headers("Bearer"),
            headers("user-1"),
            headers("Basic user-1"),
        ] {
            for path in ["/avsweep.v1.SweepService/ListSweeps", "/metrics", "/", "", "healthz2", "/x/healthz"]
            {
                assert_eq!(tokens.admit(path, &headers), Err(RefusalCode::Unauthenticated), "{path}");
            }
            for path in ["/grpc.health.v1.Health/Check", "/healthz", "/readyz"] {
                assert_eq!(tokens.admit(path, &headers), Ok(None), "{path}");
            }
        }
        let mut twice = headers("Bearer user-1");
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer user-1"));
        assert_eq!(tokens.admit("/metrics", &twice), Err(RefusalCode::Unauthenticated));
    }

    #[test]
    fn two_roles_never_share_a_token() {
        let token = || Secret::new("same", "a test").expect("a token");
        let error = Tokens::new([(Role::User, token()), (Role::Judge, token())]).expect_err("shared");
        assert_eq!(
            error.to_string(),
            "the user token and the judge token are the same; every role wants a token of its own"
        );
        assert!(Tokens::new([(Role::User, token()), (Role::User, token())]).is_ok());
    }
}
