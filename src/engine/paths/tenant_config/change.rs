//! Which facts a write of the server is: another endpoint is one of its own.

use chrono::{DateTime, Utc};

use super::event_of;
use crate::audit::{EventName, NewEvent, Severity};
use crate::engine::storage::record::{Server, TenantRecord};
use crate::logical::Call;
use crate::provider::EndpointUrl;

/// One fact.
#[derive(Debug)]
pub(super) struct Fact {
    name: EventName,
    changed: Vec<&'static str>,
    hosts: Option<(Option<String>, Option<String>)>,
}

impl Fact {
    /// Prepares its event.
    pub(super) fn of(self, call: &Call, now: DateTime<Utc>) -> NewEvent {
        let mut event = event_of(call, self.name, now);
        event.changed = self.changed.into_iter().map(str::to_owned).collect();
        if let Some((old, new)) = self.hosts {
            event.severity = Severity::Critical;
            (event.old_host, event.new_host) = (old, new);
        }
        event
    }
}

/// Returns the facts of a change from one server to another. Whoever chooses an endpoint reads the
/// next password: that it moved, went or came back is a fact apart from all other settings. The very
/// first endpoint of a tenant is none that moved.
pub(super) fn events(
    record: &TenantRecord,
    after: Option<&Server>,
    token_changed: bool,
) -> Vec<Fact> {
    let before = record.server.as_ref();
    let differs = |of: fn(&Server) -> Option<&str>| before.and_then(of) != after.and_then(of);
    let named = |fields: &[(&'static str, bool)]| -> Vec<&'static str> {
        let changed = fields.iter().filter(|(_, changed)| *changed);
        changed.map(|(name, _)| *name).collect()
    };
    let endpoint = named(&[
        ("ca_cert", differs(|it| it.ca_cert.as_deref())),
        ("mailu_url", differs(|it| Some(&it.mailu_url))),
        ("smtp_address", differs(|it| it.smtp_address.as_deref())),
        (
            "tls_server_name",
            differs(|it| it.tls_server_name.as_deref()),
        ),
    ]);
    let timeout = |it: &Server| it.request_timeout_seconds;
    let both = before.zip(after);
    let others = named(&[
        ("api_token", token_changed),
        (
            "request_timeout",
            both.is_some_and(|(old, new)| timeout(old) != timeout(new)),
        ),
        (
            "verify_smtp",
            both.is_some_and(|(old, new)| old.verify_smtp != new.verify_smtp),
        ),
    ]);
    let mut facts = Vec::new();
    let mut settings = others;
    if before.is_none() && record.revision == 0 {
        settings.splice(0..0, endpoint);
        settings.sort_unstable();
    } else if !endpoint.is_empty() {
        facts.push(Fact {
            name: EventName::TenantEndpointChanged,
            changed: endpoint,
            hosts: Some((before.map(hosts), after.map(hosts))),
        });
    }
    if !settings.is_empty() {
        facts.push(Fact {
            name: EventName::TenantConfigChanged,
            changed: settings,
            hosts: None,
        });
    }
    facts
}

/// Where a server gets passwords: at its API, and where SMTP AUTH is tried.
fn hosts(server: &Server) -> String {
    let url = EndpointUrl::parse_stored(&server.mailu_url);
    let api = url.map_or_else(|_| server.mailu_url.clone(), |url| url.authority());
    match &server.smtp_address {
        Some(smtp) => format!("{api}, smtp {smtp}"),
        None => api,
    }
}
