//! Every storage key and entry of the engine: names, formats, versions.
//!
//! | key | what |
//! |---|---|
//! | `tenant/<name>` | the tenant's record, the truth |
//! | `open/<tenant>` | pointer: there is something to do before the next check |
//! | `due/<yyyymmdd>/<tenant>` | pointer: the UTC day of the next rotation or notice |
//! | `account/<hash>` | pointer: which tenant owns a mail account |
//! | `trail/<tenant>/<seq>` | events that left the record |
//! | `undelivered/<tenant>` | pointer: the tenant has events that no audit device has taken |
//! | `journal/<yyyymmdd>/<event_id>` | index of all events by time: whose it is, and its number |
//! | `server/<hash>` | a mail server: accepted and refused tokens, limiter, breaker |
//! | `config` | the mount's settings |
//! | `config/alerts` | what is suspicious |
//! | `watch` | what people did within the last hour, over all tenants |
//! | `mountlog` | the mount's own events |
//! | `keyring`, `keyring-copy` | the keys, seal-wrapped |
//! | `schedule` | from where on the folders of `due/` are looked at, when a tick was last seen |
//! | `rewrap` | how far encrypting everything with the newest key has come |
//! | `reindex` | how far rebuilding the pointers from the records has come |
//! | `batch/<id>` | a batch and how far it is |
//! | `config/notify/<name>` | a notification channel |
//! | `config/audit` | how the host's own API is reached |
//! | `outbox/<event_id>` | an event that somebody is still to be told of |
//! | `notified/<name>` | how a notification channel fares |
//!
//! Pointers are written before the record that needs them and may be stale; the record decides.

#[cfg(test)]
pub(super) mod fixture;
#[doc(hidden)]
pub mod fuzzing;
pub mod record;
mod sealed;

use chrono::NaiveDate;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::audit::Event;
use crate::crypto;
use record::{Hold, SCHEMA, TenantRecord};
pub(crate) use sealed::sealed_by;

/// The mount's settings.
pub(crate) const CONFIG: &str = "config";
/// How the host's own API is reached.
pub(crate) const AUDIT_ACCESS: &str = "config/audit";
/// What is suspicious.
pub(crate) const ALERTS: &str = "config/alerts";
/// What people did within the last hour, over all tenants.
pub(crate) const WATCH: &str = "watch";
/// The mount's own events.
pub(crate) const MOUNT_LOG: &str = "mountlog";
/// The keyring.
pub(crate) const KEYRING: &str = "keyring";
/// The keyring's second copy.
pub(crate) const KEYRING_COPY: &str = "keyring-copy";
/// How far encrypting everything with the newest key has come.
pub(crate) const REWRAP: &str = "rewrap";
/// How far rebuilding the pointers from the records has come.
pub(crate) const REINDEX: &str = "reindex";
/// The folder of all pointers of mail accounts.
pub(crate) const ACCOUNTS: &str = "account/";
/// The folder of all batches.
pub(crate) const BATCHES: &str = "batch/";
/// What the schedule remembers.
pub(crate) const SCHEDULE: &str = "schedule";
/// The folder of all records.
pub(crate) const TENANTS: &str = "tenant/";
/// The folder of all pointers to open work.
pub(crate) const OPEN_WORK: &str = "open/";
/// The folder of the days' folders.
pub(crate) const DUE: &str = "due/";
/// The folder of all notification channels.
pub(crate) const CHANNELS: &str = "config/notify/";
/// The folder of all events that somebody is still to be told of.
pub(crate) const OUTBOX: &str = "outbox/";
/// The folder of all logs with events that no audit device has taken.
pub(crate) const UNDELIVERED: &str = "undelivered/";
/// The folder of the days' folders of all events.
pub(crate) const JOURNAL: &str = "journal/";
/// Prefixes the host shall wrap with its seal as well.
pub(crate) const SEAL_WRAPPED: [&str; 2] = [KEYRING, KEYRING_COPY];
/// A record longer than this is refused before Mailu hears anything.
pub(crate) const MAX_RECORD_BYTES: usize = 256 * 1024;

/// No counter of an entry comes near this number, half of what the smallest of them holds.
const MAX_COUNT: u64 = 1 << 31;

/// The key of a tenant's record.
pub(crate) fn tenant_key(tenant: &str) -> String {
    format!("{TENANTS}{tenant}")
}

/// The key of a batch.
pub(crate) fn batch_key(id: &str) -> String {
    format!("{BATCHES}{id}")
}

/// The key of the pointer to open work.
pub(crate) fn open_key(tenant: &str) -> String {
    format!("{OPEN_WORK}{tenant}")
}

/// The key of the pointer to a tenant's next due day.
pub(crate) fn due_key(day: NaiveDate, tenant: &str) -> String {
    format!("{}{tenant}", due_folder(day))
}

/// The folder of the tenants that are due on a day.
pub(crate) fn due_folder(day: NaiveDate) -> String {
    format!("{DUE}{}/", day.format("%Y%m%d"))
}

/// The key of the pointer from a mail account to its tenant.
pub(crate) fn account_key(server: &str, folded_username: &str) -> String {
    let text = format!("{}:{server}{folded_username}", server.len());
    format!("{ACCOUNTS}{}", crypto::sha256_hex(text.as_bytes()))
}

/// The folder of all servers' stops.
pub(crate) const SERVERS: &str = "server/";

/// The key of a mail server's stops; `server` is its scheme, host and port.
pub(crate) fn server_key(server: &str) -> String {
    format!("{SERVERS}{}", crypto::sha256_hex(server.as_bytes()))
}

/// The key of a notification channel.
pub(crate) fn channel_key(name: &str) -> String {
    format!("{CHANNELS}{name}")
}

/// The key of how a notification channel fares.
pub(crate) fn notified_key(name: &str) -> String {
    format!("notified/{name}")
}

/// The key of an event that somebody is still to be told of.
pub(crate) fn outbox_key(event_id: &str) -> String {
    format!("{OUTBOX}{event_id}")
}

/// Tells the pointers of mail accounts from the others.
pub(crate) fn is_account_key(key: &str) -> bool {
    key.starts_with(ACCOUNTS)
}

/// The key of one event in the trail; padded so that lists are in order.
pub(crate) fn trail_key(tenant: &str, seq: u64) -> String {
    format!("trail/{tenant}/{seq:020}")
}

/// The key of the pointer to a log with events that no audit device has taken.
pub(crate) fn undelivered_key(tenant: &str) -> String {
    format!("{UNDELIVERED}{tenant}")
}

/// The folder of a day's events.
pub(crate) fn journal_folder(day: NaiveDate) -> String {
    format!("{JOURNAL}{}/", day.format("%Y%m%d"))
}

/// The key of an event in the index by time.
pub(crate) fn journal_key(day: NaiveDate, event_id: &str) -> String {
    format!("{}{event_id}", journal_folder(day))
}

/// Where the event of an index entry lies.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JournalEntry {
    schema: u32,
    /// The tenant, `-` for the mount.
    pub(crate) tenant: String,
    /// The event's number there.
    pub(crate) seq: u64,
}

impl JournalEntry {
    const SCHEMA: u32 = 1;

    /// Says where an event lies.
    pub(crate) fn of(event: &Event) -> Self {
        Self {
            schema: Self::SCHEMA,
            tenant: event.tenant_id.clone(),
            seq: event.seq,
        }
    }

    /// Reads an entry of the index.
    pub(crate) fn decode(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        check_schema(key, bytes, Self::SCHEMA)?;
        let entry: Self = decode(key, bytes)?;
        check_counts(key, &[entry.seq])?;
        Ok(entry)
    }
}

/// One event that left its record, or that an audit device took.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrailEntry {
    schema: u32,
    /// Whether an audit device took it.
    pub(crate) delivered: bool,
    /// How often the host refused to take it.
    pub(crate) refusals: u32,
    pub(crate) event: Event,
}

impl TrailEntry {
    const SCHEMA: u32 = 1;

    /// Keeps an event that no audit device has taken yet.
    pub(crate) const fn undelivered(event: Event) -> Self {
        Self {
            schema: Self::SCHEMA,
            delivered: false,
            refusals: 0,
            event,
        }
    }

    /// Keeps an event that an audit device took.
    pub(crate) fn delivered(event: Event) -> Self {
        Self {
            delivered: true,
            ..Self::undelivered(event)
        }
    }

    /// Keeps an event that the host refused to take so often.
    pub(crate) fn refused(event: Event, refusals: u32) -> Self {
        Self {
            refusals,
            ..Self::undelivered(event)
        }
    }

    /// Reads an entry of the trail.
    pub(crate) fn decode(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        check_schema(key, bytes, Self::SCHEMA)?;
        let entry: Self = decode(key, bytes)?;
        if trail_key(&entry.event.tenant_id, entry.event.seq) != key {
            return Err(Error::Entry {
                key: key.to_owned(),
                why: "the stored event belongs elsewhere: it was moved",
            });
        }
        Ok(entry)
    }
}

/// Serialises an entry.
pub(crate) fn encode<T: Serialize>(entry: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(entry).map_err(|_not_shown| Error::Defect("an entry did not serialise"))
}

/// Reads an entry of a kind whose schema is checked by the caller.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Error> {
    // serde's message could quote the entry: it is not passed on.
    serde_json::from_slice(bytes).map_err(|_not_shown| damaged(key))
}

/// The error of an entry that cannot have been written by any release.
pub(crate) fn damaged(key: &str) -> Error {
    Error::Entry {
        key: key.to_owned(),
        why: DAMAGED,
    }
}

/// Reports whether an entry cannot have been written by any release.
pub(crate) fn is_damaged(error: &Error) -> bool {
    matches!(error, Error::Entry { why, .. } if *why == DAMAGED)
}

const DAMAGED: &str = "the stored entry is damaged or of an unknown format";

/// The one field every format has.
#[derive(Deserialize)]
struct SchemaOnly {
    schema: u32,
}

/// Refuses entries of a newer format than this build knows, before anything else is read.
pub(crate) fn check_schema(key: &str, bytes: &[u8], known: u32) -> Result<u32, Error> {
    let SchemaOnly { schema } = decode(key, bytes)?;
    if schema == 0 {
        return Err(damaged(key));
    }
    if schema > known {
        return Err(Error::Entry {
            key: key.to_owned(),
            why: "the stored entry was written by a newer version of this plugin. Install that \
                  version again",
        });
    }
    Ok(schema)
}

/// Reads a tenant's record, upgrading older formats.
pub(crate) fn decode_tenant(key: &str, bytes: &[u8]) -> Result<TenantRecord, Error> {
    check_schema(key, bytes, SCHEMA)?;
    let mut record: TenantRecord = decode(key, bytes)?;
    // Schemas 2 to 4 only added members whose absence says what the one before meant, but two: what
    // an open reset asked for, and that a version without the time of its proof is shaken.
    if record.schema < 4 {
        upgrade_to_4(&mut record);
    }
    record.schema = SCHEMA;
    if tenant_key(&record.tenant) != key {
        return Err(Error::Entry {
            key: key.to_owned(),
            why: "the stored entry belongs to another tenant: it was moved",
        });
    }
    if record.has_unknown_types() {
        return Err(damaged(key));
    }
    let intent = record.intent.as_ref();
    let sends = intent.map_or(0, |it| it.sends.max(it.refusals).max(it.acknowledgements));
    // Not the generation: a mark in Mailu, which anybody there may edit, can have raised it.
    let counts = [
        record.revision,
        record.last_version,
        record.log.seq(),
        sends.into(),
    ];
    check_counts(key, &counts)?;
    Ok(record)
}

/// Moves an open reset's hold to the credential, and tells shaken versions by a word of their own.
fn upgrade_to_4(record: &mut TenantRecord) {
    let Some(credential) = &mut record.credential else {
        return;
    };
    let kept = credential.versions.iter().rev();
    let before =
        kept.filter(|version| !version.abandoned && Some(version.number) != credential.current);
    credential.previous = before.map(|version| version.number).next();
    for version in &mut credential.versions {
        version.shaken = version.verified_at.is_none();
    }
    if let Some(intent) = record.intent.as_mut().filter(|intent| intent.hold) {
        intent.hold = false;
        credential.hold.get_or_insert_with(|| Hold {
            incident_id: intent.incident_id.clone().unwrap_or_default(),
            since: intent.announced_at,
        });
    }
}

/// Refuses numbers that nothing has counted up to: going on from there they would begin again, and
/// a send would be forgotten or a version's number given twice.
pub(crate) fn check_counts(key: &str, counts: &[u64]) -> Result<(), Error> {
    if counts.iter().all(|count| *count < MAX_COUNT) {
        Ok(())
    } else {
        Err(damaged(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this build writes is byte for byte the frozen example of its format: a change of the
    /// format without a new schema is seen here.
    #[test]
    fn the_frozen_format_survives_a_round_trip() {
        let record = decode_tenant("tenant/acme", fixture::TENANT_V4).unwrap();
        let credential = record.credential.as_ref().unwrap();
        assert_eq!(credential.current, Some(2));
        assert_eq!(record.sent_intent().map(|intent| intent.version), Some(3));
        assert_eq!(
            encode(&record).unwrap(),
            fixture::TENANT_V4.trim_ascii_end()
        );
    }

    /// Every older format is read for ever, and nothing of it is lost on the way up.
    #[test]
    fn older_formats_are_upgraded_when_they_are_read() {
        const SINCE_4: [&str; 9] = [
            "\"lineages\":[],",
            "\"attempts\":[],",
            "\"accepted_mark\":null,",
            ",\"token_written_at\":null",
            "\"previous\":1,",
            "\"shaken\":false,",
            "\"before\":null,",
            "\"confirm_first\":null,",
            "\"compared\":null,",
        ];
        for (bytes, schema, added) in [
            (
                fixture::TENANT_V1,
                1,
                &["\"source\":null,", "\"preflight\":null,"][..],
            ),
            (fixture::TENANT_V2, 2, &["\"preflight\":null,"][..]),
            (fixture::TENANT_V3, 3, &[][..]),
        ] {
            let old = std::str::from_utf8(bytes.trim_ascii_end()).unwrap();
            let record = decode_tenant("tenant/acme", old.as_bytes()).unwrap();
            assert_eq!(record.schema, SCHEMA);
            let mut written = String::from_utf8(encode(&record).unwrap()).unwrap();
            for member in added.iter().chain(&SINCE_4) {
                assert!(written.contains(member), "{member}");
                written = written.replace(member, "");
            }
            let now = format!("\"schema\":{SCHEMA}");
            // What an open reset asked for is the credential's, which has it here already.
            let old = old.replacen("\"hold\":true,", "", 1);
            assert_eq!(
                written.replacen(&now, &format!("\"schema\":{schema}"), 1),
                old
            );
        }
    }

    /// An open reset of schema 3 asked for a hold that began with its commit.
    #[test]
    fn the_hold_of_an_open_reset_becomes_the_credentials() {
        let text = std::str::from_utf8(fixture::TENANT_V3.trim_ascii_end()).unwrap();
        let open = text.replacen(
            "\"hold\":{\"incident_id\":\"INC-1\",\"since\":\"2026-06-01T00:00:00Z\"}",
            "\"hold\":null",
            1,
        );
        assert_ne!(open, text);
        let record = decode_tenant("tenant/acme", open.as_bytes()).unwrap();
        let hold = record.credential.unwrap().hold.unwrap();
        assert_eq!(hold.incident_id, "INC-2");
    }

    #[test]
    fn a_newer_a_moved_and_a_damaged_record_are_refused() {
        let text = std::str::from_utf8(fixture::TENANT_V1).unwrap();
        let newer = text.replacen("\"schema\":1", "\"schema\":5", 1);
        let unknown = text.replacen("\"schema\":1", "\"schema\":1,\"surprise\":true", 1);
        let caller = text.replacen("\"display_name\":", "\"display_nam\":", 1);
        let cases = [
            ("tenant/acme", caller.as_str()),
            ("tenant/acme", newer.as_str()),
            ("tenant/other", text),
            ("tenant/acme", unknown.as_str()),
            ("tenant/acme", "{}"),
            ("tenant/acme", ""),
        ];
        for (key, bytes) in cases {
            let error = decode_tenant(key, bytes.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "record_unreadable");
            assert!(!error.to_string().contains("admin@"), "{error}");
        }
    }

    #[test]
    fn a_counter_at_its_end_is_damage() {
        let text = std::str::from_utf8(fixture::TENANT_V1).unwrap();
        for (count, largest) in [
            ("\"revision\":12", u64::MAX),
            ("\"last_version\":3", u64::MAX),
            ("\"seq\":9", u64::MAX),
            ("\"sends\":2", u32::MAX.into()),
            ("\"refusals\":1", u32::MAX.into()),
            ("\"acknowledgements\":0", u32::MAX.into()),
        ] {
            let (name, _) = count.split_once(':').unwrap();
            let spoilt = text.replacen(count, &format!("{name}:{largest}"), 1);
            assert_ne!(spoilt, text, "{name}");
            let error = decode_tenant("tenant/acme", spoilt.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("damaged"), "{name} {error}");
        }
        let raised = text.replacen(
            "\"generation\":4",
            &format!("\"generation\":{}", u64::MAX),
            1,
        );
        let record = decode_tenant("tenant/acme", raised.as_bytes()).unwrap();
        assert_eq!(
            record.generation,
            u64::MAX,
            "raised from outside, and not damage"
        );
    }

    /// No release ever wrote schema 0, so no other release helps.
    #[test]
    fn a_record_without_a_schema_is_damaged_and_not_newer() {
        let error = decode_tenant("tenant/acme", br#"{"schema":0}"#).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn keys_are_what_the_manual_says() {
        assert_eq!(tenant_key("acme"), "tenant/acme");
        assert_eq!(open_key("acme"), "open/acme");
        assert_eq!(
            due_key(fixture::now().date_naive(), "acme"),
            "due/20260921/acme"
        );
        assert_eq!(trail_key("acme", 7), "trail/acme/00000000000000000007");
        let server = server_key("https://mail.acme.example:443");
        assert_eq!(server.len(), "server/".len() + 64);
        let one = account_key("https://mail.acme.example", "admin@acme.example");
        let other = account_key("https://mail.acme.exampl", "eadmin@acme.example");
        assert_ne!(one, other);
        assert_eq!(one.len(), "account/".len() + 64);
    }
}
