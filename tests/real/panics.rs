//! Whose a panic is: every one on a thread of a test fails that test, also in a task that nobody
//! waits for.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Arc, Mutex};

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Panics>> = const { RefCell::new(None) };
}

/// The panics of one test, with their places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panics(Arc<Mutex<Vec<String>>>);

impl Panics {
    /// From now on the panics of this thread are these.
    pub(crate) fn watch_this_thread(&self) {
        OF_THIS_THREAD.set(Some(self.clone()));
    }

    fn add(&self, panic: &PanicHookInfo<'_>) {
        let mut text = panic.to_string();
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text = format!("{text}\nstack backtrace:\n{backtrace}");
        }
        self.0.lock().unwrap().push(text);
    }

    /// What was said, in order.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Has the panics of tests kept for the tests; all others are told as usual.
pub(crate) fn keep() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        match OF_THIS_THREAD.with_borrow(Option::clone) {
            Some(panics) => panics.add(panic),
            None => usual(panic),
        }
    }));
}
