//! The OpenAPI document of a mount, derived from its routes.
//!
//! The host takes `paths` from it, puts the mount's path before each key and merges the rest
//! (seen on OpenBao 2.7.2). Conventions where OpenAPI and the host's operations differ are those
//! of Go's framework: create and update are both `post`, and a list is a `get` of the path with a
//! slash at its end and `list=true`.
//!
//! Source: OpenAPI 3.0.2; Go `sdk/framework/openapi.go`.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::decode::demands;
use super::{Endpoint, Field, FieldType, Operation, Pattern, Route, seconds};

/// An OpenAPI 3.0.2 document as the host merges it into its own.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Document(Value);

/// Where a field is described: durations go in in many forms and come out as seconds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

/// Describes `routes`; `title` is a line about the whole, `version` that of whoever declares them.
pub(super) fn document<S>(title: &str, version: &str, routes: &[&Route<S>]) -> Document {
    let paths: Map<String, Value> = routes.iter().flat_map(|route| path_items(route)).collect();
    let title = title.trim().lines().next().unwrap_or_default();
    Document(json!({
        "openapi": "3.0.2",
        "info": { "title": title, "description": title, "version": version },
        "paths": paths,
        "components": { "schemas": {} },
    }))
}

/// The path's own item and, if it can be listed, the one for the list.
fn path_items<S>(route: &Route<S>) -> Vec<(String, Value)> {
    let mut item = Map::new();
    for (method, operation) in [
        ("get", Operation::Read),
        ("post", Operation::Update),
        ("patch", Operation::Patch),
        ("delete", Operation::Delete),
    ] {
        let endpoint = match operation {
            Operation::Update => route
                .endpoint(Operation::Update)
                .or_else(|| route.endpoint(Operation::Create)),
            other => route.endpoint(other),
        };
        if let Some(endpoint) = endpoint {
            let described = operation_object(route, endpoint, operation);
            item.insert(String::from(method), described);
        }
    }
    let mut items = Vec::new();
    if !item.is_empty() {
        let creates = route.endpoint(Operation::Create).is_some() && route.existence.is_some();
        if creates {
            item.insert(String::from("x-vault-createSupported"), Value::from(true));
        }
        items.push((format!("/{}", route.pattern), with_path(route, item)));
    }
    if let Some(endpoint) = route.endpoint(Operation::List) {
        let described = operation_object(route, endpoint, Operation::List);
        let item = Map::from_iter([(String::from("get"), described)]);
        let key = format!("/{}/", route.pattern).replace("//", "/");
        items.push((key, with_path(route, item)));
    }
    items
}

/// Adds what all operations of a path share.
fn with_path<S>(route: &Route<S>, mut item: Map<String, Value>) -> Value {
    item.insert(String::from("description"), Value::from(route.synopsis));
    let captures = captures(route);
    let parameters: Vec<Value> = captures
        .iter()
        .map(|name| {
            let field = route.fields.iter().find(|field| field.name == *name);
            let schema = field.map_or_else(
                || json!({ "type": "string" }),
                |field| schema(field, Direction::Request),
            );
            json!({
                "name": name,
                "in": "path",
                "required": true,
                "description": field.map_or("", |field| field.description),
                "schema": schema,
            })
        })
        .collect();
    if !parameters.is_empty() {
        item.insert(String::from("parameters"), Value::from(parameters));
    }
    Value::Object(item)
}

fn operation_object<S>(route: &Route<S>, endpoint: &Endpoint<S>, operation: Operation) -> Value {
    let mut object = Map::new();
    let mut set = |name: &str, value: Value| object.insert(String::from(name), value);
    set("summary", Value::from(endpoint.summary));
    set("operationId", Value::from(operation_id(route, operation)));
    set("tags", json!(["secrets"]));
    set("responses", responses(endpoint, operation));
    let body = body_fields(route);
    match operation {
        Operation::Update | Operation::Patch if !body.is_empty() => {
            let media = match operation {
                Operation::Patch => "application/merge-patch+json",
                _ => "application/json",
            };
            let demands = demands(operation);
            let schema = object_schema(&body, Direction::Request, demands);
            set(
                "requestBody",
                json!({
                    "required": demands && body.iter().any(|field| field.required),
                    "content": { media: { "schema": schema } },
                }),
            );
        }
        Operation::List | Operation::Read => {
            let query = query_parameters(route, operation);
            if !query.is_empty() {
                set("parameters", Value::from(query));
            }
        }
        _ => {}
    }
    Value::Object(object)
}

/// The fields of a path that is only read are query parameters; those of a path that is also
/// written describe the body, and reading takes none. None is ever required.
fn query_parameters<S>(route: &Route<S>, operation: Operation) -> Vec<Value> {
    let is_written = [Operation::Create, Operation::Update, Operation::Patch]
        .into_iter()
        .any(|write| route.endpoint(write).is_some());
    let mut parameters = Vec::new();
    if operation == Operation::List {
        parameters.push(json!({
            "name": "list",
            "in": "query",
            "required": true,
            "description": "Must be set to `true`.",
            "schema": { "type": "string", "enum": ["true"] },
        }));
    }
    if !is_written {
        parameters.extend(body_fields(route).into_iter().map(|field| {
            json!({
                "name": field.name,
                "in": "query",
                "required": false,
                "description": field.description,
                "schema": schema(field, Direction::Request),
            })
        }));
    }
    parameters
}

fn responses<S>(endpoint: &Endpoint<S>, operation: Operation) -> Value {
    let answers: Vec<&Field> = endpoint.answers.iter().collect();
    if !answers.is_empty() {
        let schema = object_schema(&answers, Direction::Answer, false);
        return json!({
            "200": {
                "description": "OK",
                "content": { "application/json": { "schema": schema } },
            },
        });
    }
    match operation {
        Operation::List => json!({
            "200": {
                "description": "OK",
                "content": { "application/json": { "schema": {
                    "type": "object",
                    "properties": { "keys": { "type": "array", "items": { "type": "string" } } },
                } } },
            },
        }),
        Operation::Read => json!({ "200": { "description": "OK" } }),
        _ => json!({ "204": { "description": "empty body" } }),
    }
}

fn object_schema(fields: &[&Field], direction: Direction, demands: bool) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|field| (String::from(field.name), schema(field, direction)))
        .collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|field| demands && field.required)
        .map(|field| field.name)
        .collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if let (Value::Object(object), false) = (&mut object, required.is_empty()) {
        object.insert(String::from("required"), json!(required));
    }
    object
}

fn schema(field: &Field, direction: Direction) -> Value {
    let (kind, format) = match (field.kind, direction) {
        (FieldType::Text | FieldType::Secret, _) => ("string", None),
        (FieldType::Integer, _) => ("integer", Some("int64")),
        (FieldType::Boolean, _) => ("boolean", None),
        (FieldType::Duration, Direction::Request) => ("string", Some("duration")),
        (FieldType::Duration, Direction::Answer) => ("integer", Some("seconds")),
        (FieldType::Instant, _) => ("string", Some("date-time")),
        (FieldType::TextList | FieldType::ObjectList, _) => ("array", None),
        (FieldType::Object, _) => ("object", None),
    };
    let mut schema = Map::from_iter([
        (String::from("type"), Value::from(kind)),
        (String::from("description"), Value::from(field.description)),
    ]);
    let mut set = |name: &str, value: Value| schema.insert(String::from(name), value);
    if let Some(format) = format {
        set("format", Value::from(format));
    }
    if field.kind == FieldType::TextList {
        set("items", json!({ "type": "string" }));
    }
    if field.kind == FieldType::ObjectList {
        set("items", json!({ "type": "object" }));
    }
    if field.nullable {
        set("nullable", Value::from(true));
    }
    if field.kind == FieldType::Secret {
        set("x-vault-displayAttrs", json!({ "sensitive": true }));
    }
    if let Some(default) = field.default {
        set("default", sample(field.kind, direction, default));
    }
    if let Some(example) = field.example {
        set("example", sample(field.kind, direction, example));
    }
    Value::Object(schema)
}

/// Gives a declared sample its JSON type; [`super::Router::check`] has seen that it fits.
fn sample(kind: FieldType, direction: Direction, text: &str) -> Value {
    match (kind, direction) {
        (FieldType::Integer, _) => text.parse::<i64>().map_or(Value::Null, Value::from),
        (FieldType::Boolean, _) => Value::from(text == "true"),
        (FieldType::TextList, _) => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect(),
        (FieldType::Duration, Direction::Answer) => {
            seconds::parse(text).map_or(Value::Null, |span| Value::from(span.as_secs()))
        }
        (FieldType::Duration, Direction::Request)
        | (FieldType::Text | FieldType::Secret | FieldType::Instant, _) => Value::from(text),
        // Objects have no text form; their fields say what they hold.
        (FieldType::Object | FieldType::ObjectList, _) => Value::Null,
    }
}

fn captures<S>(route: &Route<S>) -> Vec<&'static str> {
    Pattern::parse(route.pattern).map_or_else(Vec::new, |pattern| pattern.names())
}

fn body_fields<S>(route: &Route<S>) -> Vec<&'static Field> {
    let captures = captures(route);
    route
        .fields
        .iter()
        .filter(|field| !captures.contains(&field.name))
        .collect()
}

/// Names the operation after its path, for example `write-tenant-rotate`.
fn operation_id<S>(route: &Route<S>, operation: Operation) -> String {
    let verb = match operation {
        Operation::Update | Operation::Create => "write",
        other => other.as_str(),
    };
    let words = route
        .pattern
        .split(['/', '{', '}', '_'])
        .filter(|word| !word.is_empty());
    let mut id = String::from(verb);
    for word in words {
        id.push('-');
        id.push_str(word);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field::text("tenant", "Name of the tenant.").example("acme"),
        Field::secret("password", "The password.").required(),
        Field::duration("wait", "How long to wait.").default("8s"),
        Field::integer("version", "Which.").default("3"),
        Field::texts("admins", "Who.").default("a@b.test, c@d.test"),
    ];
    const LISTED: &[Field] = &[Field::text("after", "The last name seen.")];
    const ANSWERS: &[Field] = &[Field::duration("ttl", "When to read again.").example("5m")];

    fn endpoint(operations: &'static [Operation], answers: &'static [Field]) -> Endpoint<()> {
        Endpoint {
            operations,
            summary: "Does it",
            answers,
            handler: |_, _, _| Box::pin(async { Ok(None) }),
        }
    }

    fn document_of(
        pattern: &'static str,
        fields: &'static [Field],
        endpoints: Vec<Endpoint<()>>,
    ) -> Value {
        let route = Route {
            pattern,
            synopsis: "A credential.",
            description: "",
            fields,
            endpoints,
            existence: Some(|_, _, _| Box::pin(async { Ok(Some(true)) })),
        };
        document("One line.\nMore.", "1.2.3", &[&route]).0
    }

    fn admin() -> Value {
        use Operation::{Create, Delete, Patch, Read, Update};
        let endpoints = vec![
            endpoint(&[Read], ANSWERS),
            endpoint(&[Create, Update], &[]),
            endpoint(&[Patch], &[]),
            endpoint(&[Delete], &[]),
        ];
        let document = document_of("{tenant}/admin", FIELDS, endpoints);
        document["paths"]["/{tenant}/admin"].clone()
    }

    #[test]
    fn the_host_finds_the_parts_it_merges() {
        let document = document_of("a", &[], vec![endpoint(&[Operation::Read], &[])]);
        assert_eq!(document["openapi"], "3.0.2");
        assert_eq!(document["info"]["title"], "One line.");
        assert_eq!(document["info"]["version"], "1.2.3");
        assert!(document["components"]["schemas"].is_object());
        assert!(document["paths"]["/a"]["get"].is_object());
    }

    #[test]
    fn captures_are_path_parameters_and_the_rest_is_the_body() {
        let item = admin();
        assert_eq!(
            item["parameters"],
            json!([{
                "name": "tenant",
                "in": "path",
                "required": true,
                "description": "Name of the tenant.",
                "schema": {
                    "type": "string",
                    "description": "Name of the tenant.",
                    "example": "acme",
                },
            }])
        );
        assert_eq!(item["x-vault-createSupported"], true);
        assert_eq!(item["post"]["operationId"], "write-tenant-admin");
        assert_eq!(item["post"]["tags"], json!(["secrets"]));
        let body = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(body["required"], json!(["password"]));
        assert!(body["properties"]["tenant"].is_null());
        assert_eq!(body["properties"]["wait"]["default"], "8s");
        assert_eq!(body["properties"]["version"]["default"], 3);
        assert_eq!(
            body["properties"]["admins"]["default"],
            json!(["a@b.test", "c@d.test"])
        );
        assert!(item["get"]["parameters"].is_null());
    }

    #[test]
    fn a_patch_requires_nothing() {
        let item = admin();
        let body = &item["patch"]["requestBody"];
        assert_eq!(body["required"], false);
        let schema = &body["content"]["application/merge-patch+json"]["schema"];
        assert!(schema["required"].is_null());
        assert_eq!(schema["properties"]["password"]["type"], "string");
    }

    #[test]
    fn answered_durations_are_seconds() {
        let item = admin();
        let schema = &item["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let ttl = &schema["properties"]["ttl"];
        assert_eq!(ttl["type"], "integer");
        assert_eq!(ttl["example"], 300);
        assert_eq!(
            item["delete"]["responses"]["204"]["description"],
            "empty body"
        );
    }

    #[test]
    fn a_list_has_a_path_of_its_own_with_query_parameters() {
        let lists = || vec![endpoint(&[Operation::List], &[])];
        let document = document_of("", LISTED, lists());
        let names: Vec<&str> = document["paths"]["/"]["get"]["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["list", "after"]);
        let document = document_of("tenants", LISTED, lists());
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.keys().collect::<Vec<_>>(), ["/tenants/"]);
    }
}
