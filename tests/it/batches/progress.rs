//! How a batch goes on, stops, is cancelled, and is taken up by another process.

use serde_json::{Value, json};

use super::{Fleet, account, server, tenant};
use crate::support::faults::{Fault, Kind};
use crate::support::world::simulate;

#[test]
fn everybody_gets_one_new_password_and_the_end_is_told() {
    simulate(async {
        let fleet = Fleet::of(40, 5).await;
        let body = json!({ "action": "rotate", "all": true, "reason": "new CA" });
        let id = fleet.create(body).await;
        assert_eq!(fleet.read(&id).await.get("state"), "canary");
        assert_eq!(fleet.read(&id).await.get("left"), 40);
        assert_eq!(
            fleet.writes(),
            [0; 40],
            "the request itself changes nothing"
        );
        fleet.host.tick().await;
        let read = fleet.read(&id).await;
        assert_eq!(read.get("state"), "done", "{:?}", read.data);
        assert_eq!(
            (read.get("succeeded"), read.get("left")),
            (&json!(40), &json!(0))
        );
        assert!(read.get("ended_at").is_string() && read.get("end_event_id").is_string());
        assert_eq!(fleet.writes(), [1; 40]);
        fleet.all_settled("done").await;
        assert_eq!(
            fleet.told().await,
            ["smtp_batch_started started", "smtp_batch_ended success"]
        );
        let events = fleet.host.events("t0007").await;
        let rotated = events.last().unwrap();
        assert_eq!(rotated["rotation_type"], "bulk");
        assert_eq!(rotated["reason"], "new CA");
        assert_eq!(rotated["request_id"], format!("batch:{id}"));
        assert_eq!(rotated["user_id"], "entity-of-userpass-alice");
    });
}

/// A quiet tick asks storage for nothing on behalf of batches.
#[test]
fn without_a_batch_a_tick_does_not_look_for_one() {
    simulate(async {
        let fleet = Fleet::of(1, 1).await;
        fleet.host.tick().await;
        fleet.plan.arm([]);
        fleet.world.later(60).await;
        fleet.host.tick().await;
        let calls = fleet.plan.calls();
        assert!(!calls.iter().any(|it| it.contains("batch")), "{calls:?}");
        let id = fleet
            .create(json!({ "action": "rotate", "all": true }))
            .await;
        fleet.host.tick().await;
        assert_eq!(fleet.read(&id).await.get("state"), "done");
        fleet.plan.arm([]);
        fleet.host.tick().await;
        let calls = fleet.plan.calls();
        assert!(!calls.iter().any(|it| it.contains("batch")), "{calls:?}");
    });
}

#[test]
fn a_canary_that_fails_stops_the_batch_before_the_rest() {
    simulate(async {
        let fleet = Fleet::of(6, 6).await;
        fleet.world.mail.remove(&server(1), &account("t0001"));
        let body = json!({ "action": "rotate", "all": true, "canary": 3 });
        let id = fleet.create(body).await;
        fleet.host.tick().await;
        let read = fleet.read(&id).await;
        assert_eq!(
            (read.text_of("state"), read.text_of("error_code")),
            ("stopped", "canary_failed")
        );
        assert_eq!(fleet.writes(), [1, 0, 0, 0, 0, 0]);
        let failure = &read.get("failures")[0];
        assert_eq!(failure["tenant"], "t0001");
        assert_eq!(failure["code"], "mailu_no_such_account");
        assert_eq!(read.get("left"), 4);
        for _ in 0..3 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
        }
        assert_eq!(fleet.writes(), [1, 0, 0, 0, 0, 0], "it stays stopped");
        let told = fleet.told().await;
        assert_eq!(
            told.last().unwrap(),
            "smtp_batch_ended failure canary_failed"
        );
        assert_eq!(told.len(), 2);
        // What failed in a batch is not tried again by the schedule.
        let record = fleet.world.record("t0001").await.unwrap();
        assert_eq!(record.open.retry_at, None);
    });
}

#[test]
fn too_many_failures_stop_it_by_itself() {
    simulate(async {
        let fleet = Fleet::of(30, 1).await;
        for index in 5..20 {
            fleet
                .world
                .mail
                .remove(&server(0), &account(&tenant(index)));
        }
        let body = json!({ "action": "rotate", "all": true, "max_failures": 2 });
        let id = fleet.create(body).await;
        fleet.host.tick().await;
        let read = fleet.read(&id).await;
        assert_eq!(read.text_of("error_code"), "too_many_failures");
        assert_eq!(
            (read.get("failed"), read.get("succeeded")),
            (&json!(3), &json!(5))
        );
        assert_eq!(read.get("left"), 22);
        let more = json!({ "action": "rotate", "all": true, "max_failures": 15 });
        let id = fleet.create(more).await;
        fleet.host.tick().await;
        let read = fleet.read(&id).await;
        // Found missing by the first batch, three of them are left alone now.
        assert_eq!(
            read.get("skipped"),
            &json!([{ "code": "drift", "count": 3 }])
        );
        assert_eq!(
            (read.get("failed"), read.get("succeeded")),
            (&json!(12), &json!(15))
        );
    });
}

/// A dead server costs one wait, not one for each of its tenants.
#[test]
fn a_silent_server_is_left_alone_and_the_others_are_done() {
    simulate(async {
        let fleet = Fleet::of(40, 2).await;
        fleet.world.mail.silence(&server(1), true);
        let body = json!({ "action": "rotate", "all": true, "max_failures": 100 });
        let id = fleet.create(body).await;
        let begun = tokio::time::Instant::now();
        fleet.host.tick().await;
        assert!(begun.elapsed().as_secs() < 120, "{:?}", begun.elapsed());
        let read = fleet.read(&id).await;
        assert_eq!(
            (read.get("failed"), read.get("succeeded")),
            (&json!(20), &json!(20))
        );
        assert_eq!(read.get("state"), "done");
    });
}

/// Two tenants on two servers whose records storage refuses for good: each ends the page in turn,
/// and neither may make the other's tries begin anew.
#[test]
fn two_that_storage_refuses_fail_and_the_batch_ends() {
    simulate(async {
        let fleet = Fleet::of(6, 2).await;
        fleet.plan.deny(&["cas tenant/t0000", "cas tenant/t0001"]);
        let body = json!({ "action": "rotate", "all": true, "canary": 0, "max_failures": 5 });
        let id = fleet.create(body).await;
        for _ in 0..10 {
            fleet.host.tick().await;
            fleet.world.later(60).await;
        }
        let read = fleet.read(&id).await;
        assert_eq!(read.get("state"), "done", "{:?}", read.data);
        assert_eq!(
            (read.get("failed"), read.get("succeeded")),
            (&json!(2), &json!(4))
        );
        let failures = read.get("failures").as_array().unwrap();
        assert!(failures.iter().all(|it| it["code"] == "storage_error"));
        fleet.plan.deny(&[]);
        for _ in 0..5 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
        }
        fleet.all_settled("after storage is well again").await;
    });
}

#[test]
fn a_cancelled_batch_stops_before_its_next_tenant() {
    simulate(async {
        let fleet = Fleet::of(10, 1).await;
        let id = fleet
            .create(json!({ "action": "rotate", "all": true }))
            .await;
        fleet.world.later(1).await;
        let second = fleet
            .create(json!({ "action": "rotate", "all": true }))
            .await;
        // The fourth tenant is under way when somebody cancels.
        fleet.plan.hold("cas tenant/t0003");
        let cancelling = async {
            fleet.plan.holds().await;
            let cancel = format!("batches/{id}/cancel");
            let cancelled = fleet
                .host
                .write(&cancel, json!({ "reason": "wrong list" }))
                .await
                .ok();
            assert_eq!(cancelled.get("state"), "cancelled");
            let other = format!("batches/{second}/cancel");
            fleet.host.write(&other, json!({})).await.ok();
            fleet.plan.release();
        };
        tokio::join!(fleet.host.tick(), cancelling);
        assert_eq!(fleet.writes(), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        let read = fleet.read(&id).await;
        assert_eq!(
            (read.get("succeeded"), read.get("left")),
            (&json!(4), &json!(6))
        );
        assert_eq!(read.text_of("ended_by"), "entity-of-userpass-alice");
        fleet.host.tick().await;
        assert_eq!(fleet.writes().iter().sum::<usize>(), 4);
        let again = fleet
            .host
            .write(&format!("batches/{id}/cancel"), json!({}))
            .await
            .ok();
        assert_eq!(again.get("ended_at"), read.get("ended_at"));
        let told = fleet.told().await;
        let ended = told
            .iter()
            .filter(|it| it.contains("ended failure cancelled"));
        assert_eq!((ended.count(), told.len()), (2, 4));
        fleet.all_settled("cancelled").await;
    });
}

/// Killed in the middle, a batch is finished by another process, and nobody is changed twice.
#[test]
fn another_process_finishes_it_and_nobody_is_changed_twice() {
    for (at, killed) in [3, 40, 77, 120, 300, 501].into_iter().enumerate() {
        simulate(async {
            let mut fleet = Fleet::of(60, 3).await;
            let id = fleet
                .create(json!({ "action": "rotate", "all": true }))
                .await;
            fleet.plan.arm([Fault {
                at: killed,
                kind: Kind::Crash,
                after: at % 2 == 0,
            }]);
            tokio::select! {
                () = fleet.host.tick() => panic!("it was to be killed at call {killed}"),
                () = fleet.plan.crashed() => {}
            }
            fleet.restart();
            let before: usize = fleet.writes().iter().sum();
            assert!(before < 60, "{before}");
            for _ in 0..4 {
                fleet.host.tick().await;
                fleet.world.later(60).await;
            }
            let read = fleet.read(&id).await;
            assert_eq!(read.get("state"), "done", "{killed}: {:?}", read.data);
            assert_eq!(read.get("succeeded"), 60, "{killed}");
            fleet.all_settled("finished").await;
            for index in 0..60 {
                let record = fleet.world.record(&tenant(index)).await.unwrap();
                let versions = &record.credential.unwrap().versions;
                assert_eq!(versions.len(), 2, "{killed}: {}", tenant(index));
            }
            let told = fleet.told().await;
            assert_eq!(told.len(), 2, "{told:?}");
        });
    }
}

#[test]
fn two_thousand_tenants_take_a_few_ticks_and_one_entry() {
    simulate(async {
        let fleet = Fleet::of(2_000, 40).await;
        let id = fleet
            .create(json!({ "action": "rotate", "all": true }))
            .await;
        fleet.host.tick().await;
        let read = fleet.read(&id).await;
        assert_eq!(read.get("succeeded"), 2_000, "{:?}", read.data);
        assert!(fleet.writes().iter().all(|writes| *writes == 1));
        let keys = fleet.host.list("batches").await.ok();
        assert_eq!(keys.get("keys").as_array().unwrap().len(), 1);
    });
}

#[test]
fn an_emergency_for_many_queues_what_cannot_be_done_now() {
    simulate(async {
        let fleet = Fleet::of(6, 3).await;
        fleet.world.mail.silence(&server(2), true);
        let body = json!({ "action": "reset", "all": true, "incident_id": "INC-7",
            "reason": "leak", "tenants": [] });
        let id = fleet.create(body.clone()).await;
        fleet.host.tick().await;
        let read = fleet.read(&id).await;
        assert_eq!(read.get("state"), "done", "{:?}", read.data);
        assert_eq!(
            (read.get("succeeded"), read.get("queued")),
            (&json!(4), &json!(2))
        );
        let events = fleet.host.events("t0000").await;
        assert_eq!(events.last().unwrap()["incident_id"], "INC-7");
        // Nobody saw a password.
        assert!(
            events
                .iter()
                .all(|it| it["event"] != "smtp_credentials_revealed")
        );
        assert!(fleet.read(&id).await.data.get("password").is_none());
        fleet.world.mail.silence(&server(2), false);
        for _ in 0..20 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
        }
        fleet.all_settled("queued resets").await;
        let version = fleet.host.read("t0000/versions/1").await.ok();
        assert_eq!(version.get("compromised"), &Value::Bool(true));
        // The same incident again finds everything done.
        let writes = fleet.writes();
        let id = fleet.create(body).await;
        fleet.host.tick().await;
        let read = fleet.read(&id).await;
        assert_eq!(
            read.get("skipped"),
            &json!([{ "code": "already_reset", "count": 6 }])
        );
        assert_eq!(fleet.writes(), writes);
    });
}

/// An emergency for many does not wait until everybody had an ordinary turn.
#[test]
fn a_batch_of_resets_goes_before_one_of_rotations_that_is_under_way() {
    simulate(async {
        let fleet = Fleet::of(8, 1).await;
        let rotate = json!({ "action": "rotate", "all": true });
        let first = fleet.create(rotate.clone()).await;
        fleet.world.later(1).await;
        let second = fleet.create(rotate).await;
        fleet.plan.hold("cas tenant/t0003");
        let ordering = async {
            fleet.plan.holds().await;
            let reset = json!({ "action": "reset", "tenants": "t0001,t0006", "incident_id": "INC-7",
                "reason": "leak" });
            let created = fleet.host.write("batches", reset).await.ok();
            assert_eq!(created.get("ahead"), 0);
            fleet.plan.release();
            created.text_of("id").to_owned()
        };
        let ((), reset) = tokio::join!(fleet.host.tick(), ordering);
        for _ in 0..3 {
            fleet.host.tick().await;
            fleet.world.later(60).await;
        }
        let mut ends = Vec::new();
        for id in [&reset, &first, &second] {
            let read = fleet.read(id).await;
            assert_eq!(read.get("state"), "done", "{:?}", read.data);
            ends.push(read.text_of("ended_at").to_owned());
        }
        assert!(ends[0] <= ends[1] && ends[1] <= ends[2], "{ends:?}");
        // t0006 had its reset before its rotation.
        let story = fleet.host.story("t0006").await;
        let at = |name: &str| story.iter().position(|it| it == name);
        assert!(at("emergency_reset") < at("rotated"), "{story:?}");
        fleet.all_settled("afterwards").await;
    });
}

/// What a clock that is ahead calls old is kept: a batch is the record of what it did.
#[test]
fn a_clock_that_is_ahead_deletes_no_batch() {
    simulate(async {
        let fleet = Fleet::of(1, 1).await;
        let id = fleet
            .create(json!({ "action": "rotate", "tenants": "t0000" }))
            .await;
        fleet.host.tick().await;
        fleet.world.later(60).await;
        fleet.host.tick().await;
        fleet.world.clock.jump(chrono::TimeDelta::days(400));
        for _ in 0..3 {
            fleet.host.tick().await;
            fleet.world.later(60).await;
        }
        fleet
            .create(json!({ "action": "rotate", "tenants": "nobody" }))
            .await;
        assert_eq!(fleet.read(&id).await.get("state"), "done");
    });
}

/// While a mail client's way is tried with the new password, others may call the server.
#[test]
fn a_login_that_hangs_keeps_nobody_from_the_server() {
    simulate(async {
        let fleet = Fleet::of(2, 1).await;
        let config = json!({ "verify_smtp": true, "smtp_address": "mail-0.example.test:465",
            "api_token": "token-of-the-mail-server" });
        fleet.host.patch("t0000/config", config).await.ok();
        fleet.plan.hold("mail login");
        let other = async {
            fleet.plan.holds().await;
            fleet.host.write("t0001/rotate", json!({})).await.ok();
            fleet.plan.release();
        };
        let (one, ()) = tokio::join!(fleet.host.write("t0000/rotate", json!({})), other);
        one.ok();
        fleet.all_settled("both").await;
    });
}

/// Two incidents of one tenant while its server is somebody else's: the second takes the first one's
/// password over, and neither is told of a defect.
#[test]
fn two_incidents_at_once_both_end_with_a_password_or_in_the_queue() {
    simulate(async {
        let fleet = Fleet::of(2, 1).await;
        fleet.plan.hold("mail set_password");
        let started = async |count: usize| {
            let story = fleet.host.story("t0000").await;
            let starts = story.iter().filter(|it| *it == "emergency_reset_started");
            starts.count() == count
        };
        let others = async {
            fleet.plan.holds().await;
            let order = |incident: &str| json!({ "incident_id": incident, "reason": "leak" });
            let (one, two) = (order("INC-1"), order("INC-2"));
            let release = async {
                while !started(2).await {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                fleet.plan.release();
            };
            let second = async {
                while !started(1).await {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                fleet.host.write("t0000/reset", two).await
            };
            tokio::join!(fleet.host.write("t0000/reset", one), second, release)
        };
        let rotate = fleet.host.write("t0001/rotate", json!({}));
        let (rotated, (one, two, ())) = tokio::join!(rotate, others);
        rotated.ok();
        let two = two.ok();
        let one = one.ok();
        assert_ne!(two.get("state"), "queued", "{two:?}");
        if one.get("state") != "queued" {
            assert_eq!(one.text_of("password"), two.text_of("password"));
        }
        fleet.world.later(60).await;
        fleet.host.tick().await;
        fleet.all_settled("both incidents").await;
        let version = fleet.host.read("t0000/versions/1").await.ok();
        assert_eq!(version.get("incident_id"), "INC-1");
    });
}

/// The note that the end was told gets lost, so that it is told again: counted once all the same.
#[test]
fn an_end_that_is_told_again_is_counted_once() {
    for after in [false, true] {
        simulate(async {
            let fleet = Fleet::of(2, 1).await;
            let id = fleet
                .create(json!({ "action": "rotate", "all": true }))
                .await;
            // The first one stores the end itself.
            let note = format!("put batch/{id}");
            fleet.plan.arm_named(&note, 1, Kind::Refused, after);
            let cancel = format!("batches/{id}/cancel");
            fleet.host.write(&cancel, json!({})).await;
            assert_eq!(fleet.plan.ahead(), []);
            for _ in 0..3 {
                fleet.host.tick().await;
                fleet.world.later(60).await;
            }
            assert!(fleet.read(&id).await.get("end_event_id").is_string());
            let samples = crate::endpoints::mount_status::metrics(&fleet.host).await;
            let ended = samples["smtp_batches_ended_total{state=\"cancelled\"}"];
            assert_eq!(ended, 1.0, "after its effect: {after}");
        });
    }
}

#[test]
fn those_that_are_over_are_kept_for_a_while() {
    simulate(async {
        let fleet = Fleet::of(1, 1).await;
        for _ in 0..104 {
            fleet
                .create(json!({ "action": "rotate", "tenants": "nobody" }))
                .await;
            fleet.host.tick().await;
            fleet.world.later(1).await;
        }
        let count = async || {
            let keys = fleet.host.list("batches").await;
            keys.get("keys").as_array().map_or(0, Vec::len)
        };
        assert!(count().await <= 101, "{}", count().await);
        fleet.world.later(91 * 24 * 3600).await;
        fleet.host.tick().await;
        assert_eq!(count().await, 0);
    });
}
