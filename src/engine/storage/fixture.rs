//! Records for tests, and the frozen first format.

use chrono::{DateTime, Utc};

use super::record::{Credential, Proof, RotationPolicy, Version};
use crate::audit::Actor;

/// A fixed instant.
pub(in crate::engine) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap()
}

/// A credential without versions.
pub(in crate::engine) fn credential(created_at: DateTime<Utc>) -> Credential {
    Credential {
        username: String::from("admin@acme.example"),
        webmail_url: None,
        admin_emails: Vec::new(),
        rotation_policy: RotationPolicy::Mount,
        policy_text: None,
        created_at,
        last_rotated: created_at,
        next_rotation: None,
        paced_until: None,
        due_day: None,
        notice_sent_at: None,
        preflight: None,
        current: None,
        previous: None,
        imported: Vec::new(),
        versions: Vec::new(),
        drift: None,
        hold: None,
        rotate_at: None,
        deleted: None,
        app_tokens: None,
    }
}

/// A settled, proven version.
pub(in crate::engine) fn version(number: u64, created_at: DateTime<Utc>) -> Version {
    Version {
        number,
        password: "v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
            .parse()
            .unwrap(),
        created_at,
        created_by: Actor::system(),
        rotation_type: None,
        incident_id: None,
        request_id: String::new(),
        source: None,
        attempt: String::new(),
        proof: Proof::Hash,
        verified_at: Some(created_at),
        hash_fingerprint: None,
        last_sent_at: Some(created_at),
        doubtful: false,
        login_tried: false,
        abandoned: false,
        shaken: false,
        compromised: None,
    }
}

/// Exactly the bytes of the first stored format, every field filled.
pub(in crate::engine) const TENANT_V1: &[u8] =
    include_bytes!("../../../tests/it/fixtures/tenant-v1.json");

/// Exactly the bytes of the second, every field filled.
pub(in crate::engine) const TENANT_V2: &[u8] =
    include_bytes!("../../../tests/it/fixtures/tenant-v2.json");

/// Exactly the bytes of a stored batch, every field filled.
pub(in crate::engine) const BATCH_V1: &[u8] =
    include_bytes!("../../../tests/it/fixtures/batch-v1.json");

/// Exactly the bytes of the progress of a reindex, every field filled.
pub(in crate::engine) const REINDEX_V1: &[u8] =
    include_bytes!("../../../tests/it/fixtures/reindex-v1.json");

/// Exactly the bytes of how the host's own API is reached, every field filled.
pub(in crate::engine) const AUDIT_ACCESS_V1: &[u8] =
    include_bytes!("../../../tests/it/fixtures/audit-access-v1.json");

/// Exactly the bytes of the third, every field filled.
pub(in crate::engine) const TENANT_V3: &[u8] =
    include_bytes!("../../../tests/it/fixtures/tenant-v3.json");

/// Exactly the bytes of the fourth, every field filled.
pub(in crate::engine) const TENANT_V4: &[u8] =
    include_bytes!("../../../tests/it/fixtures/tenant-v4.json");

/// Exactly the bytes of what the rules of alerts remember, every field filled.
pub(in crate::engine) const WATCH_V1: &[u8] =
    include_bytes!("../../../tests/it/fixtures/watch-v1.json");
