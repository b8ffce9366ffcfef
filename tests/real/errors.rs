//! What a client is told when something is wrong, after the host had its hand on it.

use serde_json::{Value, json};

use super::api::Answer;
use super::harness::tests;
use super::rig::{EMAIL, FIRST, Rig};
use crate::support::mailu::standin::{Fault, Rule};

tests! {
    what_a_tenant_s_state_forbids_is_refused_with_its_code,
    values_out_of_range_are_refused_with_their_code,
    mailu_s_refusals_and_failures_are_told_apart,
    wrong_certificates_are_refused_before_anything_is_sent,
    what_is_not_there_is_404_without_a_text,
    a_body_of_the_wrong_shape_is_refused_without_being_quoted,
    unknown_parameters_are_named_in_a_warning,
    a_misspelt_safety_field_changes_nothing,
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.code()),
        (status, code),
        "{}",
        answer.body
    );
    // A sentence about what is wrong and one about what to do.
    assert!(answer.error().ends_with('.'), "{}", answer.error());
    if status == 400 {
        assert_eq!(answer.body["data"]["code"], code);
    }
}

async fn what_a_tenant_s_state_forbids_is_refused_with_its_code() {
    let rig = Rig::shared("refusals").await;
    rig.create("acme").await;
    let other_name = json!({"username": "b@example.test"});
    let other_server = json!({"mailu_url": "https://other.example"});
    for (path, body, status, code) in [
        ("metrics/admin", json!({}), 400, "invalid_tenant"),
        ("nobody/rotate", json!({}), 404, "unknown_tenant"),
        ("nobody/verify", json!({}), 404, "unknown_tenant"),
        ("acme/admin", json!({"cas": 7}), 409, "cas_mismatch"),
        ("acme/admin", other_name, 400, "username_fixed"),
        (
            "acme/admin",
            json!({"password": FIRST}),
            400,
            "password_needs_cas",
        ),
        ("acme/config", other_server, 400, "token_required"),
        ("other/admin", json!({"username": EMAIL}), 400, "no_server"),
    ] {
        assert_refused(&rig.write(path, body).await, status, code);
    }
    assert_refused(&rig.delete("acme/config").await, 409, "credential_exists");
    rig.write("config", json!({"min_rotation_interval": "1h"}))
        .await
        .no_content();
    rig.rotate("acme").await.data();
    assert_refused(&rig.rotate("acme").await, 409, "too_soon");
    rig.assert_nothing_leaked();
}

async fn values_out_of_range_are_refused_with_their_code() {
    let rig = Rig::shared("ranges").await;
    for (path, body, code) in [
        ("acme/destroy", json!({"reason": "left"}), "missing_field"),
        ("config", json!({"wait": 26}), "invalid_config"),
        (
            "config",
            json!({"audit_mode": "required"}),
            "audit_unproven",
        ),
    ] {
        assert_refused(&rig.write(path, body).await, 400, code);
    }
    assert_refused(&rig.read("Acme/admin").await, 400, "invalid_tenant");
    assert_refused(&rig.read("acme/events?limit=0").await, 400, "invalid_field");
    let list = rig.list("tenants?detailed=true&limit=101").await;
    assert_refused(&list, 400, "invalid_field");
}

async fn mailu_s_refusals_and_failures_are_told_apart() {
    let rig = Rig::shared("mailu-errors").await;
    rig.create("acme").await;
    let before = rig.password("acme").await;

    let token = "another-api-token-7d20";
    rig.mailu.set_token(token);
    assert_refused(&rig.rotate("acme").await, 400, "mailu_token_refused");
    let calls = rig.mailu.journal().len();
    assert_refused(&rig.rotate("acme").await, 400, "mailu_token_refused");
    assert_eq!(rig.mailu.journal().len(), calls, "it is not tried again");
    let mended = rig
        .write("acme/config", json!({ "api_token": token }))
        .await;
    mended.no_content();
    rig.mailu.delete(EMAIL);
    assert_refused(&rig.rotate("acme").await, 400, "mailu_no_such_account");
    assert_eq!(rig.admin("acme").await["state"], json!("drift"));
    rig.mailu.set_password_directly(EMAIL, &before);
    rig.write("acme/verify", json!({})).await.data();

    rig.mailu.set_admin_down(true);
    let refused = rig.rotate("acme").await;
    assert_refused(&refused, 503, "mailu_unreachable");
    assert!(refused.error().ends_with("Nothing was changed."));
    let admin = rig.admin("acme").await;
    assert_eq!(
        (&admin["state"], &admin["password"]),
        (&json!("settled"), &json!(before))
    );
    rig.mailu.set_admin_down(false);

    // Down after the account was read: the password was sent, and nobody knows more.
    let down = Rule::new(Fault::BadGateway)
        .path("/user/")
        .after(1)
        .times(usize::MAX);
    rig.mailu.fault(down);
    let refused = rig.rotate("acme").await;
    assert_refused(&refused, 503, "mailu_unreachable");
    assert!(refused.error().contains("both passwords are kept"));
    let admin = rig.admin("acme").await;
    assert_eq!(
        (&admin["state"], &admin["password"]),
        (&json!("uncertain"), &json!(before))
    );
    assert_eq!(admin["ttl"], 15);
    let status = rig.read("acme/status").await;
    assert_eq!(status.data()["last_error"]["code"], "mailu_unreachable");
    rig.mailu.clear_faults();
    rig.rotate("acme").await.data();
    rig.assert_live(&rig.password("acme").await).await;
    rig.assert_nothing_leaked();
}

async fn wrong_certificates_are_refused_before_anything_is_sent() {
    let rig = Rig::shared("certificates").await;
    for (tenant, url) in [
        ("stranger", rig.mailu.wrong_name_url()),
        ("expired", rig.mailu.expired_url()),
    ] {
        let mut config = rig.server_config();
        config["mailu_url"] = Value::from(url);
        rig.write(&format!("{tenant}/config"), config)
            .await
            .no_content();
        let path = format!("{tenant}/admin");
        let refused = rig.write(&path, json!({"username": EMAIL})).await;
        assert_refused(&refused, 400, "mailu_tls");
    }
    assert!(rig.mailu.journal().is_empty());
    rig.assert_nothing_leaked();
}

async fn what_is_not_there_is_404_without_a_text() {
    let rig = Rig::shared("absent").await;
    for path in [
        "nobody/admin",
        "nobody/config",
        "nobody/status",
        "nobody/events",
    ] {
        let answer = rig.read(path).await;
        assert_eq!(
            (answer.status, &answer.body["errors"]),
            (404, &json!([])),
            "{path}"
        );
    }
    assert_eq!(rig.list("").await.status, 404);
    let unknown = rig.read("acme/nonsense").await;
    assert_refused(&unknown, 404, "unsupported_path");
    let unknown = rig.read("acme/nonsense?help=1").await;
    assert_refused(&unknown, 404, "unsupported_path");
    let unsupported = rig.read("acme/rotate").await;
    assert_refused(&unsupported, 405, "unsupported_operation");
}

async fn a_body_of_the_wrong_shape_is_refused_without_being_quoted() {
    let rig = Rig::shared("shapes").await;
    let path = rig.path("acme/admin");
    for body in [
        "{\"password\": \"secret-in-broken-json-6a\"",
        "[1]",
        "\"word\"",
    ] {
        let request = rig.api.request("POST", &path).body(body);
        let answer = rig.api.send(request).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(!answer.body.to_string().contains("secret-in-broken-json"));
    }
    for wrong in [
        json!({"username": {"a": 1}}),
        json!({"cas": "two"}),
        json!({"last_rotated": "yesterday"}),
        json!({"admin_emails": [["a"]]}),
        json!({"password": 12}),
    ] {
        assert_refused(&rig.write("acme/admin", wrong).await, 400, "invalid_field");
    }
    let long = json!({"reason": "x".repeat(513)});
    assert_refused(&rig.write("acme/rotate", long).await, 400, "too_long");
}

async fn unknown_parameters_are_named_in_a_warning() {
    let rig = Rig::shared("unknown").await;
    let written = rig
        .write("config", json!({"wait": "9s", "wiat": "9s"}))
        .await;
    assert_eq!(written.status, 200, "a warning needs a body");
    assert!(written.warnings().contains("wiat"), "{}", written.body);
}

/// What an operator mistypes at the worst moment: nothing is reset, rotated, imported or deleted.
async fn a_misspelt_safety_field_changes_nothing() {
    let rig = Rig::shared("misspelt").await;
    rig.create("acme").await;
    let before = rig.admin("acme").await;
    let events = rig.read("acme/events").await.data()["events"].clone();
    let asked = rig.mailu.journal().len();
    let reset = json!({"incident_id": "INC-1", "reason": "stolen"});
    let with = |body: &Value, name: &str, value: Value| {
        let mut body = body.clone();
        body[name] = value;
        body
    };
    let all = json!({"action": "rotate", "all": true});
    for (path, body, nearest) in [
        (
            "acme/reset",
            with(&reset, "keep-app-tokens", json!(true)),
            "keep_app_tokens",
        ),
        ("acme/reset", with(&reset, "Hold", json!(true)), "hold"),
        ("batches", with(&all, "dry-run", json!(true)), "dry_run"),
        ("acme/rotate", json!({"Reason": "x"}), "reason"),
        ("acme/admin", json!({"pasword": FIRST}), "password"),
        ("acme/admin", json!({"Password": FIRST}), "password"),
        ("acme/reveal", json!({"reasn": "x"}), "reason"),
    ] {
        let answer = rig.write(path, body.clone()).await;
        assert_refused(&answer, 400, "unknown_field");
        assert!(answer.error().contains(nearest), "{}", answer.error());
        // An answer that is to be wrapped is refused in clear.
        let request = rig.api.request("POST", &rig.path(path));
        let request = request.header("X-Vault-Wrap-TTL", "5m").json(&body);
        assert_refused(&rig.api.send(request).await, 400, "unknown_field");
    }
    let generated = json!({"username": EMAIL, "password": null});
    for tenant in ["acme", "globex"] {
        let path = format!("{tenant}/admin");
        let answer = rig.write(&path, generated.clone()).await;
        assert_refused(&answer, 400, "invalid_field");
    }
    // The command line sends what a deletion is given as its query.
    let request = rig.api.request("DELETE", &rig.path("acme/admin?cas=7"));
    assert_refused(&rig.api.send(request).await, 400, "unknown_field");
    assert_eq!(rig.admin("acme").await, before, "nothing changed");
    assert_eq!(rig.read("acme/events").await.data()["events"], events);
    assert_eq!(rig.mailu.journal().len(), asked, "and nobody was asked");
    rig.assert_live(before["password"].as_str().unwrap()).await;
}
