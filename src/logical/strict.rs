//! What an endpoint refuses whose acts cannot be undone: see [`UnknownFields`].
//!
//! Looked for before any value is decoded, so that a misspelt name is told as that and not as the
//! absence of the one that was meant.

use super::decode::{self, demands};
use super::path::Captures;
use super::{Data, Error, Field, Operation, UnknownFields};

/// Names of unknown parameters are the caller's text: so much of one is repeated.
const MAX_NAME_CHARS: usize = 64;
/// A name that is so many letters from a field's may have been meant for it; so may one that it
/// begins with, or that begins with it, of so many letters.
const CLOSE: usize = 2;
const STEM: usize = 4;

/// Checks the names of a request's parameters, and that each has a value.
///
/// # Errors
///
/// [`Error::User`] `unknown_field` for a name that no field has, and for one of the path's own with
/// another value than the path's; `invalid_field` for a `null` that restores nothing.
pub(super) fn check(
    declared: &'static [Field],
    captures: &Captures,
    (operation, unknown_fields): (Operation, UnknownFields),
    data: &Data,
) -> Result<(), Error> {
    let every = match unknown_fields {
        UnknownFields::Warned => return Ok(()),
        UnknownFields::Refused => true,
        UnknownFields::RefusedWith(names) => {
            let mut names = names.iter();
            names.any(|name| data.as_map().contains_key(*name))
        }
    };
    let taken = |field: &&Field| {
        let captured = captures.iter().any(|(name, _)| *name == field.name);
        !captured && takes_body(operation)
    };
    let taken: Vec<&'static Field> = declared.iter().filter(taken).collect();
    // The object's order is the alphabet's: the same request is always refused for the same name.
    for (name, value) in data.as_map() {
        if let Some((capture, in_path)) = captures.iter().find(|(capture, _)| capture == name) {
            if value.as_str() != Some(in_path) {
                return Err(contradicts(capture));
            }
        } else if !taken.iter().any(|field| field.name == name) {
            let (nearest, close) = nearest(name, &taken);
            if every || close {
                return Err(unknown(name, nearest));
            }
        }
    }
    for field in &taken {
        let is_null = data.as_map().get(field.name).is_some_and(|it| it.is_null());
        // A required one is missed by decoding, which says what it is for.
        let missed = field.required && demands(operation);
        if is_null && !field.resettable && !missed {
            return Err(Error::user(
                "invalid_field",
                format!(
                    "`{}` is null, which means nothing here. Give it a value, or leave it out.",
                    field.name
                ),
            ));
        }
    }
    Ok(())
}

/// Reports whether a route's fields are this operation's as well: they describe the body of a
/// write, and a deletion has none.
const fn takes_body(operation: Operation) -> bool {
    !matches!(operation, Operation::Delete)
}

fn contradicts(capture: &str) -> Error {
    Error::user(
        "unknown_field",
        format!(
            "`{capture}` is given by the path, and the request has another value for it. Nothing \
             was done: leave the parameter out, or correct the path."
        ),
    )
}

/// Returns the field that a name is nearest to, and whether it may have been meant.
fn nearest(name: &str, taken: &[&'static Field]) -> (Option<&'static str>, bool) {
    let name = folded(&printable(name));
    let with_distance = taken.iter().map(|field| {
        let known = folded(field.name);
        let stem = name.len().min(known.len()) >= STEM
            && (known.starts_with(&name) || name.starts_with(&known));
        let distance = distance(&name, &known);
        (distance, stem || distance <= CLOSE, field.name)
    });
    let found: Vec<(usize, bool, &'static str)> = with_distance.collect();
    let close = found.iter().any(|(_, close, _)| *close);
    let nearest = found.into_iter().min_by_key(|(distance, ..)| *distance);
    (nearest.map(|(_, _, name)| name), close)
}

fn unknown(name: &str, nearest: Option<&str>) -> Error {
    let shown = printable(name);
    let hint = match nearest {
        Some(field) => format!("the nearest one it takes is `{field}`"),
        None => String::from("it takes none"),
    };
    Error::user(
        "unknown_field",
        format!(
            "there is no parameter `{shown}` here; {hint}. Nothing was done: correct the name and \
             repeat the request."
        ),
    )
}

/// Makes a caller's name safe to repeat: one short word of visible characters.
pub(super) fn printable(name: &str) -> String {
    name.chars()
        .take(MAX_NAME_CHARS)
        .map(|c| {
            if decode::deceives(c) || c.is_whitespace() {
                '?'
            } else {
                c
            }
        })
        .collect()
}

/// Spelt as fields are: `Dry-Run` is nearest to `dry_run`.
fn folded(name: &str) -> Vec<char> {
    let spelt = |c: char| if matches!(c, '-' | '.' | '?') { '_' } else { c };
    name.chars()
        .map(|c| spelt(c.to_ascii_lowercase()))
        .collect()
}

/// Counts the letters in which two names differ, whatever their case and their separators; of long
/// names their first 64 characters.
pub(crate) fn distance_of_names(left: &str, right: &str) -> usize {
    let folded = |name: &str| folded(&name.replace(['/', ' '], "_"));
    let mut short = (folded(left), folded(right));
    short.0.truncate(MAX_NAME_CHARS);
    short.1.truncate(MAX_NAME_CHARS);
    distance(&short.0, &short.1)
}

/// Counts the single-letter changes between two names, at most [`MAX_NAME_CHARS`] each.
///
/// Source: Levenshtein's distance, one row at a time (Wagner and Fischer 1974).
fn distance(left: &[char], right: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, a) in left.iter().enumerate() {
        // What stands above and to the left, and what was just written.
        let (mut diagonal, mut written) = (line, line + 1);
        let mut next = vec![written];
        for (b, above) in right.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(a != b);
            written = replaced.min(above + 1).min(written + 1);
            next.push(written);
            diagonal = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const FIELDS: &[Field] = &[
        Field::text("tenant", "Whose."),
        Field::text("incident_id", "What for.").required(),
        Field::boolean("dry_run", "Only tell."),
        Field::boolean("keep_app_tokens", "Leave them."),
        Field::secret("password", "The password."),
        Field::text("policy", "When.").resettable(),
    ];

    fn refused(operation: Operation, body: Value) -> Option<String> {
        refused_by(UnknownFields::Refused, operation, body)
    }

    fn refused_by(kind: UnknownFields, operation: Operation, body: Value) -> Option<String> {
        let Value::Object(body) = body else {
            panic!("no object")
        };
        let captures = vec![("tenant", String::from("acme"))];
        let checked = check(FIELDS, &captures, (operation, kind), &Data::from_map(body));
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn beside_settings_only_what_may_have_been_meant_is_refused() {
        const WITH: UnknownFields = UnknownFields::RefusedWith(&["password"]);
        let refused = |body| refused_by(WITH, Operation::Update, body);
        for body in [
            json!({"pasword": "x"}),
            json!({"Password": "x"}),
            json!({"passwd": "x"}),
            json!({"pass": "x"}),
            json!({"dry-run": true}),
            json!({"password_": "x"}),
            json!({"colour": "green", "password": "x"}),
        ] {
            let text = refused(body.clone()).unwrap_or_else(|| panic!("{body}"));
            assert!(text.starts_with("unknown_field: "), "{text}");
        }
        assert_eq!(refused(json!({"colour": "green", "policy": "x"})), None);
        assert!(refused(json!({"password": null})).is_some());
        let warned = |body| refused_by(UnknownFields::Warned, Operation::Update, body);
        assert_eq!(warned(json!({"pasword": "x", "password": null})), None);
    }

    #[test]
    fn a_misspelt_name_is_refused_and_the_nearest_is_named() {
        for (name, nearest) in [
            ("dry-run", "dry_run"),
            ("DRY_RUN", "dry_run"),
            ("Dry-Run", "dry_run"),
            ("dryrun", "dry_run"),
            ("keep-app-tokens", "keep_app_tokens"),
            ("keepAppTokens", "keep_app_tokens"),
            ("incident-id", "incident_id"),
            ("incident", "incident_id"),
            ("pasword", "password"),
            ("Password", "password"),
            (" password", "password"),
            ("password\n", "password"),
        ] {
            let text = refused(Operation::Update, json!({ (name): "x" })).expect(name);
            assert!(text.starts_with("unknown_field: "), "{text}");
            assert!(
                text.contains(&format!("takes is `{nearest}`")),
                "{name}: {text}"
            );
        }
    }

    #[test]
    fn a_name_without_end_or_with_line_breaks_is_repeated_harmlessly() {
        let name = format!("a\nb\u{202e}{}", "x".repeat(100_000));
        let text = refused(Operation::Update, json!({ (name): 1 })).unwrap();
        assert!(text.contains("`a?b?xxx"), "{text}");
        assert!(text.len() < 300, "{}", text.len());
    }

    #[test]
    fn null_is_no_value_unless_it_restores_a_default() {
        let text = refused(Operation::Update, json!({ "password": null })).unwrap();
        assert!(
            text.starts_with("invalid_field: `password` is null"),
            "{text}"
        );
        assert_eq!(refused(Operation::Patch, json!({ "policy": null })), None);
        // A required one that is null is missing, which decoding says; a patch requires nothing.
        let incident = json!({ "incident_id": null });
        assert_eq!(refused(Operation::Update, incident.clone()), None);
        assert!(refused(Operation::Patch, incident).is_some());
    }

    #[test]
    fn the_path_is_not_contradicted() {
        assert_eq!(
            refused(Operation::Update, json!({ "tenant": "acme" })),
            None
        );
        let text = refused(Operation::Update, json!({ "tenant": "globex" })).unwrap();
        assert!(text.starts_with("unknown_field: `tenant`"), "{text}");
        assert!(!text.contains("globex"), "no error repeats a value: {text}");
    }

    #[test]
    fn a_deletion_takes_nothing_at_all() {
        let text = refused(Operation::Delete, json!({ "dry_run": true })).unwrap();
        assert!(text.contains("it takes none"), "{text}");
        assert_eq!(refused(Operation::Delete, json!({})), None);
    }

    #[test]
    fn the_distance_counts_letters() {
        let count = |a: &str, b: &str| {
            let letters = |text: &str| text.chars().collect::<Vec<char>>();
            distance(&letters(a), &letters(b))
        };
        assert_eq!(count("", ""), 0);
        assert_eq!(count("", "abc"), 3);
        assert_eq!(count("abc", ""), 3);
        assert_eq!(count("pasword", "password"), 1);
        assert_eq!(count("kitten", "sitting"), 3);
    }
}
