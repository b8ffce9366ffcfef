//! The router: from a request to the handler that answers it.

mod check;
mod warnings;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::path::Captures;
use super::{Call, Data, Error, Fields, Mount, Operation, Pattern, Reply, Request, Response};
use super::{Route, decode, help, strict};

pub use check::RouteError;

/// A table of routes over an engine's state `S`.
///
/// Of all patterns that match a path, the one with the leftmost literal wins; the order of the
/// table means nothing. Ticks are not routed: the engine handles them before.
///
/// Renewal and revocation of a lease are routed to the path that issued it, as the operations
/// [`Operation::Renew`] and [`Operation::Revoke`]. Their data is what was answered with the lease
/// and no parameters: it is not decoded but left in [`Call::request`].
///
/// ```
/// use std::sync::Arc;
/// use vault_plugin_secrets_smtp::logical::{
///     Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, Router, UnknownFields,
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
///         unknown_fields: UnknownFields::Warned,
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
        check::table(&self.routes)
    }

    /// Finds the route of a path and what the path has for its captures.
    fn find(&self, request: &Request) -> Option<(&Route<S>, Captures)> {
        let path = match request.operation {
            // The host appends a slash to list paths, operators do so asking for help, and a lease
            // may have come of a list.
            Operation::List
            | Operation::Scan
            | Operation::Help
            | Operation::Renew
            | Operation::Revoke => request.path.strip_suffix('/').unwrap_or(&request.path),
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
        let operation = request.operation;
        if is_of_lease(operation) {
            let fields = Fields::new(route.fields, BTreeMap::new());
            let call = Call {
                request,
                captures,
                fields,
            };
            call.lease()?;
            return (endpoint.handler)(Arc::clone(state), mount.clone(), call).await;
        }
        let names: Vec<&'static str> = captures.iter().map(|(name, _)| *name).collect();
        let data = std::mem::take(&mut request.data);
        let asked = (operation, endpoint.unknown_fields);
        if let Err(refused) = strict::check(route.fields, &captures, asked, &data) {
            // The active node may know more than this one: during an upgrade it is the newer.
            let forwards = matches!(mount.active_node().await, Err(Error::ReadOnly));
            return Err(if forwards { Error::ReadOnly } else { refused });
        }
        let decoded = decode::decode(route.fields, &names, operation, data)?;
        let warnings = warnings::of(&decoded, operation);
        let call = Call {
            request,
            captures,
            fields: decoded.fields,
        };
        let answer = (endpoint.handler)(Arc::clone(state), mount.clone(), call).await?;
        check_lease(route, answer.as_ref())?;
        Ok(warnings::added(answer, warnings, operation))
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

/// Reports whether the host asks this of itself, about a lease.
const fn is_of_lease(operation: Operation) -> bool {
    matches!(operation, Operation::Renew | Operation::Revoke)
}

/// Finds a lease that nothing could end: the host would try in vain and keep it for ever. A defect
/// of the engine that its first test meets.
fn check_lease<S>(route: &Route<S>, answer: Option<&Response>) -> Result<(), Error> {
    let Some(lease) = answer.and_then(Response::lease) else {
        return Ok(());
    };
    for (needed, operation) in [
        (true, Operation::Revoke),
        (lease.renewable, Operation::Renew),
    ] {
        if needed && route.endpoint(operation).is_none() {
            let (pattern, name) = (route.pattern, operation.as_str());
            let text = format!("`{pattern}` answered a lease and has no endpoint for {name}");
            return Err(Error::internal(text));
        }
    }
    Ok(())
}

/// Names what the path takes instead; [`Error::UnsupportedOperation`] would lose any text.
fn unsupported<S>(route: &Route<S>, asked: Operation) -> Error {
    let taken = route.endpoints.iter().flat_map(|e| e.operations);
    let asked_by_clients = taken.filter(|operation| !is_of_lease(**operation));
    let taken: Vec<&str> = asked_by_clients.map(|taken| taken.as_str()).collect();
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Endpoint, Field, HeldLease, Lease, MemoryStorage, StaticSystemView, UnknownFields,
    };
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
            unknown_fields: UnknownFields::Warned,
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
    async fn an_act_that_cannot_be_undone_begins_only_if_every_parameter_is_known() {
        let mut strict = endpoint(&[Operation::Update], |_, _, _| {
            Box::pin(async { panic!("the handler was called") })
        });
        strict.unknown_fields = UnknownFields::Refused;
        let fields = const { &[TENANT, REASON] };
        let router = Router::new(vec![route("{tenant}/reset", fields, vec![strict])]);
        for body in [
            json!({"reason": "x", "Reason": "y"}),
            json!({"reason": "x", "hold-": true}),
            json!({"reasn": "x"}),
            json!({"reason": "x", "tenant": "evil"}),
        ] {
            let Value::Object(body) = body else {
                panic!("not an object")
            };
            let request = Request::new(Operation::Update, "acme/reset", Data::from_map(body));
            let answer = router.handle(&Arc::new(Echo), &mount(), request).await;
            let Err(Error::User { code, .. }) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!(code, "unknown_field");
        }
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

    /// A path that leases what it reads, with the given endpoints for the lease.
    fn leasing(endpoints: Vec<Endpoint<Echo>>) -> Router<Echo> {
        let mut endpoints = endpoints;
        let issue = endpoint(&[Operation::Read], |_, mount, _| {
            Box::pin(async move {
                let lease = Lease::new(&mount.active_node().await?).renewable();
                Ok(Some(Response::leased(
                    Data::texts([("key", "value")]),
                    lease,
                )))
            })
        });
        endpoints.push(issue);
        Router::new(vec![route(
            "leases/{tenant}",
            const { &[TENANT, REASON] },
            endpoints,
        )])
    }

    fn renewal() -> Endpoint<Echo> {
        endpoint(&[Operation::Renew], |_, _, call| {
            Box::pin(async move {
                assert_eq!(call.capture("tenant"), "acme");
                // Not a parameter, although there is a field of this name.
                assert_eq!(call.request.data.text("reason"), Some("answered"));
                let lease = call.lease()?.renewed();
                Ok(Some(Response::leased(call.request.data.clone(), lease)))
            })
        })
    }

    fn revocation() -> Endpoint<Echo> {
        endpoint(&[Operation::Revoke], |_, _, _| Box::pin(async { Ok(None) }))
    }

    #[tokio::test]
    async fn a_lease_that_nothing_could_end_is_not_issued() {
        for (endpoints, missing) in [
            (vec![], Some("revoke")),
            (vec![renewal()], Some("revoke")),
            (vec![revocation()], Some("renew")),
            (vec![renewal(), revocation()], None),
        ] {
            let router = leasing(endpoints);
            let request = Request::new(Operation::Read, "leases/acme", Data::default());
            let answer = router.handle(&Arc::new(Echo), &mount(), request).await;
            match missing {
                Some(name) => {
                    let text = answer.unwrap_err().to_string();
                    assert!(text.ends_with(name), "{text}");
                }
                None => assert!(answer.unwrap().unwrap().lease().is_some()),
            }
        }
    }

    #[tokio::test]
    async fn renewal_and_revocation_reach_the_path_undecoded() {
        let router = leasing(vec![renewal(), revocation()]);
        let ask = async |operation, lease| {
            let data = Data::texts([("reason", "answered"), ("other", "x")]);
            let mut request = Request::new(operation, "leases/acme", data);
            request.lease = lease;
            router.handle(&Arc::new(Echo), &mount(), request).await
        };
        let held = HeldLease {
            internal: Data::texts([("account", "a")]),
            ..HeldLease::default()
        };
        let renewed = ask(Operation::Renew, Some(held.clone())).await;
        let renewed = renewed.unwrap().unwrap();
        assert_eq!(renewed.lease().unwrap().internal, held.internal);
        assert!(renewed.warnings.is_empty(), "{:?}", renewed.warnings);
        assert!(matches!(ask(Operation::Revoke, Some(held)).await, Ok(None)));
        let Err(Error::User { code, .. }) = ask(Operation::Revoke, None).await else {
            panic!("a revocation of nothing")
        };
        assert_eq!(code, "no_lease");
    }

    #[tokio::test]
    async fn the_renewal_of_what_has_no_leases_is_refused() {
        let answer = ask(Operation::Renew, "acme/rotate", json!({})).await;
        let text = answer.unwrap_err().to_string();
        assert!(text.starts_with("unsupported_operation: "), "{text}");
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
