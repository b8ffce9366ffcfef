//! The closed vocabulary of events and the event itself.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::other::Other;

/// Response keys whose string values the host's audit devices must write in clear
/// (`audit_non_hmac_response_keys` of the mount). Numbers are always in clear.
///
/// Not among them, because they may be private: see [`PRIVATE_KEYS`].
pub const EXEMPT_RESPONSE_KEYS: [&str; 20] = [
    "event",
    "event_id",
    "seq",
    "lineage",
    "prev_hash",
    "hash",
    "detail_hash",
    "tenant_id",
    "user_id",
    "timestamp",
    "severity",
    "rotation_type",
    "outcome",
    "error_code",
    "request_id",
    "replayed",
    "previous_rotation",
    "last_rotated",
    "last_vault_rotation",
    "next_rotation",
];

/// The keys of an event that may be private: covered by `detail_hash`, hashed by the host's audit
/// devices, and never among [`EXEMPT_RESPONSE_KEYS`]. `username` is in no event, and as private.
pub const PRIVATE_KEYS: [&str; 7] = [
    "changed",
    "display_name",
    "incident_id",
    "new_host",
    "old_host",
    "reason",
    "username",
];

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventName {
    /// A credential was created with a generated password.
    #[serde(rename = "smtp_credentials_stored")]
    Stored,
    /// A credential was created with a given password.
    #[serde(rename = "smtp_credentials_imported")]
    Imported,
    /// A change of the password was announced.
    #[serde(rename = "smtp_credentials_rotation_started")]
    RotationStarted,
    /// A new password was proven live.
    #[serde(rename = "smtp_credentials_rotated")]
    Rotated,
    /// A change of the password ended without effect.
    #[serde(rename = "smtp_credentials_rotation_failed")]
    RotationFailed,
    /// Administrators were told of a rotation to come.
    #[serde(rename = "smtp_credentials_rotation_notice")]
    RotationNotice,
    /// An emergency reset was announced.
    #[serde(rename = "smtp_credentials_emergency_reset_started")]
    EmergencyResetStarted,
    /// An emergency reset was proven live.
    #[serde(rename = "smtp_credentials_emergency_reset")]
    EmergencyReset,
    /// A human looked at the password.
    #[serde(rename = "smtp_credentials_revealed")]
    Revealed,
    /// An earlier password became current again.
    #[serde(rename = "smtp_credentials_rolled_back")]
    RolledBack,
    /// The credential moved to another server.
    #[serde(rename = "smtp_credentials_rehomed")]
    Rehomed,
    /// Mailu holds another password than the current one.
    #[serde(rename = "smtp_credentials_drift_detected")]
    DriftDetected,
    /// A password set elsewhere was taken over as a new version.
    #[serde(rename = "smtp_credentials_adopted")]
    Adopted,
    /// The credential was deleted softly.
    #[serde(rename = "smtp_credentials_deleted")]
    Deleted,
    /// A softly deleted credential came back.
    #[serde(rename = "smtp_credentials_undeleted")]
    Undeleted,
    /// Every stored password was removed.
    #[serde(rename = "smtp_credentials_destroyed")]
    Destroyed,
    /// The mount's settings changed.
    #[serde(rename = "smtp_config_changed")]
    ConfigChanged,
    /// A tenant's server or settings changed.
    #[serde(rename = "smtp_tenant_config_changed")]
    TenantConfigChanged,
    /// Where a tenant's password and API token are sent was changed, or taken away.
    #[serde(rename = "smtp_tenant_endpoint_changed")]
    TenantEndpointChanged,
    /// The hold of an emergency reset was ended.
    #[serde(rename = "smtp_hold_released")]
    HoldReleased,
    /// Automatic rotation of a tenant was paused (outcome `started`) or resumed (`success`).
    #[serde(rename = "smtp_rotation_paused")]
    RotationPaused,
    /// A batch was created.
    #[serde(rename = "smtp_batch_started")]
    BatchStarted,
    /// A batch came to its end, was stopped or cancelled.
    #[serde(rename = "smtp_batch_ended")]
    BatchEnded,
    /// The keyring got a new version.
    #[serde(rename = "smtp_keyring_rotated")]
    KeyringRotated,
    /// Old versions of the keyring were removed.
    #[serde(rename = "smtp_keyring_trimmed")]
    KeyringTrimmed,
    /// A storage that another mount had made was taken over.
    #[serde(rename = "smtp_storage_adopted")]
    StorageAdopted,
    /// Something that an intruder would do; the rule is the event's `error_code`.
    #[serde(rename = "smtp_suspicious_activity")]
    SuspiciousActivity,
    /// Automatic changes have waited for the audit devices for a day.
    #[serde(rename = "smtp_audit_stalled")]
    AuditStalled,
    /// A newer version of the plugin knows it.
    #[serde(untagged)]
    Other(Other),
}

impl EventName {
    /// Every name that this version knows.
    pub const ALL: [Self; 28] = [
        Self::Stored,
        Self::Imported,
        Self::RotationStarted,
        Self::Rotated,
        Self::RotationFailed,
        Self::RotationNotice,
        Self::EmergencyResetStarted,
        Self::EmergencyReset,
        Self::Revealed,
        Self::RolledBack,
        Self::Rehomed,
        Self::DriftDetected,
        Self::Adopted,
        Self::Deleted,
        Self::Undeleted,
        Self::Destroyed,
        Self::ConfigChanged,
        Self::TenantConfigChanged,
        Self::TenantEndpointChanged,
        Self::HoldReleased,
        Self::RotationPaused,
        Self::KeyringRotated,
        Self::KeyringTrimmed,
        Self::StorageAdopted,
        Self::BatchStarted,
        Self::BatchEnded,
        Self::SuspiciousActivity,
        Self::AuditStalled,
    ];

    /// Returns the name as events, filters and messages carry it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "smtp_credentials_stored",
            Self::Imported => "smtp_credentials_imported",
            Self::RotationStarted => "smtp_credentials_rotation_started",
            Self::Rotated => "smtp_credentials_rotated",
            Self::RotationFailed => "smtp_credentials_rotation_failed",
            Self::RotationNotice => "smtp_credentials_rotation_notice",
            Self::EmergencyResetStarted => "smtp_credentials_emergency_reset_started",
            Self::EmergencyReset => "smtp_credentials_emergency_reset",
            Self::Revealed => "smtp_credentials_revealed",
            Self::RolledBack => "smtp_credentials_rolled_back",
            Self::Rehomed => "smtp_credentials_rehomed",
            Self::DriftDetected => "smtp_credentials_drift_detected",
            Self::Adopted => "smtp_credentials_adopted",
            Self::Deleted => "smtp_credentials_deleted",
            Self::Undeleted => "smtp_credentials_undeleted",
            Self::Destroyed => "smtp_credentials_destroyed",
            Self::ConfigChanged => "smtp_config_changed",
            Self::TenantConfigChanged => "smtp_tenant_config_changed",
            Self::TenantEndpointChanged => "smtp_tenant_endpoint_changed",
            Self::HoldReleased => "smtp_hold_released",
            Self::RotationPaused => "smtp_rotation_paused",
            Self::KeyringRotated => "smtp_keyring_rotated",
            Self::KeyringTrimmed => "smtp_keyring_trimmed",
            Self::StorageAdopted => "smtp_storage_adopted",
            Self::SuspiciousActivity => "smtp_suspicious_activity",
            Self::AuditStalled => "smtp_audit_stalled",
            Self::BatchStarted => "smtp_batch_started",
            Self::BatchEnded => "smtp_batch_ended",
            Self::Other(_) => "unknown",
        }
    }

    /// Finds the event of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == name)
    }
}

/// How urgent an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to do.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must look now.
    Critical,
    /// A newer version of the plugin knows it.
    #[serde(untagged)]
    Other(Other),
}

/// Why a password changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationType {
    /// By the schedule.
    Automated,
    /// By a request.
    Manual,
    /// By an emergency reset.
    Emergency,
    /// As part of a batch.
    Bulk,
    /// By a rollback.
    Rollback,
    /// After a reveal.
    Reveal,
    /// By moving to another server.
    Rehome,
    /// A newer version of the plugin knows it.
    #[serde(untagged)]
    Other(Other),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Announced; a later event tells the end.
    Started,
    /// Done.
    Success,
    /// Not done.
    Failure,
    /// A newer version of the plugin knows it.
    #[serde(untagged)]
    Other(Other),
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// The identity entity, `no_entity` for a token without one, `system` for the engine itself.
    pub user_id: String,
    /// What the host calls the caller; empty for the engine itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// A keyed digest of the caller's token, where callers are told apart by it; else empty. In no
    /// event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
}

impl Actor {
    /// The engine itself.
    #[must_use]
    pub fn system() -> Self {
        Self {
            user_id: String::from("system"),
            display_name: String::new(),
            token: String::new(),
        }
    }

    /// A caller, by what the host tells of it.
    #[must_use]
    pub fn caller(entity_id: &str, display_name: &str) -> Self {
        let user_id = if entity_id.is_empty() {
            "no_entity"
        } else {
            entity_id
        };
        Self {
            user_id: user_id.to_owned(),
            display_name: display_name.to_owned(),
            token: String::new(),
        }
    }
}

/// What the caller of [`super::EventLog::append`] says of an event; number, chain and identifier
/// are added there.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What happened.
    pub event: EventName,
    /// Who asked.
    pub actor: Actor,
    /// When.
    pub timestamp: DateTime<Utc>,
    /// How urgent it is.
    pub severity: Severity,
    /// How it ended.
    pub outcome: Outcome,
    /// Why a password changed, if one did.
    pub rotation_type: Option<RotationType>,
    /// The version it is about.
    pub version: Option<u64>,
    /// The version that was current before.
    pub previous_version: Option<u64>,
    /// When the password had changed before.
    pub previous_rotation: Option<DateTime<Utc>>,
    /// What the caller gave as reason.
    pub reason: Option<String>,
    /// The incident of an emergency reset.
    pub incident_id: Option<String>,
    /// The names of the settings that changed.
    pub changed: Vec<String>,
    /// Where passwords were sent until now; of a changed endpoint.
    pub old_host: Option<String>,
    /// Where they are sent from now on.
    pub new_host: Option<String>,
    /// The stable code of a failure.
    pub error_code: Option<String>,
    /// The host's identifier of the request, empty for the engine's own work.
    pub request_id: String,
}

impl NewEvent {
    /// A successful event of severity `info` without further details.
    #[must_use]
    pub fn new(event: EventName, actor: Actor, timestamp: DateTime<Utc>) -> Self {
        Self {
            event,
            actor,
            timestamp,
            severity: Severity::Info,
            outcome: Outcome::Success,
            rotation_type: None,
            version: None,
            previous_version: None,
            previous_rotation: None,
            reason: None,
            incident_id: None,
            changed: Vec::new(),
            old_host: None,
            new_host: None,
            error_code: None,
            request_id: String::new(),
        }
    }
}

/// One stored event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What happened.
    pub event: EventName,
    /// A ULID; the same in every copy of the event.
    pub event_id: String,
    /// Counts without gaps from 1 per tenant and lineage.
    pub seq: u64,
    /// The record's lineage: changes when storage is found to have gone back in time.
    pub lineage: String,
    /// The `hash` of the event before, 64 zeros for the first.
    pub prev_hash: String,
    /// Hex SHA-256 of the canonical JSON of the clear fields without `hash`.
    pub hash: String,
    /// Hex HMAC-SHA256 over the private fields, under a key of the keyring.
    pub detail_hash: String,
    /// The tenant, `-` for the mount.
    pub tenant_id: String,
    /// See [`Actor::user_id`].
    pub user_id: String,
    /// See [`Actor::display_name`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// When it happened.
    #[serde(serialize_with = "crate::logical::instant::serialize")]
    pub timestamp: DateTime<Utc>,
    /// How urgent it is.
    pub severity: Severity,
    /// Why a password changed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_type: Option<RotationType>,
    /// The version it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The version that was current before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<u64>,
    /// When the password had changed before.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::logical::instant::serialize"
    )]
    pub previous_rotation: Option<DateTime<Utc>>,
    /// What the caller gave as reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The incident of an emergency reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident_id: Option<String>,
    /// The names of the settings that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Where passwords were sent until now; of a changed endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_host: Option<String>,
    /// Where they are sent from now on; absent if nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_host: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// The stable code of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The host's identifier of the request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_private_is_never_in_clear() {
        for key in PRIVATE_KEYS {
            assert!(!EXEMPT_RESPONSE_KEYS.contains(&key), "{key}");
        }
    }

    #[test]
    fn the_name_of_an_event_is_the_one_that_is_stored() {
        for event in EventName::ALL {
            let stored = serde_json::to_string(&event).unwrap();
            assert_eq!(stored, format!("\"{}\"", event.as_str()));
            assert_eq!(EventName::parse(event.as_str()), Some(event));
        }
        assert_eq!(EventName::parse("smtp_credentials_lost"), None);
    }
}
