//! The router: from a request to the handler that answers it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::decode::{self, Decoded};
use super::path::Captures;
use super::{
    Call, Data, Error, Field, Fields, Mount, Operation, Pattern, Reply, Request, Response,
};
use super::{Route, help};

/// Names of unknown parameters are the caller's text: at most this many, this long, are repeated.
const MAX_NAMES: usize = 20;
const MAX_NAME_CHARS: usize = 64;

/// A defect of a route table, found by [`Router::check`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RouteError {
    /// Not segments and `{name}`s, or a name used twice.
    #[error("pattern `{0}` cannot be parsed")]
    Pattern(&'static str),
    /// Two patterns match the same paths.
    #[error("patterns `{0}` and `{1}` match the same paths")]
    Ambiguous(&'static str, &'static str),
    /// An operation has two endpoints, or is one that is never routed.
    #[error("pattern `{0}` cannot route `{name}` there", name = .1.as_str())]
    Operation(&'static str, Operation),
    /// A capture is not among the fields, which describe it.
    #[error("pattern `{0}` has a capture `{1}` that no field describes")]
    Capture(&'static str, &'static str),
    /// A field is declared twice, or its default or example is not a value of its kind.
    #[error("pattern `{0}` declares field `{1}` wrongly")]
    Field(&'static str, &'static str),
}

/// A table of routes over an engine's state `S`.
///
/// Of all patterns that match a path, the one with the leftmost literal wins; the order of the
/// table means nothing. Ticks and leases are not routed: the engine handles them before.
pub struct Router<S> {
    help: &'static str,
    /// In matching order.
    routes: Vec<(Pattern, Route<S>)>,
    unparsable: Option<&'static str>,
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes()).finish()
    }
}

impl<S> Router<S> {
    /// Builds a router. Defects of the table do not fail here, where an operator would meet them,
    /// but in [`Router::check`], which a test calls.
    #[must_use]
    pub fn new(routes: Vec<Route<S>>) -> Self {
        let mut unparsable = None;
        let mut parsed: Vec<(Pattern, Route<S>)> = routes
            .into_iter()
            .filter_map(|route| {
                let pattern = Pattern::parse(route.pattern);
                if pattern.is_none() {
                    unparsable = Some(route.pattern);
                }
                pattern.map(|pattern| (pattern, route))
            })
            .collect();
        parsed.sort_by_cached_key(|(pattern, _)| pattern.shape());
        Self {
            help: "",
            routes: parsed,
            unparsable,
        }
    }

    /// Sets the text that introduces the mount's own help.
    #[must_use]
    pub const fn with_help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    /// Returns every route, in matching order.
    pub fn routes(&self) -> impl Iterator<Item = &Route<S>> {
        self.routes.iter().map(|(_, route)| route)
    }

    /// Looks for defects in the table.
    ///
    /// # Errors
    ///
    /// The first [`RouteError`] found.
    pub fn check(&self) -> Result<(), RouteError> {
        if let Some(pattern) = self.unparsable {
            return Err(RouteError::Pattern(pattern));
        }
        // Sorted by shape, so equal shapes are neighbours.
        for pair in self.routes.windows(2) {
            if let [(left, first), (right, second)] = pair
                && left.same_shape(right)
            {
                return Err(RouteError::Ambiguous(first.pattern, second.pattern));
            }
        }
        for (pattern, route) in &self.routes {
            check_operations(route)?;
            check_fields(pattern, route)?;
        }
        Ok(())
    }

    /// Finds the route of a path and what the path has for its captures.
    fn find(&self, request: &Request) -> Option<(&Route<S>, Captures)> {
        let path = match request.operation {
            // The host appends a slash to list paths, and operators do so asking for help.
            Operation::List | Operation::Scan | Operation::Help => {
                request.path.strip_suffix('/').unwrap_or(&request.path)
            }
            _ => &request.path,
        };
        self.routes.iter().find_map(|(pattern, route)| {
            let captures = pattern.captures_of(path)?;
            Some((route, captures))
        })
    }
}

impl<S: Send + Sync + 'static> Router<S> {
    /// Answers a request.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedPath`] and [`Error::UnsupportedOperation`] for what no route has,
    /// [`Error::User`] for fields that do not decode, else the handler's.
    ///
    /// # Cancel safety
    ///
    /// The handler's.
    pub async fn handle(&self, state: &Arc<S>, mount: &Mount, mut request: Request) -> Reply {
        if request.operation == Operation::Help {
            return self.answer_help(&request);
        }
        let (route, captures) = self.find(&request).ok_or(Error::UnsupportedPath)?;
        let endpoint = route
            .endpoint(request.operation)
            .ok_or(Error::UnsupportedOperation)?;
        let names: Vec<&'static str> = captures.iter().map(|(name, _)| *name).collect();
        let data = std::mem::take(&mut request.data);
        let decoded = decode::decode(route.fields, &names, data)?;
        let warnings = warnings(&decoded, request.operation);
        let operation = request.operation;
        let call = Call {
            request,
            captures,
            fields: decoded.fields,
        };
        let answer = (endpoint.handler)(Arc::clone(state), mount.clone(), call).await?;
        Ok(with_warnings(answer, warnings, operation))
    }

    /// Answers an existence check: `None` where the route has none, and for unknown paths, which
    /// the request itself then reports.
    ///
    /// # Errors
    ///
    /// The existence function's.
    pub async fn exists(
        &self,
        state: &Arc<S>,
        mount: &Mount,
        mut request: Request,
    ) -> Result<Option<bool>, Error> {
        let Some((route, captures)) = self.find(&request) else {
            return Ok(None);
        };
        let Some(existence) = route.existence else {
            return Ok(None);
        };
        request.data = Data::default();
        let fields = Fields::new(route.fields, BTreeMap::new());
        let call = Call {
            request,
            captures,
            fields,
        };
        existence(Arc::clone(state), mount.clone(), call).await
    }

    fn answer_help(&self, request: &Request) -> Reply {
        let data = match request.path.trim_end_matches('/') {
            "" | "help" => help::of_mount(self.help, self.routes())?,
            path => {
                let (route, _) = self.find(request).ok_or(Error::UnsupportedPath)?;
                help::of_path(path, route)?
            }
        };
        Ok(Some(Response::data(data)))
    }
}

fn check_operations<S>(route: &Route<S>) -> Result<(), RouteError> {
    let mut seen = BTreeSet::new();
    for operation in route.endpoints.iter().flat_map(|e| e.operations) {
        let routed = matches!(
            operation,
            Operation::Create
                | Operation::Read
                | Operation::Update
                | Operation::Patch
                | Operation::Delete
                | Operation::List
                | Operation::Scan
                | Operation::Header
        );
        if !routed || !seen.insert(*operation) {
            return Err(RouteError::Operation(route.pattern, *operation));
        }
    }
    Ok(())
}

fn check_fields<S>(pattern: &Pattern, route: &Route<S>) -> Result<(), RouteError> {
    let declares = |name: &str| route.fields.iter().any(|field| field.name == name);
    if let Some(name) = pattern.names().into_iter().find(|name| !declares(name)) {
        return Err(RouteError::Capture(route.pattern, name));
    }
    let tables = std::iter::once(route.fields).chain(route.endpoints.iter().map(|e| e.answers));
    for table in tables {
        let mut seen = BTreeSet::new();
        for field in table {
            if !seen.insert(field.name) || !samples_fit(field) {
                return Err(RouteError::Field(route.pattern, field.name));
            }
        }
    }
    Ok(())
}

fn samples_fit(field: &Field) -> bool {
    [field.default, field.example]
        .into_iter()
        .flatten()
        .all(|text| decode::takes(field, text))
}

fn warnings(decoded: &Decoded, operation: Operation) -> Vec<String> {
    let is_list = matches!(operation, Operation::List | Operation::Scan);
    let ignored: Vec<String> = decoded
        .ignored
        .iter()
        // `GET ?list=true` is how some clients say LIST; the host may leave it in the data.
        .filter(|name| !(is_list && matches!(name.as_str(), "list" | "scan")))
        .take(MAX_NAMES)
        .map(|name| printable(name))
        .collect();
    let mut warnings = Vec::new();
    if !ignored.is_empty() {
        warnings.push(format!(
            "Endpoint ignored these unrecognized parameters: [{}]",
            ignored.join(" ")
        ));
    }
    if !decoded.replaced.is_empty() {
        warnings.push(format!(
            "Endpoint replaced the value of these parameters with the values captured from the \
             endpoint's path: [{}]",
            decoded.replaced.join(" ")
        ));
    }
    warnings
}

/// Makes a caller's name safe to repeat: one short word without control characters.
fn printable(name: &str) -> String {
    name.chars()
        .take(MAX_NAME_CHARS)
        .map(|c| {
            if c.is_control() || c.is_whitespace() {
                '?'
            } else {
                c
            }
        })
        .collect()
}

/// Adds the warnings. A write that answers nothing still warns, unlike in Go's framework: there a
/// misspelt parameter of such a path goes unnoticed. "Nothing there" stays nothing.
fn with_warnings(
    answer: Option<Response>,
    mut warnings: Vec<String>,
    operation: Operation,
) -> Option<Response> {
    let is_write = matches!(
        operation,
        Operation::Create | Operation::Update | Operation::Patch | Operation::Delete
    );
    match answer {
        Some(mut response) => {
            response.warnings.append(&mut warnings);
            Some(response)
        }
        None if is_write && !warnings.is_empty() => Some(Response {
            warnings,
            ..Response::default()
        }),
        None => None,
    }
}
