//! What the caller is told about parameters that were not taken.

use super::super::decode::Decoded;
use super::super::strict::printable;
use super::super::{Operation, Response};

/// Names of unknown parameters are the caller's text: at most this many are repeated.
const MAX_NAMES: usize = 20;

/// Tells the caller which of its parameters were not taken.
pub(super) fn of(decoded: &Decoded, operation: Operation) -> Vec<String> {
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

/// Adds the warnings. A write that answers nothing still warns, unlike in Go's framework: there a
/// misspelt parameter of such a path goes unnoticed. "Nothing there" stays nothing.
pub(super) fn added(
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
