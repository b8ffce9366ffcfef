//! Notification channels: mail, Slack, webhook. From the facts of one event to a person's inbox.
//!
//! Knows nothing of tenants' records, of storage or of retries: a channel delivers one message once
//! and says how that ended. What must stay true:
//!
//! - A [`Message`] has no secret: its fields are a closed list of facts.
//! - What people wrote (a reason, a name, an incident's number) is quoted and defused by
//!   [`text`], and never part of a subject, a header, an address or a link.
//! - Nothing a peer says is passed on: an [`Error`] is one of a closed list.
//! - Every connection obeys the [`NetworkPolicy`](crate::network::NetworkPolicy).

mod email;
mod error;
mod http;
mod registry;
mod slack;
mod text;
mod webhook;

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::audit::{EventName, Outcome, RotationType, Severity};

pub use error::{Error, Scope};
pub use registry::{
    ChannelConfig, ConnectError, EmailConfig, MailLogin, MailTls, Notifier, SlackConfig,
    WebhookConfig, notifier,
};
pub use webhook::{EVENT_HEADER, EVENT_ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, signature};

/// One way to tell people.
///
/// # Cancel safety
///
/// Dropping the future leaves open whether the message was delivered.
#[async_trait]
pub trait Channel: fmt::Debug + Send + Sync {
    /// Delivers one message, once.
    ///
    /// # Errors
    ///
    /// [`Error`]; the peer may have taken the message all the same where it says so.
    async fn deliver(&self, message: &Message) -> Result<(), Error>;
}

/// What is told: the facts of one event, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What happened; `None` is a test of the channel.
    pub event: Option<EventName>,
    /// The event's identifier, the same whenever it is told again.
    pub event_id: String,
    /// The channel's name.
    pub channel: String,
    /// Whom it goes to.
    pub recipient: Recipient,
    /// The tenant; `-` for the mount itself.
    pub tenant: String,
    /// How urgent it is.
    pub severity: Severity,
    /// How it ended.
    pub outcome: Outcome,
    /// Why the password changes.
    pub rotation_type: Option<RotationType>,
    /// The version it is about.
    pub version: Option<u64>,
    /// The version before.
    pub previous_version: Option<u64>,
    /// When it happened.
    pub timestamp: DateTime<Utc>,
    /// When it is told.
    pub sent_at: DateTime<Utc>,
    /// When the schedule changes the password next.
    pub next_rotation: Option<DateTime<Utc>>,
    /// What went wrong.
    pub error: Option<Explained>,
    /// What was found in the way of a coming change, gravest first.
    pub findings: Vec<Explained>,
    /// The names of the settings that changed.
    pub changed: Vec<String>,
    /// Where passwords were sent until now; of a changed endpoint.
    pub old_host: Option<String>,
    /// Where they are sent from now on.
    pub new_host: Option<String>,
    /// Free text: the incident an emergency reset belongs to.
    pub incident_id: Option<String>,
    /// Free text: why somebody did it.
    pub reason: Option<String>,
    /// Free text: the caller's name as the host knows it.
    pub display_name: String,
}

/// A stable code and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The stable code.
    pub code: String,
    /// What it means, one clause without a full stop.
    pub meaning: String,
    /// What to do about it; empty if there is nothing to do.
    pub hint: String,
}

/// Whom a message goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Whoever the channel's configuration names.
    Channel,
    /// One mail address of the tenant's; for mail only.
    Address(String),
}
