//! Updating a credential: settings, and the adoption of a password that was set elsewhere.

use chrono::TimeDelta;

use super::create;
use super::input::Input;
use super::output::Written;
use crate::audit::{Event, EventName, NewEvent};
use crate::crypto::Sensitive;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::rotation::{self, Change, InDrift, Settled};
use crate::engine::storage::record::{Credential, MOST_TRIES, RotationPolicy};
use crate::engine::{mail, schedule, watch};
use crate::logical::StorageError;

/// A given password was the current one: nothing was changed.
const PASSWORD_IS_CURRENT: &str = "password_is_current";

pub(super) async fn update(
    locked: LockedTenant,
    input: Input,
    change: Change,
) -> Result<Written, Error> {
    // What can be refused without asking Mailu is refused first.
    refuse_other_username(&locked, &input)?;
    let (mut locked, mut input) = (locked, input);
    let mut warnings = Vec::new();
    let describes = input.describes();
    if input.cas.is_none()
        && let Some(password) = input.password.take()
        && rotation::made_before(&locked.record, &change.request_id).is_none()
    {
        warnings.push(without_cas(&mut locked, &password, &change).await?);
    }
    if describes && input.password.is_none() && is_as_stored(&locked, &input) {
        // All of it is so: an open change is not settled for that, and no server is asked. A
        // creation that is under way goes on.
        return Written::new(&locked, None, warnings);
    }
    supersede(&mut locked, &input).await?;
    let (mut locked, settled) = match rotation::settle(locked, InDrift::Stop).await? {
        Settled::Free(locked) => (*locked, None),
        Settled::Committed(committed) => (committed.tenant, Some(committed.event)),
    };
    // Its own first arrival made the version that `cas` would now speak against.
    if let Some((_version, event)) = rotation::made_before(&locked.record, &change.request_id) {
        return Written::new(&locked, event, Vec::new());
    }
    let Some(credential) = &locked.record.credential else {
        // Settling found that the first password never came into being.
        return create::create(locked, input, change).await;
    };
    if input
        .cas
        .is_some_and(|cas| cas != credential.current.unwrap_or(0))
    {
        return Err(Error::conflict(
            "cas_mismatch",
            format!(
                "the current version is {}. Look at the credential and decide again; in drift, a \
                 read answers the version that is live instead of the current one.",
                credential.current.unwrap_or(0)
            ),
        ));
    }
    let mut event = settled;
    match adopt(&mut locked, &input, &change, &mut warnings).await {
        Ok(Some(adopted)) => event = Some(adopted),
        Ok(None) => {}
        Err(error) => {
            if let Error::Invalid { code, .. } = &error {
                // What was compared and refused is counted.
                locked.forget_changes()?;
                rotation::record_refusal(&mut locked, &change, code, false).await?;
            }
            return Err(error);
        }
    }
    if let Some(changed) = apply_settings(&mut locked, &input, change)? {
        event.get_or_insert(changed);
    }
    locked.check_room()?;
    locked.store_if_changed().await?;
    Written::new(&locked, event.as_ref(), warnings)
}

fn refuse_other_username(locked: &LockedTenant, input: &Input) -> Result<(), Error> {
    let stored = locked
        .record
        .credential
        .as_ref()
        .map(|kept| kept.username.as_str());
    let (Some(stored), Some(wanted)) = (stored, &input.username) else {
        return Ok(());
    };
    if wanted.as_str().eq_ignore_ascii_case(stored) {
        return Ok(());
    }
    Err(Error::invalid(
        "username_fixed",
        "the username of a credential cannot be changed. Create another tenant for another account.",
    ))
}

/// A password that was set by hand while a change was open ends that change, in memory, if it is
/// the one that is live: the candidate is kept as abandoned, and the adoption goes on.
async fn supersede(locked: &mut LockedTenant, input: &Input) -> Result<(), Error> {
    let credential = locked.record.credential.as_ref();
    let current = credential.and_then(|kept| kept.current);
    let (Some(password), Some(intent)) = (&input.password, locked.record.sent_intent()) else {
        return Ok(());
    };
    if input.cas.is_none() || input.cas != current || intent.is_emergency() {
        // A reset overwrites whatever is live instead.
        return Ok(());
    }
    // The candidate itself: settling finds it live. The current one: that is no news, and what
    // was sent may still land.
    if locked.open_password(intent.version, &intent.candidate)? == *password
        || matches!(same_as_stored(locked, password)?, Some(Stored::Current))
    {
        return Ok(());
    }
    let username = credential.map(|kept| kept.username.clone());
    let address = mail::address(&username.ok_or(Error::UnknownTenant)?)?;
    let Some(account) = rotation::read_account(locked, &address).await? else {
        return Ok(());
    };
    if rotation::live_password(locked, &account, password).await == Some(true) {
        rotation::abandon(locked, "superseded")?;
    }
    Ok(())
}

/// Judges a password that is given again without `cas`, as a tool does that describes an import: the
/// imported one is what it was told to be, for ever, and left alone. Any other is refused by one text,
/// whatever it is compared with, and only so many of a day are compared at all. Returns a warning.
async fn without_cas(
    locked: &mut LockedTenant,
    password: &Sensitive<String>,
    change: &Change,
) -> Result<String, Error> {
    let now = locked.engine.clock().now();
    if locked.record.tally.tries(now) >= MOST_TRIES {
        let code = "too_many_tries";
        let recorded = rotation::record_refusal(locked, change, code, false).await;
        must_record(recorded)?;
        return Err(Error::conflict(
            code,
            "too many passwords were given without `cas` for this credential within a day. Nothing \
             was compared. Leave `password` out, or name the current version in `cas`.",
        ));
    }
    let given = locked.password_hash(password);
    let credential = locked.record.credential.as_ref();
    if credential.is_some_and(|kept| kept.imported.contains(&given)) {
        let compromised = matches!(same_as_stored(locked, password)?, Some(Stored::Compromised));
        return Ok(String::from(if compromised {
            "`password` is the imported one, which is compromised; it was ignored. Take it out of \
             what describes the credential."
        } else {
            "`password` is the imported one; it was ignored. A repeated import undoes no rotation."
        }));
    }
    locked.record.tally.note_try(now);
    // It counts even if it cannot be stored, and is answered alike: nobody learns more by that.
    locked.put_failures_off();
    let recorded = rotation::record_refusal(locked, change, watch::PASSWORD_NEEDS_CAS, true).await;
    must_record(recorded)?;
    Err(Error::invalid(
        watch::PASSWORD_NEEDS_CAS,
        "the credential has a password, and without `cas` only the imported one may be given again. \
         To take over one that was set elsewhere, name the current version in `cas`; to have a new \
         one set, write <tenant>/rotate.",
    ))
}

/// That storage refused to keep the count of a try is no answer to it. What has to be asked of
/// another node is.
fn must_record(recorded: Result<(), Error>) -> Result<(), Error> {
    match recorded {
        Err(Error::Storage(error @ (StorageError::Refused(_) | StorageError::Unknown(_)))) => {
            tracing::warn!(%error, "a password that was tried is counted in memory only");
            Ok(())
        }
        other => other,
    }
}

/// Takes a given password over as a new version, in memory.
async fn adopt(
    locked: &mut LockedTenant,
    input: &Input,
    change: &Change,
    warnings: &mut Vec<String>,
) -> Result<Option<Event>, Error> {
    let Some(password) = &input.password else {
        return Ok(None);
    };
    match same_as_stored(locked, password)? {
        Some(Stored::Compromised) => {
            return Err(Error::invalid(
                "version_compromised",
                "this password belongs to a compromised version and is never used again.",
            ));
        }
        Some(Stored::Current) => {
            // Whoever hits it by guessing must leave a trace.
            rotation::record_refusal(locked, change, PASSWORD_IS_CURRENT, false).await?;
            warnings.push(String::from(
                "`password` is the current one; it was ignored.",
            ));
            return Ok(None);
        }
        Some(Stored::Earlier) | None => {}
    }
    let username = locked
        .record
        .credential
        .as_ref()
        .map(|kept| kept.username.clone());
    let address = mail::address(&username.ok_or(Error::UnknownTenant)?)?;
    let checked = create::check(locked, &address, password).await?;
    let last_rotated = input
        .last_rotated
        .unwrap_or_else(|| locked.engine.clock().now());
    let event = create::add_version(locked, password, &checked, last_rotated, change.clone())?;
    warnings.extend(checked.warnings);
    locked.record_event(event(EventName::Adopted)).map(Some)
}

enum Stored {
    Current,
    Earlier,
    Compromised,
}

fn same_as_stored(
    locked: &LockedTenant,
    password: &Sensitive<String>,
) -> Result<Option<Stored>, Error> {
    let Some(credential) = &locked.record.credential else {
        return Ok(None);
    };
    let mut found = None;
    for version in &credential.versions {
        if locked.open_password(version.number, &version.password)? != *password {
            continue;
        }
        if version.compromised.is_some() {
            return Ok(Some(Stored::Compromised));
        }
        if Some(version.number) == credential.current {
            found = Some(Stored::Current);
        } else if found.is_none() {
            found = Some(Stored::Earlier);
        }
    }
    Ok(found)
}

/// Puts the settings that a request names into a credential.
fn put_settings(credential: &mut Credential, input: &Input) {
    input
        .webmail_url
        .clone()
        .map(|url| Some(url).filter(|url| !url.is_empty()))
        .apply(&mut credential.webmail_url, None);
    let mut policy = (credential.rotation_policy, credential.policy_text.take());
    input
        .rotation_policy
        .clone()
        .map(|(policy, text)| (policy, Some(text)))
        .apply(&mut policy, (RotationPolicy::Mount, None));
    (credential.rotation_policy, credential.policy_text) = policy;
    input
        .admin_emails
        .clone()
        .apply(&mut credential.admin_emails, Vec::new());
}

/// Reports whether there is a password, and every setting that a request names is what is stored.
fn is_as_stored(locked: &LockedTenant, input: &Input) -> bool {
    locked.record.credential.as_ref().is_some_and(|stored| {
        let mut credential = stored.clone();
        put_settings(&mut credential, input);
        stored.current.is_some() && credential == *stored
    })
}

/// Applies the settings a request names, in memory; the event if any of them changed.
fn apply_settings(
    locked: &mut LockedTenant,
    input: &Input,
    change: Change,
) -> Result<Option<Event>, Error> {
    let now = locked.engine.clock().now();
    let config = std::sync::Arc::clone(&locked.config);
    let Some(credential) = locked.record.credential.as_mut() else {
        return Ok(None);
    };
    let before = credential.clone();
    put_settings(credential, input);
    let changed = [
        (
            "admin_emails",
            before.admin_emails != credential.admin_emails,
        ),
        (
            "rotation_policy",
            (before.rotation_policy, &before.policy_text)
                != (credential.rotation_policy, &credential.policy_text),
        ),
        ("webmail_url", before.webmail_url != credential.webmail_url),
    ];
    let changed = changed.into_iter().filter(|(_, changed)| *changed);
    let changed: Vec<String> = changed.map(|(name, _)| name.to_owned()).collect();
    if changed.is_empty() {
        return Ok(None);
    }
    if before.rotation_policy != credential.rotation_policy {
        // A shorter period must not rotate the tenant by accident right away.
        let spread = TimeDelta::try_seconds(i64::try_from(config.spread).unwrap_or(0));
        credential.paced_until = None;
        credential.next_rotation = schedule::next_rotation(
            credential.rotation_policy,
            &config,
            locked.name.as_str(),
            credential.last_rotated,
            now + spread.unwrap_or_default(),
        );
        credential.notice_sent_at = None;
    }
    let mut event = NewEvent::new(EventName::TenantConfigChanged, change.actor, now);
    event.request_id = change.request_id;
    event.changed = changed;
    locked.record_event(event).map(Some)
}
