//! Mail logins against the same users: password or app token, limits, locks.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::config::{LoginService, Rehash, Release, Settings};
use super::hash;
use super::shared::{Shared, lock};

/// Where logins come from that a test itself makes: not the address of the code under test, whose
/// limits and exemption they would otherwise change. Source of the range: RFC 5737.
pub const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

/// What the mail side says. From [`LoginAnswer::Limited`] a client learns nothing but "refused".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginAnswer {
    Good,
    /// Wrong, unknown, disabled, or a token from a wrong address.
    Refused,
    /// The user is locked or the network is; 2024.06 shows it as [`LoginAnswer::Refused`].
    Limited,
    /// The admin could not be asked.
    Down,
}

/// Tries a login from `peer` and charges the limits.
pub async fn login(shared: &Arc<Shared>, peer: IpAddr, email: &str, password: &str) -> LoginAnswer {
    let settings = shared.settings();
    if settings.login_service == LoginService::Frozen {
        shared.faults.hold().wait(None, &shared.stop).await;
    }
    let is_down = settings.login_service == LoginService::Down || settings.admin_down;
    if is_down || password.chars().count() > hash::MAX_PASSWORD_CHARS {
        return LoginAnswer::Down;
    }
    let email = email.to_lowercase();
    let now = shared.clock.now();
    // Secrets shaped like app tokens skip both limits, whatever they are.
    if !is_token_shaped(password) {
        let limits = lock(&shared.limits);
        if limits.network_refused(peer, now) || limits.user_refused(&email, peer, now) {
            return LoginAnswer::Limited;
        }
    }
    let is_known = lock(&shared.tables).user(&email).is_some();
    if is_known && secret_fits(shared, &settings, peer, &email, password).await {
        lock(&shared.limits).prove(peer, now);
        return LoginAnswer::Good;
    }
    charge(shared, settings.release, peer, &email, password, is_known);
    LoginAnswer::Refused
}

/// Reports whether `secret` opens the mailbox, limits aside.
async fn secret_fits(
    shared: &Arc<Shared>,
    settings: &Settings,
    peer: IpAddr,
    email: &str,
    secret: &str,
) -> bool {
    let stored = {
        let tables = lock(&shared.tables);
        let Some(user) = tables.user(email).filter(|user| user.enabled()) else {
            return false;
        };
        if is_token_shaped(secret) && tables.tokens.values().any(|t| t.fits(email, secret, peer)) {
            return true;
        }
        user.hash.clone()
    };
    // An empty password can be stored, and so can a line break; neither ever logs in.
    let can_log_in = !secret.is_empty() && !secret.contains(['\n', '\r', '\0']);
    if settings.require_tokens || !can_log_in {
        return false;
    }
    let (given, outdated) = (
        secret.to_owned(),
        hash::rounds(&stored) != Some(settings.rounds),
    );
    let fits = shared
        .in_turn(Duration::ZERO, move || hash::verify(&given, &stored))
        .await;
    if fits && outdated {
        rehash(shared, settings, email, secret).await;
    }
    fits
}

/// Writes the password that a login was given with a hash of today, whatever the column holds by
/// then. Source: `User.check_password` of Mailu 2.0.43, 2024.06.57 and master, each seen doing it.
async fn rehash(shared: &Arc<Shared>, settings: &Settings, email: &str, password: &str) {
    let hash = shared.hash_in_turn(password.to_owned()).await;
    match settings.rehash {
        Rehash::AtOnce => lock(&shared.tables).rehash(email, hash),
        Rehash::Held => {
            let mut held = shared.faults.hold();
            let (task, email) = (Arc::clone(shared), email.to_owned());
            shared.tasks.spawn(async move {
                if held.wait(None, &task.stop).await {
                    lock(&task.tables).rehash(&email, hash);
                }
            });
        }
    }
}

fn charge(
    shared: &Shared,
    release: Release,
    peer: IpAddr,
    email: &str,
    password: &str,
    is_known: bool,
) {
    let now = shared.clock.now();
    let mut limits = lock(&shared.limits);
    if !is_known {
        limits.charge_network(peer, now);
        return;
    }
    // 2024.06 counts the same wrong password every time, 2.0 only once.
    let is_new = limits.first_time(email, hash::sha256_hex(password));
    if is_new || release != Release::V2_0 {
        limits.charge_user(email, peer, now);
    }
}

fn is_token_shaped(secret: &str) -> bool {
    secret.len() == 32
        && secret
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
