//! Paths of an engine: patterns, what they accept, and who answers.
//!
//! A pattern is made of segments, not of a regular expression, so that which route answers a path
//! never depends on the order of a table.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::crypto::Sensitive;

use super::{Error, Field, Fields, HeldLease, Mount, Operation, Reply, Request};

/// Answers one call. A plain function, so that a route table is data.
pub type Handler<S> = fn(Arc<S>, Mount, Call) -> BoxFuture<'static, Reply>;

/// Tells whether the call's entry exists; `None` = unchecked.
pub type Existence<S> = fn(Arc<S>, Mount, Call) -> BoxFuture<'static, Result<Option<bool>, Error>>;

/// What a path has for each capture of its pattern, from left to right.
pub(super) type Captures = Vec<(&'static str, String)>;

/// One request, matched and decoded.
///
/// `Debug` is safe to log as far as captures are: it shows them, and field names only.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request; its raw data was taken out, [`Call::fields`] is what became of it. Only for
    /// renewal and revocation it is still there: what was answered with the lease.
    pub request: Request,
    pub(super) captures: Captures,
    /// The decoded fields; none in an existence check, which is answered before the caller is
    /// authorised.
    pub fields: Fields,
}

impl Call {
    /// Returns what the path has at `{name}`; never empty, without control characters and slashes.
    ///
    /// Asking for a name the pattern does not have is a defect: it fails in debug builds and is
    /// empty in release builds.
    #[must_use]
    pub fn capture(&self, name: &str) -> &str {
        let found = self.captures.iter().find(|(known, _)| *known == name);
        debug_assert!(found.is_some(), "the pattern has no capture {name}");
        found.map_or("", |(_, value)| value)
    }

    /// Returns what the path has at `{name}`; `None` if the pattern has no such capture.
    #[must_use]
    pub fn find_capture(&self, name: &str) -> Option<&str> {
        let found = self.captures.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the path and every field with its value as bytes: two calls give the same only if
    /// they ask for the same. Secrets are in it.
    #[must_use]
    pub fn asked(&self) -> Sensitive<Vec<u8>> {
        let fields = self.fields.canonical();
        let path = self.request.path.trim_end_matches('/');
        let mut bytes = Vec::with_capacity(8 + path.len() + fields.expose().len());
        bytes.extend_from_slice(&(path.len() as u64).to_be_bytes());
        bytes.extend_from_slice(path.as_bytes());
        bytes.extend_from_slice(fields.expose());
        Sensitive::new(bytes)
    }

    /// Returns the lease to be renewed or revoked.
    ///
    /// # Errors
    ///
    /// [`Error::User`] `no_lease` for any other request. Handlers of these two operations never
    /// see it: the router asks before.
    pub fn lease(&self) -> Result<&HeldLease, Error> {
        let lease = self.request.lease.as_ref();
        lease.ok_or_else(|| Error::user("no_lease", "the request names no lease. Name one."))
    }
}

/// What becomes of a request with parameters that an endpoint does not know.
///
/// Every endpoint has to say which: a misspelt `dry_run` or `hold` must not be learnt of after the
/// deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// It is answered with a warning, as Go's framework does: reads, and settings, which can be
    /// written again.
    Warned,
    /// It is refused with 400 `unknown_field` before anything else: acts that cannot be undone. So
    /// are a `null` where only a value has a meaning (400 `invalid_field`), and a parameter that
    /// contradicts the path.
    Refused,
    /// For a path on which settings and such an act are written alike. It is refused as above if the
    /// request names one of these fields, which make it the act, and if the unknown one is close to
    /// any field, which may have been meant. Else it is answered with a warning.
    RefusedWith(&'static [&'static str]),
}

/// What some operations on a path do.
pub struct Endpoint<S> {
    /// The operations answered.
    pub operations: &'static [Operation],
    /// One line for OpenAPI.
    pub summary: &'static str,
    /// What becomes of parameters that it does not know.
    pub unknown_fields: UnknownFields,
    /// The fields of a successful answer; empty if it has none.
    pub answers: &'static [Field],
    /// Who answers.
    pub handler: Handler<S>,
}

impl<S> fmt::Debug for Endpoint<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("operations", &self.operations)
            .field("summary", &self.summary)
            .field("unknown_fields", &self.unknown_fields)
            .finish_non_exhaustive()
    }
}

/// A path of the engine with everything that is known about it.
pub struct Route<S> {
    /// For example `{tenant}/versions/{version}`; empty = the mount itself.
    pub pattern: &'static str,
    /// One line for the list of paths.
    pub synopsis: &'static str,
    /// The full text of `path-help`.
    pub description: &'static str,
    /// Captures and parameters, of all operations together as in Go's framework.
    pub fields: &'static [Field],
    /// What the operations do; each operation at most once.
    pub endpoints: Vec<Endpoint<S>>,
    /// Decides between `create` and `update` for the host; without it every write is an update.
    pub existence: Option<Existence<S>>,
}

impl<S> Route<S> {
    /// Starts a route that has no fields and answers nothing yet; its description is its synopsis.
    #[must_use]
    pub const fn new(pattern: &'static str, synopsis: &'static str) -> Self {
        Self {
            pattern,
            synopsis,
            description: synopsis,
            fields: &[],
            endpoints: Vec::new(),
            existence: None,
        }
    }

    /// Sets the captures and parameters.
    #[must_use]
    pub const fn with_fields(mut self, fields: &'static [Field]) -> Self {
        self.fields = fields;
        self
    }

    /// Adds an endpoint that warns of parameters it does not know.
    #[must_use]
    pub fn with_endpoint(
        mut self,
        operations: &'static [Operation],
        summary: &'static str,
        handler: Handler<S>,
    ) -> Self {
        self.endpoints.push(Endpoint {
            operations,
            summary,
            unknown_fields: UnknownFields::Warned,
            answers: &[],
            handler,
        });
        self
    }

    /// Returns the endpoint that answers `operation`.
    #[must_use]
    pub fn endpoint(&self, operation: Operation) -> Option<&Endpoint<S>> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.operations.contains(&operation))
    }
}

impl<S> fmt::Debug for Route<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("pattern", &self.pattern)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Literal(&'static str),
    Capture(&'static str),
}

/// A parsed pattern: literal segments and captures of exactly one segment.
///
/// ```
/// use vault_plugin_secrets_smtp::logical::Pattern;
///
/// let pattern = Pattern::parse("{tenant}/versions/{version}").unwrap();
/// let captures = pattern.captures_of("acme/versions/3").unwrap();
/// assert_eq!(captures, [("tenant", "acme".to_string()), ("version", "3".to_string())]);
/// assert!(pattern.captures_of("acme/versions").is_none());
/// assert!(Pattern::parse("{tenant}//x").is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Segment>);

impl Pattern {
    /// Parses a pattern: segments joined by `/`, each a literal or a `{name}`; empty = the root.
    /// `None` for empty segments, stray braces and a name used twice.
    #[must_use]
    pub fn parse(pattern: &'static str) -> Option<Self> {
        if pattern.is_empty() {
            return Some(Self(Vec::new()));
        }
        let segments: Vec<Segment> = pattern
            .split('/')
            .map(parse_segment)
            .collect::<Option<_>>()?;
        let parsed = Self(segments);
        let mut names = parsed.names();
        names.sort_unstable();
        let unique = names.windows(2).all(|pair| pair.first() != pair.last());
        unique.then_some(parsed)
    }

    /// Returns the captures' names, from left to right.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.0
            .iter()
            .filter_map(|segment| match segment {
                Segment::Capture(name) => Some(*name),
                Segment::Literal(_) => None,
            })
            .collect()
    }

    /// Matches a whole path and returns what it has for each capture, or `None`.
    ///
    /// Paths with empty, `.` or `..` segments or control characters match nothing.
    #[must_use]
    pub fn captures_of(&self, path: &str) -> Option<Vec<(&'static str, String)>> {
        if path.is_empty() {
            return self.0.is_empty().then(Vec::new);
        }
        let mut parts = path.split('/');
        let mut captures = Vec::new();
        for segment in &self.0 {
            let part = parts.next().filter(|part| is_segment(part))?;
            match segment {
                Segment::Literal(literal) if *literal == part => {}
                Segment::Literal(_) => return None,
                Segment::Capture(name) => captures.push((*name, part.to_owned())),
            }
        }
        parts.next().is_none().then_some(captures)
    }

    /// Reports whether two patterns match exactly the same paths.
    pub(super) fn same_shape(&self, other: &Self) -> bool {
        self.shape() == other.shape()
    }

    /// Orders patterns so that of those matching a path, the one with the first literal that
    /// another has a capture for comes first. Total for patterns of different shape.
    pub(super) fn shape(&self) -> Vec<(bool, &'static str)> {
        self.0
            .iter()
            .map(|segment| match segment {
                Segment::Literal(literal) => (false, *literal),
                Segment::Capture(_) => (true, ""),
            })
            .collect()
    }
}

fn parse_segment(segment: &'static str) -> Option<Segment> {
    let inner = segment
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    let text = inner.unwrap_or(segment);
    if !is_segment(text) || text.contains(['{', '}']) {
        return None;
    }
    Some(match inner {
        Some(name) => Segment::Capture(name),
        None => Segment::Literal(text),
    })
}

fn is_segment(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &'static str, path: &str) -> bool {
        Pattern::parse(pattern).unwrap().captures_of(path).is_some()
    }

    #[test]
    fn a_capture_is_exactly_one_segment() {
        assert!(matches("{tenant}/rotate", "acme/rotate"));
        assert!(matches("", ""));
        for path in [
            "acme",
            "acme/rotate/x",
            "a/b/rotate",
            "/rotate",
            "acme/rotate/",
            "",
        ] {
            assert!(!matches("{tenant}/rotate", path), "{path}");
        }
    }

    #[test]
    fn segments_that_could_mislead_match_nothing() {
        for path in [".", "..", "a\nb", "a\0", "\u{85}"] {
            assert!(!matches("{tenant}", path), "{path:?}");
        }
        assert!(matches("{tenant}", "a..b"));
        assert!(matches("{tenant}", "{tenant}"));
    }

    #[test]
    fn malformed_patterns_do_not_parse() {
        for pattern in [
            "/", "/a", "a/", "a//b", "{}", "{a", "a}", "{a}b", "{a{b}}", "..", "{a}/{a}",
        ] {
            assert_eq!(Pattern::parse(pattern), None, "{pattern}");
        }
    }
}
