//! Runs the tests as libtest does, with what it cannot do: a test that the server under test has no
//! means for is ignored with the reason, all others get a thread as far as memory goes, and each is
//! timed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};

use super::panics::{self, Panics};
use super::product::{Need, Product};
use super::threads;

/// How many of the slowest tests are told at the end.
const SLOWEST: usize = 10;
/// Longer than any test that is not left out unless asked for; each wait has a shorter limit of its
/// own, and says what it waited for.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A test: what it is called, what it needs of the host and what it does.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    /// Why it runs only if asked for with `--ignored`.
    pub(crate) ignored: Option<&'static str>,
    pub(crate) run: fn() -> Pin<Box<dyn Future<Output = ()>>>,
}

/// The list of a module's tests. A test that is missing here is dead code to the compiler.
///
/// `needs [...]` after a name is what the host must be able to do; `ignored "..."` is why the test
/// is left out unless asked for. Functions that wait for nothing stand in a list that begins with
/// `plain:`.
macro_rules! tests {
    (plain: $($name:ident),+ $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::harness::Test> {
            vec![$($crate::harness::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                needs: &[],
                ignored: None,
                run: || {
                    $name();
                    Box::pin(std::future::ready(()))
                },
            }),+]
        }
    };
    ($($name:ident $(needs [$($need:ident),+])? $(ignored $reason:literal)?),+ $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::harness::Test> {
            vec![$($crate::harness::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                needs: &[$($($crate::product::Need::$need),+)?],
                ignored: <[&str]>::first(&[$($reason)?]).copied(),
                run: || Box::pin($name()),
            }),+]
        }
    };
}
pub(crate) use tests;

pub(crate) type Times = Arc<Mutex<Vec<(Duration, &'static str)>>>;

/// Runs the tests that the command line asks for.
pub(crate) fn run(tests: Vec<Test>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let times = Times::default();
    let tests = tests.into_iter();
    let trials: Vec<Trial> = tests.map(|test| trial(test, &arguments, &times)).collect();
    let wanted = trials.iter().filter(|it| !arguments.is_filtered_out(it));
    if arguments.list || wanted.count() == 0 {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    match Product::tested().introduction() {
        Ok(host) => say(&host),
        Err(why) => {
            complain(&why);
            return ExitCode::FAILURE;
        }
    }
    if arguments.test_threads.is_none() {
        let threads = threads::affordable();
        if let Some(why) = threads.why_fewer() {
            say(&why);
        }
        arguments.test_threads = Some(threads.count);
    }
    panics::keep();
    let conclusion = libtest_mimic::run(&arguments, trials);
    tell_times(&times);
    conclusion.exit_code()
}

fn trial(test: Test, arguments: &Arguments, times: &Times) -> Trial {
    let asked_for = arguments.ignored || arguments.include_ignored;
    let lacked = test
        .needs
        .iter()
        .find_map(|it| Product::tested().lacks(*it));
    let reason = test.ignored.filter(|_| !asked_for).or(lacked);
    let is_ignored = test.ignored.is_some() && asked_for;
    let times = Arc::clone(times);
    let trial = Trial::ignorable_test(test.name, move || match reason {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => perform(&test, &times),
    });
    trial.with_ignored_flag(is_ignored)
}

/// Runs one test on this thread, with a runtime of its own.
pub(crate) fn perform(test: &Test, times: &Times) -> Result<Completion, Failed> {
    let panics = Panics::default();
    panics.watch_this_thread();
    let began = Instant::now();
    let threads = panics.clone();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_start(move || threads.watch_this_thread())
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let done = (test.run)();
            match test.ignored {
                Some(_) => done.await,
                None => timeout(LONGEST, done).await.unwrap_or_else(|_| {
                    panic!("not done after {LONGEST:?}, in a wait of no limit of its own")
                }),
            }
        });
    }));
    times.lock().unwrap().push((began.elapsed(), test.name));
    let texts = panics.texts();
    match ended {
        Ok(()) if texts.is_empty() => Ok(Completion::Completed),
        Ok(()) => Err(format!("a task of this test {}", texts.join("\n")).into()),
        Err(_) if texts.is_empty() => Err("it ended by a panic of somebody else".into()),
        Err(_) => Err(texts.join("\n").into()),
    }
}

/// Tells how long each test took, the slowest last.
fn tell_times(times: &Times) {
    let mut times = times.lock().unwrap();
    times.sort_unstable();
    let line =
        |(took, name): &(Duration, &str)| say(&format!("{:9.2} s  {name}", took.as_secs_f64()));
    let (others, slowest) = times.split_at(times.len().saturating_sub(SLOWEST));
    others.iter().for_each(line);
    say(&format!("the {} slowest:", slowest.len()));
    slowest.iter().for_each(line);
}

#[expect(clippy::print_stdout, reason = "the report of a test run")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "why there is no test run")]
fn complain(text: &str) {
    eprintln!("{text}");
}
