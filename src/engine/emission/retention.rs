//! How long delivered events are kept.
//!
//! The index by time says which are old. An event goes only if a device took it and its record has
//! let go of it: what was never delivered is kept for ever, and what a record still holds is as old
//! as its last change.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use crate::engine::Engine;
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::storage::{self, JOURNAL, JournalEntry, TrailEntry};
use crate::logical::Mount;

/// Entries looked at in one pass; the next day goes on.
const MOST: usize = 50_000;
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
        let days = i64::try_from(config.trail_retention / (24 * 3600)).unwrap_or(i64::MAX);
        let age = TimeDelta::try_days(days).unwrap_or(TimeDelta::MAX);
        let Some(oldest) = self.clock().now().checked_sub_signed(age) else {
            return Ok(());
        };
        let mut left = MOST;
        for day in days_before(mount, oldest).await? {
            left = self.expire_day(mount, day, left).await?;
            if left == 0 || self.tasks.is_stopping() {
                break;
            }
        }
        Ok(())
    }

    async fn expire_day(&self, mount: &Mount, day: NaiveDate, most: usize) -> Result<usize, Error> {
        let folder = storage::journal_folder(day);
        let (mut left, mut after) = (most, String::new());
        loop {
            let page = mount.storage.list_page(&folder, &after, PAGE).await?;
            for event_id in page.iter().take(left) {
                if self.tasks.is_stopping() {
                    return Ok(0);
                }
                let key = storage::journal_key(day, event_id);
                if let Err(error) = self.expire_event(mount, &key, event_id).await {
                    if !matches!(error, Error::Entry { .. }) {
                        return Err(error);
                    }
                    tracing::warn!(%error, "an old event stays");
                }
            }
            left = left.saturating_sub(page.len());
            match page.into_iter().next_back() {
                Some(last) if left > 0 => after = last,
                _ => return Ok(left),
            }
        }
    }

    async fn expire_event(&self, mount: &Mount, key: &str, event_id: &str) -> Result<(), Error> {
        let Some(found) = mount.storage.get(key).await? else {
            return Ok(());
        };
        let entry = JournalEntry::decode(key, &found.value)?;
        let log = self.read_log(mount, &entry.tenant).await?;
        if let Some(log) = &log
            && log.events().find(entry.seq).is_some()
        {
            return Ok(());
        }
        let trail_key = storage::trail_key(&entry.tenant, entry.seq);
        if let Some(found) = mount.storage.get(&trail_key).await? {
            let kept = TrailEntry::decode(&trail_key, &found.value)?;
            if kept.event.event_id == event_id {
                if !kept.delivered {
                    return Ok(());
                }
                mount.storage.delete(&trail_key).await?;
            }
        }
        // Last: it is how the others are found.
        Ok(mount.storage.delete(key).await?)
    }
}

/// Lists the days of the index before an instant's, oldest first.
async fn days_before(mount: &Mount, oldest: DateTime<Utc>) -> Result<Vec<NaiveDate>, Error> {
    let names = list_days(mount).await?;
    let before = |day: &NaiveDate| *day < oldest.date_naive();
    Ok(names.into_iter().filter(before).collect())
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
