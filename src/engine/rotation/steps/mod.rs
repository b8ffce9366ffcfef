//! The typed steps of a password change: `Announced`, `Sending`, `Applied`, `Proven`, `Committed`.
//!
//! Each step consumes the one before and cannot be made otherwise, so an order that could lose a
//! password does not compile: a value is in storage before Mailu hears of it, and it becomes the
//! current one only after it was proven. All of it runs on a tracked task that a cancelled request
//! cannot stop; a crash anywhere leaves the stored intent, which [`mod@super::settle`] picks up.

mod announce;
mod late_writes;
mod login;
mod verdict;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::change::{Change, success_event};
use super::{reset, retention};
use crate::audit::{Event, NewEvent, Severity};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Mail;
use crate::engine::schedule;
use crate::engine::storage::record::{Intent, OpenWork, Proof, SeenHash, Version};
use crate::provider::{Account, EmailAddress, Login, Marker, Sent, StoredHash, marker};

pub(super) use announce::{put_intent, record_started};
pub(super) use verdict::Verdict;

/// A send follows its own stored announcement by at most this much monotonic time: otherwise the
/// process slept in between and another node may have taken over.
const FRESH: Duration = Duration::from_secs(5);

/// How often an operation sends before it leaves the rest to the next one.
pub(super) const SENDS_PER_OPERATION: u32 = 2;

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
    /// The hash that proved it.
    hash: Option<StoredHash>,
    /// It was acknowledged, and the look after it failed.
    unseen: bool,
    /// Whether the account may log in at all: a disabled one only costs the limiter a try.
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

impl Announced {
    /// Reports whether Mailu was seen without the account.
    pub(super) const fn account_missing(&self) -> bool {
        self.seen.is_none()
    }

    /// Reports whether the account is to be created if it is missing.
    pub(super) fn may_create(&self) -> bool {
        let intent = self.tenant.record.intent.as_ref();
        intent.is_some_and(|intent| intent.create_account)
    }

    /// Reports whether the candidate was ever sent.
    pub(super) fn was_sent(&self) -> bool {
        self.tenant.record.sent_intent().is_some()
    }

    /// Reports whether every send of the candidate was answered with a refusal.
    pub(super) fn was_only_refused(&self) -> bool {
        let intent = self.tenant.record.sent_intent();
        intent.is_some_and(|intent| intent.refusals == intent.sends)
    }

    /// Reports whether the candidate is that of an emergency reset.
    pub(super) fn is_emergency(&self) -> bool {
        let intent = self.tenant.record.intent.as_ref();
        intent.is_some_and(Intent::is_emergency)
    }

    /// Returns the tenant.
    pub(super) fn into_tenant(self) -> LockedTenant {
        self.tenant
    }

    /// Borrows the tenant.
    pub(super) const fn tenant(&self) -> &LockedTenant {
        &self.tenant
    }

    /// Borrows the tenant, whose intent may become another one of the same change.
    pub(super) const fn tenant_mut(&mut self) -> &mut LockedTenant {
        &mut self.tenant
    }

    /// Stores the change as announced: it waits before it is sent.
    ///
    /// # Errors
    ///
    /// Nothing was stored, and nothing will be sent.
    pub(super) async fn store(&mut self) -> Result<(), Error> {
        self.tenant.store().await
    }

    /// Stores that the candidate is about to be sent. From here on reads say `uncertain`.
    ///
    /// # Errors
    ///
    /// Nothing is sent if it could not be stored.
    pub(super) async fn send(mut self) -> Result<Sending, Error> {
        if self.mail.gives_way() {
            return Err(Error::GaveWay);
        }
        let now = self.tenant.engine.clock().now();
        let record = &mut self.tenant.record;
        let drift = record.credential.as_mut().and_then(|it| it.drift.as_mut());
        if let Some(drift) = drift {
            // What was noticed in the same millisecond was noticed before the send.
            drift.since = drift.since.min(now - TimeDelta::milliseconds(1));
        }
        // A mark in Mailu, which anybody there may edit, can have raised it to the end.
        record.generation = record.generation.saturating_add(1);
        record.open.settle_at = Some(now + TimeDelta::minutes(1));
        let intent = record
            .intent
            .as_mut()
            .ok_or(Error::Defect("no intent to send"))?;
        intent.sends += 1;
        let again = intent.again;
        let hash = self.seen.as_ref().and_then(|account| account.hash.as_ref());
        intent.before = hash.map(SeenHash::from);
        intent.first_sent_at.get_or_insert(now);
        intent.last_sent_at = Some(now);
        if let (Some(again), Some(credential)) = (again, &mut record.credential) {
            // From this Put on its value is the candidate's.
            credential.versions.retain(|it| it.number != again);
        }
        self.tenant.store().await?;
        let stored_at = self.tenant.engine.clock().monotonic();
        Ok(Sending {
            announced: self,
            stored_at,
        })
    }
}

impl Sending {
    /// Calls Mailu: creates the account if it is missing and this is its first password, else
    /// sets the password.
    pub(super) async fn apply(mut self) -> Result<Applied, Error> {
        if self.announced.tenant.engine.tasks.is_stopping() {
            // The mount goes away: the next process finds the intent and settles it.
            return Err(Error::Unsettled);
        }
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
            mail.create_account(account, &password, comment.as_deref())
                .await
        } else {
            mail.set_password(account, &password, comment.as_deref())
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

impl Proven {
    /// Makes the candidate the current version: one Put.
    pub(super) async fn commit(mut self) -> Result<Committed, Error> {
        let (event, previous_version) = self.commit_in_memory()?;
        let Self {
            mut tenant,
            mut mail,
            account,
            enabled,
            ..
        } = self;
        let version = event.version;
        let event = tenant.record_event(event)?;
        tenant.store().await?;
        let version = version.ok_or(Error::Defect("a change without version"))?;
        tracing::info!(tenant = %tenant.name, version, "password changed");
        let mut committed = Committed {
            tenant,
            event,
            version,
            previous_version,
            warnings: Vec::new(),
        };
        // Whoever answers an emergency does not wait for a login that proves no more.
        let login = mail.verify_smtp && committed.event.incident_id.is_none();
        if login && enabled {
            // What follows is a login, not a call of the server's API: others may call it.
            mail.release_server();
            committed.tenant.place = None;
            committed.try_login(&mail, &account).await;
        } else if login {
            committed.warnings.push(String::from(
                "SMTP AUTH was not tried: the account is disabled in Mailu.",
            ));
        }
        Ok(committed)
    }

    /// Turns the intent into the current version; returns the event of it.
    fn commit_in_memory(&mut self) -> Result<(NewEvent, Option<u64>), Error> {
        let record = &mut self.tenant.record;
        let now = self.tenant.engine.clock().now();
        let intent = record
            .intent
            .take()
            .ok_or(Error::Defect("no intent to commit"))?;
        let credential = record
            .credential
            .as_mut()
            .ok_or(Error::Defect("no credential to commit"))?;
        let previous_version = credential.current;
        let change = Change::from(&intent);
        let mut event = change.event(success_event(intent.rotation_type), now);
        event.version = Some(intent.version);
        event.previous_version = previous_version;
        event.previous_rotation = previous_version.map(|_| credential.last_rotated);
        if intent.is_emergency() {
            event.severity = Severity::Critical;
            reset::conclude(credential, &intent, now);
        }
        let earlier_look = record.open.confirm_first.take();
        record.open = OpenWork {
            // Those of an earlier change still stand: its sends may land late as well.
            confirm_at: std::mem::take(&mut record.open.confirm_at),
            ..OpenWork::default()
        };
        record.open.confirm_later(now);
        let seen = late_writes::Seen {
            proof: self.hash.as_ref(),
            failed: self.unseen,
        };
        record.open.confirm_first =
            late_writes::first_look(&intent, credential, seen, earlier_look, now);
        record.last_error = None;
        let may_be_what_was_seen = may_be_what_was_seen(&intent, self.tenant.config.reveal_ttl);
        credential.current = Some(intent.version);
        credential.previous = previous_version;
        credential.versions.push(Version {
            proof: self.proof,
            verified_at: (self.proof != Proof::Acknowledged).then_some(now),
            hash_fingerprint: self.hash.as_ref().map(StoredHash::fingerprint),
            // Stored with the commit: the login after it is never tried twice.
            login_tried: self.mail.verify_smtp && self.enabled && !intent.is_emergency(),
            ..intent.into_version()
        });
        credential.last_rotated = now;
        credential.notice_sent_at = None;
        credential.drift = None;
        credential.rotate_at = credential.rotate_at.filter(may_be_what_was_seen);
        credential.preflight = None;
        credential.paced_until = None;
        credential.next_rotation = schedule::next_rotation(
            credential.rotation_policy,
            &self.tenant.config,
            self.tenant.name.as_str(),
            now,
            now,
        );
        let trusted = self.tenant.engine.trusted();
        retention::prune(credential, &self.tenant.config, trusted);
        Ok((event, previous_version))
    }
}

/// Tells of the end of a look, `ttl` seconds after it, whether the change's value may be what was seen:
/// it was there already.
fn may_be_what_was_seen(intent: &Intent, ttl: u64) -> impl Fn(&DateTime<Utc>) -> bool + use<> {
    let ttl = i64::try_from(ttl).unwrap_or(i64::MAX);
    let ttl = TimeDelta::try_seconds(ttl).unwrap_or_default();
    let is_old = intent.source.is_some() || intent.again.is_some();
    let announced_at = intent.announced_at;
    move |ends_at| is_old || announced_at <= *ends_at - ttl
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
        let login = mail.login(account, &password).await;
        self.warnings.extend(login::warning(login));
        if login != Login::Accepted {
            return;
        }
        let credential = self.tenant.record.credential.as_mut();
        if let Some(version) = credential.and_then(|kept| kept.current_version_mut()) {
            // Mailu's own hash is more than the word of whoever answers at an address.
            if version.proof != Proof::Hash {
                version.proof = Proof::Login;
            }
        }
        if let Err(error) = self.tenant.store().await {
            tracing::warn!(tenant = %self.tenant.name, %error, "login proof not stored");
        }
    }
}
