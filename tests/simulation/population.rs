//! The tenants and what is special about each.

use chrono::{DateTime, TimeDelta, Utc};

use super::Settings;
use super::plot;

/// What is special about a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    /// Rotated by nobody but a person.
    Manual,
    Paused,
    /// Rotated on request once.
    Requested,
    /// Of the wave.
    Wave,
    /// Its server fails for some days: the group.
    Failing(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) name: String,
    pub(super) server: String,
    pub(super) account: String,
    pub(super) kind: Kind,
    pub(super) last_rotated: DateTime<Utc>,
}

impl Tenant {
    /// The password it begins with.
    pub(super) fn first_password(&self) -> String {
        format!("first-password-of-{}", self.name)
    }
}

/// Numbers that look random and are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

pub(super) fn tenants(settings: &Settings) -> Vec<Tenant> {
    let mut numbers = Numbers(settings.seed);
    let one = |index| tenant(index, &mut numbers);
    (0..settings.tenants).map(one).collect()
}

fn tenant(index: usize, numbers: &mut Numbers) -> Tenant {
    // Of every hundred: five failing, five of the wave, two paused, one manual, one on request.
    let kind = match index % 100 {
        3 | 23 | 43 | 63 | 83 => Kind::Failing(index / 20 % plot::FAILURES.len()),
        5 | 25 | 45 | 65 | 85 => Kind::Wave,
        10 | 60 => Kind::Paused,
        31 => Kind::Manual,
        71 => Kind::Requested,
        _ => Kind::Ordinary,
    };
    // One in ten shares its server with nine others.
    let server = if index % 10 == 9 {
        format!("https://shared-{}.example.test", index / 100)
    } else {
        format!("https://mail-{index}.example.test")
    };
    // Nobody is overdue when the simulation begins.
    let spread = (plot::PERIOD - TimeDelta::days(3))
        .num_seconds()
        .unsigned_abs();
    let ago = TimeDelta::seconds(i64::try_from(numbers.next() % spread).unwrap());
    let last_rotated = match kind {
        Kind::Wave => plot::at(plot::WAVE, 1) - plot::PERIOD,
        // Due while the server fails.
        Kind::Failing(group) => {
            let (_, from, to) = plot::FAILURES[group];
            let day = i64::try_from(index).unwrap() % (to - from - 1);
            let mut last = plot::at(from + day, 1) - plot::PERIOD;
            while last > plot::at(-1, 0) {
                last -= plot::PERIOD;
            }
            last
        }
        _ => plot::at(-1, 0) - ago,
    };
    Tenant {
        name: format!("t{index:06}"),
        server,
        account: format!("admin@t{index:06}.example.test"),
        kind,
        last_rotated,
    }
}
