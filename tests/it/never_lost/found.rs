//! What the matrix and the random histories found, one test each.

use std::time::Duration;

use futures_util::future::join;
use serde_json::json;

use super::history::{Faults, Request, Step, Who, run};
use super::operations::{compromised_live, created, incident, login_under_way, open};
use super::{Before, Said, nothing_is_lost};
use crate::support::engine::Host;
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, SERVER, World, server, simulate};

/// A process in which every call of this name fails.
fn process_without(world: &World, name: &'static str, kind: Kind) -> (Host, Plan) {
    let plan = Plan::simulated();
    plan.arm((0..60).map(|at| Fault {
        at,
        kind,
        after: false,
    }));
    plan.only(name);
    (world.process(&plan), plan)
}

async fn candidates(host: &Host) -> Vec<String> {
    match Said::of(host, "acme", "found").await {
        Said::Uncertain(candidates) => candidates,
        said => panic!("{said:?}"),
    }
}

/// The superseded candidate had landed: `settled` on the version before it was a lie.
#[test]
fn a_queued_reset_does_not_hide_the_doubt_of_the_change_it_supersedes() {
    simulate(async {
        let world = open(true).await;
        let before = Before::of(&world).await;
        let (host, _plan) = process_without(&world, "mail account", Kind::Refused);
        let reset = host.write("acme/reset", incident()).await.ok();
        assert_eq!(reset.get("state"), "queued", "{reset:?}");
        assert!(candidates(&host).await.contains(&world.live().unwrap()));
        nothing_is_lost(&world, &host, &before, "queued").await;
    });
}

/// The look came after the send, whatever the clock says: `uncertain` would have stayed for ever.
#[test]
fn a_clock_set_back_does_not_make_an_old_send_younger_than_the_drift() {
    simulate(async {
        let world = open(true).await;
        world.clock.jump(chrono::TimeDelta::hours(-1));
        world.mail.edit(SERVER, ACCOUNT, |mailbox| {
            *mailbox = Mailbox::new("set by somebody else");
        });
        let host = world.sound_process();
        host.write("acme/verify", json!({})).await;
        assert_eq!(Said::of(&host, "acme", "found").await, Said::Drift);
    });
}

/// Until the send has its effect the compromised password is what logs in.
#[test]
fn a_compromised_password_that_is_live_is_listed_while_the_current_one_is_set_again() {
    simulate(async {
        let world = compromised_live().await;
        let (host, plan) = process_without(&world, "mail set_password", Kind::Crash);
        tokio::select! {
            biased;
            () = plan.crashed() => {}
            () = host.tick() => panic!("nothing was sent"),
        }
        let next = world.sound_process();
        assert!(candidates(&next).await.contains(&world.live().unwrap()));
    });
}

fn worded(after: bool) -> Option<Fault> {
    Some(Fault {
        at: 0,
        kind: Kind::Worded,
        after,
    })
}

/// A front committed the change and answered with a refusal of its own: the password that logs in was
/// dropped, and `admin` said `settled` over a dead one.
#[test]
fn a_front_that_words_the_answer_after_the_effect_loses_nothing() {
    simulate(async {
        let world = created().await;
        let plan = Plan::simulated();
        let host = world.process(&plan);
        plan.arm_sends([worded(true)]);
        let rotated = host.write("acme/rotate", json!({})).await.ok();
        assert_eq!(rotated.get("version"), 2);
        let live = world.live().unwrap();
        assert_eq!(Said::of(&host, "acme", "worded").await, Said::Settled(live));
    });
}

/// Each refused value is kept, and the fifth change sends the fourth value again: the record does not
/// grow, and the current password goes on being the one that logs in.
#[test]
fn a_front_that_refuses_everything_does_not_make_the_record_grow() {
    simulate(async {
        let world = created().await;
        let first = world.live().unwrap();
        let plan = Plan::simulated();
        let host = world.process(&plan);
        for tries in 1..=12_usize {
            plan.arm_sends([worded(false)]);
            host.write("acme/rotate", json!({}))
                .await
                .fails(400, "mailu_rejected");
            let kept = world.stored("acme").await;
            assert_eq!(kept.len(), 1 + tries.min(4), "{tries}");
            let said = Said::of(&host, "acme", "refused").await;
            assert_eq!(said, Said::Settled(first.clone()), "{tries}");
            world.later(3600).await;
        }
        // The front is gone: what is sent is the youngest of them, under a number of its own.
        let kept = world.stored("acme").await;
        let (number, youngest) = kept.last_key_value().unwrap();
        let rotated = host.write("acme/rotate", json!({})).await.ok();
        assert_eq!(rotated.get("version"), number + 1);
        assert_eq!(world.live().as_ref(), Some(youngest));
        let live = world.live().unwrap();
        assert_eq!(Said::of(&host, "acme", "taken").await, Said::Settled(live));
        assert_eq!(world.stored("acme").await.len(), 5);
    });
}

/// A sweep that found another password while a note held the tenant's lock forgot what it had seen,
/// and `admin` went on saying `settled` until the next day's sweep.
#[test]
fn a_difference_is_looked_at_though_somebody_has_the_tenant() {
    simulate(async {
        let world = created().await;
        world
            .mail
            .edit(SERVER, ACCOUNT, |it| *it = Mailbox::new("somebody else's"));
        let plan = Plan::simulated();
        let host = world.process(&plan);
        plan.hold("cas tenant/acme");
        let looks = world.mail.looks();
        let body = json!({ "webmail_url": "https://webmail.example.test" });
        let noted = host.patch("acme/admin", body);
        let swept = async {
            plan.holds().await;
            let released = async {
                while world.mail.looks() == looks {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                // Whatever the sweep does about it begins meanwhile.
                tokio::time::sleep(Duration::from_secs(1)).await;
                plan.release();
            };
            join(host.tick(), released).await;
        };
        let (noted, ()) = join(noted, swept).await;
        noted.ok();
        assert_eq!(Said::of(&host, "acme", "swept").await, Said::Drift);
    });
}

/// A login with the old password that found an outdated hash writes the whole column after the change
/// was proven: `settled` over a dead password, and after a reset the stolen one lived for minutes.
#[test]
fn a_login_that_began_before_a_change_does_not_undo_it() {
    for (path, body) in [("acme/rotate", json!({})), ("acme/reset", incident())] {
        simulate(async {
            let world = login_under_way().await;
            let old = world.live().unwrap();
            let host = world.sound_process();
            host.write(path, body).await.ok();
            let live = world.live().unwrap();
            assert_ne!(live, old, "{path}");
            // It was made again, and that is looked at as well.
            assert!(candidates(&host).await.contains(&live), "{path}");
            let told: Vec<_> = host.events("acme").await;
            let undone = told.iter().find(|it| it["error_code"] == "older_version");
            assert!(undone.is_some(), "{path}: it is told: {told:#?}");
            world.quiet(&host, "acme").await;
            assert_eq!(world.live(), Some(live.clone()), "{path}");
            let said = Said::of(&host, "acme", path).await;
            assert_eq!(said, Said::Settled(live), "{path}");
        });
    }
}

/// The same where nobody waits for the look: until it was taken nothing is settled, and both are told.
#[test]
fn until_a_login_under_way_can_have_written_nothing_is_settled() {
    simulate(async {
        let world = login_under_way().await;
        let old = world.live().unwrap();
        let host = world.sound_process();
        host.write("config", json!({ "wait": "2s" })).await.ok();
        let rotated = host.write("acme/rotate", json!({})).await.ok();
        assert_eq!(rotated.get("state"), "uncertain");
        let new = world.live().unwrap();
        let both = candidates(&host).await;
        assert!(
            both.contains(&old) && both.contains(&new),
            "the answer came first"
        );
        world.later(3).await;
        assert_eq!(world.live(), Some(old.clone()), "it is undone");
        assert!(candidates(&host).await.contains(&old));
        world.quiet(&host, "acme").await;
        assert_eq!(world.live(), Some(new.clone()), "and made again");
        assert_eq!(Said::of(&host, "acme", "later").await, Said::Settled(new));
    });
}

/// A login in between has hashed the password again already, with today's rounds: the text of the
/// hash alone says that others may be about to.
#[test]
fn a_hash_that_was_written_since_the_last_proof_has_the_change_looked_at_again() {
    simulate(async {
        let world = created().await;
        let host = world.sound_process();
        world.mail.begin_login(SERVER, ACCOUNT);
        world.mail.edit(SERVER, ACCOUNT, |mailbox| {
            *mailbox = Mailbox {
                comment: mailbox.comment.clone(),
                ..Mailbox::new(&mailbox.password)
            };
        });
        let old = world.live().unwrap();
        host.write("acme/rotate", json!({})).await.ok();
        let live = world.live().unwrap();
        assert_ne!(live, old, "it was made again");
        world.quiet(&host, "acme").await;
        let said = Said::of(&host, "acme", "written since").await;
        assert_eq!(said, Said::Settled(live));
    });
}

/// Every change is looked at again after 2 and 15 minutes: a write that hung for longer than the first
/// look is found there.
#[test]
fn every_change_is_looked_at_twice_more() {
    simulate(async {
        let world = created().await;
        let old = world.live().unwrap();
        let host = world.sound_process();
        host.write("acme/rotate", json!({})).await.ok();
        for minutes in [3_u64, 16] {
            world
                .mail
                .edit(SERVER, ACCOUNT, |it| *it = Mailbox::new(&old));
            world.later(minutes * 60).await;
            host.tick().await;
            let said = Said::of(&host, "acme", "looked at").await;
            assert_eq!(said, Said::Drift, "{minutes}");
            host.write("acme/verify", json!({})).await.ok();
            let record = world.record("acme").await.unwrap();
            assert!(minutes > 3 || !record.open.confirm_at.is_empty());
            world
                .mail
                .edit(SERVER, ACCOUNT, |it| it.password.clone_from(&old));
        }
    });
}

/// Another tenant of the server is asked about, and the server does not answer: the reset was in memory
/// only until its turn came. A 503 and a crash, and nothing had happened.
#[test]
fn a_reset_that_waits_behind_others_outlives_a_crash() {
    simulate(async {
        let world = created().await;
        let old = world.live().unwrap();
        let plan = Plan::simulated();
        let host = world.process(&plan);
        world
            .mail
            .put(SERVER, "smtp-admin@beta.test", Mailbox::new("beta"));
        host.write("beta/config", server()).await.ok();
        let admin = json!({ "username": "smtp-admin@beta.test" });
        host.write("beta/admin", admin).await.ok();
        world.mail.silence(SERVER, true);
        let verify = host.write("beta/verify", json!({}));
        let reset = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut body = incident();
            body["hold"] = json!(true);
            host.write("acme/reset", body).await
        };
        let (_verified, answer) = join(verify, reset).await;
        assert!(
            answer.status == 200 || answer.code == "in_progress",
            "{answer:?}"
        );
        plan.kill();
        let next = world.sound_process();
        let record = world.record("acme").await.unwrap();
        let credential = record.credential.as_ref().unwrap();
        assert!(record.intent.as_ref().is_some_and(|it| it.is_emergency()));
        assert!(credential.current_version().unwrap().compromised.is_some());
        assert!(credential.hold.is_some());
        assert_eq!(Said::of(&next, "acme", "held").await, Said::Held);
        let events = next.events("acme").await;
        let started =
            |it: &&serde_json::Value| it["event"] == "smtp_credentials_emergency_reset_started";
        assert_eq!(events.iter().filter(started).count(), 1, "{events:#?}");
        world.mail.silence(SERVER, false);
        world.later(600).await;
        world.quiet(&next, "acme").await;
        assert_ne!(world.live().unwrap(), old, "it took effect");
        next.write("acme/release", json!({})).await.ok();
        let live = world.live().unwrap();
        assert_eq!(Said::of(&next, "acme", "after").await, Said::Settled(live));
    });
}

/// What is promised is stored first: while somebody else's write holds the tenant, nothing is.
#[test]
fn a_reset_that_could_not_be_stored_promises_nothing() {
    simulate(async {
        let world = created().await;
        let plan = Plan::simulated();
        let host = world.process(&plan);
        plan.hold("cas tenant/acme");
        let body = json!({ "webmail_url": "https://webmail.example.test" });
        let held = host.patch("acme/admin", body);
        let reset = async {
            plan.holds().await;
            let answer = host.write("acme/reset", incident()).await;
            plan.release();
            answer
        };
        let (_patched, answer) = join(held, reset).await;
        answer.fails(503, "not_stored");
    });
}

/// An account that is gone may come back from a backup, with the password that is to end.
#[test]
fn a_reset_of_a_missing_account_waits_for_it() {
    simulate(async {
        let world = created().await;
        let stolen = world.mail.mailbox(SERVER, ACCOUNT).unwrap();
        world.mail.remove(SERVER, ACCOUNT);
        let host = world.sound_process();
        let reset = host.write("acme/reset", incident()).await.ok();
        assert_eq!(reset.get("state"), "queued");
        assert_eq!(Said::of(&host, "acme", "missing").await, Said::Drift);
        for _ in 0..3 {
            world.later(4_000).await;
            host.tick().await;
            assert_eq!(Said::of(&host, "acme", "parked").await, Said::Drift);
        }
        let record = world.record("acme").await.unwrap();
        assert!(record.intent.is_some_and(|it| it.is_emergency()));
        world.mail.put(SERVER, ACCOUNT, stolen.clone());
        world.later(4_000).await;
        world.quiet(&host, "acme").await;
        let live = world.live().unwrap();
        assert_ne!(live, stolen.password);
        assert_eq!(Said::of(&host, "acme", "back").await, Said::Settled(live));
    });
}

/// A deletion ends a parked reset and not what it says of the password.
#[test]
fn a_reset_that_a_deletion_ended_goes_on_with_the_undeletion() {
    simulate(async {
        let world = created().await;
        let stolen = world.mail.mailbox(SERVER, ACCOUNT).unwrap();
        world.mail.remove(SERVER, ACCOUNT);
        let host = world.sound_process();
        host.write("acme/reset", incident()).await.ok();
        host.delete("acme/admin").await.ok();
        let record = world.record("acme").await.unwrap();
        assert_eq!(record.intent, None);
        world.mail.put(SERVER, ACCOUNT, stolen.clone());
        host.write("acme/undelete", json!({})).await.ok();
        assert!(!matches!(
            Said::of(&host, "acme", "undeleted").await,
            Said::Settled(_)
        ));
        world.quiet(&host, "acme").await;
        let live = world.live().unwrap();
        assert_ne!(live, stolen.password);
        assert_eq!(Said::of(&host, "acme", "done").await, Said::Settled(live));
    });
}

/// Each found the other waiting for the tenant, gave the server up and tried again, for ever.
#[test]
fn two_requests_behind_an_emergency_do_not_wait_for_each_other() {
    let faults = Faults {
        calls: vec![Fault {
            at: 9,
            kind: Kind::Unknown,
            after: true,
        }],
        sends: vec![Some(Fault {
            at: 0,
            kind: Kind::Refused,
            after: true,
        })],
    };
    run(&[
        Step::Jump(212),
        Step::Ask(
            vec![
                (Who::Acme, Request::ResetAndHold),
                (Who::Beta, Request::Rotate),
            ],
            faults,
        ),
        Step::Foreign(Who::Acme),
        Step::Ask(
            vec![(Who::Acme, Request::Verify), (Who::Acme, Request::Rotate)],
            Faults::default(),
        ),
    ]);
}

/// Four values were sent in vain: what is sent next is none of them where somebody may have seen it, or
/// where it logs in already.
#[test]
fn a_value_that_is_no_news_is_not_sent_again() {
    for case in ["a look", "drift"] {
        simulate(async {
            let world = created().await;
            let plan = Plan::simulated();
            let host = world.process(&plan);
            let settings = json!({ "min_rotation_interval": 0, "rotate_after_reveal": true, "reveal_ttl": "1m" });
            host.write("config", settings).await.ok();
            for _ in 0..4 {
                plan.arm_sends([worded(false)]);
                host.write("acme/rotate", json!({}))
                    .await
                    .fails(400, "mailu_rejected");
            }
            let kept = world.stored("acme").await;
            let (_, youngest) = kept.last_key_value().unwrap();
            if case == "drift" {
                world
                    .mail
                    .edit(SERVER, ACCOUNT, |it| *it = Mailbox::new(youngest));
                host.write("acme/verify", json!({})).await.ok();
                assert_eq!(Said::of(&host, "acme", case).await, Said::Drift);
                host.write("acme/rotate", json!({})).await.ok();
            } else {
                let look = json!({ "reason": "on call" });
                host.write("acme/reveal", look).await.ok();
                for _ in 0..10 {
                    world.later(60).await;
                    host.tick().await;
                }
            }
            let live = world.live().unwrap();
            assert!(!kept.values().any(|old| *old == live), "{case}");
            assert_eq!(Said::of(&host, "acme", case).await, Said::Settled(live));
        });
    }
}
