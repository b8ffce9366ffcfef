//! The first step: a look at Mailu, then a new intent in the record.

use super::Announced;
use crate::audit::Outcome;
use crate::crypto::{Maker, Sensitive};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Mail};
use crate::engine::rotation::change::{Change, started_event};
use crate::engine::rotation::notes::record_failure;
use crate::engine::rotation::strangers::{self, OTHER_OWNER};
use crate::engine::rotation::verify::conclude;
use crate::engine::rotation::{retention, values};
use crate::engine::storage::record::{Credential, Intent};
use crate::provider::{Account, EmailAddress, Refusal};

impl Announced {
    /// Puts a new intent into the record, in memory: looks at Mailu first, because an obviously
    /// failing change shall not leave the tenant in doubt.
    ///
    /// # Errors
    ///
    /// What Mailu answered to the look. Nothing was sent; the failure is recorded as an event.
    pub(in crate::engine::rotation) async fn prepare(
        mut tenant: LockedTenant,
        change: &Change,
        password: &Sensitive<String>,
    ) -> Result<Self, Error> {
        let looked = look(&tenant).await;
        let (mail, account, seen) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                record_failure(&mut tenant, change, &error).await;
                return Err(error);
            }
        };
        let first = is_first(&tenant);
        if seen.is_none() && !first {
            let error = Error::Refused(Refusal::NoSuchAccount);
            record_failure(&mut tenant, change, &error).await;
            return Err(error);
        }
        if first {
            let other = strangers::stranger_of(&tenant.record, seen.as_ref());
            if other.is_some_and(|it| it.code() == OTHER_OWNER) && !change.take_over {
                let error = strangers::owned_by_other();
                record_failure(&mut tenant, change, &error).await;
                return Err(error);
            }
            strangers::accept(&mut tenant.record, seen.as_ref());
            strangers::take_over(&mut tenant.record, seen.as_ref());
        } else if let Some(error) = stranger(&mut tenant, seen.as_ref())? {
            tenant.store().await?;
            return Err(error);
        } else if tenant.record.generation == 0 {
            strangers::take_over(&mut tenant.record, seen.as_ref());
        }
        if let Some(error) = verify_adopted(&mut tenant, seen.as_ref()).await? {
            tenant.store().await?;
            return Err(error);
        }
        if let Err(error) = put_intent(&mut tenant, change, password) {
            record_failure(&mut tenant, change, &error).await;
            return Err(error);
        }
        if let Err(error) = retention::check_room(&tenant) {
            record_failure(&mut tenant, change, &error).await;
            return Err(error);
        }
        Ok(Self {
            tenant,
            mail,
            account,
            seen,
        })
    }

    /// Takes up the record's intent after a look at Mailu; for settling.
    ///
    /// # Errors
    ///
    /// What Mailu answered to the look, or what it says of the record; with the tenant, whose
    /// record may have to be stored.
    pub(in crate::engine::rotation) async fn resume(
        mut tenant: LockedTenant,
    ) -> Result<Self, (LockedTenant, Error)> {
        let (mail, account, seen) = match look(&tenant).await {
            Ok(looked) => looked,
            Err(error) => return Err((tenant, error)),
        };
        match stranger(&mut tenant, seen.as_ref()) {
            Ok(None) => Ok(Self {
                tenant,
                mail,
                account,
                seen,
            }),
            Ok(Some(error)) | Err(error) => Err((tenant, error)),
        }
    }
}

/// Notes a writer that this record does not know. A person's change goes on over it; the engine's
/// own does not: its error is returned.
fn stranger(tenant: &mut LockedTenant, seen: Option<&Account>) -> Result<Option<Error>, Error> {
    let Some(stranger) = strangers::stranger_of(&tenant.record, seen) else {
        return Ok(None);
    };
    strangers::note(tenant, &stranger, None)?;
    if tenant.purpose.is_unattended() {
        return Ok(Some(strangers::error(&tenant.record)));
    }
    // Where the change leaves no mark of its own, this one is not told again.
    strangers::accept(&mut tenant.record, seen);
    Ok(None)
}

/// Verifies a tenant whose storage was taken over from another mount since the last proof: what Mailu
/// holds may have been changed there since the copy was made. A person's change goes on over what is
/// found; the engine's own does not: its error is returned.
async fn verify_adopted(
    tenant: &mut LockedTenant,
    seen: Option<&Account>,
) -> Result<Option<Error>, Error> {
    let adopted = tenant.keyring.maker().and_then(Maker::adopted_at);
    let credential = tenant.record.credential.as_ref();
    let current = credential.and_then(Credential::current_version);
    let (Some(adopted), Some(current), Some(account)) = (adopted, current, seen) else {
        return Ok(None);
    };
    if current.verified_at.is_some_and(|proven| proven > adopted) {
        return Ok(None);
    }
    let live = tenant.find_live(account).await?;
    conclude(tenant, Some(account), &live)?;
    let credential = tenant.record.credential.as_ref();
    let differs = credential.is_some_and(|kept| kept.drift.is_some());
    Ok((differs && tenant.purpose.is_unattended()).then(|| {
        Error::conflict(
            "drift",
            "this storage was taken over from another mount, and Mailu holds another password than \
             the stored one. Nothing is changed automatically. Look with <tenant>/verify, then \
             adopt the live password or write <tenant>/rotate.",
        )
    }))
}

/// Reports whether the credential has no password yet.
fn is_first(tenant: &LockedTenant) -> bool {
    let credential = tenant.record.credential.as_ref();
    credential.is_some_and(|kept| kept.current.is_none())
}

/// Puts a new intent and its "started" event into the record, in memory.
pub(in crate::engine::rotation) fn put_intent(
    tenant: &mut LockedTenant,
    change: &Change,
    password: &Sensitive<String>,
) -> Result<(), Error> {
    values::check(tenant, change, password)?;
    let now = tenant.engine.clock().now();
    let version = tenant.record.last_version + 1;
    let candidate = tenant.seal_password(version, password)?;
    let create_account = is_first(tenant);
    tenant.record.last_version = version;
    tenant.record.last_attempt = Some(now);
    let attempt = tenant.engine.identifiers().hex()?;
    tenant.record.note_attempt(&attempt);
    tenant.record.intent = Some(Intent {
        attempt,
        version,
        candidate,
        rotation_type: change.rotation_type,
        actor: change.actor.clone(),
        joined_by: Vec::new(),
        reason: change.reason.clone(),
        incident_id: change.incident_id.clone(),
        request_id: change.request_id.clone(),
        source: change.source,
        again: change.again,
        create_account,
        encoding: values::encoding(tenant, change),
        target: None,
        hold: false,
        keep_app_tokens: false,
        started_seq: 0,
        announced_at: now,
        sends: 0,
        first_sent_at: None,
        last_sent_at: None,
        before: None,
        refusals: 0,
        acknowledgements: 0,
    });
    record_started(tenant, change)
}

/// Records that the intent in the record was announced.
pub(in crate::engine::rotation) fn record_started(
    tenant: &mut LockedTenant,
    change: &Change,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let mut event = change.event(started_event(change.rotation_type), now);
    event.outcome = Outcome::Started;
    event.version = tenant.record.intent.as_ref().map(|intent| intent.version);
    let started = tenant.record_event(event)?;
    if let Some(intent) = &mut tenant.record.intent {
        intent.started_seq = started.seq;
    }
    Ok(())
}

/// Connects and reads the account.
async fn look(tenant: &LockedTenant) -> Result<(Mail, EmailAddress, Option<Account>), Error> {
    let credential = tenant.record.credential.as_ref();
    let username = credential.map(|kept| kept.username.as_str());
    let account = mail::address(username.ok_or(Error::Defect("no credential to change"))?)?;
    let mail = tenant.connect(tenant.purpose).await?;
    let seen = mail.account(&account).await?;
    Ok((mail, account, seen))
}
