//! The course of a simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use tokio::time::Instant;
use vault_plugin_secrets_smtp::clock::Clock as _;
use vault_plugin_secrets_smtp::logical::{MemoryStorage, Operation};

use super::clock::SimulatedClock;
use super::expect::{Expected, minute};
use super::mail::{Health, Mail};
use super::node::Node;
use super::plot::{self, Turn};
use super::population::{self, Kind};
use super::{Figures, Settings};

/// Requests at a time while the tenants are brought in.
const IMPORTS: usize = 64;
const TOKEN: &str = "token-of-the-mail-server";

/// Simulates; returns what it came to.
///
/// # Panics
///
/// At the end, with everything that did not hold.
pub fn run(settings: &Settings) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut simulation = Simulation::begin(settings).await;
        simulation.go_through().await;
        simulation.end().await
    })
}

struct Simulation<'a> {
    settings: &'a Settings,
    storage: Arc<MemoryStorage>,
    mail: Mail,
    clock: Arc<SimulatedClock>,
    active: Node,
    standby: Node,
    expected: Expected,
    /// The next tick.
    next: Instant,
    ticks: u64,
    /// Changes by minute.
    minutes: BTreeMap<DateTime<Utc>, usize>,
    /// How many ticks without a call to a mail server had so many storage calls.
    quiet: BTreeMap<u64, usize>,
    in_attention: usize,
    rotations: u64,
}

impl<'a> Simulation<'a> {
    /// Brings every tenant in, by the requests that an operator sends.
    async fn begin(settings: &'a Settings) -> Self {
        let before = plot::start() - TimeDelta::hours(12);
        let clock = Arc::new(SimulatedClock::starting_at(before, settings.sweep_days));
        let storage = Arc::new(MemoryStorage::new());
        let mail = Mail::new(&clock, settings.hash);
        let tenants = population::tenants(settings);
        let node = || Node::start(&storage, &mail, &clock);
        let (active, mut standby) = (node(), node());
        standby.set_active(false);
        stream::iter(tenants.iter().enumerate())
            .for_each_concurrent(IMPORTS, async |(index, tenant)| {
                let password = tenant.first_password();
                mail.put(&tenant.server, index, &tenant.account, &password);
                let server = json!({ "mailu_url": tenant.server, "api_token": TOKEN });
                let path = format!("{}/config", tenant.name);
                active.ask(Operation::Create, &path, server).await;
                let mut admin = json!({
                    "username": tenant.account,
                    "password": password,
                    "last_rotated": tenant.last_rotated.to_rfc3339(),
                });
                if tenant.kind == Kind::Manual {
                    admin["rotation_policy"] = json!("manual");
                }
                let path = format!("{}/admin", tenant.name);
                let written = active.ask(Operation::Create, &path, admin).await;
                assert_eq!(written["proof"], "hash", "{written}");
            })
            .await;
        mail.take_changes();
        (settings.tell)(&format!("{} tenants are imported", tenants.len()));
        let expected = Expected::new(&tenants);
        let wait = plot::start() - clock.now();
        Self {
            settings,
            active,
            standby,
            expected,
            next: Instant::now() + wait.to_std().expect("half a day is enough to import"),
            ticks: 0,
            minutes: BTreeMap::new(),
            quiet: BTreeMap::new(),
            in_attention: 0,
            rotations: 0,
            storage,
            mail,
            clock,
        }
    }

    async fn go_through(&mut self) {
        for day in 0..i64::from(self.settings.days) {
            let mut minute = 0;
            while minute < 24 * 60 {
                let step = self.step(day, minute);
                tokio::time::sleep_until(self.next).await;
                self.happen(day, minute).await;
                let silent = self.is_out(day, minute);
                if !silent {
                    // The first tick of a day reads what is due in it, that of a process all.
                    let fresh = minute == 0 || plot::TURNS.iter().any(|it| it.0 == day);
                    self.tick(step > 1 && !fresh).await;
                }
                self.next += Duration::from_secs(60 * step.unsigned_abs());
                minute += step;
            }
            self.look_at_failing(day).await;
            let wall = self.clock.now();
            self.expected.overdue(wall);
            if day % 20 == 19 {
                let (calls, failed) = self.mail.calls();
                (self.settings.tell)(&format!(
                    "day {}: {} rotations, {calls} calls, {failed} failed, {} violations",
                    day + 1,
                    self.rotations,
                    self.expected.violations.len(),
                ));
            }
        }
    }

    /// Minutes to the next tick: every minute in the hours of the check, and where something is to
    /// happen.
    fn step(&self, day: i64, minute: i64) -> i64 {
        let of_day = |it: &&(i64, i64, Turn)| it.0 == day && it.1 > minute;
        let turn = plot::TURNS.iter().find(of_day).map(|turn| turn.1);
        let quiet = i64::from(self.settings.quiet_minutes);
        let check = 2 * 60;
        match minute {
            ..120 => quiet.min(check - minute),
            120..240 => 1,
            _ => quiet.min(24 * 60 - minute),
        }
        .min(turn.map_or(i64::MAX, |turn| turn - minute))
        .min(60 - minute % 60)
    }

    /// Whether the cluster is down.
    fn is_out(&self, day: i64, minute: i64) -> bool {
        let now = day * 24 * 60 + minute;
        let noon = |day: i64| day * 24 * 60 + 12 * 60;
        (noon(plot::OUTAGE.0)..noon(plot::OUTAGE.1)).contains(&now)
    }

    async fn tick(&mut self, may_be_quiet: bool) {
        let (calls, mail) = (self.active.storage_calls(), self.mail.calls());
        self.active.tick().await;
        self.standby.tick().await;
        self.ticks += 1;
        // What goes on in this minute belongs to this tick.
        tokio::time::sleep_until(self.next + Duration::from_secs(50)).await;
        for (index, at) in self.mail.take_changes() {
            *self.minutes.entry(minute(at)).or_default() += 1;
            self.rotations += 1;
            self.expected.changed(index, at);
        }
        if may_be_quiet && self.mail.calls() == mail {
            let calls = self.active.storage_calls() - calls;
            *self.quiet.entry(calls).or_default() += 1;
        }
    }

    /// What the plot has for this minute.
    async fn happen(&mut self, day: i64, minute: i64) {
        for (health, from, to) in plot::FAILURES {
            if minute == 0 && (day == from || day == to) {
                let health = if day == from { health } else { Health::Well };
                self.set_health(from, health);
            }
        }
        let turn = plot::TURNS.iter().find(|it| (it.0, it.1) == (day, minute));
        if turn.is_some() {
            // In the middle of what this tick begins.
            self.active.tick().await;
            tokio::time::sleep(plot::INTO_THE_WORK).await;
        }
        match turn.map(|turn| turn.2) {
            None => {}
            Some(Turn::Kill) => self.replace_active(),
            Some(Turn::Restart) => {
                self.active.stop().await;
                self.replace_active();
            }
            Some(Turn::Failover) => {
                self.active.set_active(false);
                self.standby.set_active(true);
                std::mem::swap(&mut self.active, &mut self.standby);
            }
        }
        match (day, minute) {
            (day, 720) if day == plot::PAUSE.0 => self.pause().await,
            (day, 720) if day == plot::REQUESTS => self.rotate_on_request().await,
            (day, 720) if day == plot::OUTAGE.1 => self.replace_active(),
            (day, 720) if day == plot::LEAP.0 => self.clock.jump(plot::LEAP.1),
            (day, 780) if day == plot::LEAP.0 => self.clock.jump(-plot::LEAP.1),
            (day, 720) if day == plot::SETBACK.0 => self.clock.jump(-plot::SET_BACK_BY),
            (day, 720) if day == plot::SETBACK.1 => self.clock.jump(plot::SET_BACK_BY),
            _ => {}
        }
    }

    fn replace_active(&mut self) {
        self.active.kill();
        self.active = Node::start(&self.storage, &self.mail, &self.clock);
    }

    fn set_health(&self, from: i64, health: Health) {
        let group = plot::FAILURES.iter().position(|it| it.1 == from).unwrap();
        for index in 0..self.settings.tenants {
            let tenant = self.expected.tenant(index);
            if tenant.kind == Kind::Failing(group) {
                self.mail.set_health(&tenant.server, health);
            }
        }
    }

    fn of_kind(&self, kind: Kind) -> Vec<usize> {
        let is = |index: &usize| self.expected.tenant(*index).kind == kind;
        (0..self.settings.tenants).filter(is).collect()
    }

    async fn pause(&mut self) {
        let until = plot::at(plot::PAUSE.1, 0).to_rfc3339();
        for index in self.of_kind(Kind::Paused) {
            let path = format!("{}/pause", self.expected.tenant(index).name);
            let body = json!({ "until": until, "reason": "a migration" });
            self.active.ask(Operation::Update, &path, body).await;
        }
    }

    async fn rotate_on_request(&mut self) {
        for index in self.of_kind(Kind::Requested) {
            let path = format!("{}/rotate", self.expected.tenant(index).name);
            self.expected.requested(index, self.clock.now());
            self.active.ask(Operation::Update, &path, json!({})).await;
            for (index, at) in self.mail.take_changes() {
                self.expected.changed(index, at);
            }
        }
    }

    /// A person must be able to see whose server fails, before it is well again.
    async fn look_at_failing(&mut self, day: i64) {
        let ending = plot::FAILURES.iter().position(|it| it.2 == day + 1);
        let Some(group) = ending else { return };
        for index in self.of_kind(Kind::Failing(group)) {
            if !self.expected.is_failing(index, group) {
                continue;
            }
            let path = format!("{}/status", self.expected.tenant(index).name);
            let status = self.active.ask(Operation::Read, &path, json!({})).await;
            let error = &status["last_error"];
            let attempts = error["attempts"].as_u64().unwrap_or(0);
            if attempts < 3 || error["hint"].as_str().is_none() {
                self.expected.violations.push(format!(
                    "{path} on day {day} shows no lasting error: {status}"
                ));
            }
            self.in_attention += 1;
        }
    }

    async fn end(mut self) -> Figures {
        tokio::time::sleep(Duration::from_secs(600)).await;
        self.active.idle().await;
        self.check_passwords().await;
        let figures = self.figures();
        self.check_pace(&figures);
        let violations = &self.expected.violations;
        let shown: Vec<&str> = violations.iter().take(40).map(String::as_str).collect();
        assert!(
            violations.is_empty(),
            "seed {}: {} violations, the first of them:\n{}\n{figures}",
            self.settings.seed,
            violations.len(),
            shown.join("\n")
        );
        figures
    }

    /// What the engine hands out is what logs in, and it says so.
    async fn check_passwords(&mut self) {
        for index in 0..self.settings.tenants {
            let tenant = self.expected.tenant(index);
            let path = format!("{}/admin", tenant.name);
            let read = self.active.ask(Operation::Read, &path, json!({})).await;
            let live = self.mail.live(&tenant.server, &tenant.account);
            if read["password"] != live || read["state"] != "settled" {
                let state = &read["state"];
                let violation = format!("{path} is {state} and not what logs in");
                self.expected.violations.push(violation);
            }
        }
    }

    fn figures(&self) -> Figures {
        let mut checks: BTreeMap<_, usize> = BTreeMap::new();
        for (minute, changes) in &self.minutes {
            *checks.entry(minute.date_naive()).or_default() += changes;
        }
        let (calls, failed_calls) = self.mail.calls();
        let quiet_ticks = self.quiet.values().sum();
        let mut passed = 0;
        let median = self.quiet.iter().find(|(_, count)| {
            passed += **count;
            passed * 2 >= quiet_ticks
        });
        let snapshot = self.storage.snapshot();
        let sizes = snapshot.entries().map(|it| it.key.len() + it.value.len());
        Figures {
            tenants: self.settings.tenants,
            days: self.settings.days,
            seed: self.settings.seed,
            ticks: self.ticks,
            quiet_minutes: self.settings.quiet_minutes,
            sweep_days: self.settings.sweep_days,
            rotations: self.rotations,
            largest_check: checks.values().copied().max().unwrap_or(0),
            peak_per_minute: self.minutes.values().copied().max().unwrap_or(0),
            most_at_once: self.mail.most_changing(),
            latest_after_slot: self.expected.latest,
            in_attention: self.in_attention,
            calls,
            failed_calls,
            quiet_tick_calls: (
                median.map_or(0, |(calls, _)| *calls),
                self.quiet.keys().copied().max().unwrap_or(0),
            ),
            quiet_ticks,
            bytes_per_tenant: sizes.sum::<usize>() / self.settings.tenants,
        }
    }

    /// Changes are spread: those of a check over `spread`, with no more under way than allowed.
    fn check_pace(&mut self, figures: &Figures) {
        let violations = &mut self.expected.violations;
        let mut checks: BTreeMap<_, (usize, usize)> = BTreeMap::new();
        for (minute, changes) in &self.minutes {
            let check = checks.entry(minute.date_naive()).or_default();
            *check = (check.0 + changes, check.1.max(*changes));
        }
        for (day, (changes, peak)) in checks {
            let mean = changes as f64 / (plot::SPREAD as f64 / 60.0);
            // Evenly spread offsets, and what was under way when a process died.
            let bound = mean + 6.0 * mean.sqrt() + 3.0 + plot::PARALLEL as f64;
            if peak as f64 > bound {
                let what = format!("{day}: {peak} of {changes} rotations in one minute");
                violations.push(what);
            }
        }
        if figures.most_at_once > plot::PARALLEL {
            let most = figures.most_at_once;
            violations.push(format!("{most} passwords were set at once"));
        }
    }
}
