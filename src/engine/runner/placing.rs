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
use crate::engine::schedule;
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
                let placing = Placing::new(by, before.as_ref(), &calendar.placed_by);
                calendar.placing = Some(placing);
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
        let placed_by = calendar.placed_by.clone();
        let before = Before {
            placed_by: &placed_by,
            mixed: placing.mixed,
            mixed_period: placing.mixed_period,
        };
        for (name, tries) in names {
            if self.tasks.is_stopping() {
                return Ok(());
            }
            let Ok(tenant) = TenantName::parse(&name) else {
                continue;
            };
            match self.place(mount, config, before, &tenant).await {
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
            let before = Before {
                placed_by: &by,
                mixed: false,
                mixed_period: false,
            };
            self.place(mount, &config, before, name).await?;
        }
        Ok(())
    }

    /// Places one tenant; `false` if somebody else has it.
    async fn place(
        self: &Arc<Self>,
        mount: &Mount,
        config: &MountConfig,
        before: Before<'_>,
        name: &TenantName,
    ) -> Result<bool, Error> {
        let now = self.clock().now();
        let moves = |record: &TenantRecord| {
            let mut placed = record.clone();
            let moved = Moved::of(record, config, before, now);
            if let (Some(credential), Some(moved)) = (placed.credential.as_mut(), moved) {
                moved.apply(credential);
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
    /// Begins a pass, in the place of `before` if that was not finished.
    fn new(by: Placement, before: Option<&Self>, placed_by: &Placement) -> Self {
        let period = by.rotation_period;
        let mixed_period = before.is_some_and(|before| {
            let periods = [before.by.rotation_period, placed_by.rotation_period];
            before.mixed_period || periods.iter().any(|other| *other != period)
        });
        Self {
            by,
            mixed: before.is_some(),
            mixed_period,
            after: String::new(),
            left: Vec::new(),
            listed: false,
        }
    }
}

/// By which settings a tenant stands.
#[derive(Clone, Copy)]
struct Before<'a> {
    placed_by: &'a Placement,
    /// Or by those of a pass that was not finished.
    mixed: bool,
    /// Which had another period.
    mixed_period: bool,
}

/// Where the next change goes.
struct Moved {
    next: DateTime<Utc>,
    /// Its period changed, or its plan was none: it is another change than the one that was told.
    is_another: bool,
}

impl Moved {
    /// Plans the next change by the new settings; `None` if it stays. It is planned from the last one:
    /// the slot of the old settings may be as wrong as they were.
    fn of(
        record: &TenantRecord,
        config: &MountConfig,
        before: Before<'_>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let credential = record.live_credential()?;
        let by_mount = credential.rotation_policy == RotationPolicy::Mount;
        let placed_by = before.placed_by;
        let period = by_mount
            && (before.mixed_period || placed_by.rotation_period != config.rotation_period);
        let checks = before.mixed
            || placed_by.check_schedule != config.check_schedule
            || placed_by.spread != config.spread;
        let tenant = &record.tenant;
        if period || schedule::is_absurd(credential, config, now) {
            let next = schedule::replanned(credential, config, tenant, now)?;
            return Some(Self {
                next,
                is_another: true,
            });
        }
        if !checks {
            return None;
        }
        let next = schedule::rescheduled(credential, config, tenant, now)?;
        Some(Self {
            next,
            is_another: false,
        })
    }

    /// Moves the next change. Who was told of a day that is put off with its period is told again;
    /// of one that only other checks moved, nobody is told twice.
    fn apply(self, credential: &mut Credential) {
        let put_off = credential
            .next_rotation
            .is_some_and(|before| self.next - before > TimeDelta::days(1));
        if put_off && self.is_another {
            credential.notice_sent_at = None;
            credential.preflight = None;
        }
        credential.next_rotation = Some(self.next);
    }
}
