//! What the matrix and the random histories found, one test each.

use std::time::Duration;

use futures_util::future::join;
use serde_json::json;

use super::operations::{compromised_live, created, incident, open};
use super::{Before, Said, nothing_is_lost};
use crate::support::engine::Host;
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, SERVER, World, simulate};

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
