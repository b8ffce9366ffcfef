//! [`Work`]: a piece of work that goes on, and who waits for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Kept, Outcome, Render, Rendered};
use crate::engine::error::Error;
use crate::engine::storage::record::TenantRecord;
use crate::logical::Response;

/// How long the outcome of work whose requests all left is kept for a repeat. Clients that repeat
/// a 503 by themselves do so within seconds; a person who asks again later means it.
const UNCLAIMED: Duration = Duration::from_secs(15);

/// Who still waits for a piece of work.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Waiters(Arc<AtomicUsize>);

impl Waiters {
    /// Reports whether anybody would see an answer.
    pub(in crate::engine) fn is_any_left(&self) -> bool {
        self.count() > 0
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
pub(super) enum Answer {
    ForAll(Box<Outcome>),
    ForOne(Arc<Secret>),
    Nobody,
}

/// An answer with a secret, for one of those who wait.
pub(super) struct Secret(Mutex<Shown>);

enum Shown {
    /// Nobody came yet.
    Ready(Render),
    /// One of them has it.
    ToOne,
    /// It was not true any more when the first one came: nobody has it, and all begin anew.
    ToNobody,
}

impl Secret {
    pub(super) fn new(render: Render) -> Self {
        Self(Mutex::new(Shown::Ready(render)))
    }

    /// Makes the answer; `None` if the work has to begin anew.
    ///
    /// # Errors
    ///
    /// [`Error::ShownToAnother`]; that it cannot be made.
    pub(super) fn show(&self, record: Option<&TenantRecord>) -> Result<Option<Response>, Error> {
        // Held while it is made: whoever comes meanwhile must know what became of it.
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *shown, Shown::ToNobody) {
            Shown::Ready(render) => match render(record)? {
                Rendered::Shown(response) => {
                    *shown = Shown::ToOne;
                    Ok(Some(*response))
                }
                Rendered::Stale => Ok(None),
            },
            Shown::ToOne => {
                *shown = Shown::ToOne;
                Err(Error::ShownToAnother)
            }
            Shown::ToNobody => Ok(None),
        }
    }
}

pub(super) struct Work {
    /// The answer and when it came.
    pub(super) answer: watch::Receiver<Option<(Answer, Duration)>>,
    pub(super) waiters: Waiters,
    pub(super) stored: Stored,
}

/// Where work notes that it has stored what it is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored(Arc<AtomicBool>);

impl Stored {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

tokio::task_local! {
    pub(super) static STORED: Stored;
}

/// Notes that the work which runs here has stored what it promises: a tenant's record, a setting, a
/// batch. Called where that Put is made and nowhere else: what is tidied up beside it is no promise.
pub(in crate::engine) fn note_stored() {
    // Outside of joined work nobody waits.
    let _nobody = STORED.try_with(|stored| stored.0.store(true, Ordering::SeqCst));
}

impl Work {
    /// Reports whether a request may still join: the work runs, or its outcome waits to be taken.
    pub(super) fn is_joinable(&self, kept: Kept, now: Duration) -> bool {
        match &*self.answer.borrow() {
            Some((Answer::Nobody, _)) => false,
            Some((_, ended)) => kept != Kept::No && now.saturating_sub(*ended) < UNCLAIMED,
            None => self.is_running(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        // A sender that is gone without an outcome panicked.
        self.answer.borrow().is_none() && self.answer.has_changed().is_ok()
    }

    /// How many places it takes: each who waits has one, and work that everybody left has one.
    pub(super) fn places(&self) -> usize {
        if self.is_running() {
            self.waiters.count().max(1)
        } else {
            0
        }
    }

    pub(super) fn wait(&self) -> Waiting {
        Waiting::new(self, self.waiters.clone())
    }

    /// Waits for its end, not for its answer.
    pub(super) fn wait_aside(&self) -> Waiting {
        Waiting::new(self, Waiters::default())
    }
}

/// One who waits, until dropped.
pub(super) struct Waiting {
    pub(super) answer: watch::Receiver<Option<(Answer, Duration)>>,
    pub(super) waiters: Waiters,
}

impl Waiting {
    fn new(work: &Work, waiters: Waiters) -> Self {
        waiters.0.fetch_add(1, Ordering::SeqCst);
        Self {
            answer: work.answer.clone(),
            waiters,
        }
    }

    pub(super) async fn ended(&mut self) -> Result<Answer, Error> {
        let lost = || Error::Defect("joined work ended without an outcome");
        let ended = self.answer.wait_for(Option::is_some).await;
        let ended = ended.map_err(|_panicked| Error::Defect("a background task failed"))?;
        ended
            .as_ref()
            .map(|(answer, _)| answer.clone())
            .ok_or_else(lost)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_true_any_more_was_shown_to_nobody() {
        let stale = Secret::new(Box::new(|_record| Ok(Rendered::Stale)));
        for _ in 0..3 {
            assert!(matches!(stale.show(None), Ok(None)));
        }
        let failed = Secret::new(Box::new(|_record| Err(Error::NoCredential)));
        assert!(matches!(failed.show(None), Err(Error::NoCredential)));
        assert!(matches!(failed.show(None), Ok(None)));
        let shown = |_record: Option<&TenantRecord>| Ok(Rendered::Shown(Box::default()));
        let shown = Secret::new(Box::new(shown));
        assert!(matches!(shown.show(None), Ok(Some(_))));
        for _ in 0..2 {
            assert!(matches!(shown.show(None), Err(Error::ShownToAnother)));
        }
    }
}
