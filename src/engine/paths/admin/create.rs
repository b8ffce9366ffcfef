//! Creating a credential: with a generated password, or importing an existing one.

use chrono::{DateTime, Utc};

use super::input::Input;
use super::output::Written;
use crate::audit::{EventName, NewEvent};
use crate::crypto::Sensitive;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::rotation::{self, Change, Stranger};
use crate::engine::storage::record::{Credential, Proof, RotationPolicy, Version};
use crate::engine::{mail, schedule};
use crate::provider::{Account, EmailAddress, Refusal};

/// How many imported passwords are recognised.
const MOST_IMPORTED: usize = 16;

pub(super) async fn create(
    mut locked: LockedTenant,
    input: Input,
    change: Change,
) -> Result<Written, Error> {
    if input.cas.is_some_and(|cas| cas != 0) {
        return Err(Error::conflict(
            "cas_mismatch",
            "`cas` names a version, but the credential does not exist.",
        ));
    }
    let username = input.username.clone().ok_or_else(|| {
        Error::invalid(
            "missing_field",
            "`username` is required to create the credential, for example admin@acme.example.",
        )
    })?;
    let now = locked.engine.clock().now();
    if input.password.is_none() && locked.record.server.is_none() {
        return Err(mail::no_server());
    }
    locked.record.credential = Some(credential(&username, &input, now));
    locked.claim_account().await?;
    match input.password {
        Some(password) => {
            import(
                locked,
                &username,
                password,
                input.last_rotated.unwrap_or(now),
                change,
            )
            .await
        }
        None => {
            let committed = rotation::first_password(locked, change).await?;
            Written::new(
                &committed.tenant,
                Some(&committed.event),
                committed.warnings,
            )
        }
    }
}

fn credential(username: &EmailAddress, input: &Input, now: DateTime<Utc>) -> Credential {
    let (policy, policy_text) = input.rotation_policy.clone().set().unzip();
    Credential {
        username: username.as_str().to_owned(),
        webmail_url: input
            .webmail_url
            .clone()
            .set()
            .filter(|url| !url.is_empty()),
        admin_emails: input.admin_emails.clone().set().unwrap_or_default(),
        rotation_policy: policy.unwrap_or(RotationPolicy::Mount),
        policy_text,
        created_at: now,
        last_rotated: now,
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

async fn import(
    mut locked: LockedTenant,
    username: &EmailAddress,
    password: Sensitive<String>,
    last_rotated: DateTime<Utc>,
    change: Change,
) -> Result<Written, Error> {
    let checked = match check(&locked, username, &password).await {
        Ok(checked) => checked,
        Err(error) => {
            if let Error::Invalid { code, .. } = &error {
                // What was compared and refused is counted.
                locked.forget_changes()?;
                rotation::record_refusal(&mut locked, &change, code, false).await?;
            }
            return Err(error);
        }
    };
    let other = rotation::stranger_of(&locked.record, checked.seen.as_ref());
    if matches!(other, Some(Stranger::Other(_))) && !change.take_over {
        return Err(rotation::owned_by_other());
    }
    let event = add_version(&mut locked, &password, &checked, last_rotated, change)?;
    locked.check_room()?;
    let event = locked.record_event(event(EventName::Imported))?;
    locked.store().await?;
    Written::new(&locked, Some(&event), checked.warnings)
}

/// What Mailu said of a given password.
pub(super) struct Checked {
    pub(super) proof: Proof,
    pub(super) fingerprint: Option<String>,
    /// The account as Mailu showed it.
    pub(super) seen: Option<Account>,
    pub(super) warnings: Vec<String>,
}

/// Asks Mailu whether a given password is live.
///
/// # Errors
///
/// A 400 `password_not_live` if Mailu can be asked and says no, `mailu_no_such_account` if it has no
/// such account. Not being able to ask is no error: the password may be the only one there is.
pub(super) async fn check(
    locked: &LockedTenant,
    username: &EmailAddress,
    password: &Sensitive<String>,
) -> Result<Checked, Error> {
    let unchecked = |why: &str| Checked {
        proof: Proof::Imported,
        fingerprint: None,
        seen: None,
        warnings: vec![format!(
            "the password was stored without a check: {why}. Write <tenant>/verify to check it."
        )],
    };
    if locked.record.server.is_none() {
        return Ok(unchecked("the tenant has no Mailu server yet"));
    }
    let not_live = || {
        Error::invalid(
            "password_not_live",
            "Mailu says that this is not the account's password. Nothing was stored. Check the \
             username and the password, or leave `password` out to have a new one set.",
        )
    };
    let account = match rotation::read_account(locked, username).await {
        Ok(account) => account.ok_or(Error::Refused(Refusal::NoSuchAccount))?,
        Err(Error::Refused(refusal)) => return Ok(unchecked(&refusal.to_string())),
        Err(Error::Unreachable(trouble)) => return Ok(unchecked(&trouble.to_string())),
        Err(other) => return Err(other),
    };
    match rotation::live_password(locked, &account, password).await {
        Some(true) => Ok(Checked {
            proof: Proof::Hash,
            fingerprint: account.hash.as_ref().map(|hash| hash.fingerprint()),
            seen: Some(account),
            warnings: Vec::new(),
        }),
        Some(false) => Err(not_live()),
        None => Ok(Checked {
            seen: Some(account),
            ..unchecked("Mailu shows no password hash that can be checked")
        }),
    }
}

/// Remembers that a password was given. The first one stays: it is what a tool that describes the
/// import gives for ever.
fn note_import(credential: &mut Credential, imported: String) {
    if credential.imported.contains(&imported) {
        return;
    }
    credential.imported.push(imported);
    if credential.imported.len() > MOST_IMPORTED {
        credential.imported.remove(1);
    }
}

/// Adds a given password as the new current version, in memory; returns how to make its event.
pub(super) fn add_version(
    locked: &mut LockedTenant,
    password: &Sensitive<String>,
    checked: &Checked,
    last_rotated: DateTime<Utc>,
    change: Change,
) -> Result<impl FnOnce(EventName) -> NewEvent + use<>, Error> {
    let now = locked.engine.clock().now();
    // Whoever gives a password knows of the account: its mark is accepted.
    rotation::accept(&mut locked.record, checked.seen.as_ref());
    rotation::take_over(&mut locked.record, checked.seen.as_ref());
    let number = locked.record.last_version + 1;
    let sealed = locked.seal_password(number, password)?;
    let imported = locked.password_hash(password);
    locked.record.last_version = number;
    let config = std::sync::Arc::clone(&locked.config);
    let credential = locked
        .record
        .credential
        .as_mut()
        .ok_or(Error::Defect("no credential to add to"))?;
    note_import(credential, imported);
    let previous_version = credential.current;
    let previous_rotation = previous_version.map(|_| credential.last_rotated);
    credential.versions.push(Version {
        number,
        password: sealed,
        created_at: now,
        created_by: change.actor.clone(),
        rotation_type: None,
        incident_id: None,
        request_id: change.request_id.clone(),
        source: None,
        attempt: String::new(),
        proof: checked.proof,
        verified_at: (checked.proof == Proof::Hash).then_some(now),
        hash_fingerprint: checked.fingerprint.clone(),
        last_sent_at: None,
        doubtful: false,
        login_tried: false,
        abandoned: false,
        shaken: false,
        compromised: None,
    });
    locked.record.last_error = None;
    // What was sent before is not what is current now.
    locked.record.open.confirm_first = None;
    credential.current = Some(number);
    credential.previous = previous_version;
    credential.drift = None;
    credential.last_rotated = last_rotated;
    credential.notice_sent_at = None;
    credential.paced_until = None;
    credential.next_rotation = schedule::next_rotation(
        credential.rotation_policy,
        &config,
        locked.name.as_str(),
        last_rotated,
        now,
    );
    Ok(move |name| {
        let mut event = NewEvent::new(name, change.actor, now);
        event.version = Some(number);
        event.previous_version = previous_version;
        event.previous_rotation = previous_rotation;
        event.request_id = change.request_id;
        event
    })
}
