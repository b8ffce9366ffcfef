//! Many tenants in the host's storage without many requests to the host.
//!
//! Real: every record, event and pointer. They are what an import stores, made by the engine itself
//! with the mount's own settings and sealed by the mount's own keyring: a second engine in this
//! process imports into a storage in memory, and what it stored is put into the host's, key by key.
//! Not real: the mail servers. Each tenant has one of its own, `https://mail-<n>.example.test`, that
//! is a few lines in this process. It has the one password that all of them were imported
//! with, until it is changed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use chrono::TimeDelta;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use vault_plugin_secrets_smtp::clock::{Clock as _, SystemClock};
use vault_plugin_secrets_smtp::logical::{Error, MemoryStorage, Mount, Storage as _, StorageEntry};
use vault_plugin_secrets_smtp::provider::{Connector, HashPool, ProviderConfig};

use super::hash;
use super::host::{FIRST, Host};
use super::mail::Mail;

/// A Mailu's hash of [`FIRST`], of 4 rounds. The same in every process: a sweep after a restart
/// finds what was proven before.
const HASH: &str =
    "$bcrypt-sha256$v=2,t=2b,r=4$benchmarkbenchmarkbene$/xke3aMxYHshQmum8D57xsOnU7VsCbi";

/// What the seeding engine has from the mount; everything else it stores is new.
const SHARED: [&str; 3] = ["config", "keyring", "keyring-copy"];

/// The passwords were last changed within this many days. With the usual period of 180 days and
/// notice of 7, nobody is due within the next two days.
const LAST_CHANGES_DAYS: i64 = 171;
/// Spreads any number of tenants evenly over that time, in seconds: it is the golden section of it.
const STEP_SECONDS: u64 = 9_131_081;

/// The usual period.
const PERIOD_SECONDS: u64 = 180 * 24 * 3600;

/// Imports at once, which mostly compute.
const IMPORTS: usize = 16;
/// Storage calls at once: raft stores together what comes together.
const PUTS: usize = 64;

/// Stores the tenants of these numbers, which are due in `due` seconds if that is not 0; returns how many bytes of keys and values that were.
pub(super) async fn seed(mount: &Mount, tenants: Range<u64>, due: u64) -> Result<usize, Error> {
    let memory = Arc::new(MemoryStorage::new());
    let mut shared = HashSet::new();
    for key in SHARED {
        if let Some(entry) = mount.storage.get(key).await? {
            memory.put(entry).await?;
            shared.insert(key);
        }
    }
    let (mail, now) = (mail(), SystemClock::new().now());
    let host = Host::start(&memory, &mail, &HashPool::new(), now, &[]);
    stream::iter(tenants)
        .for_each_concurrent(IMPORTS, |number| {
            let span = TimeDelta::days(LAST_CHANGES_DAYS).num_seconds();
            let ago = match due {
                0 => number * STEP_SECONDS % span.unsigned_abs(),
                due => PERIOD_SECONDS.saturating_sub(due),
            };
            let last = now - TimeDelta::seconds(i64::try_from(ago).unwrap_or_default());
            host.import(&mail, usize::try_from(number).unwrap_or_default(), last)
        })
        .await;
    host.idle().await;
    let snapshot = memory.snapshot();
    let new: Vec<StorageEntry> = snapshot
        .entries()
        .filter(|entry| !shared.contains(entry.key.as_str()))
        .cloned()
        .collect();
    let bytes = new.iter().map(|it| it.key.len() + it.value.len()).sum();
    stream::iter(new)
        .map(Ok)
        .try_for_each_concurrent(PUTS, |entry| mount.storage.put(entry))
        .await?;
    Ok(bytes)
}

fn mail() -> Mail {
    let mail = Mail::default();
    mail.learn([(FIRST.to_owned(), HASH.to_owned())]);
    mail.hash_by(|password| hash::hash(password, 4));
    mail
}

/// Connects the seeded tenants to their mail servers, which no process has to remember, and all
/// others to real ones.
pub(super) fn connector(real: Connector) -> Connector {
    let mail = mail();
    let seeded = mail.connector();
    Arc::new(move |config, policy| {
        let ProviderConfig::Mailu(mailu) = config;
        let server = mailu.url.as_str();
        if server.ends_with(".example.test") {
            mail.know(server, FIRST);
            seeded(config, policy)
        } else {
            real(config, policy)
        }
    })
}
