//! The place at a mail server: one call at a time goes there.
//!
//! A place is taken **before** the tenant's lock: nobody holds a tenant's lock while waiting for one.
//! Work that finds under the lock that it needs a place takes it if it is free; else it ends with
//! [`Error::GaveWay`], gives the lock up and begins again from what is stored. So does whoever holds
//! a place and has not sent anything yet while an emergency waits for it: an emergency waits for the
//! one call that is under way, and for nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Caller, Purpose, Waiting};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::{LockedTenant, open_token};
use crate::engine::storage::record::TenantRecord;
use crate::engine::tenant::TenantName;
use crate::keyed_lock::KeyGuard;
use crate::logical::Mount;
use crate::provider::EndpointUrl;

/// Exclusive use of one server.
#[derive(Debug)]
pub(in crate::engine) struct ServerPlace {
    origin: String,
    guard: KeyGuard,
    purpose: Purpose,
    /// Something was sent: what it came to is found out before anybody else calls.
    sent: AtomicBool,
    /// The server's stops as they were read before this was waited for, until the first call needs
    /// them. A blocking mutex: held to take them only.
    waiting: Mutex<Option<Waiting>>,
}

impl ServerPlace {
    pub(super) fn is_at(&self, origin: &str) -> bool {
        self.origin == origin
    }

    /// Returns what was read of the server's stops for this caller.
    pub(super) fn take_waiting(&self, caller: &Caller) -> Option<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.take().filter(|waiting| waiting.is_for(caller))
    }

    pub(super) fn note_send(&self) {
        self.sent.store(true, Ordering::SeqCst);
    }

    /// Reports whether an emergency waits for it and may have it.
    pub(in crate::engine) fn gives_way(&self) -> bool {
        self.purpose != Purpose::Reset
            && !self.sent.load(Ordering::SeqCst)
            && self.guard.is_wanted_urgently()
    }
}

/// Whether work begins for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Attempt {
    First,
    /// It had to give way: it needs the place, whatever was known before; and what was known is not
    /// believed without storage.
    Again,
}

/// Scheme, host and port of a record's server.
pub(in crate::engine) fn origin_of(record: &TenantRecord) -> Option<String> {
    let server = record.server.as_ref()?;
    let url = EndpointUrl::parse_stored(&server.mailu_url).ok()?;
    Some(url.origin())
}

impl Engine {
    /// Waits for the place at a server; emergencies come first.
    pub(in crate::engine) async fn take_server(
        &self,
        origin: &str,
        purpose: Purpose,
    ) -> Arc<ServerPlace> {
        self.take_place(origin, purpose, None).await
    }

    async fn take_place(
        &self,
        origin: &str,
        purpose: Purpose,
        waiting: Option<Waiting>,
    ) -> Arc<ServerPlace> {
        let guard = match purpose {
            Purpose::Reset => self.server_locks.lock_urgently(origin).await,
            Purpose::Automatic | Purpose::Bulk | Purpose::Request => {
                self.server_locks.lock(origin).await
            }
        };
        Arc::new(ServerPlace {
            origin: origin.to_owned(),
            guard,
            purpose,
            sent: AtomicBool::new(false),
            waiting: Mutex::new(waiting),
        })
    }

    /// Waits for the place at a record's server; without its tenant's lock.
    ///
    /// # Errors
    ///
    /// That there is no server.
    pub(in crate::engine) async fn take_server_of(
        &self,
        record: &TenantRecord,
        purpose: Purpose,
    ) -> Result<Arc<ServerPlace>, Error> {
        let origin = origin_of(record).ok_or(Error::Defect("a stored mailu_url does not parse"))?;
        Ok(self.take_server(&origin, purpose).await)
    }

    /// Takes the place at a server if it is free.
    pub(super) fn try_take_server(
        &self,
        origin: &str,
        purpose: Purpose,
    ) -> Option<Arc<ServerPlace>> {
        let guard = self.server_locks.try_lock(origin)?;
        Some(Arc::new(ServerPlace {
            origin: origin.to_owned(),
            guard,
            purpose,
            sent: AtomicBool::new(false),
            waiting: Mutex::default(),
        }))
    }

    /// Takes the tenant's lock with the place at its server, for work that will need it.
    ///
    /// # Errors
    ///
    /// As [`Engine::lock_tenant`].
    pub(in crate::engine) async fn lock_tenant_at_server(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
        purpose: Purpose,
        mut attempt: Attempt,
    ) -> Result<LockedTenant, Error> {
        // Two that try the same lock in turns could each find the other waiting for it, for ever.
        let _first = match purpose {
            Purpose::Reset => None,
            Purpose::Automatic | Purpose::Bulk | Purpose::Request => {
                Some(self.tenant_queues.lock(name.as_str()).await)
            }
        };
        loop {
            let (origin, place) = self.place_for(mount, name, purpose, attempt).await?;
            let locked = if purpose == Purpose::Reset {
                self.lock_tenant_urgently(mount, name).await.map(Some)
            } else {
                self.try_lock_tenant(mount, name).await
            };
            let Some(mut locked) = locked? else {
                // The server is for others while this tenant is somebody else's.
                drop(place);
                drop(self.tenant_locks.lock(name.as_str()).await);
                continue;
            };
            locked.purpose = purpose;
            if place.is_none() || origin_of(&locked.record) == origin {
                locked.place = place;
                return Ok(locked);
            }
            attempt = Attempt::Again;
        }
    }

    /// Like [`Engine::lock_tenant_at_server`]; `None` if somebody else has the tenant.
    pub(in crate::engine) async fn try_lock_tenant_at_server(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
        purpose: Purpose,
    ) -> Result<Option<LockedTenant>, Error> {
        let (origin, place) = self.place_for(mount, name, purpose, Attempt::First).await?;
        let locked = self.try_lock_tenant(mount, name).await?;
        Ok(locked.map(|mut locked| {
            locked.purpose = purpose;
            locked.place = place.filter(|_| origin_of(&locked.record) == origin);
            locked
        }))
    }

    /// Runs work that begins with what is stored, with the place at the tenant's server; again, if
    /// it had to give way.
    ///
    /// # Errors
    ///
    /// The work's own.
    pub(in crate::engine) async fn at_server<T, F>(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
        purpose: Purpose,
        mut work: impl FnMut(LockedTenant) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempt = Attempt::First;
        loop {
            let locked = self.lock_tenant_at_server(mount, name, purpose, attempt);
            match Box::pin(work(locked.await?)).await {
                Err(Error::GaveWay) if !self.tasks.is_stopping() => attempt = Attempt::Again,
                done => return done,
            }
        }
    }

    /// Waits for the place at the server of a tenant as it is known now; `None` if there is none, or,
    /// the first time, if it is known that no call would go out: then nobody waits to be told so.
    async fn place_for(
        &self,
        mount: &Mount,
        name: &TenantName,
        purpose: Purpose,
        attempt: Attempt,
    ) -> Result<(Option<String>, Option<Arc<ServerPlace>>), Error> {
        const NONE: (Option<String>, Option<Arc<ServerPlace>>) = (None, None);
        let record = match attempt {
            Attempt::First => self.read_tenant(mount, name).await,
            Attempt::Again => self.load_tenant(mount, name).await,
        };
        let record = match record {
            Ok(Some(record)) => record,
            // Whoever takes the lock is told.
            Ok(None) | Err(Error::Entry { .. }) => return Ok(NONE),
            Err(error) => return Err(error),
        };
        let (Some(server), Some(origin)) = (&record.server, origin_of(&record)) else {
            return Ok(NONE);
        };
        if attempt == Attempt::Again {
            let place = self.take_place(&origin, purpose, None).await;
            return Ok((Some(origin), Some(place)));
        }
        // Something is about to be written: a copy of the keyring that is missing is put back.
        let keyring = self.keyring_for_writing(mount).await?;
        let Ok(token) = open_token(&keyring, &record, &server.api_token) else {
            return Ok(NONE);
        };
        let written_at = server.token_written_at;
        let tenant = name.as_str();
        let caller = Caller::new(&keyring, &origin, tenant, &token, purpose, written_at);
        match Waiting::begin(self.place_of(mount, &origin, tenant), caller).await {
            Ok(waiting) => {
                let place = self.take_place(&origin, purpose, Some(waiting)).await;
                Ok((Some(origin), Some(place)))
            }
            Err(_known) => Ok(NONE),
        }
    }
}

impl LockedTenant {
    /// Reports whether this work has to begin again because an emergency waits for its server.
    pub(in crate::engine) fn gives_way(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.gives_way())
    }
}
