//! When each tenant's password must change: computed from the documented rules, compared with what
//! the mail servers saw.

use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use vault_plugin_secrets_smtp::crypto::sha256_hex;

use super::plot;
use super::population::{Kind, Tenant};

/// How long after its slot a change may come while nothing is wrong: a check has more to do than
/// goes through at once, or a process died in the middle of one.
const QUEUE: TimeDelta = TimeDelta::minutes(30);
/// Within what time after its server works again.
const RECOVERED: TimeDelta = TimeDelta::days(1);
/// How much later than at the server a change may be committed: what died in the middle is settled.
const SETTLED: TimeDelta = TimeDelta::minutes(15);

/// When a tenant's password may change.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

/// What is expected of every tenant.
pub(super) struct Expected {
    tenants: Vec<Tenant>,
    /// Seconds into a check, by tenant.
    offsets: Vec<TimeDelta>,
    /// The tenants' next changes; `None` = never.
    windows: Vec<Option<Window>>,
    /// Changes by tenant.
    pub(super) changes: Vec<u32>,
    /// Changes of tenants that nothing was wrong with: how late after the slot, at most.
    pub(super) latest: TimeDelta,
    pub(super) violations: Vec<String>,
}

/// The documented offset: the first 8 bytes of SHA-256("offset:" tenant), modulo `spread`.
fn offset(tenant: &str) -> TimeDelta {
    let digest = sha256_hex(format!("offset:{tenant}").as_bytes());
    let number = u64::from_str_radix(&digest[..16], 16).unwrap();
    TimeDelta::seconds(i64::try_from(number % plot::SPREAD).unwrap())
}

impl Expected {
    pub(super) fn new(tenants: &[Tenant]) -> Self {
        let mut expected = Self {
            tenants: tenants.to_vec(),
            offsets: tenants.iter().map(|it| offset(&it.name)).collect(),
            windows: vec![None; tenants.len()],
            changes: vec![0; tenants.len()],
            latest: TimeDelta::zero(),
            violations: Vec::new(),
        };
        for (index, tenant) in tenants.iter().enumerate() {
            expected.windows[index] = expected.after(index, tenant.last_rotated);
        }
        expected
    }

    pub(super) fn tenant(&self, index: usize) -> &Tenant {
        &self.tenants[index]
    }

    /// The first slot of a tenant not before `at`: the checks are daily, at 02:00.
    fn slot(&self, index: usize, at: DateTime<Utc>) -> DateTime<Utc> {
        let midnight = at.with_time(chrono::NaiveTime::MIN).unwrap();
        let slot =
            |day| midnight + TimeDelta::days(day) + TimeDelta::hours(2) + self.offsets[index];
        (-1..=1).map(slot).find(|slot| *slot >= at).unwrap()
    }

    /// When the change after one at `changed` is expected.
    fn after(&self, index: usize, changed: DateTime<Utc>) -> Option<Window> {
        if self.tenants[index].kind == Kind::Manual {
            return None;
        }
        let wanted = changed + plot::PERIOD - plot::SLIP;
        let early = self.undisturbed(index, self.slot(index, wanted));
        let late = self.undisturbed(index, self.slot(index, wanted + SETTLED));
        Some(Window {
            from: early.from,
            to: late.to,
        })
    }

    /// When a change planned for `slot` is expected, given all that happens.
    fn undisturbed(&self, index: usize, mut slot: DateTime<Utc>) -> Window {
        let mut rests = vec![
            // Ticks stop, and the schedule waits for the check after next.
            (
                plot::at(plot::OUTAGE.0, 12),
                plot::at(plot::OUTAGE.1 + 1, 2),
            ),
            // The clock goes over two days, and the schedule waits for a check.
            (
                plot::at(plot::SETBACK.1, 12) - plot::SET_BACK_BY,
                plot::at(plot::SETBACK.1 + 1, 2),
            ),
        ];
        if self.tenants[index].kind == Kind::Paused {
            rests.push((plot::at(plot::PAUSE.0, 12), plot::at(plot::PAUSE.1, 0)));
        }
        while let Some(rest) = rests.iter().find(|rest| rest.0 <= slot && slot < rest.1) {
            slot = self.slot(index, rest.1);
        }
        if let Kind::Failing(group) = self.tenants[index].kind {
            let (_, from, to) = plot::FAILURES[group];
            if plot::at(from, 0) - QUEUE <= slot && slot < plot::at(to, 0) {
                let end = plot::at(to, 0);
                let begin = if slot < plot::at(from, 0) { slot } else { end };
                return Window {
                    from: begin,
                    to: end + RECOVERED,
                };
            }
        }
        Window {
            from: slot,
            to: slot + QUEUE,
        }
    }

    /// Whether the tenant's server has failed it for a day: a person has to be told.
    pub(super) fn is_failing(&self, index: usize, group: usize) -> bool {
        let (_, from, to) = plot::FAILURES[group];
        self.tenants[index].kind == Kind::Failing(group)
            && self.windows[index].is_some_and(|window| {
                window.from == plot::at(to, 0)
                    && self.slot(index, plot::at(to, 0) - TimeDelta::days(2)) > plot::at(from, 0)
            })
    }

    /// A password was changed on request.
    pub(super) fn requested(&mut self, index: usize, at: DateTime<Utc>) {
        self.windows[index] = Some(Window {
            from: at,
            to: at + QUEUE,
        });
    }

    /// A password became another one at its server.
    pub(super) fn changed(&mut self, index: usize, at: DateTime<Utc>) {
        let name = &self.tenants[index].name;
        let kind = self.tenants[index].kind;
        match self.windows[index] {
            Some(window) if window.from <= at && at <= window.to => {
                if kind == Kind::Ordinary {
                    self.latest = self.latest.max(at - window.from);
                }
            }
            expected => self.violations.push(format!(
                "{name} ({kind:?}) was rotated at {at}, change {}, expected {expected:?}",
                self.changes[index] + 1
            )),
        }
        self.changes[index] += 1;
        self.windows[index] = self.after(index, at);
    }

    /// Time has come to `now`: whose change did not come?
    pub(super) fn overdue(&mut self, now: DateTime<Utc>) {
        for index in 0..self.tenants.len() {
            let late = |window: &Window| window.to < now;
            if let Some(window) = self.windows[index].filter(late) {
                let Tenant { name, kind, .. } = &self.tenants[index];
                self.violations.push(format!(
                    "{name} ({kind:?}) was not rotated, expected {window:?}, it is {now}"
                ));
                // Said once.
                self.windows[index] = self.after(index, now);
            }
        }
    }
}

/// The minute of an instant.
pub(super) fn minute(at: DateTime<Utc>) -> DateTime<Utc> {
    at.with_second(0)
        .and_then(|at| at.with_nanosecond(0))
        .unwrap()
}
