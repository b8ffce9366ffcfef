//! Whose a panic is: every one on a thread of a test fails that test, also in a task that nobody
//! waits for.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Completion, Failed};
use vault_plugin_secrets_smtp::tasks::Tasks;

use super::harness::{Test, Times, perform, tests};

tests! {
    plain:
    a_panic_fails_its_test_with_its_place,
    a_panic_of_a_task_that_nobody_waits_for_fails_the_test,
}

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

/// What becomes of a test like this, on a thread of its own.
fn outcome_of(run: fn() -> Pin<Box<dyn Future<Output = ()>>>) -> Result<Completion, Failed> {
    let test = Test {
        name: "of the harness itself",
        needs: &[],
        ignored: None,
        run,
    };
    let thread = std::thread::spawn(move || perform(&test, &Times::default()));
    thread.join().unwrap()
}

fn a_panic_fails_its_test_with_its_place() {
    let failed = outcome_of(|| Box::pin(async { panic!("of the test") }));
    let failed = failed.err().unwrap();
    let message = failed.message().unwrap();
    assert!(
        message.starts_with("panicked at tests/real/panics.rs:"),
        "{message}"
    );
    assert!(message.contains("\nof the test"), "{message}");
    assert!(outcome_of(|| Box::pin(std::future::ready(()))).is_ok());
}

fn a_panic_of_a_task_that_nobody_waits_for_fails_the_test() {
    let failed = outcome_of(|| {
        Box::pin(async {
            Tasks::new().spawn(async { panic!("of a task") });
            tokio::task::yield_now().await;
        })
    });
    let failed = failed.err().unwrap();
    let message = failed.message().unwrap();
    assert!(
        message.starts_with("a task of this test panicked at tests/real/"),
        "{message}"
    );
    assert!(message.contains("\nof a task"), "{message}");
    let blocking = outcome_of(|| {
        Box::pin(async {
            let ended = tokio::task::spawn_blocking(|| panic!("of a thread")).await;
            assert!(ended.is_err());
        })
    });
    let blocking = blocking.err().unwrap();
    assert!(blocking.message().unwrap().contains("\nof a thread"));
}
