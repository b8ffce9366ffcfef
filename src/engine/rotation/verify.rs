//! Asking Mailu which password is live, without sending one.

use std::sync::Arc;

use super::notes;
use super::settle::{InDrift, Settled, settle};
use super::strangers::{self, Stranger};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Live, Mail};
use crate::provider::{Account, EmailAddress, HashCheck, ServerVersion};

/// What Mailu said about a credential.
#[derive(Debug)]
pub(in crate::engine) struct Verified {
    /// The tenant, still locked, its record updated and stored.
    pub(in crate::engine) tenant: LockedTenant,
    /// The stored version that is live; `None` if none is or it cannot be told.
    pub(in crate::engine) live_version: Option<u64>,
    /// Whether the account may log in; `None` if it does not exist.
    pub(in crate::engine) enabled: Option<bool>,
    /// The account's app tokens; `None` if the server has none of that kind or did not tell.
    pub(in crate::engine) app_tokens: Option<usize>,
    /// The server's release line.
    pub(in crate::engine) server_version: ServerVersion,
    /// What an operator should know.
    pub(in crate::engine) warnings: Vec<String>,
}

/// Settles an open intent, then compares every stored password with Mailu's hash and stores what
/// came out.
///
/// # Errors
///
/// [`Error::UnknownTenant`]; what Mailu refused; [`Error::Unreachable`] if it did not answer:
/// then nothing is concluded and nothing changes.
pub(in crate::engine) async fn verify(tenant: LockedTenant) -> Result<Verified, Error> {
    tenant.require_credential()?;
    let was_open = tenant.record.intent.is_some();
    let (engine, mount, name) = (
        Arc::clone(&tenant.engine),
        tenant.mount.clone(),
        tenant.name.clone(),
    );
    let mut tenant = match settle(tenant, InDrift::Stop).await {
        Ok(Settled::Free(tenant)) => *tenant,
        Ok(Settled::Committed(committed)) => committed.tenant,
        // There is nothing to settle, but everything to tell.
        Err(error) if matches!(error.code(), "drift" | "not_taken") => {
            engine.lock_tenant(&mount, &name).await?
        }
        Err(error) => return Err(error),
    };
    let address = mail::address(&tenant.require_credential()?.username)?;
    let mail = tenant.connect(tenant.purpose).await?;
    let account = mail.account(&address).await.map_err(|error| {
        if was_open {
            error.after_settling()
        } else {
            error
        }
    })?;
    let live = match &account {
        Some(account) => tenant.find_live(account).await?,
        None => Live::None,
    };
    let stranger = strangers::stranger_of(&tenant.record, account.as_ref());
    if let Some(stranger) = &stranger {
        strangers::note(&mut tenant, stranger, live.version())?;
        if !tenant.purpose.is_unattended() {
            // It was told, and whoever asked sees it in the answer.
            strangers::accept(&mut tenant.record, account.as_ref());
        }
    }
    conclude(&mut tenant, account.as_ref(), &live)?;
    tenant.store().await?;
    let facts = server_facts(&mail, &address).await;
    let mut warnings = warnings(account.as_ref(), &live, &facts);
    warnings.extend(of_marks(&tenant, account.as_ref(), stranger.as_ref()));
    Ok(Verified {
        live_version: live.version(),
        enabled: account.map(|account| account.enabled),
        app_tokens: facts.app_tokens,
        server_version: facts.version,
        warnings,
        tenant,
    })
}

/// Writes into the record, in memory, what Mailu showed.
pub(in crate::engine::rotation) fn conclude(
    tenant: &mut LockedTenant,
    account: Option<&Account>,
    live: &Live,
) -> Result<(), Error> {
    let fingerprint = account
        .and_then(|account| account.hash.as_ref())
        .map(|hash| hash.fingerprint());
    let current = tenant
        .record
        .credential
        .as_ref()
        .and_then(|kept| kept.current);
    match live {
        Live::Version(number) if Some(*number) == current => {
            // Behind a stranger only a person decides that all is well.
            if !tenant.purpose.is_unattended() || !strangers::is_noted(&tenant.record) {
                notes::note_live(tenant, fingerprint);
            }
        }
        Live::Version(number) => notes::note_drift(tenant, "older_version", Some(*number))?,
        Live::None => {
            let code = if account.is_some() {
                "foreign_password"
            } else {
                "account_missing"
            };
            notes::note_drift(tenant, code, None)?;
        }
        // No conclusion: absence of a hash is not absence of the password.
        Live::CannotTell | Live::Candidate => {}
        Live::NotYet => {
            let now = tenant.engine.clock().now();
            tenant.record.open.look_at(notes::next_try(0, now));
        }
    }
    Ok(())
}

/// What the server is, beside what it says of the account's password.
struct ServerFacts {
    version: ServerVersion,
    /// The account's app tokens; `None` if the server has none of that kind or did not tell.
    app_tokens: Option<usize>,
    /// Whether anybody can edit app tokens; `None` if the server did not tell.
    open: Option<bool>,
}

async fn server_facts(mail: &Mail, address: &EmailAddress) -> ServerFacts {
    let version = mail.server_version().await;
    let app_tokens = match version {
        ServerVersion::Mailu20 => None,
        ServerVersion::Mailu2024 | ServerVersion::Unknown => {
            let listed = mail.app_tokens(address).await.ok().flatten();
            listed.map(|tokens| tokens.len())
        }
    };
    let open = match version {
        ServerVersion::Mailu2024 => mail.app_tokens_are_open().await,
        ServerVersion::Mailu20 | ServerVersion::Unknown => None,
    };
    ServerFacts {
        version,
        app_tokens,
        open,
    }
}

fn warnings(account: Option<&Account>, live: &Live, facts: &ServerFacts) -> Vec<String> {
    let mut warnings = of_server(facts);
    let mut warn = |condition: bool, text: &str| {
        if condition {
            warnings.push(text.to_owned());
        }
    };
    let Some(account) = account else {
        warn(
            true,
            "Mailu has no such account: create it, or check that this is the right server.",
        );
        return warnings;
    };
    warn(
        !account.enabled,
        "the account is disabled in Mailu: no password logs in.",
    );
    warn(
        account.forwarding,
        "mail to the account is forwarded elsewhere: check that this is intended.",
    );
    warn(
        account.auto_reply,
        "an automatic reply is on for the account.",
    );
    warn(
        account.administrator == Some(false),
        "the account is not a global administrator of its Mailu server.",
    );
    warn(
        account.change_at_login,
        "the next login on the web has to change the password (change_pw_next_login), which would be a \
         foreign change: the next rotation ends that.",
    );
    warn(
        facts.app_tokens.is_some_and(|count| count > 0),
        "the account has app tokens: they log in beside the password and survive its rotation.",
    );
    warn(
        *live == Live::CannotTell,
        "Mailu shows no password hash that can be checked: which password is live cannot be \
         told.",
    );
    warn(
        *live == Live::NotYet,
        "not every stored version was compared with Mailu's hash yet, because one is costly: it goes \
         on within a minute. Read <tenant>/status, or repeat this.",
    );
    warnings
}

/// What is to be known of the marks in the account's comment.
fn of_marks(
    tenant: &LockedTenant,
    account: Option<&Account>,
    stranger: Option<&Stranger>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let fits = account.is_none_or(|account| strangers::mark_fits(&tenant.record, account));
    if tenant.config.mailu_marker && !fits {
        warnings.push(String::from(
            "the account's comment in Mailu leaves no room for the engine's mark, so another mount or \
             cluster that sets its password is not recognised by it. The comment is never cut: shorten \
             it to 170 characters.",
        ));
    }
    if let Some(Stranger::Other(_)) = stranger {
        warnings.push(String::from(
            "the account carried the mark of another mount or cluster, which may go on changing its \
             password. The mark is accepted now; another one will be told again.",
        ));
    }
    warnings
}

/// What is wrong with the server, whatever account it is.
fn of_server(facts: &ServerFacts) -> Vec<String> {
    let has_tokens = facts.app_tokens.is_some_and(|count| count > 0);
    let text = match facts.open {
        Some(true) => {
            "anybody can edit the app tokens of this Mailu server without logging in \
             (CVE-2026-49217): upgrade it to 2024.06.52 or later now."
        }
        None if facts.version == ServerVersion::Mailu2024 && has_tokens => {
            "it could not be told whether this Mailu server lets anybody edit app tokens: make sure \
             that it is 2024.06.52 or later (CVE-2026-49217)."
        }
        Some(false) | None => return Vec::new(),
    };
    vec![text.to_owned()]
}

/// Checks one given password against the account; `None` if Mailu shows nothing that can be
/// checked.
pub(in crate::engine) async fn live_password(
    tenant: &LockedTenant,
    account: &Account,
    password: &crate::crypto::Sensitive<String>,
) -> Option<bool> {
    let hash = account.hash.as_ref()?;
    let pool = &tenant.engine.parts.hash_pool;
    match pool.check_of(tenant.server_name(), hash, password).await {
        HashCheck::Fits => Some(true),
        HashCheck::DoesNotFit => Some(false),
        HashCheck::CannotTell(_) => None,
    }
}
