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
    version: &str,
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
        openapi: openapi::document(introduction, version, &routes),
    })
}

/// Answers help on one path.
pub(super) fn of_path<S>(path: &str, version: &str, route: &Route<S>) -> Result<Data, Error> {
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
        openapi: openapi::document(route.synopsis, version, &[route]),
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
        FieldType::Object => "object",
        FieldType::ObjectList => "list of objects",
    };
    let required = if field.required { ", required" } else { "" };
    format!("{name}{required}")
}

fn indented(out: &mut String, columns: usize, text: &str) {
    for line in text.trim().lines() {
        let _ = writeln!(out, "{:columns$}{}", "", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, Operation};
    use super::*;

    const FIELDS: &[Field] = &[
        Field::text("tenant", "Name of the tenant."),
        Field::text("reason", "Why it is done.\nFor the audit log.").required(),
        Field::duration("wait", "How long to wait.").default("8s"),
    ];

    fn route(pattern: &'static str) -> Route<()> {
        Route {
            pattern,
            synopsis: "Changes the password now.",
            description: "\nSets a new password in Mailu.\n",
            fields: FIELDS,
            endpoints: vec![Endpoint {
                operations: &[Operation::Update],
                summary: "Change the password",
                answers: &[],
                handler: |_, _, _| Box::pin(async { Ok(None) }),
            }],
            existence: None,
        }
    }

    fn text(data: &Data) -> &str {
        data.as_map()["help"].as_str().unwrap()
    }

    #[test]
    fn a_path_explains_itself() {
        let data = of_path("acme/rotate", "1.2.3", &route("{tenant}/rotate")).unwrap();
        assert_eq!(
            text(&data),
            "\
Request:        acme/rotate
Matching Route: {tenant}/rotate

Changes the password now.

## PARAMETERS

    tenant (string)
        Name of the tenant.

    reason (string, required)
        Why it is done.
        For the audit log.

    wait (duration)
        How long to wait.
        Default: 8s

## DESCRIPTION

Sets a new password in Mailu.
"
        );
        assert!(data.as_map()["see_also"].is_null());
        let paths = &data.as_map()["openapi"]["paths"];
        assert_eq!(paths.as_object().unwrap().len(), 1);
    }

    #[test]
    fn the_mount_lists_its_paths_in_order() {
        let routes = [route("{tenant}/rotate"), route(""), route("config")];
        let data = of_mount("Owns passwords.", "1.2.3", routes.iter()).unwrap();
        let help = text(&data);
        assert!(help.starts_with("## DESCRIPTION\n\nOwns passwords.\n\n## PATHS\n"));
        let shown = "    (the mount itself)\n        Changes the password now.\n\n    \
                     config\n        Changes the password now.\n\n    \
                     {tenant}/rotate\n        Changes the password now.\n";
        assert!(help.contains(shown), "{help}");
    }
}
