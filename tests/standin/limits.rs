//! The rate limits shared by the API and the mail side, and the per-user lock.
//!
//! Source: observed on Mailu 2024.06 with its defaults `AUTH_RATELIMIT_IP=5/hour` (a /24 or /48)
//! and `AUTH_RATELIMIT_USER=50/day`. Nothing here is lifted by a password change.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Failure counts, in the stand-in's time.
#[derive(Debug)]
pub struct Limits {
    /// Wrong attempts a network may make in an hour.
    pub per_network: usize,
    /// Wrong attempts a user may suffer in a day.
    pub per_user: usize,
    networks: HashMap<IpNet, Vec<Duration>>,
    users: HashMap<String, Vec<Duration>>,
    /// When a network was last charged for a user: at most once an hour.
    charged: HashMap<(IpNet, String), Duration>,
    /// Addresses that logged in, and when.
    proven: HashMap<IpAddr, Duration>,
    /// 2.0 charges a repeated wrong password once.
    seen: HashSet<(String, String)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_network: 5,
            per_user: 50,
            networks: HashMap::new(),
            users: HashMap::new(),
            charged: HashMap::new(),
            proven: HashMap::new(),
            seen: HashSet::new(),
        }
    }
}

impl Limits {
    /// Reports whether everyone in `peer`'s network is refused.
    pub fn network_refused(&self, peer: IpAddr, now: Duration) -> bool {
        !self.is_proven(peer, now)
            && recent(self.networks.get(&network_of(peer)), HOUR, now) >= self.per_network
    }

    /// Charges `peer`'s network with one wrong attempt.
    pub fn charge_network(&mut self, peer: IpAddr, now: Duration) {
        if !self.is_proven(peer, now) {
            self.networks.entry(network_of(peer)).or_default().push(now);
        }
    }

    /// Reports whether even the correct password of `email` is refused from `peer`.
    pub fn user_refused(&self, email: &str, peer: IpAddr, now: Duration) -> bool {
        !self.is_proven(peer, now) && self.user_locked(email, now)
    }

    /// Reports whether `email` is locked for addresses that are not exempt.
    pub fn user_locked(&self, email: &str, now: Duration) -> bool {
        recent(self.users.get(email), DAY, now) >= self.per_user
    }

    /// Charges an existing user with one wrong attempt, and the network once an hour.
    pub fn charge_user(&mut self, email: &str, peer: IpAddr, now: Duration) {
        if self.is_proven(peer, now) {
            return;
        }
        self.users.entry(email.to_owned()).or_default().push(now);
        let pair = (network_of(peer), email.to_owned());
        let charged = self
            .charged
            .get(&pair)
            .is_some_and(|last| now - *last < HOUR);
        if !charged {
            self.charged.insert(pair, now);
            self.charge_network(peer, now);
        }
    }

    /// Remembers a wrong password by its digest. Returns whether it is new for this user.
    pub fn first_time(&mut self, email: &str, digest: String) -> bool {
        self.seen.insert((email.to_owned(), digest))
    }

    /// Exempts an address for a day, as a good login does.
    pub fn prove(&mut self, peer: IpAddr, now: Duration) {
        self.proven.insert(peer, now);
    }

    /// Forgets every failure and every lock, as deleting the keys in Redis does.
    pub fn forgive(&mut self) {
        self.networks.clear();
        self.users.clear();
        self.charged.clear();
        self.seen.clear();
    }

    /// Forgets who logged in, so that the limits apply to everybody again.
    pub fn forget_proven(&mut self) {
        self.proven.clear();
    }

    fn is_proven(&self, peer: IpAddr, now: Duration) -> bool {
        self.proven.get(&peer).is_some_and(|last| now - *last < DAY)
    }
}

fn recent(times: Option<&Vec<Duration>>, window: Duration, now: Duration) -> usize {
    times.map_or(0, |times| {
        times.iter().filter(|time| now - **time < window).count()
    })
}

fn network_of(peer: IpAddr) -> IpNet {
    let length = if peer.is_ipv4() { 24 } else { 48 };
    IpNet::new(peer, length).map_or_else(|_| IpNet::from(peer), |network| network.trunc())
}
