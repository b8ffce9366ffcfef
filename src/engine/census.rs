//! How the whole mount is doing, for `status` and `metrics`.
//!
//! It costs about the same for 10 tenants and 100,000: what needs a look is in the agenda of the
//! ticks, which follow the pointers anyway, and nothing reads a record for it.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};

use super::Engine;
use super::batch::Batch;
use super::emission::{Delivery, Waiting};
use super::error::Error;
use super::guard::{FOREIGN_STORAGE, REFUSES_WRITES};
use super::mail::{UnaskedServer, Why};
use super::mount_log::MOUNT;
use super::outbox::{ChannelTrouble, Undelivered};
use super::runner::{Known, SweepProgress};
use super::schedule::Checks;
use super::state::State;
use super::storage;
use crate::logical::Mount;
use crate::provider::HashPoolUse;

/// Tenants that need a person and are listed.
const MOST_LISTED: usize = 100;
/// Days of the plan.
const DAYS: u64 = 7;
/// Tenants of one day that are counted; more are said to be so many.
const MOST_OF_A_DAY: usize = 20_000;
/// The code of more than half of all tenants that no server was reached for.
const EGRESS: &str = "egress";

/// A change is overdue when it has been due for longer than this.
const OVERDUE: TimeDelta = TimeDelta::hours(2);

/// What a collector outside leaves for longer than this is not collected.
const LATE: TimeDelta = TimeDelta::hours(1);

/// What is known of the mount now.
#[derive(Clone, Debug)]
pub(super) struct Census {
    /// Whether the mount can use its storage.
    pub(super) storage: StorageUse,
    pub(super) now: DateTime<Utc>,
    /// When this process began to serve the mount.
    pub(super) started_at: DateTime<Utc>,
    pub(super) tenants: u64,
    pub(super) counts: Counts,
    /// Those who need a person, gravest and oldest first.
    pub(super) attention: Vec<Attention>,
    pub(super) attention_total: u64,
    pub(super) next_check: Option<DateTime<Utc>>,
    /// The last tick that this process took as the active node, and how long ago.
    pub(super) last_tick: Option<(DateTime<Utc>, Duration)>,
    /// Until when all automatic work rests.
    pub(super) paused_until: Option<DateTime<Utc>>,
    pub(super) sweep: SweepProgress,
    /// Servers that cannot be asked, those with most tenants first.
    pub(super) servers: Vec<UnaskedServer>,
    pub(super) batch: Option<Batch>,
    pub(super) hash_pool: HashPoolUse,
    /// What waits in the outbox; `None` until a tick has looked.
    pub(super) notifications: Option<Undelivered>,
    /// How events reach the audit devices.
    pub(super) audit: Audit,
}

/// Whether the mount can use its storage.
#[derive(Clone, Debug, Default)]
pub(super) struct StorageUse {
    /// Since when the host has taken no write.
    pub(super) refused_since: Option<DateTime<Utc>>,
    /// Since when it is known that another mount made it.
    pub(super) foreign_since: Option<DateTime<Utc>>,
}

impl StorageUse {
    /// What a person has to look at before anything else.
    fn attention(&self) -> impl Iterator<Item = Attention> + use<> {
        let found = [
            (REFUSES_WRITES, self.refused_since),
            (FOREIGN_STORAGE, self.foreign_since),
        ];
        found
            .into_iter()
            .filter_map(|(code, since)| since.map(|since| Attention::of(MOUNT, code, since)))
    }
}

/// How events reach the audit devices.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit {
    pub(super) delivery: Delivery,
    /// What waits; `None` until a tick has looked.
    pub(super) waiting: Option<Waiting>,
    /// Automatic changes that wait for the devices.
    pub(super) held_back: u64,
}

impl Audit {
    /// Returns the one word for it: a collector outside counts as failing when something has
    /// waited for it for an hour.
    pub(super) fn word(&self, now: DateTime<Utc>) -> AuditWord {
        let oldest = self.waiting.and_then(|waiting| waiting.oldest);
        let late = oldest.filter(|oldest| now - *oldest > LATE && self.delivery.external);
        match (self.delivery.failing, late, self.delivery.last) {
            (Some((code, since)), _, _) => AuditWord::Failing(code, since),
            (None, Some(since), _) => AuditWord::Failing("audit_not_collected", since),
            (None, None, Some(_)) => AuditWord::Delivering,
            (None, None, None) => AuditWord::Unproven,
        }
    }
}

/// Whether events are known to reach the audit devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuditWord {
    /// This process has delivered none by the way that is set.
    Unproven,
    /// The last one was delivered.
    Delivering,
    /// They do not: why, and since when.
    Failing(&'static str, DateTime<Utc>),
}

/// How many tenants are in some state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// A notice or a change is due.
    pub(super) due: u64,
    /// A change has been due for more than two hours.
    pub(super) overdue: u64,
    /// Something is to be done before the next check, or to be seen.
    pub(super) open: u64,
    pub(super) uncertain: u64,
    pub(super) drift: u64,
    /// The schedule's last three or more tries failed.
    pub(super) failing: u64,
    pub(super) paused: u64,
}

/// A tenant that a person has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attention {
    pub(super) tenant: String,
    /// The notification channel it is about.
    pub(super) channel: Option<String>,
    pub(super) code: String,
    pub(super) since: DateTime<Utc>,
}

impl From<ChannelTrouble> for Attention {
    fn from(trouble: ChannelTrouble) -> Self {
        Self {
            channel: Some(trouble.channel),
            ..Self::of(MOUNT, trouble.code, trouble.since)
        }
    }
}

impl Attention {
    fn of(tenant: &str, code: &str, since: DateTime<Utc>) -> Self {
        Self {
            tenant: tenant.to_owned(),
            channel: None,
            code: code.to_owned(),
            since,
        }
    }

    fn is_of_a_server(&self) -> bool {
        Why::ALL.iter().any(|why| why.code() == self.code)
    }

    /// Gravest and oldest first.
    fn by_gravity(&self, other: &Self) -> std::cmp::Ordering {
        let key = |it: &Self| (it.rank(), it.since);
        let order = key(self).cmp(&key(other));
        order.then_with(|| self.tenant.cmp(&other.tenant))
    }

    /// The smaller, the graver: what may be an attack, then drift, then failures.
    fn rank(&self) -> u8 {
        match self.code.as_str() {
            // Of the whole mount: as long as it lasts, nothing else can be mended.
            REFUSES_WRITES => 0,
            FOREIGN_STORAGE => 1,
            "stale_storage" | "other_owner" | "compromised_live" => 2,
            "foreign_password" | "older_version" | "account_missing" => 3,
            // Of servers: their tenants that need a person come first.
            _ if self.tenant == MOUNT && self.is_of_a_server() => 5,
            _ => 4,
        }
    }
}

/// What a person has to look at of servers that cannot be asked: each of them, or the way out of
/// here if it is more than half of all tenants at once.
fn of_servers(servers: &[UnaskedServer], tenants: u64) -> Vec<Attention> {
    let finding = |code: &str, since| Attention::of(MOUNT, code, since);
    let unreached = servers.iter().filter(|it| it.why == Why::Unreachable);
    let met: u64 = unreached.clone().map(|it| it.tenants).sum();
    let since = unreached.clone().map(|it| it.since).min();
    match since {
        Some(since) if servers.len() > 1 && met > tenants / 2 => {
            let others = servers.iter().filter(|it| it.why != Why::Unreachable);
            let others = others.map(|it| finding(it.why.code(), it.since));
            others.chain([finding(EGRESS, since)]).collect()
        }
        _ => servers
            .iter()
            .map(|it| finding(it.why.code(), it.since))
            .collect(),
    }
}

impl Counts {
    fn add(&mut self, known: &Known, now: DateTime<Utc>) {
        let mut count = |holds: bool, count: fn(&mut Self) -> &mut u64| {
            *count(self) += u64::from(holds);
        };
        let paused = known.paused_until.is_some_and(|until| until > now);
        let since = known.next_rotation.map(|next| now - next);
        let planned = known.planned.is_some_and(|planned| planned.at <= now);
        count(planned, |it| &mut it.due);
        // Who is in drift or stopped waits for a person, and is counted as such.
        let late = planned && since.is_some_and(|since| since > OVERDUE);
        count(late && !paused, |it| &mut it.overdue);
        count(known.is_open, |it| &mut it.open);
        let in_doubt = known.is_open && known.state == Some(State::Uncertain);
        count(in_doubt, |it| &mut it.uncertain);
        count(known.state == Some(State::Drift), |it| &mut it.drift);
        count(known.failing, |it| &mut it.failing);
        count(paused, |it| &mut it.paused);
    }
}

impl Engine {
    /// Looks at the mount. The caller has made sure that this is the active node.
    pub(super) async fn census(&self, mount: &Mount) -> Result<Census, Error> {
        let (now, monotonic) = (self.clock().now(), self.clock().monotonic());
        let config = self.config(mount).await?;
        let mut counts = Counts::default();
        let mut attention = Vec::new();
        let last_tick = self.runner.look(|tenant, known| {
            counts.add(known, now);
            if let Some((code, since)) = &known.attention {
                attention.push(Attention::of(tenant.as_str(), code, *since));
            }
        });
        let storage = self.storage_use(mount).await;
        attention.extend(storage.attention());
        let tenants = self.tenants(mount).await?;
        let servers = self.unasked.all();
        attention.extend(of_servers(&servers, tenants));
        attention.extend(self.of_delivery(now));
        let troubles = self.channels_in_trouble(mount).await?;
        attention.extend(troubles.into_iter().map(Attention::from));
        attention.sort_by(Attention::by_gravity);
        let attention_total = attention.len() as u64;
        attention.truncate(MOST_LISTED);
        let batch = match self.batches.current() {
            Some(id) => self.load_batch(mount, &id).await?,
            None => None,
        };
        let tick =
            |sight: super::runner::Sight| (sight.wall, monotonic.saturating_sub(sight.monotonic));
        Ok(Census {
            storage,
            now,
            started_at: self.started_at,
            tenants,
            counts,
            attention,
            attention_total,
            next_check: Checks::of(&config).and_then(|checks| checks.at_or_after(now)),
            last_tick: last_tick.map(tick),
            paused_until: config.paused_until.filter(|until| *until > now),
            sweep: self.sweep_progress(),
            servers,
            batch: batch.filter(|batch| !batch.is_over()),
            hash_pool: self.parts.hash_pool.usage(),
            notifications: self.outbox.undelivered(None),
            audit: Audit {
                delivery: self.emission.delivery(),
                waiting: self.emission.waiting(),
                held_back: self.held_back().0,
            },
        })
    }

    /// What a person has to look at of events on their way to the devices.
    fn of_delivery(&self, now: DateTime<Utc>) -> Vec<Attention> {
        let slow = self.emission.delivery().slow;
        let slow = slow.map(|since| (MOUNT.to_owned(), "audit_slow", Some(since)));
        let stuck = self.emission.stuck().into_iter().chain(slow);
        let attention =
            stuck.map(|(log, code, since)| Attention::of(&log, code, since.unwrap_or(now)));
        attention.collect()
    }

    /// Tells whether the mount can use its storage.
    async fn storage_use(&self, mount: &Mount) -> StorageUse {
        // Whoever made it is told below; what else is wrong with the keyring is told by its users.
        let _foreign = self.require_own_storage(mount).await;
        StorageUse {
            refused_since: self.guard.refuses_writes_since(),
            foreign_since: self.guard.foreign().map(|foreign| foreign.since),
        }
    }

    /// Counts how many notices and changes the next days have.
    pub(super) async fn plan_by_day(&self, mount: &Mount) -> Result<Vec<(NaiveDate, u64)>, Error> {
        let today = self.clock().now().date_naive();
        let mut plan = Vec::new();
        for ahead in 0..DAYS {
            let Some(day) = today.checked_add_days(Days::new(ahead)) else {
                break;
            };
            let folder = storage::due_folder(day);
            let names = mount.storage.list_page(&folder, "", MOST_OF_A_DAY).await?;
            plan.push((day, names.len() as u64));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schedule::{Planned, Work};
    use crate::engine::storage::fixture;

    fn known(late: i64, planned: Option<i64>) -> Known {
        let now = fixture::now();
        Known {
            server: String::new(),
            open_at: None,
            planned: planned.map(|ago| Planned {
                at: now - TimeDelta::minutes(ago),
                work: Work::Rotation,
            }),
            due_day: None,
            is_open: false,
            state: None,
            next_rotation: Some(now - TimeDelta::minutes(late)),
            paused_until: None,
            attention: None,
            failing: false,
            unreadable: false,
        }
    }

    #[test]
    fn only_a_change_that_the_schedule_is_to_make_is_overdue() {
        let overdue = |known: &Known| {
            let mut counts = Counts::default();
            counts.add(known, fixture::now());
            counts.overdue
        };
        assert_eq!(overdue(&known(121, Some(121))), 1);
        assert_eq!(overdue(&known(119, Some(119))), 0, "within two hours");
        assert_eq!(overdue(&known(300, None)), 0, "in drift, or stopped");
        assert_eq!(overdue(&known(300, Some(-60))), 0, "tried again later");
        let mut paused = known(300, Some(300));
        paused.paused_until = Some(fixture::now() + TimeDelta::days(1));
        assert_eq!(overdue(&paused), 0);
    }
}
