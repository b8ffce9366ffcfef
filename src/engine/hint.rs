//! What a stored code means and what to do about it, for humans who read `status`.

use super::error::{refusal_code, refusal_hint, trouble_hint};
use super::guard::{FOREIGN_STORAGE, REFUSES_WRITES};
use super::outbox::{CHANNEL_DEAD, CHANNEL_FAILING};
use crate::provider::{Refusal, TlsFault, Trouble};

/// Every definite refusal by Mailu.
const REFUSALS: [Refusal; 7] = [
    Refusal::Token,
    Refusal::RateLimited,
    Refusal::NoSuchAccount,
    Refusal::NoSuchAppToken,
    Refusal::NoSuchDomain,
    Refusal::Conflict,
    Refusal::Invalid,
];

/// Reports whether a stored failure code says that Mailu refused.
pub(super) fn is_refusal(code: &str) -> bool {
    REFUSALS
        .into_iter()
        .any(|refusal| refusal_code(refusal) == code)
}

/// What a stored failure code means and what to do about it, for `status`.
pub(crate) fn explain(code: &str) -> (String, &'static str) {
    if let Some(refusal) = REFUSALS
        .into_iter()
        .find(|refusal| refusal_code(*refusal) == code)
    {
        return (refusal.to_string(), advice(refusal_hint(refusal)));
    }
    let (message, hint) = explain_other(code);
    (message.to_owned(), hint)
}

/// Leaves the first sentence of a hint out, which says what is wrong: beside a message that would be
/// said twice.
fn advice(hint: &'static str) -> &'static str {
    hint.split_once(". ").map_or(hint, |(_, advice)| advice)
}

/// [`explain`] for what no server refused.
fn explain_other(code: &str) -> (&'static str, &'static str) {
    match code {
        "address_refused" => (
            "the server's address is not allowed",
            advice(trouble_hint(Trouble::AddressRefused)),
        ),
        "mailu_tls" => (
            "TLS with the Mailu server failed",
            advice(trouble_hint(Trouble::Tls(TlsFault::Other))),
        ),
        "mailu_redirect" => (
            "the server answered with a redirect",
            advice(trouble_hint(Trouble::Redirect)),
        ),
        "mailu_no_api" => (
            "there is no Mailu API at this URL",
            advice(trouble_hint(Trouble::NoApi)),
        ),
        "unrecognised_refusal" => (
            "something before Mailu refused the call",
            advice(trouble_hint(Trouble::Denied { status: 403 })),
        ),
        "mailu_unreachable" => (
            "the Mailu server gave no usable answer",
            "check that the Mailu server runs and that this server reaches it, then write \
             <tenant>/verify",
        ),
        "drift" => (
            "Mailu holds a password that this engine did not set",
            "find out who changed it; write <tenant>/rotate to overwrite it",
        ),
        "record_full" => (
            "the tenant's record is full",
            "lower max_versions in the mount's config",
        ),
        "invalid_server" => (
            "the tenant's server cannot be called",
            "write <tenant>/config again, or allowed_hosts in the mount's config",
        ),
        "password_policy_unusable" => (
            "the password policy gave no usable password",
            "check password_policy in the mount's config",
        ),
        "not_taken" => (
            "Mailu did not take the new password; the old one is still live",
            "the change is given up 15 minutes after its last send: write <tenant>/verify or \
             <tenant>/rotate then",
        ),
        "abandoned" => (
            "Mailu never took the new password; the old one is still live",
            "check the Mailu server, then write <tenant>/rotate",
        ),
        _ => explain_state(code),
    }
}

/// [`explain`] for what was found, and not tried.
fn explain_state(code: &str) -> (&'static str, &'static str) {
    match code {
        "foreign_password" => (
            "somebody set a password in Mailu",
            "take it over with `cas` on <tenant>/admin, or write <tenant>/rotate",
        ),
        "older_version" => (
            "a stored version is live again",
            "write <tenant>/rotate, or <tenant>/rollback to that version",
        ),
        "account_missing" => (
            "Mailu has no such account",
            "create it in Mailu, then write <tenant>/rotate",
        ),
        "app_tokens_left" => (
            "app tokens of the account still log in after a reset",
            "read <tenant>/status; delete them in Mailu if it goes on",
        ),
        "unsettled" => (
            "a change is open and was not settled for a while",
            "check the Mailu server, then write <tenant>/verify",
        ),
        "record_unreadable" => (
            "the tenant's record cannot be read: nothing is changed for this tenant",
            "read <tenant>/status and the log for why; put the record back from a backup of storage",
        ),
        REFUSES_WRITES => (
            "the server refuses to store what this mount writes: no password is changed, no reset \
             and no event is kept",
            "read the server's log. If the error says `during setup` (Vault), seal and unseal this \
             server, restart it, or let another node become the active one (look at sys/leader \
             after a step-down; if it did not move, seal that node); a reload of the plugin does \
             not help",
        ),
        FOREIGN_STORAGE => (
            "the storage was made by another mount: nothing is written and no secret is opened",
            "reload the plugin; if it was copied here on purpose and the other mount is gone, write \
             ops/adopt-storage with the `confirm` that its error names",
        ),
        "stale_storage" => (
            "somebody else has set the password since this record was written",
            "find out whether storage was restored or another cluster acts on the account; write \
             <tenant>/verify",
        ),
        "other_owner" => (
            "the account carries the mark of another mount or cluster",
            "find out who else owns the account; write <tenant>/verify to accept the mark, or \
             <tenant>/rotate",
        ),
        _ => explain_audit(code),
    }
}

/// [`explain`] for events on their way to the audit devices.
fn explain_audit(code: &str) -> (&'static str, &'static str) {
    match code {
        "audit_held_back" => (
            "an automatic change waits until an audit device has taken its beginning",
            "read status: `audit` says what the delivery of events fails with",
        ),
        "audit_unreachable" => (
            "the server's own API was not reached",
            "check address in config/audit: it must be this server's own listener on every node",
        ),
        "audit_slow" => (
            "the server's own API was reached and answers late or not at all: one of its audit devices \
             hangs",
            "look at every audit device of the server, sockets first, and disable the one that hangs: \
             all requests to the server wait for it, not only events",
        ),
        "audit_tls" => (
            "the certificate of the server's own API was not accepted",
            "check ca_cert and tls_server_name in config/audit",
        ),
        "audit_login_refused" => (
            "the server refused the emitter's login",
            "make a new secret_id (or token) and write it to config/audit",
        ),
        "audit_denied" => (
            "the emitter's token may not write events/emit",
            "give its role a policy with update on <mount>/events/emit/+/+",
        ),
        "audit_limited" => (
            "a rate limit quota holds the emitter back",
            "raise the quota, or exempt the mount's events/emit path",
        ),
        "audit_failing" => (
            "the server fails at requests: no audit device takes them, or it is sealed",
            "look at the audit devices and at the server's log",
        ),
        "audit_wrong_answer" => (
            "the address in config/audit answers, but not what this mount gave out: the events \
             went through no audit device of this server",
            "check that it is this cluster, and this node's own listener; find out who wrote it",
        ),
        "audit_refused" => (
            "the server refuses the emitter's calls",
            "see that the policy of its role has no min_wrapping_ttl, and read the server's log",
        ),
        "audit_out_of_reach" => (
            "the address in config/audit is neither a loopback address nor named by the plugin's \
             environment",
            "name it in SMTP_AUDIT_ADDRESSES or SMTP_AUDIT_SOCKETS and reload the plugin, or write \
             config/audit with a loopback address",
        ),
        "audit_not_collected" => (
            "no collector has fetched and acknowledged the events for an hour",
            "look at whoever calls events/flush and events/ack",
        ),
        "event_parked" => (
            "the server refused an event ten times, so no audit device has it",
            "read the server's log, then write config/audit again: it is tried anew",
        ),
        _ => explain_channel(code),
    }
}

/// [`explain`] for notification channels.
fn explain_channel(code: &str) -> (&'static str, &'static str) {
    match code {
        CHANNEL_FAILING => (
            "a notification channel fails for long, or its mail server refuses it for good",
            "read `last_error` of config/notify/<channel>; write the channel again once it is \
             mended, and config/notify/<channel>/test to try it",
        ),
        CHANNEL_DEAD => (
            "a notification channel has given up messages: somebody was not told",
            "read `last_error` of config/notify/<channel>; any write of the channel tries them \
             again, and after 30 days they are dropped",
        ),
        _ => explain_alert(code),
    }
}

/// [`explain`] for what is suspicious.
fn explain_alert(code: &str) -> (&'static str, &'static str) {
    match code {
        "many_reveals" => (
            "one entity looked at more passwords, or chose more servers that get them, within an \
             hour than reveals_per_hour in config/alerts allows",
            "ask the person whether it was them; if not, revoke their tokens and write \
             <tenant>/reset for every tenant they looked at",
        ),
        "reveal_outside_hours" => (
            "somebody looked at the password outside work_hours in config/alerts",
            "ask the person whether it was them; if not, revoke their tokens and write \
             <tenant>/reset",
        ),
        "incident_unmatched" => (
            "an emergency reset names an incident that incident_pattern in config/alerts does not \
             match",
            "ask the person for the incident; the reset itself was not stopped",
        ),
        "repeated_refusals" => (
            "Mailu refused this tenant's changes more often within an hour than refusals_per_hour \
             in config/alerts allows",
            "read <tenant>/status for what is refused; find out who keeps asking, or who changed \
             the server",
        ),
        "password_tries" => (
            "somebody gave this tenant five passwords within a day that are not the imported one",
            "ask the person what for: no further one of that day is compared with anything",
        ),
        "password_needs_cas" => (
            "a password was given for a credential that has another one",
            "take over one that was set elsewhere with `cas` on <tenant>/admin",
        ),
        _ => explain_server(code),
    }
}

/// [`explain`] for servers that cannot be asked, and what else is the mount's.
fn explain_server(code: &str) -> (&'static str, &'static str) {
    match code {
        "token_refused" => (
            "Mailu refuses the API token of a server",
            "read `servers` in status for which, and write its API_TOKEN to <tenant>/config",
        ),
        "no_api" => (
            "a server answers, and not with Mailu's API",
            "read `servers` in status for which; check API=true there and mailu_url",
        ),
        "tls_invalid" => (
            "the certificate of a server is not accepted",
            "read `servers` in status for which; renew its certificate, or set ca_cert",
        ),
        "rate_limited" => (
            "a server, or something before it, puts every call off",
            "read `servers` in status for which; let this server's calls through \
             (AUTH_RATELIMIT_EXEMPTION of Mailu, or the proxy's own limit)",
        ),
        "unreachable" => (
            "a server gives no answer",
            "read `servers` in status for which; check that it runs and can be reached from here",
        ),
        "egress" => (
            "more than half of all tenants' servers cannot be reached at once",
            "check this node's own network, DNS and firewalls before any mail server",
        ),
        "compromised_live" => (
            "a password that an emergency reset had replaced is live again",
            "find out who set it in Mailu, then write <tenant>/reset",
        ),
        _ => (
            "the last change failed",
            "read <tenant>/events for what happened",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Message and hint stand side by side, in `status` and in warnings.
    #[test]
    fn a_hint_does_not_say_again_what_is_wrong() {
        let refusals = REFUSALS.map(refusal_code);
        let others = [
            "address_refused",
            "mailu_tls",
            "mailu_redirect",
            "mailu_no_api",
            "unrecognised_refusal",
            "mailu_unreachable",
            "drift",
            "audit_unreachable",
            "audit_slow",
        ];
        for code in refusals.into_iter().chain(others) {
            let (message, hint) = explain(code);
            let words = |text: &str| -> Vec<String> {
                let words = text.split_whitespace().take(5);
                words.map(str::to_lowercase).collect()
            };
            assert!(!hint.is_empty(), "{code}");
            assert_ne!(words(&message), words(hint), "{code}");
            let begin = words(&message).join(" ");
            assert!(!hint.to_lowercase().contains(&begin), "{code}: {hint}");
        }
    }
}
