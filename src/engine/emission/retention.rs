//! How long delivered events are kept.
//!
//! The index by time says which are old. An event goes only if a device took it and its record has
//! let go of it: what was never delivered is kept for ever, and what a record still holds is as old
//! as its last change.
//!
//! What is old is judged by the believed time ([`Trusted`]) and by nothing else, and never more than
//! eight days of the history go within a day of it: a mistake shows while most is still there. A
//! retention that a person made smaller is their word for what it names, whatever it comes to.

use chrono::{NaiveDate, TimeDelta};

use crate::engine::Engine;
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::runner::Expiry;
use crate::engine::storage::{self, JOURNAL, JournalEntry, TrailEntry};
use crate::engine::trusted::Trusted;
use crate::logical::Mount;

/// Entries looked at in one pass, and the rest of a day that was begun; the next pass goes on.
const MOST: usize = 50_000;
/// If nothing was recorded for longer than this, nothing goes: the clock may be wrong.
const IDLE: TimeDelta = TimeDelta::days(30);
/// How many days of the journal may go within [`WITHIN`].
const MOST_DAYS: u32 = 8;
const WITHIN: TimeDelta = TimeDelta::hours(24);
/// How many names are listed at once.
const PAGE: usize = 1_000;

impl Engine {
    /// Removes delivered events that are older than the mount keeps them.
    ///
    /// # Errors
    ///
    /// That storage failed; what is left goes with the next pass.
    pub(in crate::engine) async fn expire_events(
        &self,
        mount: &Mount,
        config: &MountConfig,
    ) -> Result<(), Error> {
        let Some(now) = self.trusted() else {
            return Ok(());
        };
        let Some(oldest) = oldest_kept(config, now) else {
            return Ok(());
        };
        let mut expiry = self.expiry(mount).await?;
        if see_retention(&mut expiry, config.trail_retention, oldest) {
            self.store_expiry(mount, &expiry).await?;
        }
        let days = list_days(mount).await?;
        let today = now.at().date_naive();
        let newest = days.last().copied();
        if newest.is_none_or(|newest| today - newest > IDLE) {
            // Nothing happened for long, or the clock is ahead: then nothing is old either.
            return Ok(());
        }
        // What may not go yet must not keep what comes after it from being looked at.
        let from = self.emission.state().expired_before.take();
        let due = |day: &NaiveDate| *day < oldest && from.is_none_or(|it| *day >= it);
        let mut left = MOST;
        for day in days.into_iter().filter(due) {
            if left == 0 || self.tasks.is_stopping() {
                self.emission.state().expired_before = Some(day);
                break;
            }
            match self
                .expire_day(mount, day, left, (&mut expiry, now))
                .await?
            {
                Some(after) => left = after,
                None => {
                    // Its turn comes within a day.
                    self.emission.state().expired_before = Some(day);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes what may go of a day, which counts with the first of it. Returns how many entries may
    /// still be looked at; `None` if the day may not go yet.
    async fn expire_day(
        &self,
        mount: &Mount,
        day: NaiveDate,
        most: usize,
        (expiry, now): (&mut Expiry, Trusted),
    ) -> Result<Option<usize>, Error> {
        let folder = storage::journal_folder(day);
        let (mut left, mut after) = (most, String::new());
        let mut counted = false;
        loop {
            let page = mount.storage.list_page(&folder, &after, PAGE).await?;
            for event_id in &page {
                if self.tasks.is_stopping() {
                    return Ok(Some(left));
                }
                let key = storage::journal_key(day, event_id);
                let kept = match self.is_old(mount, &key, event_id).await {
                    Ok(Some(kept)) => kept,
                    Ok(None) => continue,
                    Err(error @ Error::Entry { .. }) => {
                        tracing::warn!(%error, "an old event stays");
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if !std::mem::replace(&mut counted, true) {
                    if !count_day(expiry, day, now) {
                        return Ok(None);
                    }
                    // Before anything goes: a crash must not give more days.
                    self.store_expiry(mount, expiry).await?;
                }
                if let Some(trail_key) = kept {
                    mount.storage.delete(&trail_key).await?;
                }
                // Last: it is how the others are found.
                mount.storage.delete(&key).await?;
            }
            left = left.saturating_sub(page.len());
            match page.into_iter().next_back() {
                Some(last) => after = last,
                None => return Ok(Some(left)),
            }
        }
    }

    /// Returns where the event of an index entry is kept, if anywhere; `None` if it may not go.
    async fn is_old(
        &self,
        mount: &Mount,
        key: &str,
        event_id: &str,
    ) -> Result<Option<Option<String>>, Error> {
        let Some(found) = mount.storage.get(key).await? else {
            return Ok(None);
        };
        let entry = JournalEntry::decode(key, &found.value)?;
        let log = self.read_log(mount, &entry.tenant).await?;
        if let Some(log) = &log
            && log.events().find(entry.seq).is_some()
        {
            return Ok(None);
        }
        let trail_key = storage::trail_key(&entry.tenant, entry.seq);
        let Some(found) = mount.storage.get(&trail_key).await? else {
            return Ok(Some(None));
        };
        let kept = TrailEntry::decode(&trail_key, &found.value)?;
        let own = kept.event.event_id == event_id;
        Ok((kept.delivered || !own).then(|| own.then_some(trail_key)))
    }
}

/// The first day that is kept.
fn oldest_kept(config: &MountConfig, now: Trusted) -> Option<NaiveDate> {
    let days = i64::try_from(config.trail_retention / (24 * 3600)).unwrap_or(i64::MAX);
    let age = TimeDelta::try_days(days).unwrap_or(TimeDelta::MAX);
    Some(now.at().checked_sub_signed(age)?.date_naive())
}

/// Takes the retention into account: a smaller one is somebody's word for the days that are older.
/// Reports whether there is anything to store.
fn see_retention(expiry: &mut Expiry, retention: u64, oldest: NaiveDate) -> bool {
    let stored = expiry.retention.replace(retention);
    let before = stored.unwrap_or(MountConfig::default().trail_retention);
    if retention < before {
        expiry.named_before = Some(oldest);
    } else if retention > before {
        // The word was taken back.
        expiry.named_before = None;
    }
    stored != Some(retention)
}

/// Counts a day that is to go; false if it may not go yet.
fn count_day(expiry: &mut Expiry, day: NaiveDate, now: Trusted) -> bool {
    if expiry.named_before.is_some_and(|before| day < before) {
        return true;
    }
    let begun = expiry.since.filter(|since| {
        // One that lies ahead was counted by a sight that was not true.
        *since <= now.at() && !now.is_past(*since, WITHIN)
    });
    if begun.is_none() {
        (expiry.since, expiry.days) = (Some(now.at()), 0);
    }
    if expiry.days >= MOST_DAYS {
        return false;
    }
    expiry.days += 1;
    true
}

/// Lists the days of the index, oldest first.
pub(in crate::engine) async fn list_days(mount: &Mount) -> Result<Vec<NaiveDate>, Error> {
    let mut days = Vec::new();
    let mut after = String::new();
    loop {
        let page = mount.storage.list_page(JOURNAL, &after, PAGE).await?;
        let parse =
            |name: &String| NaiveDate::parse_from_str(name.trim_end_matches('/'), "%Y%m%d").ok();
        days.extend(page.iter().filter_map(parse));
        match page.into_iter().next_back() {
            Some(last) => after = last,
            None => break,
        }
    }
    days.sort_unstable();
    Ok(days)
}
