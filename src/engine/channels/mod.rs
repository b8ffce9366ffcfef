//! Notification channels as stored: who is told what, and the secrets that takes.
//!
//! Each lies in `config/notify/<name>`. Its secrets are sealed for this channel, this life of it
//! and this endpoint: what is moved elsewhere does not open. The list is kept in memory like the
//! mount's settings, so that a mount without channels asks storage nothing for them.

mod sealing;

pub(super) use sealing::{Secrets, web_url};

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::error::Error;
use super::storage::{self, CHANNELS};
use super::watch;
use crate::audit::{Event, EventName, Severity};
use crate::crypto::Sealed;
use crate::logical::{Mount, StorageEntry};

/// The stored format.
const SCHEMA: u32 = 1;
/// How many channels a mount has at most.
pub(super) const MOST: usize = 20;
/// How many names are read at once; there are never more than [`MOST`] by this engine's hand.
const PAGE: usize = 100;

/// What a channel is told unless its `events` say otherwise; failures only when they are critical,
/// and of grave drift the drift alone: the alert about it tells nothing more.
const BY_DEFAULT: [EventName; 13] = [
    EventName::RotationNotice,
    EventName::Rotated,
    EventName::RotationFailed,
    EventName::EmergencyResetStarted,
    EventName::EmergencyReset,
    EventName::DriftDetected,
    EventName::RolledBack,
    EventName::Adopted,
    EventName::BatchEnded,
    EventName::AuditStalled,
    EventName::SuspiciousActivity,
    EventName::TenantEndpointChanged,
    EventName::StorageAdopted,
];

/// One stored channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Channel {
    /// The stored format.
    schema: u32,
    /// The name again: an entry moved to another key is refused.
    pub(super) name: String,
    /// Random, new for each life of the channel; part of every ciphertext's binding.
    pub(super) id: String,
    /// When it was written last; what was given up before is tried again.
    pub(super) written_at: DateTime<Utc>,
    /// What it is told; empty = [`BY_DEFAULT`].
    pub(super) events: Vec<EventName>,
    /// Where it leads.
    pub(super) target: Target,
}

/// Where a channel leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// Mail.
    Email(EmailTarget),
    /// A chat.
    Slack(SlackTarget),
    /// A signed document.
    Webhook(WebhookTarget),
}

/// A mail server and whom mail goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmailTarget {
    /// The mail server.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// How the connection is secured.
    pub(super) tls: Secured,
    /// The name the certificate must carry instead of the host's.
    pub(super) tls_server_name: Option<String>,
    /// PEM certificates that replace the public roots.
    pub(super) ca_cert: Option<String>,
    /// Who logs in; `None` = nobody.
    pub(super) username: Option<String>,
    /// With what.
    pub(super) password: Option<Sealed>,
    /// What is said in EHLO; `None` = this host's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ehlo_name: Option<String>,
    /// The sender.
    pub(super) from: String,
    /// Whom everything goes to.
    pub(super) to: Vec<String>,
    /// Mail domains, in lower case, whose addresses among a tenant's `admin_emails` are told too.
    pub(super) allowed_domains: Vec<String>,
}

/// How the connection to a mail server is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Secured {
    /// By STARTTLS.
    Starttls,
    /// From the first byte.
    Tls,
    /// Not at all; development only.
    None,
}

/// An incoming webhook of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlackTarget {
    /// Scheme, host and port of the URL, which are no secret.
    pub(super) origin: String,
    /// The URL.
    pub(super) url: Option<Sealed>,
    /// PEM certificates that replace the public roots.
    pub(super) ca_cert: Option<String>,
}

/// A receiver of signed documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookTarget {
    /// Where they are posted; of a URL that is a secret itself, scheme, host and port.
    pub(super) url: String,
    /// The URL, if it has a query: those carry keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret_url: Option<Sealed>,
    /// What they are signed with.
    pub(super) hmac_key: Option<Sealed>,
    /// PEM certificates that replace the public roots.
    pub(super) ca_cert: Option<String>,
}

/// Every channel of the mount.
#[derive(Debug, Default)]
pub(super) struct Channels {
    /// Those that can be read, by name.
    pub(super) list: Vec<Channel>,
    /// The names of those that cannot.
    pub(super) unreadable: Vec<String>,
}

impl Channels {
    /// Finds a channel that can be read.
    pub(super) fn find(&self, name: &str) -> Option<&Channel> {
        self.list.iter().find(|channel| channel.name == name)
    }

    /// Every name, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let kept = self.list.iter().map(|channel| &channel.name);
        let mut names: Vec<String> = kept.chain(&self.unreadable).cloned().collect();
        names.sort_unstable();
        names
    }
}

impl Channel {
    /// Returns what is stored.
    pub(super) fn entry(&self) -> Result<StorageEntry, Error> {
        let key = storage::channel_key(&self.name);
        Ok(StorageEntry::new(key, storage::encode(self)?))
    }

    /// Makes a channel that is not stored yet.
    pub(super) const fn new(
        name: String,
        id: String,
        written_at: DateTime<Utc>,
        target: Target,
    ) -> Self {
        Self {
            schema: SCHEMA,
            name,
            id,
            written_at,
            events: Vec::new(),
            target,
        }
    }

    /// Reads a stored channel.
    pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(key, bytes, SCHEMA)?;
        let channel: Self = storage::decode(key, bytes)?;
        if storage::channel_key(&channel.name) != key {
            return Err(Error::Entry {
                key: key.to_owned(),
                why: "the stored entry belongs to another channel: it was moved",
            });
        }
        Ok(channel)
    }

    /// Reports whether the channel is told of this event.
    pub(super) fn wants(&self, event: &Event) -> bool {
        if !self.events.is_empty() {
            return self.events.contains(&event.event);
        }
        let passing =
            event.event == EventName::RotationFailed && event.severity != Severity::Critical;
        BY_DEFAULT.contains(&event.event) && !passing && !watch::tells_of_drift(event)
    }

    /// Returns which of a tenant's own addresses are told of this event, too.
    pub(super) fn addresses<'a>(&self, event: &Event, addresses: &'a [String]) -> Vec<&'a str> {
        let Target::Email(target) = &self.target else {
            return Vec::new();
        };
        let about_the_change = matches!(
            event.event,
            EventName::RotationNotice
                | EventName::Rotated
                | EventName::RotationFailed
                | EventName::RolledBack
                | EventName::Rehomed
                | EventName::Adopted
                | EventName::EmergencyResetStarted
                | EventName::EmergencyReset
        );
        let allowed = |address: &&String| {
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            let domain = domain.to_ascii_lowercase();
            let listed = target.to.iter().any(|to| to.eq_ignore_ascii_case(address));
            target.allowed_domains.contains(&domain) && !listed
        };
        let addresses = addresses.iter().filter(|_| about_the_change);
        addresses.filter(allowed).map(String::as_str).collect()
    }
}

impl Engine {
    /// Returns the mount's channels.
    pub(super) async fn channels(&self, mount: &Mount) -> Result<Arc<Channels>, Error> {
        if let Some(channels) = self.channels.fresh(&self.role, self.clock()) {
            return Ok(channels);
        }
        let before = self.channels.before_get(self.clock());
        let channels = Arc::new(read_all(mount).await?);
        self.channels.fill(&channels, before);
        Ok(channels)
    }

    /// Stores a channel. The caller holds the channels' lock.
    pub(super) async fn put_channel(&self, mount: &Mount, channel: &Channel) -> Result<(), Error> {
        let put = mount.storage.put(channel.entry()?).await;
        // Whatever became of the Put, the copy in memory may be wrong now.
        self.channels.forget();
        Ok(put?)
    }
}

/// Reads every channel. One that cannot be read is named and stands in nobody's way: no password
/// waits for a notification.
pub(super) async fn read_all(mount: &Mount) -> Result<Channels, Error> {
    let mut channels = Channels::default();
    for name in mount.storage.list_page(CHANNELS, "", PAGE).await? {
        let key = storage::channel_key(&name);
        let Some(entry) = mount.storage.get(&key).await? else {
            continue;
        };
        match Channel::decode(&key, &entry.value) {
            Ok(channel) => channels.list.push(channel),
            Err(error) => {
                tracing::warn!(%error, "a notification channel cannot be read");
                channels.unreadable.push(name);
            }
        }
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Actor, EventLog, NewEvent};
    use crate::crypto::Keyring;

    /// The first stored format: what was once written is read for ever.
    const FROZEN: &str = r#"{"schema":1,"name":"ops","id":"c1","written_at":"2026-09-21T14:13:20Z","events":[],"target":{"email":{"host":"smtp.ops.example","port":587,"tls":"starttls","tls_server_name":null,"ca_cert":null,"username":"vault","password":"v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==","from":"vault@ops.example","to":["oncall@ops.example"],"allowed_domains":["acme.example"]}}}"#;

    fn channel() -> Channel {
        Channel::decode("config/notify/ops", FROZEN.as_bytes()).unwrap()
    }

    fn event(name: EventName, severity: Severity) -> Event {
        let now = DateTime::UNIX_EPOCH;
        let mut event = NewEvent::new(name, Actor::system(), now);
        event.severity = severity;
        let keyring = Keyring::generate(now).unwrap();
        EventLog::default().append(
            "acme",
            ("l1", String::from("01K5P1Q2R3S4T5V6W7X8Y9Z0AB")),
            &keyring,
            event,
        )
    }

    #[test]
    fn the_frozen_format_survives_a_round_trip() {
        let written = storage::encode(&channel()).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), FROZEN);
        assert_eq!(
            storage::sealed_by(FROZEN.as_bytes())
                .into_iter()
                .collect::<Vec<_>>(),
            [1]
        );
        for (key, text) in [
            ("config/notify/other", FROZEN.to_owned()),
            ("config/notify/ops", FROZEN.replacen(":1,", ":2,", 1)),
            (
                "config/notify/ops",
                FROZEN.replacen("\"port\"", "\"part\"", 1),
            ),
        ] {
            let error = Channel::decode(key, text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "record_unreadable");
        }
    }

    #[test]
    fn by_default_only_critical_failures_are_told() {
        let mut channel = channel();
        let failed = |severity| event(EventName::RotationFailed, severity);
        assert!(channel.wants(&failed(Severity::Critical)));
        assert!(!channel.wants(&failed(Severity::Warning)));
        assert!(channel.wants(&event(EventName::RotationNotice, Severity::Info)));
        assert!(!channel.wants(&event(EventName::RotationStarted, Severity::Info)));
        assert!(!channel.wants(&event(EventName::ConfigChanged, Severity::Info)));
        let alert = |rule: watch::Rule| {
            let name = EventName::SuspiciousActivity;
            let mut alert = event(name, Severity::Warning);
            alert.error_code = Some(rule.code().to_owned());
            alert
        };
        assert!(channel.wants(&alert(watch::Rule::ManyReveals)));
        assert!(channel.wants(&event(EventName::DriftDetected, Severity::Critical)));
        let drift = alert(watch::Rule::StaleStorage);
        assert!(!channel.wants(&drift), "one cause is told once");
        channel.events = vec![EventName::SuspiciousActivity];
        assert!(channel.wants(&drift));
        channel.events = vec![EventName::RotationFailed, EventName::ConfigChanged];
        assert!(channel.wants(&failed(Severity::Warning)));
        assert!(channel.wants(&event(EventName::ConfigChanged, Severity::Info)));
        assert!(!channel.wants(&event(EventName::RotationNotice, Severity::Info)));
    }

    #[test]
    fn a_tenants_address_is_told_of_changes_if_its_domain_is_listed() {
        let channel = channel();
        let addresses = [
            "A@Acme.example",
            "b@sub.acme.example",
            "c@evilacme.example",
            "oncall@ops.example",
        ];
        let addresses = addresses.map(str::to_owned);
        let told = |name| channel.addresses(&event(name, Severity::Info), &addresses);
        assert_eq!(told(EventName::RotationNotice), ["A@Acme.example"]);
        assert_eq!(told(EventName::EmergencyReset), ["A@Acme.example"]);
        assert!(told(EventName::DriftDetected).is_empty());
        assert!(told(EventName::Revealed).is_empty());
    }
}
