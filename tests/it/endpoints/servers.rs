//! Mail servers that cannot be asked, as `status` tells them.

use serde_json::{Value, json};

use crate::support::engine::Rig;
use crate::support::mailu::standin::{Fault, Media, Rule, Words};

async fn servers(rig: &Rig) -> Vec<Value> {
    let status = rig.read("status").await.ok();
    status.get("servers").as_array().unwrap().clone()
}

fn everything(words: Words) -> Rule {
    let fault = Fault::Worded {
        committed: false,
        words,
    };
    Rule::new(fault).times(10_000)
}

/// Nobody asks for the tenant: the daily sweep alone meets its server, and says so for as long as it
/// lasts, with the instant at which it began.
#[tokio::test]
async fn a_tenant_that_nobody_can_ask_is_told_for_as_long_as_it_lasts() {
    for (case, code) in [
        ("token", "token_refused"),
        ("waf", "unrecognised_refusal"),
        ("no api", "no_api"),
        ("redirect", "no_api"),
        ("down", "unreachable"),
    ] {
        let mut rig = Rig::created().await;
        let answers = |status| everything(Words::new(status, Media::Html, "<html>not here</html>"));
        match case {
            "token" => rig.mailu.set_token("another-token"),
            "waf" => rig.mailu.fault(answers(403)),
            "no api" => rig.mailu.fault(answers(404)),
            "redirect" => rig.mailu.fault(answers(302)),
            _ => rig.mailu.set_admin_down(true),
        }
        let mut began = None;
        for day in 0..3 {
            // A start and a day: with its ticks.
            rig.restart();
            for _ in 0..12 {
                rig.later(2 * 3600);
                rig.mailu.advance(std::time::Duration::from_secs(2 * 3600));
                rig.tick().await;
            }
            let listed = servers(&rig).await;
            assert_eq!(listed.len(), 1, "{case} {day}: {listed:?}");
            assert_eq!(listed[0]["code"], code, "{case}");
            assert_eq!(listed[0]["tenants"], 1);
            let since = listed[0]["since"].clone();
            assert_eq!(*began.get_or_insert(since.clone()), since, "{case} {day}");
            let status = rig.read("acme/status").await.ok();
            assert_eq!(status.get("server_unasked")["code"], code, "{case}");
            let refused = (case == "waf").then_some(403);
            assert_eq!(listed[0]["status"], json!(refused), "{case}");
            assert_eq!(
                status.get("server_unasked")["status"],
                json!(refused),
                "{case}"
            );
            let status = rig.read("status").await.ok();
            let told = status.get("attention").as_array().unwrap().clone();
            assert!(told.iter().any(|it| it["code"] == code), "{case} {told:?}");
            let text = rig.read("metrics").await.raw.unwrap().1;
            let line = format!("smtp_servers_unasked{{code=\"{code}\"}} 1");
            assert!(text.contains(&line), "{case}: {text}");
        }
        rig.mailu.clear_faults();
        rig.mailu.set_admin_down(false);
        let token = rig.mailu.token().to_owned();
        rig.mailu.set_token(&token);
        rig.later(2 * 3600);
        rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(servers(&rig).await, Vec::<Value>::new(), "{case}");
        let status = rig.read("acme/status").await.ok();
        assert_eq!(status.get("server_unasked"), &Value::Null, "{case}");
    }
}
