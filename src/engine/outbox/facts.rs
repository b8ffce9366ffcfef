//! From an entry to the message that people get.

use chrono::{DateTime, Utc};

use super::entry::Entry;
use crate::engine::error;
use crate::engine::storage::record::Finding;
use crate::notify::{Explained, Message, Recipient};

/// The message of an entry for one who is told.
pub(super) fn message(
    entry: &Entry,
    channel: &str,
    to: Option<&str>,
    now: DateTime<Utc>,
) -> Message {
    let event = &entry.event;
    let error = event.error_code.as_ref().map(|code| {
        let (meaning, hint) = error::explain(code);
        Explained {
            code: code.clone(),
            meaning,
            hint: hint.to_owned(),
        }
    });
    Message {
        event: Some(event.event),
        event_id: event.event_id.clone(),
        channel: channel.to_owned(),
        recipient: to.map_or(Recipient::Channel, |to| Recipient::Address(to.to_owned())),
        tenant: event.tenant_id.clone(),
        severity: event.severity,
        outcome: event.outcome,
        rotation_type: event.rotation_type,
        version: event.version,
        previous_version: event.previous_version,
        timestamp: event.timestamp,
        sent_at: now,
        next_rotation: entry.next_rotation,
        error,
        findings: entry.findings.iter().map(|it| explained(*it)).collect(),
        incident_id: event.incident_id.clone(),
        reason: event.reason.clone(),
        display_name: event.display_name.clone(),
    }
}

/// What a finding means and what to do about it before the change.
fn explained(finding: Finding) -> Explained {
    let (code, meaning, hint) = match finding {
        Finding::NoServer => (
            "no_server",
            "the tenant has no Mailu server, so its password cannot be changed",
            "write <tenant>/config",
        ),
        Finding::AccountMissing => (
            "account_missing",
            "Mailu has no such account, so the change will fail",
            "create the account in Mailu, or check the username",
        ),
        Finding::Drift => (
            "drift",
            "Mailu holds a password that was not set from here, so nothing is changed by itself",
            "find out who changed it, then write <tenant>/rotate",
        ),
        Finding::Unsettled => (
            "unsettled",
            "an earlier change is still open",
            "read <tenant>/status, and write <tenant>/verify to settle it",
        ),
        Finding::TlsInvalid => (
            "tls_invalid",
            "the Mailu server's certificate is not valid, so it is not called",
            "renew the certificate, or set ca_cert in <tenant>/config",
        ),
        Finding::Unreachable => (
            "unreachable",
            "the Mailu server could not be reached",
            "check that it runs and that this server may reach it",
        ),
        Finding::TokenRefused => (
            "token_refused",
            "the Mailu server refused the API token",
            "write a valid api_token to <tenant>/config",
        ),
        Finding::LimiterBusy => (
            "limiter_busy",
            "calls to the Mailu server rest after refused ones, so not everything was looked at",
            "add the Vault servers to AUTH_RATELIMIT_EXEMPTION on the Mailu server",
        ),
        Finding::LiveUnknown => (
            "live_unknown",
            "Mailu does not tell which password is live",
            "write <tenant>/verify",
        ),
        Finding::AccountDisabled => (
            "account_disabled",
            "the account is disabled in Mailu and may not log in",
            "enable the account in Mailu if it is still needed",
        ),
        Finding::TlsExpiresSoon => (
            "tls_expires_soon",
            "the Mailu server's certificate ends before the change or soon after it",
            "renew the certificate",
        ),
        Finding::MailuOld => (
            "mailu_old",
            "the Mailu server is of the 2.0 line, which has no app tokens to revoke in a reset",
            "update Mailu",
        ),
        Finding::MailuUnknown => (
            "mailu_unknown",
            "the Mailu server does not tell its release",
            "check that it is a supported Mailu",
        ),
    };
    Explained {
        code: code.to_owned(),
        meaning: meaning.to_owned(),
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a finding is the word it is stored by.
    #[test]
    fn a_finding_is_told_by_its_stored_word() {
        for finding in [
            Finding::NoServer,
            Finding::AccountMissing,
            Finding::Drift,
            Finding::Unsettled,
            Finding::TlsInvalid,
            Finding::Unreachable,
            Finding::TokenRefused,
            Finding::LimiterBusy,
            Finding::LiveUnknown,
            Finding::AccountDisabled,
            Finding::TlsExpiresSoon,
            Finding::MailuOld,
            Finding::MailuUnknown,
        ] {
            let stored = serde_json::to_string(&finding).unwrap();
            assert_eq!(stored, format!("\"{}\"", explained(finding).code));
        }
    }
}
