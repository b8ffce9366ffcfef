//! Placing every tenant anew after a change of the settings that decide when it is due.
//!
//! A pass goes through all tenants by name, a slice at each tick, and keeps its place in the
//! calendar. By which settings the tenants stand is stored there, so that a pass that a crash
//! prevented is found missing.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::calendar::{Placement, Placing};
use crate::engine::Engine;
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::schedule::{self, Checks, Replanned};
use crate::engine::storage::TENANTS;
use crate::engine::storage::record::{Credential, RotationPolicy, TenantRecord};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

/// How many tenants are looked at in one tick.
const SLICE: usize = 200;
/// Tenants that were busy; the pass waits for them before it takes more.
const MOST_LEFT: usize = 100;
/// After so many tries a tenant that storage refuses is left to the weekly repair.
const MOST_TRIES: u32 = 10;

impl Engine {
    /// Goes on with the pass, if there is one to do.
    pub(super) async fn go_on_placing(
        self: &Arc<Self>,
        mount: &Mount,
        config: &Arc<MountConfig>,
    ) -> Result<(), Error> {
        let Some(mut calendar) = self.runner.state().calendar.clone() else {
            return Ok(());
        };
        let by = Placement::of(config);
        let mut placing = match calendar.placing.take() {
            Some(placing) if placing.by == by => placing,
            None if calendar.placed_by == by => return Ok(()),
            before => {
                // Stored before the first tenant is moved: a change that is taken back half-way
                // must find that there is something to take back.
                if before.is_some() || !by.has_slots_of(&calendar.placed_by) {
                    calendar.move_hold(Checks::of(config).as_ref(), self.clock().now());
                }
                calendar.placing = Some(Placing::new(by, &calendar.placed_by, before.as_ref()));
                return self.store_calendar(mount, &calendar).await;
            }
        };
        let mut names = std::mem::take(&mut placing.left);
        if names.len() < MOST_LEFT && !placing.listed {
            let page = mount
                .storage
                .list_page(TENANTS, &placing.after, SLICE)
                .await?;
            placing.listed = page.len() < SLICE;
            if let Some(last) = page.last() {
                placing.after.clone_from(last);
            }
            names.extend(page.into_iter().map(|name| (name, 0)));
        }
        let change = Change {
            rotation_period: placing.period,
            slots: placing.mixed || !placing.by.has_slots_of(&calendar.placed_by),
        };
        for (name, tries) in names {
            if self.tasks.is_stopping() {
                return Ok(());
            }
            let Ok(tenant) = TenantName::parse(&name) else {
                continue;
            };
            match self.place(mount, config, change, &tenant).await {
                Ok(true) => {}
                Ok(false) => placing.left.push((name, tries)),
                // One entry that storage refuses must not keep the others from their places.
                Err(Error::Storage(_)) if tries < MOST_TRIES => {
                    placing.left.push((name, tries + 1));
                }
                Err(error) => tracing::warn!(tenant = %name, %error, "a tenant is not placed anew"),
            }
        }
        if placing.listed && placing.left.is_empty() {
            calendar.placed_by = placing.by;
        } else {
            calendar.placing = Some(placing);
        }
        self.store_calendar(mount, &calendar).await
    }

    /// Gives a tenant a plan that has none, or one that only a wrong clock can have made: never an
    /// earlier change than a sound plan would have.
    pub(super) async fn mend_plan(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<(), Error> {
        let config = self.config(mount).await?;
        let by = Placement::of(&config);
        let placed = {
            let state = self.runner.state();
            let calendar = state.calendar.as_ref();
            calendar.is_some_and(|kept| kept.placed_by == by && kept.placing.is_none())
        };
        if placed {
            // While a pass is under way, that is its work. Who is busy has his turn next week.
            self.place(mount, &config, Change::default(), name).await?;
        }
        Ok(())
    }

    /// Places one tenant; `false` if somebody else has it.
    async fn place(
        self: &Arc<Self>,
        mount: &Mount,
        config: &MountConfig,
        change: Change,
        name: &TenantName,
    ) -> Result<bool, Error> {
        let now = self.clock().now();
        let moves = |record: &TenantRecord| {
            let mut placed = record.clone();
            let next = next_of(record, config, change, now);
            if let (Some(credential), Some(next)) = (placed.credential.as_mut(), next) {
                next.apply(credential);
            }
            let day = schedule::due_day(&placed, config, now);
            let stored = record.live_credential().and_then(|kept| kept.due_day);
            (day != stored || placed.credential != record.credential).then_some(placed)
        };
        let record = self.read_tenant(mount, name).await?;
        if record.as_deref().and_then(moves).is_none() {
            return Ok(true);
        }
        let Some(mut tenant) = self.try_lock_tenant(mount, name).await? else {
            return Ok(false);
        };
        if let Some(placed) = moves(&tenant.record) {
            *tenant.record = placed;
            tenant.store().await?;
        }
        Ok(true)
    }
}

impl Placing {
    /// Begins a pass; `before` is one that was not finished.
    fn new(by: Placement, placed_by: &Placement, before: Option<&Self>) -> Self {
        let other = |placement: &Placement| placement.rotation_period != by.rotation_period;
        let period = other(placed_by) || before.is_some_and(|it| it.period || other(&it.by));
        Self {
            period,
            mixed: before.is_some(),
            by,
            after: String::new(),
            left: Vec::new(),
            listed: false,
        }
    }
}

/// What became different for a tenant's plan.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// The mount's `rotation_period`.
    rotation_period: bool,
    /// When there are slots: `check_schedule`, `time_zone`, `spread`.
    slots: bool,
}

/// Where a change goes.
#[derive(Clone, Copy, Debug)]
struct Moved {
    plan: Replanned,
    /// Another day, not only another moment of the check: who was told of it is told again.
    is_news: bool,
}

/// The next change by the new settings; `None` if it stays. It is planned from the last one: the
/// slot of the old settings may be as wrong as they were.
fn next_of(
    record: &TenantRecord,
    config: &MountConfig,
    change: Change,
    now: DateTime<Utc>,
) -> Option<Moved> {
    let credential = record.live_credential()?;
    let by_mount = credential.rotation_policy == RotationPolicy::Mount;
    let period = by_mount && change.rotation_period;
    if period || schedule::is_absurd(credential, config, now) {
        let plan = schedule::replanned(credential, config, &record.tenant, now)?;
        let before = credential.next_rotation;
        let is_news = before.is_some_and(|before| plan.next - before > TimeDelta::days(1));
        return Some(Moved { plan, is_news });
    }
    if !change.slots {
        return None;
    }
    let plan = Replanned {
        next: schedule::reslotted(credential, config, &record.tenant, now)?,
        paced_until: credential.paced_until,
    };
    let is_news = false;
    Some(Moved { plan, is_news })
}

impl Moved {
    fn apply(self, credential: &mut Credential) {
        if self.is_news {
            credential.notice_sent_at = None;
            credential.preflight = None;
        }
        credential.next_rotation = Some(self.plan.next);
        credential.paced_until = self.plan.paced_until;
    }
}
