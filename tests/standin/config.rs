//! What a stand-in is started with, and what can be changed while it runs.

use std::time::Duration;

/// The line of Mailu releases to imitate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 2.0.x: no app tokens, no `change_pw_next_login`, 500 where later releases say 4xx.
    V2_0,
    /// 2024.06.x, the current stable line.
    V2024_06,
}

/// What user objects show as `password`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashShown {
    /// The stored bcrypt-sha256 hash, as every release so far does.
    Real,
    /// No `password` member at all (upstream was asked for that, issue 3857).
    Hidden,
    /// A hash of another scheme, as an account carried over from an old release has.
    OtherScheme,
}

/// What the mail side does with a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginService {
    /// Checks it.
    Up,
    /// Cannot ask the admin: 454.
    Down,
    /// Waits for an admin that does not answer, until the stand-in's faults are released.
    Frozen,
}

/// The start-up choices. Ports of 0 let the system choose.
#[derive(Clone, Debug)]
pub struct Config {
    /// The first mail domain; `mail.<domain>` is in the certificate.
    pub domain: String,
    /// More names for the certificate, beside localhost, 127.0.0.1 and `mail.<domain>`.
    pub names: Vec<String>,
    /// The year as whose begin the certificate ends.
    pub certificate_end: i32,
    /// Accounts to create, with their passwords. Their domains are created too.
    pub users: Vec<(String, String)>,
    /// The API token.
    pub token: String,
    pub release: Release,
    /// bcrypt cost, 4 to 31. Mailu's default is 12 or 13; the smallest keeps tests fast.
    pub rounds: u32,
    /// Added to every hash, inside the queue: what a slow server does without the heat.
    pub hash_delay: Duration,
    /// How long a refused login waits for its 535 or 454. Mailu: 2 s.
    pub login_delay: Duration,
    pub https_port: u16,
    pub smtps_port: u16,
    pub submission_port: u16,
    /// The control API's port; `None` starts none.
    pub control_port: Option<u16>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: "example.test".to_owned(),
            names: Vec::new(),
            certificate_end: 4096,
            users: Vec::new(),
            token: "standin-api-token-5f0c1d".to_owned(),
            release: Release::V2024_06,
            rounds: 4,
            hash_delay: Duration::ZERO,
            login_delay: Duration::from_millis(5),
            https_port: 0,
            smtps_port: 0,
            submission_port: 0,
            control_port: None,
        }
    }
}

impl Config {
    /// Adds an account.
    pub fn user(mut self, email: &str, password: &str) -> Self {
        self.users.push((email.to_owned(), password.to_owned()));
        self
    }
}

/// The choices that a test may change at any time.
#[derive(Clone, Debug)]
pub struct Settings {
    pub token: String,
    pub release: Release,
    pub rounds: u32,
    pub hash_delay: Duration,
    pub login_delay: Duration,
    pub hash_shown: HashShown,
    /// `AUTH_REQUIRE_TOKENS`: mail logins take app tokens only.
    pub require_tokens: bool,
    /// The mistake of 2024.06.51 and earlier: a token is edited without logging in.
    pub open_tokens: bool,
    pub login_service: LoginService,
    /// The admin is stopped: the edge answers 502 to every API request, mail logins get 454.
    pub admin_down: bool,
    /// The edge answers a look that it has seen for so long: like nginx, it heeds the URL with its
    /// query, and not what a request asks of caches.
    pub cached_for: Duration,
    /// What a login that finds an outdated hash does with the new one: Mailu hashes the password it
    /// was given again and writes the whole column.
    pub rehash: Rehash,
}

/// When a login's new hash is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rehash {
    /// Before the login is answered, as Mailu does.
    AtOnce,
    /// At the next release of the faults: a login that began earlier writes later.
    Held,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            token: config.token.clone(),
            release: config.release,
            rounds: config.rounds,
            hash_delay: config.hash_delay,
            login_delay: config.login_delay,
            hash_shown: HashShown::Real,
            require_tokens: false,
            open_tokens: false,
            login_service: LoginService::Up,
            admin_down: false,
            cached_for: Duration::ZERO,
            rehash: Rehash::AtOnce,
        }
    }
}
