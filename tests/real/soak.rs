//! Kills at random moments: the plugin and the whole server die during rotations, resets, rollbacks
//! and changes of the keyring, while Mailu is slow and loses answers. After every round exactly one
//! stored password logs in and reads agree with storage.
//!
//! What is random comes from one seed, which is printed; `SMTP_SOAK_SEED` sets it. Which call a
//! kill meets also depends on the machine.

use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::api::Answer;
use super::harness::tests;
use super::product::Product;
use super::rig::{EMAIL, FIRST, Rig};
use crate::support::mailu::standin::{Fault, LoginAnswer, Rule};

tests! {
    kills_at_random_moments_lose_nothing,
    soak
        ignored "takes half an hour: scripts/soak runs it and sets SMTP_SOAK_MINUTES",
}

/// A change without trouble takes so many milliseconds or more; half of the kills come sooner.
const EARLY_KILL: u64 = 120;
/// Longer than most changes take with trouble, so that some kills come too late.
const LATEST_KILL: u64 = 900;
/// A tick comes once a minute, and a change that failed waits a minute or two for its turn.
const TICKS: Duration = Duration::from_secs(400);
/// How many of the values seen last are tried at Mailu.
const TRIED: usize = 12;

/// What is done to the credential or to the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Rotate,
    Reset,
    Rollback,
    Rekey,
    Trim,
}

/// More of what the others need to be interesting.
const OPERATIONS: [Operation; 8] = [
    Operation::Rotate,
    Operation::Rotate,
    Operation::Rotate,
    Operation::Reset,
    Operation::Rollback,
    Operation::Rollback,
    Operation::Rekey,
    Operation::Trim,
];

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Nobody,
    Plugin,
    Server,
}

#[derive(Debug, Default)]
struct Tally {
    rounds: u32,
    plugin_kills: u32,
    server_kills: u32,
    /// Rounds whose change was open after the kill.
    open: u32,
    settled_by_ticks: u32,
}

struct Soak {
    rig: Rig,
    random: StdRng,
    /// Where the record is, for a look past the plugin.
    record: String,
    /// Every password that an answer held, newest last.
    seen: Vec<String>,
    /// Since this version none is compromised.
    clean_since: u64,
    tally: Tally,
}

impl Soak {
    async fn start() -> Self {
        let seed = std::env::var("SMTP_SOAK_SEED").ok();
        let seed = seed.map(|seed| seed.parse().expect("SMTP_SOAK_SEED is a number"));
        let seed: u64 = seed.unwrap_or_else(rand::random);
        report(&format!("soak: SMTP_SOAK_SEED={seed}"));
        let rig = Rig::alone("smtp").await;
        rig.write("config", json!({"wait": "4s"}))
            .await
            .no_content();
        rig.create("acme").await;
        let mount = rig.api.read("sys/mounts/smtp").await;
        let uuid = mount.data()["uuid"].as_str().unwrap();
        Self {
            record: format!("sys/raw/logical/{uuid}/tenant/acme"),
            random: StdRng::seed_from_u64(seed),
            seen: vec![FIRST.to_owned(), rig.password("acme").await],
            clean_since: 1,
            tally: Tally::default(),
            rig,
        }
    }

    /// One operation with trouble at Mailu and a kill, settled by the next requests.
    async fn round(&mut self) {
        let operation = OPERATIONS[self.random.random_range(0..OPERATIONS.len())];
        let (path, body) = self.request(operation).await;
        for _ in 0..self.random.random_range(0..3) {
            let rule = self.trouble();
            self.rig.mailu.fault(rule);
        }
        let victim = self.victim();
        let delay = self.delay();
        let (_, ()) = tokio::join!(self.rig.api.attempt("POST", &path, &body), async {
            sleep(delay).await;
            self.kill(victim);
        });
        self.count(victim);
        self.rig.mailu.release().await;
        self.revive(victim).await;
        self.tally.open += u32::from(self.is_open().await);

        // The settling may be killed as well.
        let again = if self.random.random_bool(0.5) {
            (path.as_str(), &body)
        } else {
            ("smtp/acme/verify", &json!({}))
        };
        if self.random.random_bool(0.3) {
            let delay = self.delay();
            let (_, ()) = tokio::join!(self.rig.api.attempt("POST", again.0, again.1), async {
                sleep(delay).await;
                self.kill(Victim::Plugin);
            });
            self.count(Victim::Plugin);
        }
        self.rig.mailu.clear_faults();
        self.rig.mailu.release().await;
        self.settle_by_requests().await;
        self.check(&format!("{operation:?}, {victim:?} killed after {delay:?}"))
            .await;
    }

    /// A change that is cut off for certain, and that nobody asks for again: only ticks settle it.
    async fn round_by_ticks(&mut self) {
        let operation = [Operation::Rotate, Operation::Reset, Operation::Rollback];
        let operation = operation[self.random.random_range(0..operation.len())];
        let (path, body) = self.request(operation).await;
        // Taken when the plugin is dead already, or never.
        let fault = if self.random.random_bool(0.5) {
            Fault::Hold { ms: None }
        } else {
            Fault::HangBefore { ms: None }
        };
        self.rig.mailu.fault(Rule::new(fault).method("PATCH"));
        let victim = if self.random.random_bool(0.5) {
            Victim::Plugin
        } else {
            Victim::Server
        };
        let (_, ()) = tokio::join!(self.rig.api.attempt("POST", &path, &body), async {
            self.rig.until_held().await;
            self.kill(victim);
        });
        self.count(victim);
        self.rig.mailu.clear_faults();
        self.rig.mailu.release().await;
        self.revive(victim).await;
        let open = self.is_open().await;
        self.tally.open += u32::from(open);
        let settled = async {
            // And the look after it was taken, before which nothing is called settled.
            while self.is_open().await || self.is_looked_for().await {
                sleep(Duration::from_millis(500)).await;
            }
        };
        if timeout(TICKS, settled).await.is_err() {
            self.lost("no tick settled the open change").await;
        }
        // The host may have sent the request of a killed plugin again, which settled it.
        self.tally.settled_by_ticks += u32::from(open);
        self.check(&format!("{operation:?}, {victim:?} killed, by ticks"))
            .await;
    }

    async fn request(&mut self, operation: Operation) -> (String, Value) {
        let number = self.tally.rounds;
        let rotate = || {
            let body = json!({"reason": format!("round {number}")});
            (String::from("smtp/acme/rotate"), body)
        };
        match operation {
            Operation::Rotate => rotate(),
            Operation::Reset => {
                let incident = format!("INC-{number}");
                let body = json!({"incident_id": incident, "reason": "a test"});
                (String::from("smtp/acme/reset"), body)
            }
            Operation::Rollback => {
                let current = self.rig.admin("acme").await["version"].as_u64().unwrap();
                let oldest = self.clean_since.max(current.saturating_sub(4));
                if oldest >= current {
                    return rotate();
                }
                let version = self.random.random_range(oldest..current);
                let body = json!({"version": version, "reason": format!("round {number}")});
                (String::from("smtp/acme/rollback"), body)
            }
            Operation::Rekey => (String::from("smtp/config/keyring/rotate"), json!({})),
            Operation::Trim => (String::from("smtp/config/keyring/trim"), json!({})),
        }
    }

    /// A delay or a lost answer.
    fn trouble(&mut self) -> Rule {
        let ms = self.random.random_range(50..1500);
        // A write that waits is held, so that none is on its way when a round ends.
        let faults = [
            Fault::CutBefore,
            Fault::CutAfter,
            Fault::HangBefore { ms: Some(ms) },
            Fault::HangAfter { ms: Some(ms) },
            Fault::Hold { ms: Some(ms) },
            Fault::ApplyLater,
            Fault::BadGateway,
            Fault::ErrorBefore,
            Fault::ErrorAfter,
            Fault::Garbage,
        ];
        if self.random.random_bool(0.3) {
            let first = self.random.random_range(0..3);
            let fault = if self.random.random_bool(0.5) {
                Fault::Latency { ms: ms / 3 }
            } else {
                Fault::CutBefore
            };
            return Rule::new(fault).method("GET").after(first);
        }
        let fault = faults[self.random.random_range(0..faults.len())].clone();
        Rule::new(fault).method("PATCH")
    }

    /// How long after the request somebody dies.
    fn delay(&mut self) -> Duration {
        let latest = if self.random.random_bool(0.5) {
            EARLY_KILL
        } else {
            LATEST_KILL
        };
        Duration::from_millis(self.random.random_range(0..latest))
    }

    fn victim(&mut self) -> Victim {
        match self.random.random_range(0..10) {
            0 => Victim::Nobody,
            1..=6 => Victim::Plugin,
            _ => Victim::Server,
        }
    }

    fn kill(&self, victim: Victim) {
        match victim {
            Victim::Nobody => {}
            Victim::Server => self.rig.server.stop("KILL"),
            Victim::Plugin => {
                // At this moment there may be none.
                for plugin in self.rig.server.plugins() {
                    let mut kill = Command::new("kill");
                    let _ = kill.args(["-s", "KILL", &plugin.to_string()]).output();
                }
            }
        }
    }

    fn count(&mut self, victim: Victim) {
        match victim {
            Victim::Nobody => {}
            Victim::Plugin => self.tally.plugin_kills += 1,
            Victim::Server => self.tally.server_kills += 1,
        }
    }

    /// Has the server run again; the plugin comes back with the next request or tick.
    async fn revive(&self, victim: Victim) {
        if victim == Victim::Server {
            self.rig.server.start_again().await;
            self.rig.server.unseal_alone().await;
        }
    }

    /// The record as it is stored.
    async fn stored(&self) -> Value {
        let raw = self.rig.api.read(&self.record).await;
        serde_json::from_str(raw.data()["value"].as_str().unwrap()).unwrap()
    }

    async fn is_open(&self) -> bool {
        !self.stored().await["intent"].is_null()
    }

    async fn is_looked_for(&self) -> bool {
        !self.stored().await["open"]["confirm_first"].is_null()
    }

    /// Writes `verify` until the credential is settled.
    async fn settle_by_requests(&mut self) {
        let none = json!({});
        let settled = async {
            let mut unreached = 0;
            loop {
                let api = &self.rig.api;
                let verify = api.attempt("POST", "smtp/acme/verify", &none).await;
                let read = api.attempt("GET", "smtp/acme/admin", &none).await;
                unreached = if read.as_ref().is_some_and(is_of_a_dead_plugin) {
                    unreached + 1
                } else {
                    0
                };
                self.reload_for_vault(unreached).await;
                let read = read.map(|answer| answer.body);
                let state = read.map(|body| body["data"]["state"].clone());
                if verify.is_some_and(|it| it.status == 200) && state == Some(json!("settled")) {
                    return;
                }
                sleep(Duration::from_millis(250)).await;
            }
        };
        if timeout(TICKS, settled).await.is_err() {
            self.lost("no request settled the credential").await;
        }
    }

    /// A Vault whose plugin dies right after its start may keep the dead process for good, and send
    /// it every request: then operators reload the plugin. OpenBao must come back by itself.
    async fn reload_for_vault(&self, unreached: u32) {
        if Product::tested() == Product::Vault && unreached % 20 == 19 {
            report("soak: Vault does not notice that the plugin died: it is reloaded");
            self.rig.server.reload().await;
        }
    }

    /// Exactly one stored value logs in, and it is the one that is read; reads agree with storage.
    async fn check(&mut self, what: &str) {
        self.tally.rounds += 1;
        let read = self.rig.admin("acme").await;
        let password = read["password"].as_str().unwrap().to_owned();
        if !self.seen.contains(&password) {
            self.seen.push(password.clone());
        }
        let first = self.seen.len().saturating_sub(TRIED);
        let tried = self.seen[first..].to_vec();
        let live = tried
            .into_iter()
            .filter(|it| self.rig.mailu.password_fits(EMAIL, it));
        let live: Vec<String> = live.collect();
        if read["state"] != "settled" || live != [password.clone()] {
            self.lost(what).await;
        }
        if self.rig.mailu.login(EMAIL, &password).await != LoginAnswer::Good {
            self.lost(&format!("{what}: the password does not log in"))
                .await;
        }
        let record = self.stored().await;
        let credential = &record["credential"];
        let versions = credential["versions"].as_array().unwrap();
        let numbers = versions.iter().map(|it| it["number"].to_string());
        let numbers: Vec<Value> = numbers.map(Value::from).collect();
        let listed = self.rig.list("acme/versions").await;
        let agrees = record["intent"].is_null()
            && credential["current"] == read["version"]
            && listed.data()["keys"] == Value::from(numbers);
        if !agrees {
            self.lost(&format!("{what}: reads and storage disagree"))
                .await;
        }
        let compromised = versions.iter().filter(|it| !it["compromised"].is_null());
        let compromised = compromised.filter_map(|it| it["number"].as_u64()).max();
        self.clean_since = compromised.map_or(1, |number| number + 1);
        self.check_events(what).await;
    }

    /// The events have no gap.
    async fn check_events(&self, what: &str) {
        let events = self.rig.read("acme/events?limit=200").await;
        let events = events.data()["events"].as_array().unwrap().clone();
        for pair in events.windows(2) {
            let chained = pair[0]["prev_hash"] == pair[1]["hash"]
                && pair[0]["seq"].as_u64() == pair[1]["seq"].as_u64().map(|seq| seq + 1);
            if !chained {
                self.lost(&format!("{what}: a gap in the events")).await;
            }
        }
    }

    /// Ends the test with everything that tells why.
    async fn lost(&self, what: &str) {
        let mut read = self.rig.read("acme/admin").await.body;
        let known = |text: &str| self.seen.iter().position(|it| it == text);
        if let Some(Value::String(password)) = read["data"].get_mut("password") {
            *password = format!("seen as {:?}", known(password));
        }
        let fits = |it: &&String| self.rig.mailu.password_fits(EMAIL, it);
        let live = self.seen.iter().rev().find(fits);
        report(&format!("soak: {:?}, losses: 1", self.tally));
        panic!(
            "round {}: {what}\nread: {read:#}\nlive at Mailu: seen as {:?}\nstored: {:#}",
            self.tally.rounds,
            live.map(|it| known(it)),
            self.stored().await,
        );
    }

    /// A key rotated before was taken up by ticks; the old ones can go.
    async fn check_keyring(&mut self) {
        let finished = async {
            loop {
                let read = self.rig.read("config/keyring").await;
                let rewrap = &read.data()["rewrap"];
                if rewrap["finished_at"].is_string() && rewrap["version"] == read.data()["latest"] {
                    return read.data().clone();
                }
                sleep(Duration::from_millis(500)).await;
            }
        };
        let Ok(read) = timeout(TICKS, finished).await else {
            return self.lost("the rewrap does not end").await;
        };
        assert_eq!(
            read["versions"].as_array().unwrap().last().unwrap()["tenants"],
            1
        );
        let trimmed = self.rig.write("config/keyring/trim", json!({})).await;
        let left = trimmed.data()["versions"].as_array().unwrap().clone();
        assert_eq!(left.len(), 1, "{trimmed:?}");
        assert_eq!(left[0]["version"], read["latest"]);
        self.kill(Victim::Plugin);
        self.settle_by_requests().await;
        self.check("after the old keys were removed").await;
    }

    fn report(&self) {
        report(&format!("soak: {:?}, losses: 0", self.tally));
    }
}

/// Reports whether the host sent a request to a plugin that is no more.
fn is_of_a_dead_plugin(answer: &Answer) -> bool {
    answer.error().contains("rpc error: code = Unavailable")
}

/// Shown with `--nocapture`.
#[expect(clippy::print_stdout, reason = "says how much was tried")]
fn report(line: &str) {
    println!("{line}");
}

async fn kills_at_random_moments_lose_nothing() {
    let mut soak = Soak::start().await;
    let rekeyed = soak.rig.write("config/keyring/rotate", json!({})).await;
    assert_eq!(rekeyed.data()["version"], 2);
    for _ in 0..7 {
        soak.round().await;
    }
    soak.round_by_ticks().await;
    soak.check_keyring().await;
    soak.report();
    soak.rig.assert_nothing_leaked();
}

/// The same for as long as told, every eighth round settled by ticks.
async fn soak() {
    let minutes = std::env::var("SMTP_SOAK_MINUTES").expect("SMTP_SOAK_MINUTES");
    let minutes: u64 = minutes.parse().expect("SMTP_SOAK_MINUTES is a number");
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut soak = Soak::start().await;
    while Instant::now() < end {
        for _ in 0..7 {
            soak.round().await;
        }
        soak.round_by_ticks().await;
        soak.report();
    }
    let rekeyed = soak.rig.write("config/keyring/rotate", json!({})).await;
    rekeyed.data();
    soak.check_keyring().await;
    soak.report();
    soak.rig.assert_nothing_leaked();
}
