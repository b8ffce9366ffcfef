//! The typed steps of a password change: `Announced`, `Sending`, `Applied`, `Proven`, `Committed`.
//!
//! Each step consumes the one before and cannot be made otherwise, so an order that could lose a
//! password does not compile: a value is in storage before Mailu hears of it, and it becomes the
//! current one only after it was proven. All of it runs on a tracked task that a cancelled request
//! cannot stop; a crash anywhere leaves the stored intent, which [`super::settle`] picks up.

use std::time::Duration;

use chrono::TimeDelta;

use super::retention;
use crate::audit::{Actor, Event, EventName, NewEvent, Outcome, RotationType, Severity};
use crate::crypto::{self, Sensitive};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Live, Mail};
use crate::engine::schedule;
use crate::engine::storage::record::{Credential, Drift, Intent, LastError, Proof, Version};
use crate::provider::{Account, EmailAddress, Login, Marker, Refusal, Sent, marker};

/// A send follows its own stored announcement by at most this much monotonic time: otherwise the
/// process slept in between and another node may have taken over.
const FRESH: Duration = Duration::from_secs(5);

/// How often an operation sends before it leaves the rest to the next one.
pub(super) const SENDS_PER_OPERATION: u32 = 2;

/// What is to be changed, and for whom.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Change {
    /// Why; `None` for the first password of a credential.
    pub(in crate::engine) rotation_type: Option<RotationType>,
    /// Who asked.
    pub(in crate::engine) actor: Actor,
    /// What they gave as reason.
    pub(in crate::engine) reason: Option<String>,
    /// The host's request.
    pub(in crate::engine) request_id: String,
}

/// A tenant whose record holds an intent that was looked at together with Mailu, ready to be sent.
#[derive(Debug)]
pub(super) struct Announced {
    tenant: LockedTenant,
    mail: Mail,
    account: EmailAddress,
    /// What Mailu's account looked like just before; `None` if it does not exist.
    seen: Option<Account>,
}

/// The send is in storage; nothing else may happen before it.
#[derive(Debug)]
pub(super) struct Sending {
    announced: Announced,
    stored_at: Duration,
}

/// Mailu was called.
#[derive(Debug)]
pub(super) struct Applied {
    announced: Announced,
    sent: Sent,
}

/// The candidate is known to be live.
#[derive(Debug)]
pub(super) struct Proven {
    tenant: LockedTenant,
    mail: Mail,
    account: EmailAddress,
    proof: Proof,
    fingerprint: Option<String>,
    /// Whether the account may log in at all.
    enabled: bool,
}

/// The candidate is the current version, in storage.
#[derive(Debug)]
pub(in crate::engine) struct Committed {
    /// The tenant, still locked.
    pub(in crate::engine) tenant: LockedTenant,
    /// The event of the change.
    pub(in crate::engine) event: Event,
    /// The new version.
    pub(in crate::engine) version: u64,
    /// The version that was current before.
    pub(in crate::engine) previous_version: Option<u64>,
    /// What the caller should know.
    pub(in crate::engine) warnings: Vec<String>,
}

/// What a look at Mailu says of the candidate.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is live.
    Live(Proven),
    /// Every send was definitely refused: it never can become live.
    Refused(LockedTenant, Refusal),
    /// Another stored version is live: the same candidate may be sent again.
    OtherLive(Announced),
    /// No stored value is live.
    NoneLive(Announced),
    /// Mailu cannot be asked, or shows no hash that can be checked. `None` if it answered: then
    /// sending again gets at least an acknowledgement.
    CannotTell(Announced, Option<Error>),
}

impl Announced {
    /// Puts a new intent into the record, in memory: looks at Mailu first, because an obviously
    /// failing change shall not leave the tenant in doubt.
    ///
    /// # Errors
    ///
    /// What Mailu answered to the look. Nothing was sent; the failure is recorded as an event.
    pub(super) async fn prepare(
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
        tenant.record.intent = Some(Intent {
            attempt: crypto::random_id()?,
            version,
            candidate,
            rotation_type: change.rotation_type,
            actor: change.actor.clone(),
            reason: change.reason.clone(),
            incident_id: None,
            request_id: change.request_id.clone(),
            create_account: first,
            announced_at: now,
            sends: 0,
            first_sent_at: None,
            last_sent_at: None,
            refusals: 0,
            acknowledgements: 0,
            old_live: true,
        });
        let mut event = NewEvent::new(EventName::RotationStarted, change.actor, now);
        event.outcome = Outcome::Started;
        event.rotation_type = change.rotation_type;
        event.version = Some(version);
        event.reason = change.reason;
        event.request_id = change.request_id;
        tenant.record_event(event)?;
        Ok(Self {
            tenant,
            mail,
            account,
            seen,
        })
    }

    /// Takes up the stored intent after a look at Mailu; for [`super::settle`].
    pub(super) async fn resume(tenant: LockedTenant) -> Result<Self, (LockedTenant, Error)> {
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

    /// Returns the tenant.
    pub(super) fn into_tenant(self) -> LockedTenant {
        self.tenant
    }

    /// Borrows the tenant.
    pub(super) const fn tenant(&self) -> &LockedTenant {
        &self.tenant
    }

    /// Stores that the candidate is about to be sent. From here on reads say `uncertain`.
    ///
    /// # Errors
    ///
    /// Nothing is sent if it could not be stored.
    pub(super) async fn send(mut self) -> Result<Sending, Error> {
        let now = self.tenant.engine.clock().now();
        let record = &mut self.tenant.record;
        // A mark in Mailu, which anybody there may edit, can have raised it to the end.
        record.generation = record.generation.saturating_add(1);
        record.open.settle_at = Some(now + TimeDelta::minutes(1));
        let intent = record
            .intent
            .as_mut()
            .ok_or(Error::Defect("no intent to send"))?;
        intent.sends += 1;
        intent.first_sent_at.get_or_insert(now);
        intent.last_sent_at = Some(now);
        self.tenant.store().await?;
        let stored_at = self.tenant.engine.clock().monotonic();
        Ok(Sending {
            announced: self,
            stored_at,
        })
    }

    /// Judges by what Mailu showed before anything is sent.
    pub(super) async fn judge(self) -> Result<Verdict, Error> {
        let seen = Ok(self.seen.clone());
        self.verdict(seen, false).await
    }

    async fn verdict(
        mut self,
        seen: Result<Option<Account>, Error>,
        acknowledged: bool,
    ) -> Result<Verdict, Error> {
        let account = match seen {
            Ok(Some(account)) => account,
            Ok(None) => {
                self.seen = None;
                // Before the first password no version exists that could be live instead.
                let first = self
                    .tenant
                    .record
                    .intent
                    .as_ref()
                    .is_some_and(|i| i.create_account);
                return Ok(if first {
                    Verdict::OtherLive(self)
                } else {
                    Verdict::NoneLive(self)
                });
            }
            Err(_unasked) if acknowledged => {
                return Ok(Verdict::Live(self.proven(Proof::Acknowledged, None)));
            }
            Err(error) => return Ok(Verdict::CannotTell(self, Some(error))),
        };
        let live = self.tenant.find_live(&account).await?;
        let fingerprint = account.hash.as_ref().map(|hash| hash.fingerprint());
        self.seen = Some(account);
        Ok(match live {
            Live::Candidate => Verdict::Live(self.proven(Proof::Hash, fingerprint)),
            Live::CannotTell if acknowledged => {
                Verdict::Live(self.proven(Proof::Acknowledged, None))
            }
            Live::CannotTell => Verdict::CannotTell(self, None),
            Live::Version(_) => Verdict::OtherLive(self),
            Live::None => {
                let first = self
                    .tenant
                    .record
                    .intent
                    .as_ref()
                    .is_some_and(|i| i.create_account);
                // The account existed before us with a password nobody told us.
                if first {
                    Verdict::OtherLive(self)
                } else {
                    Verdict::NoneLive(self)
                }
            }
        })
    }

    fn proven(self, proof: Proof, fingerprint: Option<String>) -> Proven {
        Proven {
            enabled: self.seen.as_ref().is_none_or(|account| account.enabled),
            tenant: self.tenant,
            mail: self.mail,
            account: self.account,
            proof,
            fingerprint,
        }
    }
}

impl Sending {
    /// Calls Mailu: creates the account if it is missing and this is its first password, else
    /// sets the password.
    pub(super) async fn apply(mut self) -> Result<Applied, Error> {
        let clock = std::sync::Arc::clone(&self.announced.tenant.engine.parts.clock);
        while clock.monotonic().saturating_sub(self.stored_at) > FRESH {
            // The process slept: make sure that this node still owns the record.
            self.announced.tenant.store().await?;
            self.stored_at = clock.monotonic();
        }
        let Announced {
            tenant,
            mail,
            account,
            seen,
        } = &mut self.announced;
        let intent = tenant
            .record
            .intent
            .as_ref()
            .ok_or(Error::Defect("no intent to apply"))?;
        let password = tenant.open_password(intent.version, &intent.candidate)?;
        let comment = tenant.config.mailu_marker.then(|| {
            let marker = Marker {
                lineage: tenant.record.lineage.clone(),
                generation: tenant.record.generation,
                attempt: intent.attempt.clone(),
            };
            marker::append(
                seen.as_ref().map_or("", |account| &account.comment),
                &marker,
            )
        });
        let comment = comment.flatten();
        let sent = if seen.is_none() && intent.create_account {
            mail.provider
                .create_account(account, &password, comment.as_deref())
                .await
        } else {
            mail.provider
                .set_password(account, &password, comment.as_deref())
                .await
        };
        let intent = tenant
            .record
            .intent
            .as_mut()
            .ok_or(Error::Defect("no intent to apply"))?;
        match &sent {
            Sent::Acknowledged => intent.acknowledgements += 1,
            Sent::Refused(_) => intent.refusals += 1,
            Sent::Unknown(trouble) => {
                tracing::warn!(tenant = %tenant.name, %trouble, "outcome of a send is unknown");
            }
        }
        Ok(Applied {
            announced: self.announced,
            sent,
        })
    }
}

impl Applied {
    /// Asks Mailu what is live now.
    pub(super) async fn prove(self) -> Result<Verdict, Error> {
        let Self { announced, sent } = self;
        if let Sent::Refused(refusal) = sent {
            let intent = announced.tenant.record.intent.as_ref();
            if intent.is_some_and(|intent| intent.refusals == intent.sends) {
                return Ok(Verdict::Refused(announced.tenant, refusal));
            }
            // A refused token or an exhausted limiter will refuse the look as well.
            if matches!(refusal, Refusal::Token | Refusal::RateLimited) {
                return Ok(Verdict::CannotTell(
                    announced,
                    Some(Error::Refused(refusal)),
                ));
            }
        }
        let acknowledged = sent == Sent::Acknowledged;
        let seen = announced.mail.provider.account(&announced.account).await;
        announced
            .verdict(seen.map_err(mail::read_error), acknowledged)
            .await
    }
}

impl Proven {
    /// Makes the candidate the current version: one Put.
    pub(super) async fn commit(self) -> Result<Committed, Error> {
        let Self {
            mut tenant,
            mail,
            account,
            proof,
            fingerprint,
            enabled,
        } = self;
        let now = tenant.engine.clock().now();
        let intent = tenant
            .record
            .intent
            .take()
            .ok_or(Error::Defect("no intent to commit"))?;
        let doubtful = intent.is_doubtful();
        // Never for a disabled user: it fails and counts against the limits.
        let try_login = mail.verify_smtp && enabled;
        let credential = tenant
            .record
            .credential
            .as_mut()
            .ok_or(Error::Defect("no credential to commit"))?;
        let previous_version = credential.current;
        let previous_rotation = previous_version.map(|_| credential.last_rotated);
        credential.versions.push(Version {
            number: intent.version,
            password: intent.candidate,
            created_at: intent.announced_at,
            created_by: intent.actor.clone(),
            rotation_type: intent.rotation_type,
            request_id: intent.request_id.clone(),
            attempt: intent.attempt,
            proof,
            verified_at: Some(now),
            hash_fingerprint: fingerprint,
            last_sent_at: intent.last_sent_at,
            doubtful,
            login_tried: try_login,
            abandoned: false,
            compromised: None,
        });
        credential.current = Some(intent.version);
        credential.last_rotated = now;
        credential.notice_sent_at = None;
        credential.drift = None;
        credential.next_rotation =
            schedule::next_rotation(credential.rotation_policy, &tenant.config, now);
        retention::prune(credential, &tenant.config, now);
        tenant.record.last_error = None;
        tenant.record.open.settle_at = None;
        tenant.record.open.settle_failures = 0;
        tenant.record.open.retry_at = None;
        tenant.record.open.retry_failures = 0;
        if doubtful {
            // A hung server may still apply an older send: look again.
            tenant.record.open.confirm_at =
                vec![now + TimeDelta::minutes(2), now + TimeDelta::minutes(15)];
        }
        let mut event = NewEvent::new(success_event(intent.rotation_type), intent.actor, now);
        event.rotation_type = intent.rotation_type;
        event.version = Some(intent.version);
        event.previous_version = previous_version;
        event.previous_rotation = previous_rotation;
        event.reason = intent.reason;
        event.request_id = intent.request_id;
        let event = tenant.record_event(event)?;
        tenant.store().await?;
        tracing::info!(tenant = %tenant.name, version = intent.version, "password changed");
        let mut committed = Committed {
            tenant,
            event,
            version: intent.version,
            previous_version,
            warnings: Vec::new(),
        };
        if try_login {
            committed.try_login(&mail, &account).await;
        } else if mail.verify_smtp {
            committed.warnings.push(String::from(
                "SMTP AUTH was not tried: the account is disabled in Mailu.",
            ));
        }
        Ok(committed)
    }
}

impl Committed {
    /// Logs in once with the new password. A failure is a warning only: limiter, tokens-only
    /// mode and disabled accounts look the same.
    async fn try_login(&mut self, mail: &Mail, account: &EmailAddress) {
        let record = &self.tenant.record;
        let version = record
            .credential
            .as_ref()
            .and_then(|kept| kept.version(self.version));
        let Some(Ok(password)) =
            version.map(|kept| self.tenant.open_password(kept.number, &kept.password))
        else {
            return;
        };
        match mail.provider.login(account, &password).await {
            Login::Accepted => {
                let credential = self.tenant.record.credential.as_mut();
                if let Some(version) = credential.and_then(|kept| kept.current_version_mut()) {
                    version.proof = Proof::Login;
                }
                if let Err(error) = self.tenant.store().await {
                    tracing::warn!(tenant = %self.tenant.name, %error, "login proof not stored");
                }
            }
            Login::Refused => self.warnings.push(String::from(
                "SMTP AUTH with the new password was refused although Mailu stored it: the \
                 account may be disabled or rate limited, or the server may require app tokens. \
                 It is not tried again.",
            )),
            Login::CannotTell => self.warnings.push(String::from(
                "SMTP AUTH with the new password could not be tried. Check smtp_address in \
                 <tenant>/config.",
            )),
        }
    }
}

/// Connects and reads the account.
async fn look(tenant: &LockedTenant) -> Result<(Mail, EmailAddress, Option<Account>), Error> {
    let credential = tenant.record.credential.as_ref();
    let username = credential.map(|kept| kept.username.as_str());
    let account = mail::address(username.ok_or(Error::Defect("no credential to change"))?)?;
    let mail = tenant.connect().await?;
    let seen = mail
        .provider
        .account(&account)
        .await
        .map_err(mail::read_error)?;
    Ok((mail, account, seen))
}

/// A generation in Mailu's marker above the stored one means that storage went back in time or
/// that another cluster acts on the account: this node starts a new lineage.
fn notice_newer_marker(
    tenant: &mut LockedTenant,
    seen: Option<&Account>,
    first: bool,
) -> Result<(), Error> {
    let Some(found) = seen.and_then(|account| marker::find(&account.comment)) else {
        return Ok(());
    };
    if found.generation <= tenant.record.generation {
        return Ok(());
    }
    tenant.record.generation = found.generation;
    if first {
        // An earlier life of this account; nothing here is stale.
        return Ok(());
    }
    let now = tenant.engine.clock().now();
    tenant.record.lineage = crypto::random_id()?;
    let mut event = NewEvent::new(EventName::DriftDetected, Actor::system(), now);
    event.severity = Severity::Critical;
    event.outcome = Outcome::Failure;
    event.error_code = Some(String::from("stale_storage"));
    tenant.record_event(event)?;
    Ok(())
}

/// Records that a change failed before anything was sent, or was refused.
pub(super) async fn record_failure(tenant: &mut LockedTenant, change: &Change, error: &Error) {
    let now = tenant.engine.clock().now();
    tenant.record.last_attempt = Some(now);
    drop_unborn(tenant);
    note_error(tenant, error.code());
    let mut event = NewEvent::new(EventName::RotationFailed, change.actor.clone(), now);
    event.severity = Severity::Warning;
    event.outcome = Outcome::Failure;
    event.rotation_type = change.rotation_type;
    event.reason.clone_from(&change.reason);
    event.error_code = Some(error.code().to_owned());
    event.request_id.clone_from(&change.request_id);
    let recorded = match tenant.record_event(event) {
        Ok(_event) => tenant.store().await,
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        // The change did not happen either way; its caller gets the first error.
        tracing::warn!(tenant = %tenant.name, %error, "a failure could not be recorded");
    }
}

/// Removes, in memory, a credential that never had a password: a failed creation leaves none.
pub(super) fn drop_unborn(tenant: &mut LockedTenant) {
    let unborn = |kept: &Credential| kept.versions.is_empty();
    if tenant.record.credential.as_ref().is_some_and(unborn) {
        tenant.record.credential = None;
    }
}

/// Remembers the last failure for `status`.
pub(super) fn note_error(tenant: &mut LockedTenant, code: &'static str) {
    let now = tenant.engine.clock().now();
    let earlier = tenant
        .record
        .last_error
        .take()
        .filter(|earlier| earlier.code == code);
    tenant.record.last_error = Some(match earlier {
        Some(earlier) => LastError {
            attempts: earlier.attempts.saturating_add(1),
            ..earlier
        },
        None => LastError {
            code: code.to_owned(),
            since: now,
            attempts: 1,
        },
    });
}

/// Marks the credential as drifted and records the event, once per drift.
pub(in crate::engine) fn note_drift(
    tenant: &mut LockedTenant,
    code: &'static str,
    live_version: Option<u64>,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let Some(credential) = tenant.record.credential.as_mut() else {
        return Ok(());
    };
    let same = credential
        .drift
        .as_ref()
        .is_some_and(|drift| drift.code == code && drift.live_version == live_version);
    if same {
        return Ok(());
    }
    credential.drift = Some(Drift {
        code: code.to_owned(),
        live_version,
        since: now,
    });
    let current = credential.current;
    let mut event = NewEvent::new(EventName::DriftDetected, Actor::system(), now);
    event.severity = Severity::Warning;
    event.outcome = Outcome::Failure;
    event.version = live_version;
    event.previous_version = current;
    event.error_code = Some(code.to_owned());
    tenant.record_event(event)?;
    Ok(())
}

/// The event of a completed change.
const fn success_event(rotation_type: Option<RotationType>) -> EventName {
    match rotation_type {
        None => EventName::Stored,
        Some(
            RotationType::Automated
            | RotationType::Manual
            | RotationType::Bulk
            | RotationType::Reveal,
        ) => EventName::Rotated,
        Some(RotationType::Emergency) => EventName::EmergencyReset,
        Some(RotationType::Rollback) => EventName::RolledBack,
        Some(RotationType::Rehome) => EventName::Rehomed,
    }
}
