//! The help operation: the text of `path-help` and the OpenAPI document, both from the routes.
//!
//! The layout of the text is the one operators know from the host's own engines.

use std::fmt::Write as _;

use serde::Serialize;

use super::openapi::{self, Document};
use super::{Data, Error, Field, FieldType, Route};

/// Source: Go `sdk/framework/backend.go`, keys of a help response.
#[derive(Serialize)]
struct Answer {
    help: String,
    see_also: Option<Vec<String>>,
    openapi: Document,
}

/// Answers help on the mount itself: every path with its synopsis.
pub(super) fn of_mount<'a, S: 'a>(
    introduction: &str,
    routes: impl Iterator<Item = &'a Route<S>>,
) -> Result<Data, Error> {
    let mut routes: Vec<&Route<S>> = routes.collect();
    routes.sort_by_key(|route| route.pattern);
    let mut help = format!(
        "## DESCRIPTION\n\n{}\n\n## PATHS\n\nThe paths of this mount. Ask for help on any of \
         them, with a value in place of each {{name}}, to see its\nparameters. Which of them a \
         token may use depends on its policies.\n\n",
        introduction.trim()
    );
    for route in &routes {
        indented(&mut help, 4, &shown(route.pattern));
        indented(&mut help, 8, route.synopsis);
        help.push('\n');
    }
    Data::from_serialize(&Answer {
        help,
        see_also: None,
        openapi: openapi::document(introduction, &routes),
    })
}

/// Answers help on one path.
pub(super) fn of_path<S>(path: &str, route: &Route<S>) -> Result<Data, Error> {
    let mut help = format!(
        "Request:        {path}\nMatching Route: {}\n\n{}\n",
        shown(route.pattern),
        route.synopsis
    );
    if !route.fields.is_empty() {
        help.push_str("\n## PARAMETERS\n");
        for field in route.fields {
            help.push('\n');
            indented(&mut help, 4, &format!("{} ({})", field.name, kind(field)));
            indented(&mut help, 8, field.description);
            if let Some(default) = field.default {
                indented(&mut help, 8, &format!("Default: {default}"));
            }
        }
    }
    let _ = write!(help, "\n## DESCRIPTION\n\n{}\n", route.description.trim());
    Data::from_serialize(&Answer {
        help,
        see_also: None,
        openapi: openapi::document(route.synopsis, &[route]),
    })
}

/// The root's pattern is empty, which nobody would see.
fn shown(pattern: &str) -> String {
    if pattern.is_empty() {
        String::from("(the mount itself)")
    } else {
        pattern.to_owned()
    }
}

fn kind(field: &Field) -> String {
    let name = match field.kind {
        FieldType::Text => "string",
        FieldType::Secret => "string, never shown",
        FieldType::Integer => "integer",
        FieldType::Boolean => "boolean",
        FieldType::Duration => "duration",
        FieldType::Instant => "RFC 3339 instant",
        FieldType::TextList => "list of strings",
    };
    let required = if field.required { ", required" } else { "" };
    format!("{name}{required}")
}

fn indented(out: &mut String, columns: usize, text: &str) {
    for line in text.trim().lines() {
        let _ = writeln!(out, "{:columns$}{}", "", line.trim_end());
    }
}
