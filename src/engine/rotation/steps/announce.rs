//! The first step: a look at Mailu, then a new intent in the record.

use chrono::{DateTime, Utc};

use super::Announced;
use crate::audit::{EventName, NewEvent, Outcome};
use crate::crypto::{self, Sealed, Sensitive};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Mail, Purpose};
use crate::engine::rotation::change::Change;
use crate::engine::rotation::notes::{notice_newer_marker, record_failure};
use crate::engine::rotation::retention;
use crate::engine::storage::record::Intent;
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
        change: Change,
        password: &Sensitive<String>,
    ) -> Result<Self, Error> {
        let now = tenant.engine.clock().now();
        let looked = look(&tenant).await;
        let (mail, account, seen) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                record_failure(&mut tenant, &change, &error).await;
                return Err(error);
            }
        };
        let first = tenant
            .record
            .credential
            .as_ref()
            .is_some_and(|kept| kept.current.is_none());
        if seen.is_none() && !first {
            let error = Error::Refused(Refusal::NoSuchAccount);
            record_failure(&mut tenant, &change, &error).await;
            return Err(error);
        }
        notice_newer_marker(&mut tenant, seen.as_ref(), first)?;
        let version = tenant.record.last_version + 1;
        let candidate = tenant.seal_password(version, password)?;
        tenant.record.last_version = version;
        tenant.record.last_attempt = Some(now);
        tenant.record.intent = Some(new_intent(&change, version, candidate, first, now)?);
        // What the commit would drop makes room now: the check is of the record as it will be.
        if let Some(credential) = tenant.record.credential.as_mut() {
            retention::prune(credential, &tenant.config, now);
        }
        if let Err(error) = tenant.check_room() {
            record_failure(&mut tenant, &change, &error).await;
            return Err(error);
        }
        let mut event = NewEvent::new(EventName::RotationStarted, change.actor, now);
        event.outcome = Outcome::Started;
        event.rotation_type = change.rotation_type;
        event.version = Some(version);
        event.reason = change.reason;
        event.request_id = change.request_id;
        let started = tenant.record_event(event)?;
        if let Some(intent) = &mut tenant.record.intent {
            intent.started_seq = started.seq;
        }
        Ok(Self {
            tenant,
            mail,
            account,
            seen,
        })
    }

    /// Takes up the stored intent after a look at Mailu; for settling.
    pub(in crate::engine::rotation) async fn resume(
        tenant: LockedTenant,
    ) -> Result<Self, (LockedTenant, Error)> {
        match look(&tenant).await {
            Ok((mail, account, seen)) => Ok(Self {
                tenant,
                mail,
                account,
                seen,
            }),
            Err(error) => Err((tenant, error)),
        }
    }
}

/// An announced change that was not sent yet.
fn new_intent(
    change: &Change,
    version: u64,
    candidate: Sealed,
    create_account: bool,
    now: DateTime<Utc>,
) -> Result<Intent, Error> {
    Ok(Intent {
        attempt: crypto::random_id()?,
        version,
        candidate,
        rotation_type: change.rotation_type,
        actor: change.actor.clone(),
        reason: change.reason.clone(),
        incident_id: None,
        request_id: change.request_id.clone(),
        create_account,
        target: None,
        hold: false,
        keep_app_tokens: false,
        started_seq: 0,
        announced_at: now,
        sends: 0,
        first_sent_at: None,
        last_sent_at: None,
        refusals: 0,
        acknowledgements: 0,
    })
}

/// Connects and reads the account.
async fn look(tenant: &LockedTenant) -> Result<(Mail, EmailAddress, Option<Account>), Error> {
    let credential = tenant.record.credential.as_ref();
    let username = credential.map(|kept| kept.username.as_str());
    let account = mail::address(username.ok_or(Error::Defect("no credential to change"))?)?;
    let mail = tenant.connect(Purpose::Request).await?;
    let seen = mail.account(&account).await.map_err(mail::read_error)?;
    Ok((mail, account, seen))
}
