//! The OpenAPI document of a mount, derived from its routes.
//!
//! The host takes `paths` and `components.schemas` from it, puts the mount's path before each path
//! and merges them with those of every other mount. On the way it decodes the document into Go
//! types and drops what those do not have: `nullable`, `minimum`, `maximum`, `maxLength`,
//! `additionalProperties`, `head`, and `$ref` unless it is also there as `ref`. A response under
//! `default` instead of a number would fail the whole server's document. What is dropped is
//! therefore said in the descriptions as well.
//!
//! Conventions where OpenAPI and the host's operations differ are those of Go's framework: create
//! and update are both `post`; a list is a `get` of the path with a slash at its end and
//! `list=true`, a recursive one with `scan=true`; an answer is described by what its `data` holds,
//! without the host's envelope.
//!
//! Source: OpenAPI 3.0.2; Go `sdk/framework/openapi.go`, OpenBao `vault/logical_system.go`
//! (`pathInternalOpenAPI`); seen on OpenBao 2.7.2.

mod schema;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::decode::demands;
use super::help::refuses;
use super::{Data, Endpoint, Field, Operation, Pattern, Route, UnknownFields};
use schema::Direction;

/// An OpenAPI 3.0.2 document as the host merges it into its own.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Document(Value);

/// What the operations and the HTTP methods of a path's own item are.
const METHODS: [(&str, Operation); 5] = [
    ("get", Operation::Read),
    ("head", Operation::Header),
    ("post", Operation::Update),
    ("patch", Operation::Patch),
    ("delete", Operation::Delete),
];

/// What any operation may fail with. The host itself answers some of them: a refused token, a
/// sealed server.
const FAILURES: [(&str, &str); 6] = [
    (
        "400",
        "The request is wrong and changed nothing; the error says what to correct. `data.code` is \
         the error's stable code.",
    ),
    (
        "403",
        "The token may not do this, or what is asked for is held back.",
    ),
    (
        "404",
        "There is nothing at this path; without any error text, it is empty.",
    ),
    (
        "409",
        "The request does not fit the present state; the error says what to do first.",
    ),
    (
        "500",
        "The server or its storage failed; see the server's log.",
    ),
    ("503", "Not now: repeat the same request later."),
];

/// Describes `routes`; `title` is a line about the whole, `version` that of whoever declares them,
/// `prefix` begins the name of every operation and schema: hyphenated words, lower case.
pub(super) fn document<S>(
    title: &str,
    prefix: &str,
    version: &str,
    routes: &[&Route<S>],
) -> Document {
    let mut writer = Writer {
        prefix,
        schemas: Map::new(),
    };
    let paths: Map<String, Value> = routes
        .iter()
        .flat_map(|route| writer.path_items(route))
        .collect();
    let errors = writer.errors_name();
    writer.schemas.insert(errors, errors_schema());
    let title = title.trim().lines().next().unwrap_or_default();
    Document(json!({
        "openapi": "3.0.2",
        "info": { "title": title, "description": title, "version": version },
        "paths": paths,
        "components": { "schemas": writer.schemas },
    }))
}

/// Source: the host's error body, seen on OpenBao 2.7.2.
fn errors_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why a request failed.",
        "properties": {
            "errors": {
                "type": "array",
                "items": { "type": "string" },
                "description": "What is wrong and what to do. The engine's own errors begin with \
                                a stable code and a colon; the host may put a line of its own \
                                before them.",
            },
            "data": {
                "type": "object",
                "description": "With status 400: the error's code.",
                "properties": {
                    "code": { "type": "string", "description": "The stable code." },
                },
            },
        },
        "required": ["errors"],
    })
}

/// Writes path items; collects the schemas they refer to.
struct Writer<'a> {
    prefix: &'a str,
    schemas: Map<String, Value>,
}

impl Writer<'_> {
    /// The path's own item and, if it can be listed, the one for the list.
    fn path_items<S>(&mut self, route: &Route<S>) -> Vec<(String, Value)> {
        let mut item = Map::new();
        for (method, operation) in METHODS {
            let endpoint = match operation {
                Operation::Update => route
                    .endpoint(Operation::Update)
                    .or_else(|| route.endpoint(Operation::Create)),
                other => route.endpoint(other),
            };
            if let Some(endpoint) = endpoint {
                let described = self.operation(route, endpoint, operation);
                item.insert(String::from(method), described);
            }
        }
        let mut items = Vec::new();
        if !item.is_empty() {
            if route.endpoint(Operation::Create).is_some() && route.existence.is_some() {
                item.insert(String::from("x-vault-createSupported"), Value::from(true));
            }
            items.push((format!("/{}", route.pattern), with_path(route, item)));
        }
        // One method has one description: that of the list, if there is a scan as well.
        let lists = [Operation::List, Operation::Scan].into_iter();
        let mut lists = lists.filter_map(|listed| Some((listed, route.endpoint(listed)?)));
        if let Some((operation, endpoint)) = lists.next() {
            let described = self.operation(route, endpoint, operation);
            let item = Map::from_iter([(String::from("get"), described)]);
            let key = format!("/{}/", route.pattern).replace("//", "/");
            items.push((key, with_path(route, item)));
        }
        items
    }

    fn operation<S>(
        &mut self,
        route: &Route<S>,
        endpoint: &Endpoint<S>,
        operation: Operation,
    ) -> Value {
        let id = operation_id(self.prefix, route, operation);
        let mut object = Map::new();
        let mut set = |name: &str, value: Value| object.insert(String::from(name), value);
        set("summary", Value::from(endpoint.summary));
        if let Some(refuses) = refuses(endpoint.unknown_fields) {
            set("description", Value::from(refuses));
        }
        set("tags", json!(["secrets"]));
        set("responses", self.responses(&id, endpoint, operation));
        match operation {
            Operation::Update | Operation::Patch => {
                if let Some(body) = self.request_body(&id, route, endpoint, operation) {
                    set("requestBody", body);
                }
            }
            Operation::List | Operation::Scan | Operation::Read | Operation::Header => {
                let query = query_parameters(route, operation);
                if !query.is_empty() {
                    set("parameters", Value::from(query));
                }
            }
            _ => {}
        }
        set("operationId", Value::from(id));
        Value::Object(object)
    }

    fn request_body<S>(
        &mut self,
        id: &str,
        route: &Route<S>,
        endpoint: &Endpoint<S>,
        operation: Operation,
    ) -> Option<Value> {
        let body = body_fields(route);
        if body.is_empty() {
            return None;
        }
        let media = match operation {
            Operation::Patch => "application/merge-patch+json",
            _ => "application/json",
        };
        let demands = demands(operation);
        let mut schema = schema::object(body.iter().copied(), Direction::Request, demands);
        if let (UnknownFields::Refused, Value::Object(schema)) =
            (endpoint.unknown_fields, &mut schema)
        {
            schema.insert(String::from("additionalProperties"), Value::from(false));
        }
        Some(json!({
            "required": demands && body.iter().any(|field| field.required),
            "content": { media: { "schema": self.component(id, "Request", schema) } },
        }))
    }

    fn responses<S>(&mut self, id: &str, endpoint: &Endpoint<S>, operation: Operation) -> Value {
        const KEYS: &[Field] = &[Field::texts("keys", "The names found.")];
        let lists = matches!(operation, Operation::List | Operation::Scan);
        let answers = match endpoint.answers {
            [] if lists => KEYS,
            answers => answers,
        };
        let mut responses = Map::new();
        let mut set = |status: &str, value: Value| responses.insert(String::from(status), value);
        if !answers.is_empty() && operation != Operation::Header {
            let schema = schema::object(answers.iter(), Direction::Answer, false);
            let schema = self.component(id, "Response", schema);
            set(
                "200",
                json!({
                    "description": "OK",
                    "content": { "application/json": { "schema": schema } },
                }),
            );
        } else if matches!(operation, Operation::Read | Operation::Header) {
            set("200", json!({ "description": "OK" }));
        } else {
            let warned = "Done; `warnings` names, for example, parameters that were ignored.";
            set("200", json!({ "description": warned }));
            set("204", json!({ "description": "Done; empty body." }));
        }
        let failed = json!({ "schema": reference(&self.errors_name()) });
        for (status, description) in FAILURES {
            let response = match operation {
                Operation::Header => json!({ "description": description }),
                _ => json!({
                    "description": description,
                    "content": { "application/json": &failed },
                }),
            };
            set(status, response);
        }
        Value::Object(responses)
    }

    /// Keeps a schema under the operation's name and refers to it.
    fn component(&mut self, id: &str, suffix: &str, schema: Value) -> Value {
        let name = title_case(id) + suffix;
        let reference = reference(&name);
        self.schemas.insert(name, schema);
        reference
    }

    fn errors_name(&self) -> String {
        title_case(self.prefix) + "Errors"
    }
}

/// Refers to a schema, under two names: the host loses `$ref` from an external plugin's document
/// and takes `ref` for it, which is then `$ref` in its own (seen on OpenBao 2.7.2). Everybody else
/// ignores what stands beside `$ref`.
fn reference(name: &str) -> Value {
    let target = format!("#/components/schemas/{name}");
    json!({ "$ref": &target, "ref": &target })
}

/// Adds what all operations of a path share.
fn with_path<S>(route: &Route<S>, mut item: Map<String, Value>) -> Value {
    item.insert(String::from("description"), Value::from(route.synopsis));
    let parameters: Vec<Value> = captures(route)
        .into_iter()
        .map(|name| match route.fields.iter().find(|f| f.name == name) {
            Some(field) => parameter(field, "path"),
            None => parameter(&Field::text(name, ""), "path"),
        })
        .collect();
    if !parameters.is_empty() {
        item.insert(String::from("parameters"), Value::from(parameters));
    }
    Value::Object(item)
}

/// The fields of a path that is only read are query parameters; those of a path that is also
/// written describe the body, and reading takes none. None is ever required.
fn query_parameters<S>(route: &Route<S>, operation: Operation) -> Vec<Value> {
    let is_written = [Operation::Create, Operation::Update, Operation::Patch]
        .into_iter()
        .any(|write| route.endpoint(write).is_some());
    let mut parameters = Vec::new();
    if matches!(operation, Operation::List | Operation::Scan) {
        let kinds = [Operation::List, Operation::Scan].into_iter();
        let kinds: Vec<Operation> = kinds.filter(|it| route.endpoint(*it).is_some()).collect();
        let description = match kinds.len() {
            1 => "Must be set to `true`.",
            _ => "Either `list` or `scan` must be set to `true`.",
        };
        parameters.extend(kinds.iter().map(|kind| {
            json!({
                "name": kind.as_str(),
                "in": "query",
                "required": kinds.len() == 1,
                "description": description,
                "schema": { "type": "string", "enum": ["true"] },
            })
        }));
    }
    if !is_written {
        let fields = body_fields(route).into_iter();
        parameters.extend(fields.map(|field| parameter(field, "query")));
    }
    parameters
}

fn parameter(field: &Field, place: &str) -> Value {
    json!({
        "name": field.name,
        "in": place,
        "required": place == "path",
        "deprecated": field.deprecated,
        "description": field.description,
        "schema": schema::of(field, Direction::Request),
    })
}

fn captures<S>(route: &Route<S>) -> Vec<&'static str> {
    Pattern::parse(route.pattern).map_or_else(Vec::new, |pattern| pattern.names())
}

fn body_fields<S>(route: &Route<S>) -> Vec<&'static Field> {
    let captures = captures(route);
    let fields = route.fields.iter();
    fields.filter(|it| !captures.contains(&it.name)).collect()
}

/// Names the operation after its path, for example `smtp-write-tenant-rotate`: unique within a
/// mount because a path is, and the same in every version.
fn operation_id<S>(prefix: &str, route: &Route<S>, operation: Operation) -> String {
    let verb = match operation {
        Operation::Update | Operation::Create => "write",
        other => other.as_str(),
    };
    let words = route.pattern.split(['/', '{', '}', '_']);
    let words: Vec<&str> = [prefix, verb].into_iter().chain(words).collect();
    hyphenated(words.into_iter())
}

fn hyphenated<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}

/// The prefix that the host proposes: its name of the plugin; empty if it says none.
pub(super) fn told_prefix(request: &Data) -> String {
    let told = request.as_map().get("requestResponsePrefix");
    prefix_of(told.and_then(Value::as_str).unwrap_or_default())
}

/// Turns the host's name of something into a prefix: its letters and digits, in hyphenated words.
pub(super) fn prefix_of(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    hyphenated(name.split(|c: char| !c.is_ascii_alphanumeric()))
}

/// `smtp-read-config` to `SmtpReadConfig`.
fn title_case(hyphenated: &str) -> String {
    let words = hyphenated.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field::text("tenant", "Name of the tenant.")
            .pattern("^[a-z]+$")
            .example("acme"),
        Field::secret("password", "The password.").required(),
        Field::duration("wait", "How long to wait.").default("8s"),
        Field::integer("version", "Which.").default("3").range(1, 9),
        Field::texts("admins", "Who.").default("a@b.test, c@d.test"),
    ];
    const LISTED: &[Field] = &[Field::text("after", "The last name seen.")];
    const TTL: &[Field] = &[Field::duration("ttl", "When to read again.").default("5m")];
    const ANSWERS: &[Field] = &[
        TTL[0],
        Field::text("state", "How it is.")
            .one_of(&["good", "bad"])
            .nullable(),
        Field::objects("found", "What was found.").of(TTL),
        Field::object("one", "The first.").of(TTL),
    ];

    fn endpoint(operations: &'static [Operation], answers: &'static [Field]) -> Endpoint<()> {
        Endpoint {
            operations,
            summary: "Does it",
            unknown_fields: UnknownFields::Warned,
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
        document("One line.\nMore.", "mail", "1.2.3", &[&route]).0
    }

    fn admin() -> (Value, Value) {
        use Operation::{Create, Delete, Header, Patch, Read, Update};
        let endpoints = vec![
            endpoint(&[Read, Header], ANSWERS),
            endpoint(&[Create, Update], &[]),
            endpoint(&[Patch], &[]),
            endpoint(&[Delete], &[]),
        ];
        let document = document_of("{tenant}/admin", FIELDS, endpoints);
        (
            document["paths"]["/{tenant}/admin"].clone(),
            document["components"]["schemas"].clone(),
        )
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
        let (item, schemas) = admin();
        assert_eq!(
            item["parameters"],
            json!([{
                "name": "tenant",
                "in": "path",
                "required": true,
                "deprecated": false,
                "description": "Name of the tenant.",
                "schema": {
                    "type": "string",
                    "description": "Name of the tenant.",
                    "pattern": "^[a-z]+$",
                    "maxLength": 2048,
                    "example": "acme",
                },
            }])
        );
        assert_eq!(item["x-vault-createSupported"], true);
        assert_eq!(item["post"]["operationId"], "mail-write-tenant-admin");
        assert_eq!(item["post"]["tags"], json!(["secrets"]));
        assert_eq!(
            item["post"]["requestBody"]["content"]["application/json"]["schema"],
            json!({
                "$ref": "#/components/schemas/MailWriteTenantAdminRequest",
                "ref": "#/components/schemas/MailWriteTenantAdminRequest",
            })
        );
        let body = &schemas["MailWriteTenantAdminRequest"];
        assert_eq!(body["required"], json!(["password"]));
        assert!(body["properties"]["tenant"].is_null());
        assert_eq!(body["properties"]["wait"]["default"], "8s");
        assert_eq!(body["properties"]["version"]["default"], 3);
        assert_eq!(body["properties"]["version"]["minimum"], 1);
        assert_eq!(body["properties"]["version"]["maximum"], 9);
        assert_eq!(
            body["properties"]["admins"]["default"],
            json!(["a@b.test", "c@d.test"])
        );
        assert!(item["get"]["parameters"].is_null());
    }

    #[test]
    fn a_patch_requires_nothing() {
        let (item, schemas) = admin();
        let body = &item["patch"]["requestBody"];
        assert_eq!(body["required"], false);
        assert!(body["content"]["application/merge-patch+json"].is_object());
        let schema = &schemas["MailPatchTenantAdminRequest"];
        assert!(schema["required"].is_null());
        assert_eq!(schema["properties"]["password"]["type"], "string");
    }

    #[test]
    fn an_answer_is_described_as_it_comes() {
        let (_, schemas) = admin();
        let answer = &schemas["MailReadTenantAdminResponse"]["properties"];
        assert_eq!(
            answer["ttl"],
            json!({
                "type": "integer",
                "format": "seconds",
                "description": "When to read again.",
                "example": 300,
            })
        );
        assert_eq!(answer["state"]["enum"], json!(["good", "bad", null]));
        let found = &answer["found"];
        assert_eq!(found["items"]["properties"]["ttl"]["type"], "integer");
        assert_eq!(answer["one"]["properties"]["ttl"]["type"], "integer");
    }

    #[test]
    fn every_outcome_is_described() {
        let (item, schemas) = admin();
        let failed = &item["get"]["responses"]["409"]["content"]["application/json"]["schema"];
        assert_eq!(failed["$ref"], "#/components/schemas/MailErrors");
        assert_eq!(schemas["MailErrors"]["required"], json!(["errors"]));
        let deleted = item["delete"]["responses"].as_object().unwrap();
        let statuses: Vec<&str> = deleted.keys().map(String::as_str).collect();
        let known = ["200", "204", "400", "403", "404", "409", "500", "503"];
        assert_eq!(statuses, known);
        assert_eq!(
            deleted["204"],
            json!({ "description": "Done; empty body." })
        );
        let head = item["head"]["responses"].as_object().unwrap();
        assert!(head.values().all(|response| response["content"].is_null()));
    }

    #[test]
    fn a_list_has_a_path_of_its_own_with_query_parameters() {
        use Operation::{List, Scan};
        let parameters = |operations: &'static [Operation]| {
            let document = document_of("", LISTED, vec![endpoint(operations, &[])]);
            let get = document["paths"]["/"]["get"].clone();
            let listed = get["parameters"].as_array().unwrap().iter();
            let named = listed.map(|it| {
                let required = it["required"].as_bool().unwrap();
                (it["name"].as_str().unwrap().to_owned(), required)
            });
            (get["operationId"].clone(), named.collect::<Vec<_>>())
        };
        let named = |names: &[(&str, bool)]| -> Vec<(String, bool)> {
            let names = names.iter();
            names.map(|(name, it)| (String::from(*name), *it)).collect()
        };
        assert_eq!(
            parameters(&[List]),
            (
                "mail-list".into(),
                named(&[("list", true), ("after", false)])
            )
        );
        assert_eq!(
            parameters(&[Scan]),
            (
                "mail-scan".into(),
                named(&[("scan", true), ("after", false)])
            )
        );
        assert_eq!(
            parameters(&[List, Scan]),
            (
                "mail-list".into(),
                named(&[("list", false), ("scan", false), ("after", false)])
            )
        );
        let document = document_of("tenants", LISTED, vec![endpoint(&[List], &[])]);
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.keys().collect::<Vec<_>>(), ["/tenants/"]);
        let keys = &document["components"]["schemas"]["MailListTenantsResponse"];
        assert_eq!(keys["properties"]["keys"]["type"], "array");
    }
}
