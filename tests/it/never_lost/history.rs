//! A history of everything that can happen to two tenants of one mail server, run against what
//! must hold after each step.
//!
//! The reference is small: which passwords ever reached an account, which of them the engine
//! cannot be expected to have (somebody else set them, or storage was taken back to before them),
//! and whether something happened at the mail server since the engine last looked.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::Snapshot;

use super::{Said, drifted_to, open_reset};
use crate::support::engine::{Answer, Host};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::mailbox::{Mailbox, State};
use crate::support::world::{Left, SERVER, World, every_start_has_its_end, server, simulate};

/// One of the two tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Acme,
    Beta,
}

impl Who {
    pub(super) const ALL: [Self; 2] = [Self::Acme, Self::Beta];

    const fn tenant(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Beta => "beta",
        }
    }

    const fn account(self) -> &'static str {
        match self {
            Self::Acme => "smtp-admin@acme.test",
            Self::Beta => "smtp-admin@beta.test",
        }
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Read,
    Rotate,
    Verify,
    /// Takes over what logs in at the mail server.
    Adopt,
    /// Changes settings of the credential.
    Patch,
    Delete,
    Undelete,
    Reset,
    /// With `hold`.
    ResetAndHold,
    Release,
    /// To the version before the current one.
    RollBack,
    Reveal,
}

/// What goes wrong meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// At calls by their number.
    pub(super) calls: Vec<Fault>,
    /// At the first passwords that are set.
    pub(super) sends: Vec<Option<Fault>>,
}

impl Faults {
    const fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.sends.is_empty()
    }

    /// Whether a look may show no hash.
    fn hide(&self) -> bool {
        let mut calls = self.calls.iter();
        calls.any(|fault| matches!(fault.kind, Kind::Hidden | Kind::Lie))
    }

    fn arm(&self, plan: &Plan) {
        plan.arm(self.calls.iter().copied());
        plan.arm_sends(self.sends.iter().copied());
    }
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Requests at the same time.
    Ask(Vec<(Who, Request)>, Faults),
    /// The host ticks.
    Tick(Faults),
    /// A quarter of an hour passes, with a tick each minute.
    Quarter,
    /// Time passes without a tick: the host was down.
    Later(u32),
    /// The wall clock is set, by so many minutes.
    Jump(i32),
    /// The process is killed, whatever it is doing.
    Restart,
    /// The mail server works on the oldest request that it did not answer.
    Land,
    /// Somebody begins to log in where the hash is outdated: the next change of the password is undone
    /// two seconds after it.
    Login(Who),
    /// An administrator of the mail server sets another password.
    Foreign(Who),
    KeepStorage,
    RestoreStorage,
    KeepMail,
    RestoreMail,
}

/// Two tenants with a proven password each, ten days old.
fn beginning() -> Left {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        for who in Who::ALL {
            world
                .mail
                .put(SERVER, who.account(), Mailbox::new("first-password"));
            host.write(&format!("{}/config", who.tenant()), server())
                .await
                .ok();
            host.write(
                &format!("{}/admin", who.tenant()),
                json!({ "username": who.account() }),
            )
            .await
            .ok();
        }
        world.later(10 * 86_400).await;
        world.left()
    })
}

/// Runs a history.
pub(super) fn run(steps: &[Step]) {
    static BEGINNING: std::sync::LazyLock<Left> = std::sync::LazyLock::new(beginning);
    let beginning = &*BEGINNING;
    simulate(async {
        let mut history = History::new(beginning).await;
        for step in steps {
            history.step(step).await;
            history.check(step).await;
        }
        history.end().await;
    });
}

/// What the reference knows of one account.
#[derive(Debug, Default)]
struct Known {
    /// Passwords that nobody can expect the engine to have.
    excused: BTreeSet<String>,
    /// Something happened at the account that the engine did not see yet.
    disturbed: bool,
    /// Something of the kind ever happened: only then may there be drift.
    ever_disturbed: bool,
    /// The password of each version.
    versions: BTreeMap<u64, String>,
}

struct History {
    world: World,
    plan: Plan,
    host: Host,
    /// What every process showed of its requests.
    debugged: String,
    known: [Known; 2],
    storage: Option<Snapshot>,
    mail: Option<State>,
    lies: usize,
    foreign: usize,
    mail_restored: bool,
    /// Minutes by which the wall clock was set back.
    back: u32,
}

impl History {
    async fn new(left: &Left) -> Self {
        let world = World::from(left);
        let plan = Plan::simulated();
        let host = world.process(&plan);
        let mut history = Self {
            lies: world.mail.lies(),
            world,
            plan,
            host,
            debugged: String::new(),
            known: <[Known; 2]>::default(),
            storage: None,
            mail: None,
            foreign: 0,
            mail_restored: false,
            back: 0,
        };
        for who in Who::ALL {
            let stored = history.world.stored(who.tenant()).await;
            history.known[who as usize].versions = stored;
        }
        history
    }

    fn live(&self, who: Who) -> String {
        self.world.mail.live(SERVER, who.account()).unwrap()
    }

    fn disturb(&mut self, who: Who) {
        let known = &mut self.known[who as usize];
        known.disturbed = true;
        known.ever_disturbed = true;
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Ask(requests, faults) => self.ask(requests, faults).await,
            Step::Tick(faults) => {
                self.world.later(60).await;
                if faults.hide() {
                    self.miss_logins();
                }
                faults.arm(&self.plan);
                let ticked = survived(&self.plan, self.host.tick()).await;
                if ticked.is_none() {
                    self.restart();
                }
            }
            Step::Quarter => self.quarter().await,
            Step::Later(seconds) => self.world.later(u64::from(*seconds)).await,
            Step::Jump(minutes) => self.jump(*minutes),
            Step::Restart => self.restart(),
            Step::Land => {
                if self.world.mail.late() > 0 {
                    let password = self.world.mail.land(0);
                    for who in Who::ALL {
                        if self.live(who) == password {
                            self.disturb(who);
                        }
                    }
                }
            }
            Step::Login(who) => {
                self.world.mail.outdate(SERVER, who.account());
                self.world.mail.begin_login(SERVER, who.account());
            }
            Step::Foreign(who) => {
                self.foreign += 1;
                let password = format!("set by somebody else {}", self.foreign);
                self.world.mail.edit(SERVER, who.account(), |mailbox| {
                    *mailbox = Mailbox {
                        comment: mailbox.comment.clone(),
                        ..Mailbox::new(&password)
                    };
                });
                self.known[*who as usize].excused.insert(password);
                self.disturb(*who);
            }
            Step::KeepStorage => self.storage = Some(self.world.storage.snapshot()),
            Step::RestoreStorage => self.restore_storage().await,
            Step::KeepMail => self.mail = Some(self.world.mail.state()),
            Step::RestoreMail => self.restore_mail().await,
        }
        let lies = self.world.mail.lies();
        if lies > self.lies {
            self.lies = lies;
            for who in Who::ALL {
                self.disturb(who);
            }
        }
    }

    /// What begins meanwhile cannot be looked at in time: the clock jumps over the look, or it shows
    /// no hash.
    fn miss_logins(&mut self) {
        for who in Who::ALL {
            if self.world.mail.logs_in(SERVER, who.account()) {
                self.disturb(who);
            }
        }
    }

    fn jump(&mut self, minutes: i32) {
        self.miss_logins();
        self.back += minutes.min(0).unsigned_abs();
        self.world
            .clock
            .jump(TimeDelta::minutes(i64::from(minutes)));
    }

    /// A quarter of an hour without faults: whatever was to be looked at again was looked at.
    async fn quarter(&mut self) {
        self.plan.arm(None);
        let mut looked_at = Vec::new();
        for who in Who::ALL {
            let record = self.world.record(who.tenant()).await.unwrap();
            let looks = record.live_credential().is_some() && !record.open.confirm_at.is_empty();
            // A server that refused the token is not asked for an hour.
            let stored = self.world.storage.snapshot();
            let stopped = stored.entries().any(|it| it.key.starts_with("server/"));
            if looks && !stopped && record.intent.is_none() {
                looked_at.push(who);
            }
        }
        for _ in 0..17 {
            self.world.later(60).await;
            self.host.tick().await;
        }
        for who in looked_at {
            self.known[who as usize].disturbed = false;
        }
    }

    /// The process is killed; a new one takes over.
    fn restart(&mut self) {
        self.plan.kill();
        self.plan = Plan::simulated();
        let host = self.world.process(&self.plan);
        let old = std::mem::replace(&mut self.host, host);
        self.debugged.push_str(&old.debugged.lock().unwrap());
    }

    async fn ask(&mut self, requests: &[(Who, Request)], faults: &Faults) {
        if faults.hide() {
            self.miss_logins();
        }
        faults.arm(&self.plan);
        let before: Vec<_> = Who::ALL.map(|who| self.live(who)).into();
        let work = requests
            .iter()
            .map(|(who, request)| send(&self.host, &self.world, *who, *request));
        let answers = survived(&self.plan, join_all(work)).await;
        let Some(answers) = answers else {
            self.restart();
            return;
        };
        for ((who, request), answer) in requests.iter().zip(&answers) {
            let what = format!("{who:?} {request:?}: {answer:?}");
            assert_ne!(answer.code, "internal", "{what}");
            if requests.len() == 1 && answer.text.contains("Nothing was changed") {
                assert_eq!(self.live(*who), before[*who as usize], "{what}");
            }
            let looked = matches!(
                request,
                Request::Verify | Request::Rotate | Request::RollBack
            );
            if looked && answer.status == 200 && faults.is_empty() {
                self.known[*who as usize].disturbed = false;
            }
        }
    }

    async fn restore_storage(&mut self) {
        let Some(storage) = self.storage.clone() else {
            return;
        };
        self.plan.kill();
        self.world.storage.restore(&storage);
        self.restart();
        for who in Who::ALL {
            let stored = self.world.stored(who.tenant()).await;
            let values: BTreeSet<_> = stored.values().cloned().collect();
            let arrived = self.world.mail.arrived(who.account());
            let live = self.live(who);
            let known = &mut self.known[who as usize];
            let dropped = arrived.into_iter().chain([live]);
            known
                .excused
                .extend(dropped.filter(|it| !values.contains(it)));
            // Numbers that storage forgot are given again.
            known.versions = stored;
            self.disturb(who);
        }
    }

    async fn restore_mail(&mut self) {
        let Some(mail) = self.mail.clone() else {
            return;
        };
        self.world.mail.restore(&mail);
        self.mail_restored = true;
        for who in Who::ALL {
            let stored = self.world.stored(who.tenant()).await;
            let live = self.live(who);
            if !stored.values().any(|it| *it == live) {
                self.known[who as usize].excused.insert(live);
            }
            self.disturb(who);
        }
    }

    /// What must hold after every step.
    async fn check(&mut self, step: &Step) {
        for who in Who::ALL {
            let what = format!("{who:?} after {step:?}");
            let live = self.live(who);
            let stored = self.world.stored(who.tenant()).await;
            let kept = stored.values().any(|it| *it == live);
            let known = &mut self.known[who as usize];
            assert!(
                kept || known.excused.contains(&live),
                "{what}: the password that logs in is lost"
            );
            for (number, password) in &stored {
                let given = known
                    .versions
                    .entry(*number)
                    .or_insert_with(|| password.clone());
                assert_eq!(given, password, "{what}: version {number} was given twice");
            }
            if matches!(
                step,
                Step::Later(_) | Step::Jump(_) | Step::KeepMail | Step::KeepStorage
            ) {
                continue;
            }
            let reader = self.world.sound_process();
            match Said::of(&reader, who.tenant(), &what).await {
                Said::Nothing | Said::Held => {}
                Said::Settled(password) => {
                    assert!(
                        password == live || known.disturbed,
                        "{what}: settled is a lie"
                    );
                }
                Said::Uncertain(candidates) => {
                    let listed =
                        candidates.contains(&live) || open_reset(&self.world, who.tenant()).await;
                    // What is not stored cannot be listed.
                    assert!(
                        listed || known.disturbed || !kept,
                        "{what}: what logs in is not listed"
                    );
                }
                Said::Drift => {
                    let found = drifted_to(&self.world, who.tenant()).await == Some(live);
                    assert!(
                        known.ever_disturbed || found,
                        "{what}: drift without a cause"
                    );
                }
            }
        }
    }

    /// No more faults: with the next ticks everything settles or says drift. What then lands late
    /// is noticed within a day. In drift a person decides.
    async fn end(mut self) {
        self.restart();
        // What was put off until an instant of a clock that was ahead comes when that is reached.
        self.world.later(u64::from(self.back) * 60).await;
        let host = self.host.clone();
        for who in Who::ALL {
            for path in ["undelete", "release"] {
                let path = format!("{}/{path}", who.tenant());
                host.write(&path, json!({})).await;
            }
        }
        self.quiet(&host).await;
        // A server that was not to be asked when the new process looked is asked a day later.
        self.world.later(25 * 3600).await;
        self.quiet(&host).await;
        for who in Who::ALL {
            self.is_settled_or_drifts(&host, who, "at the end").await;
        }
        if self.world.mail.late() > 0 {
            while self.world.mail.late() > 0 {
                self.step(&Step::Land).await;
            }
            self.world.later(25 * 3600).await;
            self.quiet(&host).await;
            for who in Who::ALL {
                self.is_settled_or_drifts(&host, who, "a day after a late landing")
                    .await;
            }
        }
        for who in Who::ALL {
            let what = format!("{who:?} after the end");
            if Said::of(&host, who.tenant(), &what).await == Said::Drift {
                self.decide(&host, who, &what).await;
            }
            self.everything_is_told(&host, who, &what).await;
        }
        self.restart();
        self.nothing_leaked();
    }

    async fn quiet(&self, host: &Host) {
        for who in Who::ALL {
            self.world.quiet(host, who.tenant()).await;
        }
    }

    async fn is_settled_or_drifts(&self, host: &Host, who: Who, when: &str) {
        let what = format!("{who:?} {when}");
        let live = self.live(who);
        let record = self.world.record(who.tenant()).await.unwrap();
        let credential = record.credential.as_ref().unwrap();
        match Said::of(host, who.tenant(), &what).await {
            Said::Settled(password) => {
                assert_eq!(password, live, "{what}: settled is a lie");
                let current = credential.current_version().unwrap();
                assert_eq!(current.compromised, None, "{what}");
            }
            Said::Drift => assert!(
                self.known[who as usize].ever_disturbed,
                "{what}: {record:#?}"
            ),
            said => panic!("{what}: {said:?} {record:#?}"),
        }
        let tokens = credential.app_tokens.as_ref();
        if tokens.is_some_and(|work| work.next_attempt.is_none()) && !self.mail_restored {
            let mailbox = self.world.mail.mailbox(SERVER, who.account()).unwrap();
            assert_eq!(
                mailbox.app_tokens, [0; 0],
                "{what}: tokens outlived a reset"
            );
        }
    }

    /// The events say how the current version came to be, and the pointers lead to the tenant.
    async fn everything_is_told(&self, host: &Host, who: Who, what: &str) {
        let (tenant, world) = (who.tenant(), &self.world);
        world.check_pointers(tenant, false, what).await;
        let events = host.events(tenant).await;
        every_start_has_its_end(&events, what);
        let record = world.record(tenant).await.unwrap();
        let current = record.credential.and_then(|kept| kept.current);
        let told = events
            .iter()
            .any(|event| event["outcome"] == "success" && event["version"] == json!(current));
        assert!(told, "{what}: no event tells of version {current:?}");
    }

    async fn decide(&self, host: &Host, who: Who, what: &str) {
        let path = format!("{}/rotate", who.tenant());
        // Logins under way undo the first one, with a password that nobody here knows.
        let undone = self.world.mail.logs_in(SERVER, who.account());
        for _ in 0..=usize::from(undone) {
            self.world.later(3600).await;
            let answer = host.write(&path, json!({})).await;
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
            self.world.quiet(host, who.tenant()).await;
        }
        let said = Said::of(host, who.tenant(), what).await;
        assert_eq!(said, Said::Settled(self.live(who)), "{what}");
    }

    fn nothing_leaked(&self) {
        for who in Who::ALL {
            for password in self.known[who as usize].versions.values() {
                let shown = self.debugged.contains(password.as_str());
                assert!(!shown, "a password in the Debug of a request or reply");
            }
        }
    }
}

async fn send(host: &Host, world: &World, who: Who, request: Request) -> Answer {
    let path = |name: &str| format!("{}/{name}", who.tenant());
    match request {
        Request::Read => host.read(&path("admin")).await,
        Request::Rotate => host.write(&path("rotate"), json!({})).await,
        Request::Verify => host.write(&path("verify"), json!({})).await,
        Request::Adopt => {
            let record = world.record(who.tenant()).await.unwrap();
            let current = record.credential.and_then(|kept| kept.current);
            let password = world.mail.live(SERVER, who.account());
            let body = json!({ "password": password, "cas": current });
            host.write(&path("admin"), body).await
        }
        Request::Patch => {
            let body = json!({ "webmail_url": "https://webmail.example.test" });
            host.patch(&path("admin"), body).await
        }
        Request::Delete => host.delete(&path("admin")).await,
        Request::Undelete => host.write(&path("undelete"), json!({})).await,
        Request::Reset => host.write(&path("reset"), incident(false)).await,
        Request::ResetAndHold => host.write(&path("reset"), incident(true)).await,
        Request::Release => host.write(&path("release"), json!({})).await,
        Request::RollBack => {
            let record = world.record(who.tenant()).await.unwrap();
            let current = record.credential.and_then(|kept| kept.current).unwrap_or(2);
            let body = json!({ "version": current.saturating_sub(1).max(1), "reason": "test" });
            host.write(&path("rollback"), body).await
        }
        Request::Reveal => {
            host.write(&path("reveal"), json!({ "reason": "test" }))
                .await
        }
    }
}

fn incident(hold: bool) -> Value {
    json!({ "incident_id": "INC-1", "reason": "test", "hold": hold })
}

/// Waits for `work` unless the process is killed meanwhile.
async fn survived<T>(plan: &Plan, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = plan.crashed() => None,
        done = work => Some(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(kind: Kind) -> Option<Fault> {
        Some(Fault {
            at: 0,
            kind,
            after: false,
        })
    }

    /// A refusal after a send of unknown outcome ends nothing: the first may still land.
    #[test]
    fn a_refusal_after_an_unknown_outcome_drops_nothing() {
        let sends = vec![send(Kind::Late), send(Kind::Token)];
        let faults = Faults {
            sends,
            ..Faults::default()
        };
        run(&[
            Step::Ask(vec![(Who::Acme, Request::Rotate)], faults),
            Step::Land,
        ]);
    }
}
