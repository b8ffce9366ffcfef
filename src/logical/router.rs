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
    /// A field is declared twice, its default or example is not a value of its kind, or it is
    /// required where no create or update could demand it.
    #[error("pattern `{0}` declares field `{1}` wrongly")]
    Field(&'static str, &'static str),
}

/// A table of routes over an engine's state `S`.
///
/// Of all patterns that match a path, the one with the leftmost literal wins; the order of the
/// table means nothing. Ticks and leases are not routed: the engine handles them before.
///
/// ```
/// use std::sync::Arc;
/// use vault_plugin_secrets_smtp::logical::{
///     Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, Router,
/// };
///
/// struct Engine;
///
/// async fn greet(_engine: Arc<Engine>, _mount: Mount, call: Call) -> Reply {
///     let word = call.fields.text("word").set().unwrap_or("hello").to_owned();
///     Ok(Some(Response::data(Data::keys(vec![word, call.capture("name").to_owned()]))))
/// }
///
/// let router = Router::new(vec![Route {
///     pattern: "greet/{name}",
///     synopsis: "Greets somebody.",
///     description: "Greets whoever the path names.",
///     fields: const {
///         &[
///             Field::text("name", "Who is greeted."),
///             Field::text("word", "How.").default("hello"),
///         ]
///     },
///     endpoints: vec![Endpoint {
///         operations: &[Operation::Update],
///         summary: "Greet",
///         answers: &[],
///         handler: |engine: Arc<Engine>, mount, call| Box::pin(greet(engine, mount, call)),
///     }],
///     existence: None,
/// }])
/// .with_help("Greets people.");
/// assert_eq!(router.check(), Ok(()));
/// ```
pub struct Router<S> {
    help: &'static str,
    name: &'static str,
    version: &'static str,
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
            name: "",
            version: "",
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

    /// Sets the name of the engine, which begins every operation's and schema's name in the OpenAPI
    /// document: the host merges all mounts' documents. Without it the host's name of the plugin
    /// does.
    #[must_use]
    pub const fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Sets the version that the OpenAPI document names, that of whoever declares the routes.
    #[must_use]
    pub const fn with_version(mut self, version: &'static str) -> Self {
        self.version = version;
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
    /// [`Error::UnsupportedPath`] and a 405 `unsupported_operation` for what no route has,
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
            .ok_or_else(|| unsupported(route, request.operation))?;
        let names: Vec<&'static str> = captures.iter().map(|(name, _)| *name).collect();
        let data = std::mem::take(&mut request.data);
        let decoded = decode::decode(route.fields, &names, request.operation, data)?;
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
        let engine = help::EngineName::new(self.name, self.version, &request.data);
        let data = match request.path.trim_end_matches('/') {
            "" | "help" => help::of_mount(self.help, &engine, self.routes())?,
            path => {
                let (route, _) = self.find(request).ok_or(Error::UnsupportedPath)?;
                help::of_path(path, &engine, route)?
            }
        };
        Ok(Some(Response::data(data)))
    }
}

/// Names what the path takes instead; [`Error::UnsupportedOperation`] would lose any text.
fn unsupported<S>(route: &Route<S>, asked: Operation) -> Error {
    let taken = route.endpoints.iter().flat_map(|e| e.operations);
    let taken: Vec<&str> = taken.map(|operation| operation.as_str()).collect();
    Error::status(
        405,
        "unsupported_operation",
        format!(
            "this path does not take {}, but {}. Its path-help says what for.",
            asked.as_str(),
            taken.join(", "),
        ),
    )
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

/// Makes a caller's name safe to repeat: one short word of visible characters.
fn printable(name: &str) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Endpoint, MemoryStorage, StaticSystemView};
    use super::*;

    /// Answers which pattern was called with what.
    #[derive(Debug)]
    struct Echo;

    const TENANT: Field = Field::text("tenant", "Name of the tenant.");
    const REASON: Field = Field::text("reason", "Why it is done.").required();

    fn echo(pattern: &'static str, call: &Call) -> Reply {
        let tenant = match pattern.contains("{tenant}") {
            true => call.capture("tenant"),
            false => "",
        };
        assert!(call.request.data.as_map().is_empty());
        let data = Data::from_serialize(&json!({ "pattern": pattern, "tenant": tenant }))?;
        Ok(Some(Response::data(data)))
    }

    fn endpoint(
        operations: &'static [Operation],
        handler: super::super::Handler<Echo>,
    ) -> Endpoint<Echo> {
        Endpoint {
            operations,
            summary: "Does it.",
            answers: &[],
            handler,
        }
    }

    fn route(
        pattern: &'static str,
        fields: &'static [Field],
        endpoints: Vec<Endpoint<Echo>>,
    ) -> Route<Echo> {
        Route {
            pattern,
            synopsis: "One of the paths.",
            description: "All about it.",
            fields,
            endpoints,
            existence: None,
        }
    }

    fn routes() -> Vec<Route<Echo>> {
        use Operation::{Delete, List, Read, Update};
        let mut config = route(
            "{tenant}/config",
            &[TENANT],
            vec![
                endpoint(&[Read], |_, _, call| {
                    Box::pin(async move { echo("{tenant}/config", &call) })
                }),
                endpoint(&[Update, Delete], |_, _, _| Box::pin(async { Ok(None) })),
            ],
        );
        config.existence =
            Some(|_, _, call| Box::pin(async move { Ok(Some(call.capture("tenant") == "acme")) }));
        vec![
            config,
            route(
                "config/audit",
                &[],
                vec![endpoint(&[Read], |_, _, call| {
                    Box::pin(async move { echo("config/audit", &call) })
                })],
            ),
            route(
                "config/{name}",
                const { &[Field::text("name", "")] },
                vec![endpoint(&[Read], |_, _, call| {
                    Box::pin(async move { echo("config/{name}", &call) })
                })],
            ),
            route(
                "",
                &[],
                vec![endpoint(&[List], |_, _, call| {
                    Box::pin(async move { echo("", &call) })
                })],
            ),
            route(
                "{tenant}/status",
                &[TENANT],
                vec![endpoint(&[Read], |_, _, _| Box::pin(async { Ok(None) }))],
            ),
            route(
                "{tenant}/rotate",
                &[TENANT, REASON],
                vec![endpoint(&[Update], |_, _, call| {
                    Box::pin(async move { echo("{tenant}/rotate", &call) })
                })],
            ),
        ]
    }

    fn mount() -> Mount {
        Mount {
            storage: Arc::new(MemoryStorage::new()),
            system: Arc::new(StaticSystemView::default()),
        }
    }

    async fn ask(operation: Operation, path: &str, body: Value) -> Reply {
        let Value::Object(body) = body else {
            panic!("not an object")
        };
        let request = Request::new(operation, path, Data::from_map(body));
        let router = Router::new(routes());
        router.handle(&Arc::new(Echo), &mount(), request).await
    }

    async fn pattern_of(operation: Operation, path: &str) -> Result<String, Error> {
        let answer = ask(operation, path, json!({"reason": "x"})).await?.unwrap();
        let data = answer.data.unwrap();
        Ok(data.as_map()["pattern"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn the_leftmost_literal_wins_in_any_order_of_the_table() {
        let read = |path| pattern_of(Operation::Read, path);
        assert_eq!(read("config/audit").await.unwrap(), "config/audit");
        assert_eq!(read("config/config").await.unwrap(), "config/{name}");
        assert_eq!(read("acme/config").await.unwrap(), "{tenant}/config");
        let order = |routes: Vec<Route<Echo>>| -> Vec<&'static str> {
            let router = Router::new(routes);
            router.routes().map(|route| route.pattern).collect()
        };
        let reversed = routes().into_iter().rev().collect();
        assert_eq!(order(routes()), order(reversed));
    }

    #[tokio::test]
    async fn only_lists_may_end_in_a_slash() {
        for path in ["", "/"] {
            assert_eq!(pattern_of(Operation::List, path).await.unwrap(), "");
        }
        for (operation, path) in [
            (Operation::Read, "acme/config/"),
            (Operation::Update, "acme/rotate/"),
            (Operation::List, "//"),
            (Operation::Read, "acme//config"),
            (Operation::Read, "../config"),
            (Operation::Read, "nothing"),
        ] {
            let answer = pattern_of(operation, path).await;
            assert_eq!(answer, Err(Error::UnsupportedPath), "{path}");
        }
    }

    #[tokio::test]
    async fn a_known_path_without_the_operation_is_told_apart() {
        for operation in [Operation::Delete, Operation::Rollback, Operation::List] {
            let answer = ask(operation, "acme/rotate", json!({})).await;
            let refused = answer.unwrap_err();
            assert!(
                matches!(
                    &refused,
                    Error::Status {
                        status: 405,
                        code: "unsupported_operation",
                        ..
                    }
                ),
                "{refused:?}"
            );
            let text = refused.to_string();
            assert!(
                text.contains(operation.as_str()) && text.contains("update"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn unknown_and_replaced_parameters_become_warnings() {
        let body = json!({"reason": "x", "tenant": "evil", "b": 1, "a\nb\u{202e}": 1});
        let answer = ask(Operation::Update, "acme/rotate", body).await.unwrap();
        let answer = answer.unwrap();
        assert_eq!(
            answer.warnings,
            [
                "Endpoint ignored these unrecognized parameters: [a?b? b]",
                "Endpoint replaced the value of these parameters with the values captured from \
                 the endpoint's path: [tenant]",
            ]
        );
        assert_eq!(answer.data.unwrap().as_map()["tenant"], "acme");
    }

    #[tokio::test]
    async fn a_write_without_answer_still_warns_and_a_silent_one_stays_silent() {
        let body = json!({"reasn": "x"});
        let answer = ask(Operation::Update, "acme/config", body).await.unwrap();
        assert_eq!(answer.unwrap().warnings.len(), 1);
        let answer = ask(Operation::Update, "acme/config", json!({})).await;
        assert!(answer.unwrap().is_none());
        let answer = ask(Operation::Read, "acme/status", json!({"x": "1"})).await;
        assert!(answer.unwrap().is_none(), "a 404 must stay one");
        let answer = ask(Operation::List, "", json!({"list": "true"})).await;
        assert!(answer.unwrap().unwrap().warnings.is_empty());
    }

    #[tokio::test]
    async fn endless_names_are_cut() {
        let body: serde_json::Map<String, Value> = (0..100)
            .map(|n| (format!("{n:03}{}", "x".repeat(1_000)), json!(1)))
            .collect();
        let answer = ask(Operation::Update, "acme/config", Value::Object(body)).await;
        let warning = answer.unwrap().unwrap().warnings.remove(0);
        assert!(warning.len() < 64 * 20 + 100, "{}", warning.len());
    }

    #[tokio::test]
    async fn missing_fields_are_refused_before_the_handler() {
        let answer = ask(Operation::Update, "acme/rotate", json!({})).await;
        let Err(Error::User { code, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(code, "missing_field");
    }

    #[tokio::test]
    async fn the_existence_check_decodes_nothing_and_knows_its_limits() {
        let router = Router::new(routes());
        let (state, mount) = (Arc::new(Echo), mount());
        let exists = async |path| {
            let body = serde_json::Map::from_iter([(String::from("tenant"), json!([1]))]);
            let request = Request::new(Operation::Update, path, Data::from_map(body));
            router.exists(&state, &mount, request).await
        };
        assert_eq!(exists("acme/config").await, Ok(Some(true)));
        assert_eq!(exists("other/config").await, Ok(Some(false)));
        assert_eq!(exists("acme/rotate").await, Ok(None));
        assert_eq!(exists("nothing/at/all").await, Ok(None));
    }

    #[test]
    fn its_futures_may_move_between_threads() {
        fn sent<T: Send>(_future: T) {}
        let (router, state, mount) = (Router::new(routes()), Arc::new(Echo), mount());
        let request = Request::new(Operation::Read, "", Data::default());
        sent(router.handle(&state, &mount, request.clone()));
        sent(router.exists(&state, &mount, request));
    }

    #[tokio::test]
    async fn help_is_there_for_the_mount_and_every_known_path() {
        for path in [
            "",
            "/",
            "help",
            "acme/rotate",
            "acme/rotate/",
            "config/audit",
        ] {
            let body = json!({"requestResponsePrefix": "smtp"});
            let answer = ask(Operation::Help, path, body).await.unwrap().unwrap();
            assert!(answer.data.unwrap().as_map()["help"].is_string(), "{path}");
            assert!(answer.warnings.is_empty());
        }
        let answer = ask(Operation::Help, "no/such/path", json!({})).await;
        assert_eq!(answer.unwrap_err(), Error::UnsupportedPath);
    }

    #[test]
    fn the_check_finds_each_defect() {
        fn read(operations: &'static [Operation]) -> Vec<Endpoint<Echo>> {
            vec![endpoint(operations, |_, _, _| Box::pin(async { Ok(None) }))]
        }
        const READ: &[Operation] = &[Operation::Read];
        let with = |added: Route<Echo>| {
            let mut all = routes();
            all.push(added);
            Router::new(all).check()
        };
        assert_eq!(Router::new(routes()).check(), Ok(()));
        assert_eq!(
            with(route("a//b", &[], read(READ))),
            Err(RouteError::Pattern("a//b"))
        );
        assert_eq!(
            with(route(
                "{x}/rotate",
                const { &[Field::text("x", "")] },
                read(READ)
            )),
            Err(RouteError::Ambiguous("{tenant}/rotate", "{x}/rotate"))
        );
        assert_eq!(
            with(route("a/{x}", &[], read(READ))),
            Err(RouteError::Capture("a/{x}", "x"))
        );
        let twice = &[Operation::Read, Operation::Read];
        assert_eq!(
            with(route("a", &[], read(twice))),
            Err(RouteError::Operation("a", Operation::Read))
        );
        assert_eq!(
            with(route("a", &[], read(&[Operation::Rollback]))),
            Err(RouteError::Operation("a", Operation::Rollback))
        );
        assert_eq!(
            with(route("a", &[TENANT, TENANT], read(READ))),
            Err(RouteError::Field("a", "tenant"))
        );
        assert_eq!(
            with(route("a", const { &[REASON] }, read(READ))),
            Err(RouteError::Field("a", "reason"))
        );
        let bad = const { &[Field::duration("wait", "").default("8 seconds")] };
        assert_eq!(
            with(route("a", bad, read(READ))),
            Err(RouteError::Field("a", "wait"))
        );
    }
}
