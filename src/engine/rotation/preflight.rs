//! Before a coming change: whether it can be expected to succeed, while there is time to mend what
//! is in the way.
//!
//! Only reads, and changes nothing: neither in Mailu nor in the record. It waits for a server's
//! stops like all of the engine's own work, so it never costs a tenant a call it may need.

use chrono::{DateTime, TimeDelta, Utc};

use super::strangers::{self, Stranger};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Live, Mail, Purpose};
use crate::engine::storage::record::{Credential, Finding, Preflight};
use crate::network::{TlsFault, expired_cas};
use crate::provider::{Account, Refusal, ServerVersion, Trouble};

/// How long after the change the certificate has to hold: who renews it does so well before its
/// end, so less means that nobody does.
const CERTIFICATE_HOLDS: TimeDelta = TimeDelta::weeks(2);

/// Looks at what the tenant's next change will need. Never fails: what is wrong is a finding.
///
/// # Cancel safety
///
/// Dropping the future drops what was found; nothing else depends on it.
pub(in crate::engine) async fn preflight(tenant: &mut LockedTenant) -> Preflight {
    let mut look = Look {
        now: tenant.engine.clock().now(),
        findings: Vec::new(),
        mailu_version: None,
        certificate_expires_at: None,
        tls_fault: None,
    };
    match tenant.record.credential.clone() {
        Some(credential) => look.at(tenant, &credential).await,
        // Nothing says which account the change would be about.
        None => look.find(Finding::LiveUnknown),
    }
    look.verdict()
}

/// What was found so far.
struct Look {
    now: DateTime<Utc>,
    findings: Vec<Finding>,
    mailu_version: Option<&'static str>,
    certificate_expires_at: Option<DateTime<Utc>>,
    tls_fault: Option<TlsFault>,
}

impl Look {
    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn find_if(&mut self, condition: bool, finding: Finding) {
        if condition {
            self.find(finding);
        }
    }

    fn verdict(mut self) -> Preflight {
        self.findings.sort_unstable();
        self.findings.dedup();
        Preflight {
            at: self.now,
            findings: self.findings,
            mailu_version: self.mailu_version.map(str::to_owned),
            certificate_expires_at: self.certificate_expires_at,
            tls_fault: self.tls_fault.map(|fault| fault.as_str().to_owned()),
        }
    }

    async fn at(&mut self, tenant: &mut LockedTenant, credential: &Credential) {
        self.find_if(credential.drift.is_some(), Finding::Drift);
        self.find_if(tenant.record.intent.is_some(), Finding::Unsettled);
        let Some(server) = &tenant.record.server else {
            return self.find(Finding::NoServer);
        };
        let given = server.ca_cert.as_deref().unwrap_or_default();
        self.find_if(!expired_cas(given, self.now).is_empty(), Finding::CaExpired);
        let answer = match tenant.connect(Purpose::Automatic).await {
            Ok(mail) => self.at_server(&mail, credential).await,
            Err(error) => {
                let finding = self.of_connecting(&error);
                return self.find(finding);
            }
        };
        // The server is let go before hashes are computed.
        tenant.place = None;
        match answer {
            Ok(Some(account)) => {
                self.find_if(!account.enabled, Finding::AccountDisabled);
                self.find_if(account.change_at_login, Finding::ChangeAtLogin);
                self.at_account(tenant, credential, &account).await;
            }
            Ok(None) => self.find(Finding::AccountMissing),
            Err(finding) => self.find(finding),
        }
    }

    /// Asks the server for the account and for what it is.
    async fn at_server(
        &mut self,
        mail: &Mail,
        credential: &Credential,
    ) -> Result<Option<Account>, Finding> {
        // A stored username that is no address: a defect, of which nothing can be told.
        let address =
            mail::address(&credential.username).map_err(|_defect| Finding::LiveUnknown)?;
        let answer = mail.account(&address).await;
        self.certificate_expires_at = mail.certificate_expires_at();
        let holds_until = credential.next_rotation.unwrap_or(self.now).max(self.now);
        let needed = holds_until.checked_add_signed(CERTIFICATE_HOLDS);
        let ends = self.certificate_expires_at;
        let soon = ends.is_some_and(|end| needed.is_none_or(|needed| end < needed));
        self.find_if(soon, Finding::TlsExpiresSoon);
        let account = answer.map_err(|error| self.of_connecting(&error))?;
        match mail.server_version().await {
            ServerVersion::Mailu20 => {
                self.mailu_version = Some("2.0");
                self.find(Finding::MailuOld);
            }
            ServerVersion::Mailu2024 => {
                self.mailu_version = Some("2024.06");
                let open = mail.app_tokens_are_open().await == Some(true);
                self.find_if(open, Finding::AppTokensOpen);
            }
            ServerVersion::Unknown => self.find(Finding::MailuUnknown),
        }
        Ok(account)
    }

    /// What a connection that was not made says about the coming change.
    fn of_connecting(&mut self, error: &Error) -> Finding {
        self.tls_fault = error.tls_fault().or(self.tls_fault);
        of_connecting(error)
    }

    /// Finds out which password is live, without a hash computed if it is the text known from the
    /// last proof.
    async fn at_account(
        &mut self,
        tenant: &mut LockedTenant,
        credential: &Credential,
        account: &Account,
    ) {
        match strangers::stranger_of(&tenant.record, Some(account)) {
            Some(Stranger::Other(_)) => self.find(Finding::OtherOwner),
            Some(Stranger::Later(_)) => self.find(Finding::Drift),
            None => {}
        }
        let marks = tenant.config.mailu_marker;
        let fits = strangers::mark_fits(&tenant.record, account);
        self.find_if(marks && !fits, Finding::MarkDoesNotFit);
        match tenant.find_live(account).await {
            Ok(Live::Version(number)) => {
                self.find_if(credential.current != Some(number), Finding::Drift);
            }
            Ok(Live::None) => self.find(Finding::Drift),
            // Its change is open, which was said.
            Ok(Live::Candidate) => {}
            Ok(Live::CannotTell | Live::NotYet) | Err(_) => self.find(Finding::LiveUnknown),
        }
    }
}

/// What a connection that was not made says about the coming change.
fn of_connecting(error: &Error) -> Finding {
    match error {
        Error::Refused(refusal) => of_refusal(*refusal),
        Error::Unreachable(trouble) | Error::Interrupted(trouble) => of_trouble(*trouble),
        // The breaker; or what the address rules or a later check of the settings do not allow.
        Error::BreakerOpen | Error::GaveWay | Error::Invalid { .. } => Finding::Unreachable,
        // Our own storage or keyring: nothing can be said of the server.
        _ => Finding::LiveUnknown,
    }
}

const fn of_refusal(refusal: Refusal) -> Finding {
    match refusal {
        Refusal::Token => Finding::TokenRefused,
        Refusal::RateLimited => Finding::LimiterBusy,
        Refusal::NoSuchAccount | Refusal::NoSuchDomain => Finding::AccountMissing,
        // Whoever answers there, it is not the API.
        Refusal::NoSuchAppToken | Refusal::Conflict | Refusal::Invalid => Finding::Unreachable,
    }
}

const fn of_trouble(trouble: Trouble) -> Finding {
    match trouble {
        Trouble::Tls(_) => Finding::TlsInvalid,
        Trouble::Unresolved
        | Trouble::AddressRefused
        | Trouble::Unreachable
        | Trouble::Timeout
        | Trouble::Broken
        | Trouble::ServerError
        | Trouble::Denied { .. }
        | Trouble::Busy { .. }
        | Trouble::Redirect
        | Trouble::NoApi
        | Trouble::Cached
        | Trouble::Unintelligible
        | Trouble::TooLarge => Finding::Unreachable,
    }
}
