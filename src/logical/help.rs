//! The help operation: the text of `path-help` and the OpenAPI document, both from the routes.
//!
//! The layout of the text is the one operators know from the host's own engines, wrapped for a
//! terminal; lines that begin with a space are kept as they are, for examples.

use std::fmt::Write as _;

use serde::Serialize;

use super::openapi::{self, Document};
use super::{Data, Error, Field, FieldType, Route, UnknownFields};

/// The widest line, indentation included.
const WIDTH: usize = 88;

/// What is said of an endpoint whose acts cannot be undone.
pub(super) fn refuses(unknown_fields: UnknownFields) -> Option<String> {
    match unknown_fields {
        UnknownFields::Warned => None,
        UnknownFields::Refused => Some(String::from(
            "Refuses unknown parameters (unknown_field) before anything is done.",
        )),
        UnknownFields::RefusedWith(names) => Some(format!(
            "Refuses misspelt parameters, and with {} every unknown one (unknown_field), before \
             anything is done.",
            names.join(", ")
        )),
    }
}

/// Source: Go `sdk/framework/backend.go`, keys of a help response.
#[derive(Serialize)]
struct Answer {
    help: String,
    see_also: Option<Vec<String>>,
    openapi: Document,
}

/// Whose help it is, for the OpenAPI document.
pub(super) struct EngineName {
    prefix: String,
    version: &'static str,
}

impl EngineName {
    /// `name` is the engine's own; if it has none, the name under which the host knows the plugin
    /// counts, which comes with the request.
    pub(super) fn new(name: &'static str, version: &'static str, request: &Data) -> Self {
        let prefix = if name.is_empty() {
            openapi::told_prefix(request)
        } else {
            openapi::prefix_of(name)
        };
        Self { prefix, version }
    }
}

/// Answers help on the mount itself: every path with its synopsis.
pub(super) fn of_mount<'a, S: 'a>(
    introduction: &str,
    engine: &EngineName,
    routes: impl Iterator<Item = &'a Route<S>>,
) -> Result<Data, Error> {
    let mut routes: Vec<&Route<S>> = routes.collect();
    routes.sort_by_key(|route| route.pattern);
    let mut help = String::from("## DESCRIPTION\n\n");
    wrapped(&mut help, 0, introduction);
    help.push_str("\n## PATHS\n\n");
    wrapped(
        &mut help,
        0,
        "The paths of this mount. Ask for help on any of them, with a value in place of each \
         {name}, to see its parameters. Which of them a token may use depends on its policies.",
    );
    help.push('\n');
    for route in &routes {
        wrapped(&mut help, 4, &shown(route.pattern));
        wrapped(&mut help, 8, route.synopsis);
        help.push('\n');
    }
    Data::from_serialize(&Answer {
        help,
        see_also: None,
        openapi: openapi::document(introduction, &engine.prefix, engine.version, &routes),
    })
}

/// Answers help on one path.
pub(super) fn of_path<S>(path: &str, engine: &EngineName, route: &Route<S>) -> Result<Data, Error> {
    let mut help = format!(
        "Request:        {path}\nMatching Route: {}\n\n",
        shown(route.pattern),
    );
    wrapped(&mut help, 0, route.synopsis);
    if !route.fields.is_empty() {
        help.push_str("\n## PARAMETERS\n");
        for field in route.fields {
            help.push('\n');
            parameter(&mut help, field);
        }
    }
    help.push_str("\n## OPERATIONS\n\n");
    for endpoint in &route.endpoints {
        let names: Vec<&str> = endpoint.operations.iter().map(|it| it.as_str()).collect();
        wrapped(&mut help, 4, &names.join(", "));
        wrapped(&mut help, 8, endpoint.summary);
        if let Some(refuses) = refuses(endpoint.unknown_fields) {
            wrapped(&mut help, 8, &refuses);
        }
    }
    help.push_str("\n## DESCRIPTION\n\n");
    wrapped(&mut help, 0, route.description);
    Data::from_serialize(&Answer {
        help,
        see_also: None,
        openapi: openapi::document(route.synopsis, &engine.prefix, engine.version, &[route]),
    })
}

fn parameter(help: &mut String, field: &Field) {
    wrapped(help, 4, &format!("{} ({})", field.name, kind(field)));
    wrapped(help, 8, field.description);
    if !field.values.is_empty() {
        wrapped(help, 8, &format!("One of: {}", field.values.join(", ")));
    }
    if let Some((low, high)) = field.range {
        let range = match high {
            i64::MAX => format!("From {low}"),
            _ => format!("From {low} to {high}"),
        };
        wrapped(help, 8, &range);
    }
    if let Some(default) = field.default {
        wrapped(help, 8, &format!("Default: {default}"));
    }
    if let Some(example) = field.example {
        wrapped(help, 8, &format!("Example: {example}"));
    }
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
    let deprecated = if field.deprecated { ", deprecated" } else { "" };
    format!("{name}{required}{deprecated}")
}

/// Writes `text` indented by `columns`, each of its lines broken at blanks where it is too wide.
fn wrapped(out: &mut String, columns: usize, text: &str) {
    for line in text.trim().lines() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with(' ') {
            let columns = if line.is_empty() { 0 } else { columns };
            let _ = writeln!(out, "{:columns$}{line}", "");
            continue;
        }
        let mut width = 0;
        for word in line.split(' ') {
            let letters = word.chars().count();
            if width == 0 {
                let _ = write!(out, "{:columns$}{word}", "");
                width = columns + letters;
            } else if width + 1 + letters > WIDTH {
                let _ = write!(out, "\n{:columns$}{word}", "");
                width = columns + letters;
            } else {
                let _ = write!(out, " {word}");
                width += 1 + letters;
            }
        }
        out.push('\n');
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
        Field::integer("version", "Which one.")
            .range(1, 9)
            .example("3")
            .deprecated(),
        Field::text("encoding", "How it is written.").one_of(&["hex", "base64"]),
    ];

    fn route(pattern: &'static str) -> Route<()> {
        Route {
            pattern,
            synopsis: "Changes the password now.",
            description: "
Sets a new password in Mailu, which takes a moment, and then tries it; until that is done, the \
old one stays.

    bao write smtp/acme/rotate reason=\"a line that is kept as it is, however wide it may be\"
",
            fields: FIELDS,
            endpoints: vec![Endpoint {
                operations: &[Operation::Create, Operation::Update],
                summary: "Change the password",
                unknown_fields: UnknownFields::Refused,
                answers: &[],
                handler: |_, _, _| Box::pin(async { Ok(None) }),
            }],
            existence: None,
        }
    }

    fn engine() -> EngineName {
        EngineName::new("mail", "1.2.3", &Data::default())
    }

    fn text(data: &Data) -> &str {
        data.as_map()["help"].as_str().unwrap()
    }

    #[test]
    fn a_path_explains_itself() {
        let data = of_path("acme/rotate", &engine(), &route("{tenant}/rotate")).unwrap();
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

    version (integer, deprecated)
        Which one.
        From 1 to 9
        Example: 3

    encoding (string)
        How it is written.
        One of: hex, base64

## OPERATIONS

    create, update
        Change the password
        Refuses unknown parameters (unknown_field) before anything is done.

## DESCRIPTION

Sets a new password in Mailu, which takes a moment, and then tries it; until that is
done, the old one stays.

    bao write smtp/acme/rotate reason=\"a line that is kept as it is, however wide it may be\"
"
        );
        assert!(data.as_map()["see_also"].is_null());
        let paths = &data.as_map()["openapi"]["paths"];
        assert_eq!(paths.as_object().unwrap().len(), 1);
    }

    #[test]
    fn an_engine_without_a_name_has_the_host_s() {
        let request = |name: &str| {
            let body = serde_json::json!({ "requestResponsePrefix": name });
            Data::from_serialize(&body).unwrap()
        };
        let prefix = |own, told| EngineName::new(own, "1", &request(told)).prefix;
        assert_eq!(prefix("", "Vault_plugin/../smtp\n"), "vault-plugin-smtp");
        assert_eq!(prefix("mail", "other"), "mail");
        assert_eq!(EngineName::new("", "1", &Data::default()).prefix, "");
    }

    #[test]
    fn the_mount_lists_its_paths_in_order() {
        let routes = [route("{tenant}/rotate"), route(""), route("config")];
        let data = of_mount("Owns passwords.", &engine(), routes.iter()).unwrap();
        let help = text(&data);
        assert!(help.starts_with("## DESCRIPTION\n\nOwns passwords.\n\n## PATHS\n"));
        let shown = "    (the mount itself)\n        Changes the password now.\n\n    \
                     config\n        Changes the password now.\n\n    \
                     {tenant}/rotate\n        Changes the password now.\n";
        assert!(help.contains(shown), "{help}");
    }
}
