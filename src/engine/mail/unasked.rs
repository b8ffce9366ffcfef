//! Servers that cannot be asked, for people to see: which, why, since when, and for how many tenants.
//!
//! In memory of the active node, filled by every call and by every call that a stop holds back: the
//! sweep meets each tenant within an hour of a start. Since when is in the server's stops, so that a
//! restart does not make it younger. Never in a tenant's record: one cut cable would be a write for
//! each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::heard::Heard;
use crate::engine::error::Error;
use crate::engine::hint;
use crate::provider::{Refusal, TlsFault, Trouble};

/// Tenants whose names are kept; of more only the number is known.
const MOST_TENANTS: usize = 200_000;

/// Why a server cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::engine) enum Why {
    /// Mailu refused the token.
    TokenRefused,
    /// Something before Mailu refused the call.
    UnrecognisedRefusal,
    /// There is no API at the URL, or a redirect.
    NoApi,
    /// Its certificate was not accepted.
    TlsInvalid,
    /// It, or something before it, put calls off several times in a row.
    RateLimited,
    /// It gave no answer several times in a row.
    Unreachable,
}

impl Why {
    /// Every reason.
    pub(in crate::engine) const ALL: [Self; 6] = [
        Self::TokenRefused,
        Self::UnrecognisedRefusal,
        Self::NoApi,
        Self::TlsInvalid,
        Self::RateLimited,
        Self::Unreachable,
    ];

    /// Returns the stable code.
    pub(in crate::engine) const fn code(self) -> &'static str {
        match self {
            Self::TokenRefused => "token_refused",
            Self::UnrecognisedRefusal => "unrecognised_refusal",
            Self::NoApi => "no_api",
            Self::TlsInvalid => "tls_invalid",
            Self::RateLimited => "rate_limited",
            Self::Unreachable => "unreachable",
        }
    }

    /// What an answer says of its server; `None` if it could be asked, or if that is open.
    pub(super) const fn of_heard(heard: Heard) -> Option<Self> {
        match heard {
            Heard::Refused => Some(Self::TokenRefused),
            Heard::Denied(_) => Some(Self::UnrecognisedRefusal),
            Heard::NoApi => Some(Self::NoApi),
            Heard::Nothing(Trouble::Tls(_)) => Some(Self::TlsInvalid),
            Heard::Nothing(Trouble::AddressRefused) => Some(Self::Unreachable),
            Heard::Limited | Heard::Busy(_) => Some(Self::RateLimited),
            heard if heard.is_silence() => Some(Self::Unreachable),
            Heard::Nothing(_) | Heard::Accepted | Heard::Other => None,
        }
    }

    /// What it means that a call was held back.
    pub(super) const fn of_stop(error: &Error) -> Option<Self> {
        match error {
            Error::Refused(Refusal::Token) => Some(Self::TokenRefused),
            Error::Unreachable(Trouble::Denied { .. }) => Some(Self::UnrecognisedRefusal),
            Error::BreakerOpen => Some(Self::Unreachable),
            _ => None,
        }
    }
}

/// A server that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct UnaskedServer {
    /// Scheme, host and port.
    pub(in crate::engine) server: String,
    pub(in crate::engine) why: Why,
    pub(in crate::engine) since: DateTime<Utc>,
    /// The HTTP status of a refusal that Mailu did not word.
    pub(in crate::engine) status: Option<u16>,
    /// How many tenants it is the server of that met it so.
    pub(in crate::engine) tenants: u64,
    /// What its certificate was found wrong for last.
    pub(in crate::engine) tls_fault: Option<TlsFault>,
}

impl UnaskedServer {
    /// Returns what to do.
    pub(in crate::engine) fn hint(&self) -> String {
        match self.tls_fault.filter(|_| self.why == Why::TlsInvalid) {
            Some(fault) => fault.told(),
            None => hint::explain(self.why.code()).1.to_owned(),
        }
    }
}

#[derive(Debug)]
struct Met {
    why: Why,
    tls_fault: Option<TlsFault>,
    since: DateTime<Utc>,
    status: Option<u16>,
    tenants: BTreeSet<String>,
    more: u64,
}

/// What is known of them. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct UnaskedServers {
    // A blocking mutex: held for map operations only.
    met: Arc<Mutex<BTreeMap<String, Met>>>,
}

impl UnaskedServers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Met>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's role changed: another one knows.
    pub(in crate::engine) fn forget_all(&self) {
        self.lock().clear();
    }

    /// A tenant's server was asked.
    pub(super) fn answered(&self, server: &str, tenant: &str) {
        let mut met = self.lock();
        let Some(known) = met.get_mut(server) else {
            return;
        };
        known.tenants.remove(tenant);
        // One answer says of the server that it can be asked; each tenant has a token and a
        // certificate of its own.
        if known.tenants.is_empty() {
            met.remove(server);
        }
    }

    /// A tenant is stored: of other servers than its own, and of any if it has no credential, it is
    /// nobody's trouble any more.
    pub(in crate::engine) fn keep(&self, tenant: &str, server: Option<&str>) {
        let mut met = self.lock();
        met.retain(|name, known| {
            let left = Some(name.as_str()) != server && known.tenants.remove(tenant);
            !(left && known.tenants.is_empty())
        });
    }

    /// A tenant's server could not be asked.
    pub(super) fn met(
        &self,
        (server, tenant): (&str, &str),
        why: Why,
        since: DateTime<Utc>,
        status: Option<u16>,
    ) {
        let mut met = self.lock();
        let room = met.values().map(|it| it.tenants.len()).sum::<usize>() < MOST_TENANTS;
        let known = met.entry(server.to_owned()).or_insert_with(|| Met {
            why,
            tls_fault: None,
            since,
            status,
            tenants: BTreeSet::new(),
            more: 0,
        });
        known.status = status;
        if known.why != why {
            known.why = why;
            known.since = since;
        }
        known.since = known.since.min(since);
        if room {
            known.tenants.insert(tenant.to_owned());
        } else if !known.tenants.contains(tenant) {
            known.more = known.more.saturating_add(1);
        }
    }

    /// What was found wrong with a server's certificate, after [`UnaskedServers::met`].
    pub(super) fn note_tls_fault(&self, server: &str, fault: TlsFault) {
        if let Some(known) = self.lock().get_mut(server) {
            known.tls_fault = Some(fault);
        }
    }

    /// Returns why a tenant's server cannot be asked, if it was met so for that tenant.
    pub(in crate::engine) fn of_tenant(&self, server: &str, tenant: &str) -> Option<UnaskedServer> {
        let met = self.lock();
        let known = met.get(server).filter(|it| it.tenants.contains(tenant))?;
        Some(known.shown(server))
    }

    /// Returns all of them, those with most tenants first.
    pub(in crate::engine) fn all(&self) -> Vec<UnaskedServer> {
        let met = self.lock();
        let mut all: Vec<_> = met.iter().map(|(server, it)| it.shown(server)).collect();
        all.sort_by_key(|it| (std::cmp::Reverse(it.tenants), it.since));
        all
    }
}

impl Met {
    fn shown(&self, server: &str) -> UnaskedServer {
        UnaskedServer {
            server: server.to_owned(),
            why: self.why,
            since: self.since,
            status: self.status,
            tenants: u64::try_from(self.tenants.len())
                .unwrap_or(u64::MAX)
                .saturating_add(self.more),
            tls_fault: self.tls_fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + minute * 60, 0).unwrap()
    }

    #[test]
    fn a_server_is_known_until_every_tenant_that_met_it_could_ask() {
        let servers = UnaskedServers::default();
        servers.met(("https://a:443", "acme"), Why::TokenRefused, at(1), None);
        servers.met(("https://a:443", "beta"), Why::TokenRefused, at(5), None);
        servers.met(("https://b:443", "gamma"), Why::TlsInvalid, at(2), None);
        let all = servers.all();
        let shown: Vec<_> = all
            .iter()
            .map(|it| (it.why, it.since, it.tenants))
            .collect();
        assert_eq!(
            shown,
            [(Why::TokenRefused, at(1), 2), (Why::TlsInvalid, at(2), 1)]
        );
        assert!(servers.of_tenant("https://a:443", "gamma").is_none());
        servers.answered("https://a:443", "acme");
        assert_eq!(servers.all().len(), 2);
        assert!(servers.of_tenant("https://a:443", "acme").is_none());
        servers.answered("https://a:443", "beta");
        servers.answered("https://b:443", "gamma");
        assert_eq!(servers.all(), []);
    }

    #[test]
    fn whose_tenant_went_elsewhere_is_nobodys_trouble() {
        let servers = UnaskedServers::default();
        servers.met(("https://a:443", "acme"), Why::Unreachable, at(1), None);
        servers.met(("https://a:443", "beta"), Why::Unreachable, at(1), None);
        servers.keep("acme", Some("https://a:443"));
        assert_eq!(servers.all()[0].tenants, 2);
        servers.keep("acme", Some("https://b:443"));
        assert_eq!(servers.all()[0].tenants, 1);
        servers.keep("beta", None);
        assert_eq!(servers.all(), []);
    }

    #[test]
    fn another_reason_begins_anew() {
        let servers = UnaskedServers::default();
        servers.met(("https://a:443", "acme"), Why::Unreachable, at(1), None);
        servers.met(("https://a:443", "acme"), Why::NoApi, at(9), None);
        let met = servers.of_tenant("https://a:443", "acme").unwrap();
        assert_eq!((met.why, met.since), (Why::NoApi, at(9)));
    }
}
