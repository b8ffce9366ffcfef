//! Mailu's limiter: five wrong API tokens in an hour lock its API for everybody in the network. So
//! never more than three refused calls per server and hour come from one mount, whatever its
//! tenants do; and a right token works at once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use vault_plugin_secrets_smtp::clock::Clock as _;
use vault_plugin_secrets_smtp::logical::{StaticSystemView, Storage as _, StorageEntry};

use crate::support::engine::{FIRST, Host, Rig, parts};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::mailu::standin::{Config, Fault as MailFault, Media, Rule, TokenSeen, Words};

const TENANTS: [&str; 5] = ["acme", "globex", "initech", "umbrella", "hooli"];

/// A server with five tenants, and when which calls came to it.
struct Town {
    rig: Rig,
    /// How much of the journal was looked at.
    seen: usize,
    refused: Vec<DateTime<Utc>>,
}

fn email(tenant: &str) -> String {
    format!("{tenant}@example.test")
}

impl Town {
    async fn build() -> Self {
        let accounts = |config: Config, tenant: &&str| config.user(&email(tenant), FIRST);
        let config = TENANTS.iter().fold(Config::default(), accounts);
        let town = Self {
            rig: Rig::with(config).await,
            seen: 0,
            refused: Vec::new(),
        };
        for tenant in TENANTS {
            town.rig.configure(tenant).await;
            let admin = json!({ "username": email(tenant) });
            town.rig.write(&format!("{tenant}/admin"), admin).await.ok();
        }
        town.rig.later(3600);
        town
    }

    async fn write(&mut self, path: &str, body: Value) -> String {
        let answer = self.rig.write(path, body).await;
        self.look();
        assert!(
            matches!(answer.status, 200 | 204) || answer.code.starts_with("mailu_"),
            "{answer:?}"
        );
        answer.code
    }

    /// Notes the time of the calls that came since the last look.
    fn look(&mut self) {
        let now = self.rig.clock.now();
        let journal = self.rig.mailu.journal();
        for entry in &journal[self.seen..] {
            assert_ne!(entry.status, Some(429), "the limiter never has to act");
            if entry.token == TokenSeen::Wrong {
                self.refused.push(now);
            }
        }
        self.seen = journal.len();
    }

    fn minutes(&self, minutes: u64) {
        let step = Duration::from_secs(minutes * 60);
        self.rig.clock.advance(step);
        self.rig.mailu.advance(step);
    }

    /// Asserts that no hour holds more than three.
    fn check(&self) {
        for first in &self.refused {
            let hour = *first..*first + TimeDelta::hours(1);
            let within = self.refused.iter().filter(|at| hour.contains(at));
            assert!(within.count() <= 3, "{:?}", self.refused);
        }
    }

    async fn api_token(&mut self, tenant: &str, token: &str) {
        let body = json!({ "api_token": token });
        self.rig.write(&format!("{tenant}/config"), body).await.ok();
        self.look();
    }
}

#[tokio::test]
async fn a_stale_token_for_a_day_costs_an_hourly_probe_and_the_right_one_works_at_once() {
    let mut town = Town::build().await;
    town.rig.mailu.set_token("the-new-token");
    let before = town.rig.mailu.journal().len();
    for step in 0..24 * 6 {
        for tenant in TENANTS {
            // Configuration management applies what it has.
            let server = town.rig.server();
            town.write(&format!("{tenant}/config"), server).await;
        }
        for _ in 0..5 {
            let code = town.write("acme/verify", json!({})).await;
            assert_eq!(code, "mailu_token_refused");
        }
        let code = town.write("globex/rotate", json!({})).await;
        assert_eq!(code, "mailu_token_refused");
        let last = TENANTS[step % 5];
        town.write(&format!("{last}/verify"), json!({})).await;
        if step % 7 == 0 {
            town.rig.restart();
        }
        town.rig.tick().await;
        town.look();
        town.minutes(10);
    }
    town.check();
    assert_eq!(town.rig.mailu.journal().len(), before + town.refused.len());
    let probes = town.refused.len();
    // In steps of ten minutes a call counts for seventy.
    assert!((20..=48).contains(&probes), "one an hour: {probes}");
    for tenant in TENANTS {
        town.api_token(tenant, "the-new-token").await;
        assert_eq!(town.write(&format!("{tenant}/verify"), json!({})).await, "");
        assert_eq!(town.write(&format!("{tenant}/rotate"), json!({})).await, "");
    }
    assert_eq!(town.refused.len(), probes);
}

#[tokio::test]
async fn wrong_tokens_in_a_row_hold_back_each_other_and_not_the_right_one() {
    let mut town = Town::build().await;
    for minute in 0..4 * 60 {
        town.api_token("acme", &format!("wrong-token-{minute}"))
            .await;
        let code = town.write("acme/verify", json!({})).await;
        let told = ["mailu_token_refused", "mailu_rate_limited"];
        assert!(told.contains(&code.as_str()), "{code}");
        if minute % 3 == 0 {
            assert_eq!(town.write("globex/verify", json!({})).await, "");
        }
        if minute % 11 == 0 {
            town.rig.restart();
        }
        town.minutes(1);
    }
    town.check();
    let tried = town.refused.len();
    assert!((2..=3).contains(&tried), "{:?}", town.refused);
    // The token that works for the others works for this one.
    let right = town.rig.mailu.token().to_owned();
    town.api_token("acme", &right).await;
    assert_eq!(town.write("acme/rotate", json!({})).await, "");
}

#[tokio::test]
async fn what_is_known_to_be_refused_is_answered_without_waiting_for_the_server() {
    let mut town = Town::build().await;
    town.api_token("acme", "wrong-token").await;
    let code = town.write("acme/verify", json!({})).await;
    assert_eq!(code, "mailu_token_refused");
    town.rig.mailu.fault(
        Rule::new(MailFault::Hold { ms: None })
            .method("GET")
            .path("/user/globex"),
    );
    let hung = town.rig.write("globex/verify", json!({}));
    let others = async {
        town.rig.mailu.wait_held(1).await;
        let calls = town.rig.mailu.journal().len();
        let answer = town.rig.write("acme/verify", json!({})).await;
        answer.fails(400, "mailu_token_refused");
        assert_eq!(town.rig.mailu.journal().len(), calls);
        town.rig.mailu.release().await;
    };
    let (hung, ()) = tokio::join!(hung, others);
    hung.ok();
}

/// Has a process of its own verify `acme`, killed after its call number `at`; returns its calls.
async fn verify_killed(rig: &Rig, at: usize) -> Vec<String> {
    let plan = Plan::default();
    plan.arm(Some(Fault {
        at,
        kind: Kind::Crash,
        after: true,
    }));
    let parts = parts(&rig.clock, plan.connector());
    let storage = plan.over(&rig.storage);
    let host = Host::new(parts, storage, StaticSystemView::default());
    tokio::select! {
        _ = host.write("acme/verify", json!({})) => {}
        () = plan.crashed() => {}
    }
    plan.calls()
}

#[tokio::test]
async fn a_kill_at_any_point_of_a_call_makes_no_further_one_possible() {
    let mut town = Town::build().await;
    // The token was changed: its refusal leaves two calls, one of them to resets.
    town.rig.mailu.set_token("the-new-token");
    town.write("acme/verify", json!({})).await;
    town.api_token("acme", "wrong-token-killed").await;
    let stored = town.rig.storage.snapshot();
    let (mut points, mut killed_after_the_call) = (0, 0);
    for at in 0.. {
        town.rig.storage.restore(&stored);
        town.rig.mailu.forgive();
        town.refused.truncate(1);
        let calls = verify_killed(&town.rig, at).await;
        town.look();
        killed_after_the_call += town.refused.len() - 1;
        for number in 0..3 {
            town.rig.restart();
            town.api_token("acme", &format!("wrong-token-killed-{number}"))
                .await;
            verify_killed(&town.rig, at).await;
            town.look();
        }
        town.rig.restart();
        // Always another one: nothing but the count can hold it back.
        for number in 0..6 {
            town.api_token("acme", &format!("wrong-token-{number}"))
                .await;
            town.write("acme/verify", json!({})).await;
        }
        assert!(
            town.refused.len() <= 3,
            "{} at {at}: {calls:?}",
            town.refused.len()
        );
        if calls.len() <= at {
            break;
        }
        points += 1;
    }
    assert!(points >= 5 && killed_after_the_call >= 2, "{points}");
}

#[tokio::test]
async fn a_kill_before_the_first_refusal_is_stored_costs_one_call() {
    let mut town = Town::build().await;
    // The number of the call that asks Mailu is the same for a right token.
    let calls = verify_killed(&town.rig, usize::MAX).await;
    let at = calls.iter().position(|call| call == "mail account");
    town.api_token("acme", "wrong-token").await;
    let calls = verify_killed(&town.rig, at.unwrap()).await;
    assert_eq!(calls.last().unwrap(), "mail account");
    town.look();
    assert_eq!(town.refused.len(), 1);
    let (_, stops) = entries(&town.rig).await.remove(0);
    assert_eq!(stops["refused"], json!([]), "nothing is stored of it");
    town.rig.restart();
    for number in 0..10 {
        town.api_token("acme", &format!("wrong-token-{number}"))
            .await;
        town.write("acme/verify", json!({})).await;
    }
    assert_eq!(town.refused.len(), 1 + 1, "and three would be below five");
}

/// The stored stops, with what they hold.
async fn entries(rig: &Rig) -> Vec<(String, Value)> {
    let mut entries = Vec::new();
    for name in rig.storage.list("server/").await.unwrap() {
        let key = format!("server/{name}");
        let entry = rig.storage.get(&key).await.unwrap().unwrap();
        entries.push((key, serde_json::from_slice(&entry.value).unwrap()));
    }
    entries
}

#[tokio::test]
async fn a_server_in_order_costs_one_get_a_turn_and_nothing_else() {
    let town = Town::build().await;
    let known = entries(&town.rig).await;
    assert_eq!(known.len(), 1, "one Put, for the token");
    let plan = Plan::default();
    let parts = parts(&town.rig.clock, plan.connector());
    let storage = plan.over(&town.rig.storage);
    let host = Host::new(parts, storage, StaticSystemView::default());
    for path in ["acme/verify", "acme/rotate"] {
        plan.arm(None);
        host.write(path, json!({})).await.ok();
        let calls = plan.calls();
        let stops = calls.iter().filter(|call| call.contains(" server/"));
        let stops: Vec<_> = stops.filter_map(|call| call.split_once(' ')).collect();
        assert_eq!(stops.len(), 1, "{path} {calls:?}");
        assert_eq!(stops[0].0, "get", "{path}");
    }
    // The sweep of a new process asks for every tenant.
    let host = town.rig.process(StaticSystemView::default());
    let calls = town.rig.mailu.journal().len();
    town.rig.later(86_400);
    host.tick().await;
    assert!(town.rig.mailu.journal().len() >= calls + TENANTS.len());
    assert_eq!(entries(&town.rig).await, known);
}

/// A tenant without a credential, pointed at the server of others.
async fn move_in(town: &mut Town, tokens: usize) {
    town.rig.configure("mallory").await;
    for number in 0..tokens {
        let token = format!("wrong-token-{}-{number}", town.seen);
        town.api_token("mallory", &token).await;
        let admin = json!({ "username": email("mallory") });
        let answer = town.rig.write("mallory/admin", admin).await;
        assert!(answer.code.starts_with("mailu_"), "{answer:?}");
        town.look();
    }
}

#[tokio::test]
async fn a_neighbours_wrong_tokens_hold_back_no_right_one_after_a_restart() {
    let mut town = Town::build().await;
    town.rig.restart();
    move_in(&mut town, 3).await;
    assert_eq!(town.refused.len(), 1);
    for path in ["acme/verify", "globex/rotate"] {
        town.rig.restart();
        move_in(&mut town, 3).await;
        assert_eq!(town.write(path, json!({})).await, "");
    }
    let incident = json!({ "incident_id": "INC-1", "reason": "x" });
    let reset = town.rig.write("acme/reset", incident).await.ok();
    assert_eq!(reset.get("state"), "done");
    assert_eq!(town.refused.len(), 1);
}

#[tokio::test]
async fn a_neighbours_wrong_tokens_leave_a_reset_its_call_when_the_token_was_changed() {
    let mut town = Town::build().await;
    town.rig.mailu.set_token("the-new-token");
    town.rig.restart();
    move_in(&mut town, 5).await;
    assert_eq!(town.refused.len(), 1);
    town.api_token("acme", "the-new-token").await;
    let code = town.write("acme/verify", json!({})).await;
    assert_eq!(code, "mailu_rate_limited", "the others' call is used");
    let incident = json!({ "incident_id": "INC-1", "reason": "x" });
    let reset = town.rig.write("acme/reset", incident).await.ok();
    assert_eq!(reset.get("state"), "done");
    // Now it is the accepted one.
    assert_eq!(town.write("acme/verify", json!({})).await, "");
    // What a neighbour tries now leaves it alone again.
    town.rig.restart();
    move_in(&mut town, 5).await;
    assert_eq!(town.write("acme/verify", json!({})).await, "");
    town.check();
}

#[tokio::test]
async fn a_stored_stop_holds_no_token_and_no_name() {
    let mut town = Town::build().await;
    town.api_token("acme", "wrong-token-of-acme").await;
    town.write("acme/verify", json!({})).await;
    let found = entries(&town.rig).await;
    let text = format!("{found:?}");
    for secret in [
        "wrong-token-of-acme",
        town.rig.mailu.token(),
        "127.0.0.1",
        "acme",
    ] {
        assert!(!text.contains(secret), "{text}");
    }
    let (_, stops) = &found[0];
    assert_eq!(stops["tokens"].as_array().unwrap().len(), 1, "{stops:#}");
    assert_eq!(stops["refused"].as_array().unwrap().len(), 1, "{stops:#}");
}

#[tokio::test]
async fn a_damaged_stop_blocks_nobody_and_is_replaced() {
    for bytes in ["{", r#"{"schema":7}"#] {
        let mut town = Town::build().await;
        town.api_token("acme", "wrong-token").await;
        town.write("acme/verify", json!({})).await;
        let (key, _) = entries(&town.rig).await.remove(0);
        let entry = StorageEntry {
            key,
            value: bytes.as_bytes().to_vec(),
            seal_wrap: false,
        };
        town.rig.storage.put(entry).await.unwrap();
        town.rig.restart();
        assert_eq!(town.write("globex/rotate", json!({})).await, "");
        for number in 0..10 {
            town.api_token("acme", &format!("wrong-token-{number}"))
                .await;
            town.write("acme/verify", json!({})).await;
        }
        town.check();
        let (_, stops) = entries(&town.rig).await.remove(0);
        assert_eq!(stops["schema"], 2);
    }
}

#[tokio::test]
async fn a_breaker_is_stored_when_it_trips_and_gone_with_the_first_answer() {
    let rig = Rig::created().await;
    let dead = Rule::new(MailFault::BadGateway).method("GET").times(1_000);
    rig.mailu.fault(dead.path("/user/"));
    for tries in 1..=6 {
        rig.write("acme/verify", json!({}))
            .await
            .fails(503, "mailu_unreachable");
        let found = entries(&rig).await;
        let expected = if tries >= 3 { json!(1) } else { Value::Null };
        assert_eq!(found[0].1["breaker"]["times"], expected, "try {tries}");
    }
    rig.later(60);
    rig.write("acme/verify", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    assert_eq!(entries(&rig).await[0].1["breaker"]["times"], 2);
    rig.mailu.clear_faults();
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(entries(&rig).await[0].1["breaker"], Value::Null);
}

/// A front answers once in words of its own: nobody waits an hour for that.
#[tokio::test]
async fn one_word_of_a_front_stops_nobody() {
    let mut slow = Words::new(429, Media::Text, "slow down");
    slow.retry_after = Some(2);
    let waf = Words::new(403, Media::Html, "<html>blocked</html>");
    let gateway = Words::new(401, Media::Json, r#"{"message":"no key"}"#);
    for words in [slow, waf, gateway] {
        let town = Town::build().await;
        let fault = MailFault::Worded {
            committed: false,
            words: words.clone(),
        };
        town.rig
            .mailu
            .fault(Rule::new(fault).method("GET").path("/user/acme"));
        let answer = town.rig.write("acme/verify", json!({})).await;
        assert!(matches!(answer.status, 400 | 503), "{answer:?}");
        // Persons go on at once, and emergencies.
        let answer = town.rig.write("globex/verify", json!({})).await;
        assert_eq!(answer.status, 200, "{words:?} {answer:?}");
        let order = json!({ "incident_id": "INC-1", "reason": "x" });
        let reset = town.rig.write("acme/reset", order).await.ok();
        assert_eq!(reset.get("state"), "done", "{words:?}");
        // The engine's own work goes on when the budget's hour is over.
        town.minutes(63);
        town.rig.tick().await;
        let answer = town.rig.write("acme/verify", json!({})).await;
        assert_eq!(answer.status, 200, "{words:?} {answer:?}");
    }
}

/// A front that refuses everything with 401 or 403: Mailu may count each of these.
#[tokio::test]
async fn at_most_three_calls_an_hour_end_in_a_fronts_refusal() {
    let town = Town::build().await;
    let words = Words::new(403, Media::Html, "<html>blocked</html>");
    let fault = MailFault::Worded {
        committed: false,
        words,
    };
    town.rig.mailu.fault(Rule::new(fault).times(10_000));
    let mut calls: Vec<DateTime<Utc>> = Vec::new();
    let mut seen = town.rig.mailu.journal().len();
    let right = town.rig.mailu.token().to_owned();
    for minute in 0..4 * 60 {
        let tenant = TENANTS[minute % 5];
        match minute % 4 {
            0 => drop(town.rig.write(&format!("{tenant}/verify"), json!({})).await),
            1 => {
                let body = json!({ "api_token": right });
                town.rig.write(&format!("{tenant}/config"), body).await.ok();
            }
            2 => {
                let order = json!({ "incident_id": format!("INC-{minute}"), "reason": "x" });
                let reset = town.rig.write(&format!("{tenant}/reset"), order).await.ok();
                assert_eq!(reset.get("state"), "queued");
            }
            _ => town.rig.tick().await,
        }
        let now = town.rig.clock.now();
        let journal = town.rig.mailu.journal();
        calls.extend(journal[seen..].iter().map(|_call| now));
        seen = journal.len();
        town.minutes(1);
    }
    for first in &calls {
        let hour = *first..*first + TimeDelta::hours(1);
        let within = calls.iter().filter(|at| hour.contains(at));
        assert!(within.count() <= 3, "{calls:?}");
    }
    assert!(calls.len() >= 8, "it is tried: {calls:?}");
}

/// What a person writes ends a stop for one call; where none may be risked, the answer says when.
#[tokio::test]
async fn a_token_that_is_written_again_is_tried_or_the_answer_names_the_time() {
    let town = Town::build().await;
    let right = town.rig.mailu.token().to_owned();
    // Mailu's own limiter, and somebody lifts it.
    town.rig.mailu.set_limits(0, 50);
    town.rig.mailu.forget_proven();
    let answer = town.rig.write("acme/verify", json!({})).await;
    answer.fails(409, "mailu_rate_limited");
    town.rig.mailu.forgive();
    town.rig.mailu.set_limits(5, 50);
    town.minutes(1);
    let answer = town.rig.write("acme/verify", json!({})).await;
    answer.fails(409, "mailu_rate_limited");
    let body = json!({ "api_token": right });
    let written = town.rig.write("acme/config", body.clone()).await;
    assert!(written.warnings.is_empty(), "{written:?}");
    assert_eq!(town.rig.write("acme/verify", json!({})).await.status, 200);
    // Refused by Mailu itself: the place of the same token is used up.
    town.rig.mailu.set_token("another-token");
    town.minutes(1);
    let answer = town.rig.write("acme/verify", json!({})).await;
    answer.fails(400, "mailu_token_refused");
    town.minutes(1);
    let written = town.rig.write("acme/config", body).await;
    let told = written.warnings.join(" ");
    assert!(
        told.contains("at the earliest") && told.contains('Z'),
        "{written:?}"
    );
    let body = json!({ "api_token": "another-token" });
    town.rig.write("acme/config", body).await.ok();
    assert_eq!(town.rig.write("acme/verify", json!({})).await.status, 200);
}
