//! How many tests run at a time: each has a server of its own, or two, beside those that are shared.

use std::fs;
use std::path::Path;

use super::harness::tests;
use super::product::Product;

tests! {
    plain:
    where_memory_is_short_there_are_fewer_and_never_none,
    the_tightest_of_all_groups_counts,
}

/// Most of a test is waiting for its server, so the number of processors does not matter.
const MOST: usize = 16;
/// The servers that tests share: one, a pair, and that of the examples.
const SHARED: usize = 4;
/// So many tests have a pair of their own.
const PAIRS: usize = 6;
/// This process, with the mail servers of all tests.
const OWN: u64 = 200;
/// For what runs at the same time: the tests inside one process, or a compiler.
const BESIDE: u64 = 600;

/// How many tests run at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    pub(crate) count: usize,
    /// In MiB.
    available: u64,
    /// For all that could run at a time.
    wanted: u64,
}

/// Where a version of control groups keeps what memory a group has.
#[derive(Debug)]
struct Version {
    root: &'static str,
    /// What the line of `/proc/self/cgroup` has before and behind its number.
    line: (&'static str, &'static str),
    most: &'static str,
    used: &'static str,
    cached: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        root: "/sys/fs/cgroup",
        line: ("0", "::/"),
        most: "memory.max",
        used: "memory.current",
        cached: "inactive_file",
    },
    Version {
        root: "/sys/fs/cgroup/memory",
        line: ("", ":memory:/"),
        most: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cached: "total_inactive_file",
    },
];

impl Version {
    /// The group that a line of `/proc/self/cgroup` names, if it is of this version.
    fn path<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (number, path) = line.split_once(self.line.1)?;
        (self.line.0.is_empty() || number == self.line.0).then_some(path)
    }
}

/// As many as memory allows now.
pub(crate) fn affordable() -> Threads {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = VERSIONS.iter().map(|version| {
        let own = groups.lines().find_map(|line| version.path(line));
        left(version, Path::new(version.root), own.unwrap_or_default())
    });
    let of_groups = of_groups.min().unwrap_or(u64::MAX);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of_machine = number_after(&memory, "MemAvailable:").map_or(u64::MAX, |kib| kib / 1024);
    Threads::with(of_machine.min(of_groups), Product::tested())
}

impl Product {
    /// What a server takes with its plugin, in MiB. Resident were up to 115 of OpenBao, 270 of Vault
    /// and 32 of the plugin; the rest is for what this did not meet.
    const fn memory(self) -> u64 {
        match self {
            Self::OpenBao => 170,
            Self::Vault => 340,
        }
    }
}

impl Threads {
    fn with(available: u64, host: Product) -> Self {
        let fits = |count: &usize| needed(*count, host) <= available;
        let count = (1..=MOST).rev().find(fits).unwrap_or(1);
        let wanted = needed(MOST, host);
        Self {
            count,
            available,
            wanted,
        }
    }

    /// One line for people where it is not the usual number.
    pub(crate) fn why_fewer(self) -> Option<String> {
        let Self {
            count,
            available,
            wanted,
        } = self;
        (count < MOST).then(|| {
            format!(
                "{count} tests at a time, not {MOST}: {available} MiB of memory are left, and \
                 {MOST} would need {wanted} (--test-threads sets another number)"
            )
        })
    }
}

/// The memory for so many tests at a time, in MiB.
fn needed(tests: usize, host: Product) -> u64 {
    let servers = SHARED + tests + tests.min(PAIRS);
    BESIDE + OWN + host.memory() * servers as u64
}

/// What the control group below `root` and those around it leave, in MiB.
fn left(version: &Version, root: &Path, group: &str) -> u64 {
    let folder = root.join(group);
    let groups = folder.ancestors().take_while(|it| it.starts_with(root));
    let left = groups.filter_map(|folder| left_in(version, folder));
    left.min().unwrap_or(u64::MAX)
}

/// What one group leaves; `None` where it has no limit.
fn left_in(version: &Version, folder: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let most: u64 = read(version.most)?.trim().parse().ok()?;
    let used: u64 = read(version.used)?.trim().parse().ok()?;
    // Files that were read: given back as soon as somebody needs the memory.
    let cached = read("memory.stat").and_then(|it| number_after(&it, version.cached));
    let used = used.saturating_sub(cached.unwrap_or_default());
    Some(most.saturating_sub(used) / 1024 / 1024)
}

/// The number that follows `name` at the begin of a line.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn where_memory_is_short_there_are_fewer_and_never_none() {
    for host in [Product::OpenBao, Product::Vault] {
        let enough = needed(MOST, host);
        let all = Threads::with(enough, host);
        assert_eq!((all.count, all.why_fewer()), (MOST, None));
        for count in 1..MOST {
            let needed = needed(count + 1, host) - 1;
            let fewer = Threads::with(needed, host);
            assert_eq!(fewer.count, count, "{host:?}");
            let why = fewer.why_fewer().unwrap();
            assert!(why.contains(&format!("{needed} MiB")), "{why}");
        }
        assert_eq!(Threads::with(0, host).count, 1);
    }
}

fn the_tightest_of_all_groups_counts() {
    const MIB: u64 = 1024 * 1024;
    for version in &VERSIONS {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, max: &str, current: u64, cached: u64| {
            let folder = root.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            let current = format!("{}\n", current * MIB);
            let stat = format!("anon 5\n{} {}\n", version.cached, cached * MIB);
            for (name, text) in [
                (version.most, format!("{max}\n")),
                (version.used, current),
                ("memory.stat", stat),
            ] {
                fs::write(folder.join(name), text).unwrap();
            }
        };
        let left = |group: &str| left(version, root.path(), group);
        assert_eq!(left("a/b"), u64::MAX, "no limit anywhere");
        write("a/b", "max", 10, 0);
        assert_eq!(left("a/b"), u64::MAX);
        write("a", &(4096 * MIB).to_string(), 3000, 1000);
        assert_eq!(left("a/b"), 2096);
        write("a/b", &(3000 * MIB).to_string(), 1000, 0);
        assert_eq!(left("a/b"), 2000);
        assert_eq!(left("a"), 2096);
    }
    let [second, first] = &VERSIONS;
    assert_eq!(second.path("0::/a/b"), Some("a/b"));
    assert_eq!(second.path("1:name=systemd:/a"), None);
    assert_eq!(first.path("4:memory:/a/b"), Some("a/b"));
    assert_eq!(first.path("0::/a/b"), None);
}
