//! Whom a changed `allowed_hosts` leaves out.
//!
//! The settings are taken, and said to be what they are: a list that cuts off tenants or channels is
//! otherwise noticed when the next password cannot be changed, or nobody is told of an incident. A
//! name is looked up, because a list of networks says nothing about it. What takes longer than a
//! request may is left, and its number told.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::Engine;
use super::channels::Target;
use super::config::MountConfig;
use super::error::Error;
use super::storage;
use super::storage::record::Server;
use super::tenant::TenantName;
use crate::logical::Mount;
use crate::network::policy::look_up;
use crate::network::{EndpointUrl, NetworkPolicy, SmtpAddress};

/// Names read from the folder at once.
const PAGE: usize = 500;
/// Records read and names looked up at once.
const PARALLEL: usize = 16;
/// The longest that is spent on all of it; less where requests wait less.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many are named beside their number.
const MOST_NAMED: usize = 5;

/// A host and its port.
type Peer = (String, u16);

/// A tenant or a channel, and whom it calls.
type Caller = (String, Vec<Peer>);

/// What became of a host by the new list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is reached as before, or was not before either.
    Same,
    /// It was reached, and is not any more.
    LeftOut,
    /// Its name has no address now.
    Untold,
}

/// How many of a kind are left out.
#[derive(Debug, Default)]
struct Tally {
    left_out: u64,
    named: Vec<String>,
    untold: u64,
}

/// A look at everybody who is called.
struct Look {
    was: NetworkPolicy,
    is: NetworkPolicy,
    known: HashMap<Peer, Fate>,
    channels: Tally,
    tenants: Tally,
    seen: u64,
}

impl Engine {
    /// Says whom the change from one list to another leaves out, with their numbers. Never an error:
    /// the settings are stored already.
    pub(super) async fn left_out(
        &self,
        mount: &Mount,
        before: &MountConfig,
        after: &MountConfig,
    ) -> Vec<String> {
        let patience = PATIENCE.min(Duration::from_secs(after.wait) / 2);
        let policies = async {
            let was = self.network_policy(mount, before).await?;
            Ok::<_, Error>((was, self.network_policy(mount, after).await?))
        };
        let (was, is) = match policies.await {
            Ok(policies) => policies,
            Err(error) => {
                tracing::warn!(%error, "whom allowed_hosts leaves out was not looked at");
                return Vec::new();
            }
        };
        let mut look = Look {
            was,
            is,
            known: HashMap::new(),
            channels: Tally::default(),
            tenants: Tally::default(),
            seen: 0,
        };
        let looked = tokio::time::timeout(patience, self.look_at_all(mount, &mut look)).await;
        if let Ok(Err(error)) = &looked {
            tracing::warn!(%error, "not everybody was looked at whom allowed_hosts may leave out");
        }
        look.warnings(matches!(looked, Ok(Ok(()))))
    }

    async fn look_at_all(&self, mount: &Mount, look: &mut Look) -> Result<(), Error> {
        let channels = self.channels(mount).await?;
        let peers = |target: &Target| peer_of(target).into_iter().collect();
        let channels = channels.list.iter();
        let channels = channels.map(|it| (it.name.clone(), peers(&it.target)));
        let channels: Vec<Caller> = channels.collect();
        look.find_out(&channels).await;
        for (name, peers) in &channels {
            look.channels.add(name, gravest(&look.known, peers));
        }
        let mut after = String::new();
        loop {
            let page = mount.storage.list_page(storage::TENANTS, &after, PAGE);
            let page = page.await?;
            let names = page.iter().filter_map(|name| TenantName::parse(name).ok());
            let names: Vec<TenantName> = names.collect();
            let tenants: Vec<Caller> = stream::iter(names)
                .map(|name| self.caller(mount, name))
                .buffered(PARALLEL)
                .collect()
                .await;
            look.find_out(&tenants).await;
            for (name, peers) in &tenants {
                look.seen += 1;
                look.tenants.add(name, gravest(&look.known, peers));
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(last),
                _ => return Ok(()),
            }
        }
    }

    /// Returns whom a tenant's work calls. A record that cannot be read is told elsewhere.
    async fn caller(&self, mount: &Mount, name: TenantName) -> Caller {
        let record = self.read_tenant(mount, &name).await.ok().flatten();
        let server = record.as_ref().and_then(|record| record.server.as_ref());
        let peers = server.map(peers_of).unwrap_or_default();
        (name.as_str().to_owned(), peers)
    }
}

impl Look {
    /// Decides about every host that is not known yet.
    async fn find_out(&mut self, callers: &[Caller]) {
        let peers = callers.iter().flat_map(|(_, peers)| peers);
        let new = peers.filter(|peer| !self.known.contains_key(*peer));
        let mut new: Vec<Peer> = new.cloned().collect();
        new.sort_unstable();
        new.dedup();
        let found: Vec<(Peer, Fate)> = stream::iter(new)
            .map(|peer| fate(&self.was, &self.is, peer))
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        self.known.extend(found);
    }

    fn warnings(&self, complete: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.tenants.left_out > 0 {
            warnings.push(format!(
                "`allowed_hosts` leaves out the mail servers of {}: their passwords cannot be \
                 changed, reset or verified any more. Add the servers' networks or names.",
                self.tenants.shown("tenant"),
            ));
        }
        if self.channels.left_out > 0 {
            warnings.push(format!(
                "`allowed_hosts` leaves out {}: nobody is told through them any more. Add their \
                 networks or names.",
                self.channels.shown("notification channel"),
            ));
        }
        if self.tenants.untold + self.channels.untold > 0 {
            warnings.push(format!(
                "whether `allowed_hosts` leaves out the servers of {} and {} cannot be told: their \
                 names have no address now.",
                counted(self.tenants.untold, "tenant"),
                counted(self.channels.untold, "notification channel"),
            ));
        }
        if !complete {
            warnings.push(format!(
                "only {} were looked at in time; `allowed_hosts` may leave out more. Write \
                 ops/sweep and read `servers` in status.",
                counted(self.seen, "tenant"),
            ));
        }
        warnings
    }
}

impl Tally {
    fn add(&mut self, name: &str, fate: Fate) {
        match fate {
            Fate::Same => {}
            Fate::Untold => self.untold += 1,
            Fate::LeftOut => {
                self.left_out += 1;
                if self.named.len() < MOST_NAMED {
                    self.named.push(name.to_owned());
                }
            }
        }
    }

    fn shown(&self, noun: &str) -> String {
        let more = if self.left_out > self.named.len() as u64 {
            ", …"
        } else {
            ""
        };
        let names = self.named.join(", ");
        format!("{} ({names}{more})", counted(self.left_out, noun))
    }
}

/// Returns the gravest fate of several hosts.
fn gravest(known: &HashMap<Peer, Fate>, peers: &[Peer]) -> Fate {
    let fates = || peers.iter().filter_map(|peer| known.get(peer));
    let is_any = |grave: &Fate| fates().any(|fate| fate == grave);
    let grave = [Fate::LeftOut, Fate::Untold].into_iter().find(is_any);
    grave.unwrap_or(Fate::Same)
}

fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// What becomes of a host. Its name is looked up only where the lists do not name it.
async fn fate(was: &NetworkPolicy, is: &NetworkPolicy, peer: Peer) -> (Peer, Fate) {
    let fate = fate_of(was, is, &peer).await;
    (peer, fate)
}

async fn fate_of(was: &NetworkPolicy, is: &NetworkPolicy, (host, port): &Peer) -> Fate {
    let (before, after) = (was.decides(host, *port), is.decides(host, *port));
    if before == Some(false) || after == Some(true) {
        return Fate::Same;
    }
    if (before, after) == (Some(true), Some(false)) {
        return Fate::LeftOut;
    }
    let Some(addresses) = look_up(host, *port).await else {
        // Where no address could be allowed any more, none is needed to say so.
        return if after == Some(false) {
            Fate::LeftOut
        } else {
            Fate::Untold
        };
    };
    let reached = |policy: &NetworkPolicy| {
        let mut addresses = addresses.iter();
        addresses.any(|address| policy.check(host, *address).is_ok())
    };
    if reached(was) && !reached(is) {
        Fate::LeftOut
    } else {
        Fate::Same
    }
}

/// Whom a tenant's work calls.
fn peers_of(server: &Server) -> Vec<Peer> {
    let url = EndpointUrl::parse_stored(&server.mailu_url).ok();
    let url = url.map(|url| (url.host().to_owned(), url.port()));
    let smtp = server
        .smtp_address
        .as_deref()
        .filter(|_| server.verify_smtp);
    let smtp = smtp.and_then(|text| SmtpAddress::parse(text).ok());
    let smtp = smtp.map(|smtp| (smtp.host().to_owned(), smtp.port()));
    url.into_iter().chain(smtp).collect()
}

/// Whom a channel calls.
fn peer_of(target: &Target) -> Option<Peer> {
    let url = match target {
        Target::Email(target) => return Some((target.host.clone(), target.port)),
        Target::Slack(target) => &target.origin,
        Target::Webhook(target) => &target.url,
    };
    // Nothing behind the path says where it leads.
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let url = EndpointUrl::parse_stored(url).ok()?;
    Some((url.host().to_owned(), url.port()))
}
