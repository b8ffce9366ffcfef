//! The stand-in as a test holds it: addresses, what to change, what to look at.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

use super::config::{Config, HashShown, LoginService, Rehash, Release, Settings};
use super::faults::Rule;
use super::hash;
use super::http::{self, Service};
use super::journal::{Entry, SmtpLogin};
use super::login::{ELSEWHERE, LoginAnswer, login};
use super::shared::{Shared, lock};
use super::smtp;
use super::tls::Authority;
use super::tokens::{self, AppToken};
use super::users::User;

/// The year as whose begin the expired certificate ended.
const EXPIRED: i32 = 2020;

/// A running stand-in; dropping it stops it and forgets what it holds.
#[derive(Debug)]
pub struct MailuStandin {
    shared: Arc<Shared>,
    ca_pem: String,
    token: String,
    ports: Ports,
}

/// The listeners' ports on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
struct Ports {
    https: u16,
    wrong_name: u16,
    expired: u16,
    http: u16,
    smtps: u16,
    submission: u16,
    control: Option<u16>,
}

impl MailuStandin {
    /// Binds every listener and starts to serve.
    ///
    /// # Errors
    ///
    /// Fails when a port is taken or a name cannot stand in a certificate.
    pub async fn start(config: Config) -> io::Result<Self> {
        let authority = Authority::new()?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        names.push(format!("mail.{}", config.domain));
        names.extend(config.names.iter().cloned());
        let end = config.certificate_end;
        let good = authority.acceptor(names.clone(), end)?;
        let expired = authority.acceptor(names, EXPIRED)?;
        let stranger = authority.acceptor(vec!["stranger.invalid".to_owned()], end)?;
        let work = config.clone();
        let shared = tokio::task::spawn_blocking(move || Arc::new(Shared::new(&work)))
            .await
            .map_err(io::Error::other)?;

        let api = |acceptor, name| Service::Api(acceptor, name);
        let https = serve(&shared, config.https_port, api(good.clone(), "https")).await?;
        let control = match config.control_port {
            Some(port) => Some(serve(&shared, port, Service::Control).await?),
            None => None,
        };
        let ports = Ports {
            https,
            wrong_name: serve(&shared, 0, api(stranger, "wrong_name")).await?,
            expired: serve(&shared, 0, api(expired, "expired")).await?,
            http: serve(&shared, 0, Service::Redirect(https)).await?,
            smtps: serve_mail(&shared, config.smtps_port, good.clone(), true).await?,
            submission: serve_mail(&shared, config.submission_port, good, false).await?,
            control,
        };
        let ca_pem = authority.pem().to_owned();
        Ok(Self {
            shared,
            ca_pem,
            token: config.token,
            ports,
        })
    }

    /// The authority's certificate, which a client must be given.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The API token it was started with.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The base address, `https://localhost:<port>`, without `/api/v1`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.ports.https)
    }

    /// The same API under a certificate for another name.
    pub fn wrong_name_url(&self) -> String {
        format!("https://localhost:{}", self.ports.wrong_name)
    }

    /// The same API under a certificate that expired in 2020.
    pub fn expired_url(&self) -> String {
        format!("https://localhost:{}", self.ports.expired)
    }

    /// The plain port, which answers 301 to everything.
    pub fn http_url(&self) -> String {
        format!("http://localhost:{}", self.ports.http)
    }

    /// The control API, if it was asked for.
    pub fn control_url(&self) -> Option<String> {
        self.ports
            .control
            .map(|port| format!("http://127.0.0.1:{port}"))
    }

    pub fn https_port(&self) -> u16 {
        self.ports.https
    }

    /// The port where TLS comes first (Mailu's 465).
    pub fn smtps_port(&self) -> u16 {
        self.ports.smtps
    }

    /// The port with STARTTLS (Mailu's 587).
    pub fn submission_port(&self) -> u16 {
        self.ports.submission
    }

    /// Orders a failure.
    pub fn fault(&self, rule: Rule) {
        self.shared.faults.add(rule);
    }

    /// Withdraws all orders that have not met a request yet.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Waits until `count` requests are held by faults.
    pub async fn wait_held(&self, count: usize) {
        self.shared.faults.wait_held(count).await;
    }

    /// Lets held requests go on, applies late writes, and returns when all of them are done.
    pub async fn release(&self) {
        self.shared.faults.release().await;
    }

    /// Replaces the API token, as a restart with another environment does.
    pub fn set_token(&self, token: &str) {
        self.set(|settings| token.clone_into(&mut settings.token));
    }

    pub fn set_hash_shown(&self, shown: HashShown) {
        self.set(|settings| settings.hash_shown = shown);
    }

    /// `CREDENTIAL_ROUNDS`: hashes of other rounds are outdated from now on.
    pub fn set_rounds(&self, rounds: u32) {
        self.set(|settings| settings.rounds = rounds);
    }

    pub fn set_rehash(&self, rehash: Rehash) {
        self.set(|settings| settings.rehash = rehash);
    }

    /// Puts a cache before the API.
    pub fn set_cached_for(&self, time: Duration) {
        self.set(|settings| settings.cached_for = time);
    }

    pub fn set_release(&self, release: Release) {
        self.set(|settings| settings.release = release);
    }

    pub fn set_hash_delay(&self, delay: Duration) {
        self.set(|settings| settings.hash_delay = delay);
    }

    pub fn set_require_tokens(&self, required: bool) {
        self.set(|settings| settings.require_tokens = required);
    }

    /// Makes it a release with CVE-2026-49217, or one without.
    pub fn set_open_tokens(&self, open: bool) {
        self.set(|settings| settings.open_tokens = open);
    }

    pub fn set_login_service(&self, service: LoginService) {
        self.set(|settings| settings.login_service = service);
    }

    /// Stops or restarts the admin: 502 from the API, 454 from the mail side.
    pub fn set_admin_down(&self, down: bool) {
        self.set(|settings| settings.admin_down = down);
    }

    /// Moves the stand-in's time, on which windows and locks depend.
    pub fn advance(&self, step: Duration) {
        self.shared.clock.advance(step);
    }

    /// Forgets every failure: the windows are empty and nobody is locked.
    pub fn forgive(&self) {
        lock(&self.shared.limits).forgive();
    }

    /// Forgets which addresses logged in, so that the limits apply to them again.
    pub fn forget_proven(&self) {
        lock(&self.shared.limits).forget_proven();
    }

    /// Changes how many failures lock: a network in an hour, a user in a day.
    pub fn set_limits(&self, per_network: usize, per_user: usize) {
        let mut limits = lock(&self.shared.limits);
        (limits.per_network, limits.per_user) = (per_network, per_user);
    }

    /// Sets a password behind the client's back, as Mailu's web page or CLI does; creates the
    /// account when there is none.
    pub fn set_password_directly(&self, email: &str, password: &str) {
        let hash = hash::hash(password, self.shared.settings().rounds);
        lock(&self.shared.tables).set_hash(email, hash);
    }

    /// Puts a stored hash back, as a restored database does.
    pub fn set_hash_directly(&self, email: &str, hash: &str) {
        lock(&self.shared.tables).set_hash(email, hash.to_owned());
    }

    /// Sets any other member of a user object. Returns whether the user exists.
    pub fn set_field(&self, email: &str, name: &str, value: Value) -> bool {
        let mut tables = lock(&self.shared.tables);
        let user = tables.user_mut(email);
        user.map(|user| user.fields.insert(name.to_owned(), value))
            .is_some()
    }

    /// Disables a user. Returns whether it exists.
    pub fn disable(&self, email: &str) -> bool {
        self.set_field(email, "enabled", Value::Bool(false))
    }

    /// Removes a user and its tokens. Returns whether it existed.
    pub fn delete(&self, email: &str) -> bool {
        lock(&self.shared.tables).remove_user(email)
    }

    pub fn user(&self, email: &str) -> Option<User> {
        lock(&self.shared.tables).user(email).cloned()
    }

    pub fn comment(&self, email: &str) -> Option<String> {
        self.user(email).map(|user| user.comment())
    }

    /// Gives a user another app token, as its owner does in the web pages.
    pub fn add_token(&self, email: &str) {
        let mut tables = lock(&self.shared.tables);
        let body = serde_json::Map::new();
        tokens::create(&mut tables, &body, Some(email), "2026-11-21");
    }

    /// Returns the user's app tokens with their ids, oldest first.
    pub fn tokens(&self, email: &str) -> Vec<(u64, AppToken)> {
        let email = email.to_lowercase();
        let tables = lock(&self.shared.tables);
        let own = tables
            .tokens
            .iter()
            .filter(|(_, token)| token.email == email);
        own.map(|(id, token)| (*id, token.clone())).collect()
    }

    /// Reports whether `password` is the stored one; no limit, no count.
    pub fn password_fits(&self, email: &str, password: &str) -> bool {
        self.user(email)
            .is_some_and(|user| hash::verify(password, &user.hash))
    }

    /// Logs in as a mail client at another address does, with all limits and counts.
    pub async fn login(&self, email: &str, password: &str) -> LoginAnswer {
        self.login_from(ELSEWHERE, email, password).await
    }

    /// Logs in as a mail client at `peer` does.
    pub async fn login_from(&self, peer: IpAddr, email: &str, password: &str) -> LoginAnswer {
        login(&self.shared, peer, email, password).await
    }

    /// Reports whether the user is locked for addresses that are not exempt.
    pub fn is_locked(&self, email: &str) -> bool {
        let now = self.shared.clock.now();
        lock(&self.shared.limits).user_locked(&email.to_lowercase(), now)
    }

    /// Returns every HTTP request that arrived, in order.
    pub fn journal(&self) -> Vec<Entry> {
        self.shared.journal.entries()
    }

    /// Returns every AUTH that arrived over SMTP, in order.
    pub fn smtp_journal(&self) -> Vec<SmtpLogin> {
        self.shared.journal.logins()
    }

    /// Stops the listeners and waits until all work has ended.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.shared.settings));
    }
}

impl Drop for MailuStandin {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

async fn bind(port: u16) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

async fn serve(shared: &Arc<Shared>, port: u16, service: Service) -> io::Result<u16> {
    let (listener, port) = bind(port).await?;
    shared
        .tasks
        .spawn(http::listen(Arc::clone(shared), listener, service));
    Ok(port)
}

async fn serve_mail(
    shared: &Arc<Shared>,
    port: u16,
    acceptor: tokio_rustls::TlsAcceptor,
    implicit: bool,
) -> io::Result<u16> {
    let (listener, port) = bind(port).await?;
    shared.tasks.spawn(smtp::listen(
        Arc::clone(shared),
        listener,
        acceptor,
        implicit,
    ));
    Ok(port)
}
