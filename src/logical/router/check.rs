//! Defects of a route table.

use std::collections::BTreeSet;

use super::super::{Field, Operation, Pattern, Route, decode};

/// A defect of a route table, found by [`super::Router::check`].
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
    /// A field is declared twice, its default or example is not a value of its kind, or it is
    /// required where no create or update could demand it.
    #[error("pattern `{0}` declares field `{1}` wrongly")]
    Field(&'static str, &'static str),
}

/// Checks parsed routes, sorted by the patterns' shapes.
pub(super) fn table<S>(routes: &[(Pattern, Route<S>)]) -> Result<(), RouteError> {
    // Sorted by shape, so equal shapes are neighbours.
    for pair in routes.windows(2) {
        if let [(left, first), (right, second)] = pair
            && left.same_shape(right)
        {
            return Err(RouteError::Ambiguous(first.pattern, second.pattern));
        }
    }
    for (pattern, route) in routes {
        check_operations(route)?;
        check_fields(pattern, route)?;
    }
    Ok(())
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
                | Operation::Renew
                | Operation::Revoke
        );
        if !routed || !seen.insert(*operation) {
            return Err(RouteError::Operation(route.pattern, *operation));
        }
    }
    Ok(())
}

fn check_fields<S>(pattern: &Pattern, route: &Route<S>) -> Result<(), RouteError> {
    let declares = |name: &str| route.fields.iter().any(|field| field.name == name);
    let names = pattern.names();
    if let Some(name) = names.iter().find(|name| !declares(name)) {
        return Err(RouteError::Capture(route.pattern, name));
    }
    let mut operations = route.endpoints.iter().flat_map(|e| e.operations);
    if !operations.any(|operation| decode::demands(*operation)) {
        let undemanded = |field: &&Field| field.required && !names.contains(&field.name);
        if let Some(field) = route.fields.iter().find(undemanded) {
            return Err(RouteError::Field(route.pattern, field.name));
        }
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
