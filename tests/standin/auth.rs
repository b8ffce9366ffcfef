//! The API token: two header forms, three refusals, one limiter.

use std::net::IpAddr;

use super::config::Release;
use super::journal::TokenSeen;
use super::reply::Reply;
use super::shared::{Shared, lock};

/// Compares an `Authorization` header with the token. Only `Bearer <token>` and `<token>` count.
pub fn judge(header: Option<&str>, token: &str) -> TokenSeen {
    match header {
        None => TokenSeen::Missing,
        // Mailu never accepts a token below four characters, not even the right one.
        Some(header)
            if token.len() >= 4 && header.strip_prefix("Bearer ").unwrap_or(header) == token =>
        {
            TokenSeen::Right
        }
        Some(_) => TokenSeen::Wrong,
    }
}

/// Admits a request or returns its refusal, and charges the limiter for a wrong token.
///
/// # Errors
///
/// 401 without a header (never counted), 429 for a network that failed too often (also with the
/// right token), 403 for a wrong token.
pub fn admit(shared: &Shared, seen: TokenSeen, peer: IpAddr) -> Result<(), Reply> {
    let release = shared.settings().release;
    let now = shared.clock.now();
    let mut limits = lock(&shared.limits);
    if seen == TokenSeen::Missing {
        return Err(Reply::message(
            401,
            match release {
                Release::V2_0 => {
                    "A valid Bearer token is expected which is provided as request header"
                }
                Release::V2024_06 => "A valid Authorization header is mandatory",
            },
        ));
    }
    if limits.network_refused(peer, now) {
        return Err(Reply::message(
            429,
            "Too many attempts from your IP (rate-limit)",
        ));
    }
    if seen == TokenSeen::Wrong {
        limits.charge_network(peer, now);
        return Err(Reply::message(
            403,
            match release {
                Release::V2_0 => {
                    "A valid Bearer token is expected which is provided as request header"
                }
                Release::V2024_06 => "Invalid API token",
            },
        ));
    }
    Ok(())
}
