//! From an entry to the message that people get.

use chrono::{DateTime, Utc};

use super::entry::Entry;
use crate::engine::hint;
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
        let (meaning, hint) = hint::explain(code);
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
        changed: event.changed.clone(),
        old_host: event.old_host.clone(),
        new_host: event.new_host.clone(),
        incident_id: event.incident_id.clone(),
        reason: event.reason.clone(),
        display_name: event.display_name.clone(),
    }
}

/// What a finding means and what to do about it before the change.
fn explained(finding: Finding) -> Explained {
    Explained {
        code: code(finding).to_owned(),
        meaning: meaning(finding).to_owned(),
        hint: hint(finding).to_owned(),
    }
}

/// The word by which a finding is stored.
const fn code(finding: Finding) -> &'static str {
    match finding {
        Finding::NoServer => "no_server",
        Finding::AccountMissing => "account_missing",
        Finding::Drift => "drift",
        Finding::Unsettled => "unsettled",
        Finding::TlsInvalid => "tls_invalid",
        Finding::Unreachable => "unreachable",
        Finding::TokenRefused => "token_refused",
        Finding::LimiterBusy => "limiter_busy",
        Finding::LiveUnknown => "live_unknown",
        Finding::AccountDisabled => "account_disabled",
        Finding::ChangeAtLogin => "change_at_login",
        Finding::OtherOwner => "other_owner",
        Finding::MarkDoesNotFit => "mark_does_not_fit",
        Finding::AppTokensOpen => "app_tokens_open",
        Finding::TlsExpiresSoon => "tls_expires_soon",
        Finding::CaExpired => "ca_expired",
        Finding::MailuOld => "mailu_old",
        Finding::MailuUnknown => "mailu_unknown",
    }
}

const fn meaning(finding: Finding) -> &'static str {
    match finding {
        Finding::NoServer => "the tenant has no Mailu server, so its password cannot be changed",
        Finding::AccountMissing => "Mailu has no such account, so the change will fail",
        Finding::Drift => {
            "Mailu holds a password that was not set from here, so nothing is changed by itself"
        }
        Finding::Unsettled => "an earlier change is still open",
        Finding::TlsInvalid => "the Mailu server's certificate is not valid, so it is not called",
        Finding::Unreachable => "the Mailu server could not be reached",
        Finding::TokenRefused => "the Mailu server refused the API token",
        Finding::LimiterBusy => {
            "calls to the Mailu server rest after refused ones, so not everything was looked at"
        }
        Finding::LiveUnknown => "Mailu does not tell which password is live",
        Finding::AccountDisabled => "the account is disabled in Mailu and may not log in",
        Finding::ChangeAtLogin => "the next login on the web has to change the password",
        Finding::OtherOwner => {
            "somebody else's engine changes this account too, so nothing is changed by itself"
        }
        Finding::MarkDoesNotFit => {
            "the account's comment in Mailu is too long for the engine's mark"
        }
        Finding::AppTokensOpen => {
            "anybody can edit the Mailu server's app tokens without logging in (CVE-2026-49217)"
        }
        Finding::TlsExpiresSoon => {
            "the Mailu server's certificate ends before the change or soon after it"
        }
        Finding::CaExpired => "a CA certificate that was given for the server has expired",
        Finding::MailuOld => {
            "the Mailu server is of the 2.0 line, which has no app tokens to revoke in a reset"
        }
        Finding::MailuUnknown => "the Mailu server does not tell its release",
    }
}

const fn hint(finding: Finding) -> &'static str {
    match finding {
        Finding::NoServer => "write <tenant>/config",
        Finding::AccountMissing => "create the account in Mailu, or check the username",
        Finding::Drift => "find out who changed it, then write <tenant>/rotate",
        Finding::Unsettled => "read <tenant>/status, and write <tenant>/verify to settle it",
        Finding::TlsInvalid => "renew the certificate, or set ca_cert in <tenant>/config",
        Finding::Unreachable => "check that it runs and that this server may reach it",
        Finding::TokenRefused => "write a valid api_token to <tenant>/config",
        Finding::LimiterBusy => {
            "add the Vault servers to AUTH_RATELIMIT_EXEMPTION on the Mailu server"
        }
        Finding::LiveUnknown => "write <tenant>/verify",
        Finding::AccountDisabled => "enable the account in Mailu if it is still needed",
        Finding::ChangeAtLogin => "nothing: the coming change ends that, unless somebody logs in",
        Finding::OtherOwner => "find out who it is, then write <tenant>/verify or <tenant>/rotate",
        Finding::MarkDoesNotFit => "shorten the comment to 170 characters",
        Finding::AppTokensOpen => "update Mailu to 2024.06.52 or later now",
        Finding::TlsExpiresSoon => "renew the certificate",
        Finding::CaExpired => "write the current CA to ca_cert in <tenant>/config",
        Finding::MailuOld => "update Mailu",
        Finding::MailuUnknown => "check that it is a supported Mailu",
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
            Finding::ChangeAtLogin,
            Finding::OtherOwner,
            Finding::MarkDoesNotFit,
            Finding::AppTokensOpen,
            Finding::TlsExpiresSoon,
            Finding::CaExpired,
            Finding::MailuOld,
            Finding::MailuUnknown,
        ] {
            let stored = serde_json::to_string(&finding).unwrap();
            assert_eq!(stored, format!("\"{}\"", explained(finding).code));
        }
    }
}
