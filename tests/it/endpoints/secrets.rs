//! No secret where none belongs: logs, errors, events, answers, `Debug`.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::engine::{Answer, EMAIL, FIRST, Rig};
use crate::support::mailu::standin::{Fault, Rule};

/// Everything that was traced, at every level and of every crate.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

struct Visitor<'a>(&'a mut Vec<u8>);

impl tracing::field::Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Captured {
    fn on_event(
        &self,
        event: &tracing::Event<'_>,
        _context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        event.record(&mut Visitor(&mut self.0.lock().unwrap()));
    }

    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _id: &tracing::span::Id,
        _context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        attributes.record(&mut Visitor(&mut self.0.lock().unwrap()));
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story from beginning to end")]
async fn a_whole_story_leaks_nothing() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::registry().with(captured.clone());
    // As long as there is one listener only, a log statement that another thread meets first is
    // noted as one that nobody listens to: with two, all of them are asked.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let rig = Rig::start().await;
    // Those that were met before.
    tracing::callsite::rebuild_interest_cache();
    let mut said: Vec<Answer> = Vec::new();
    let mut secrets = vec![FIRST.to_owned(), rig.mailu.token().to_owned()];
    let mut learn = |read: &Answer| {
        secrets.push(read.text_of("password").to_owned());
        for candidate in read.get("candidates").as_array().into_iter().flatten() {
            secrets.push(candidate["password"].as_str().unwrap().to_owned());
        }
    };

    said.push(rig.write("acme/config", rig.server()).await);
    said.push(rig.read("acme/config").await);
    let import = json!({ "username": EMAIL, "password": FIRST });
    said.push(rig.write("acme/admin", import.clone()).await);
    said.push(rig.write("acme/admin", import).await);
    said.push(rig.write("acme/rotate", json!({ "reason": "why" })).await);
    learn(&rig.read("acme/admin").await);
    for (fault, method) in [
        (Fault::CutBefore, "PATCH"),
        (Fault::Garbage, "PATCH"),
        (Fault::HtmlOk, "PATCH"),
        (Fault::Lie, "PATCH"),
        (Fault::ErrorAfter, "GET"),
    ] {
        rig.later(3600);
        rig.mailu.fault(Rule::new(fault).method(method).times(2));
        said.push(rig.write("acme/rotate", json!({})).await);
        learn(&rig.read("acme/admin").await);
        said.push(rig.write("acme/verify", json!({})).await);
        learn(&rig.read("acme/admin").await);
        rig.mailu.clear_faults();
    }
    let adopt = json!({ "password": "a foreign password", "cas": 1 });
    said.push(rig.write("acme/admin", adopt).await);
    let adopt = json!({ "password": "a foreign\u{1}password" });
    said.push(rig.write("acme/admin", adopt).await);
    rig.mailu.set_token("another-token");
    said.push(rig.write("acme/rotate", json!({})).await);
    said.push(rig.write("acme/verify", json!({})).await);
    let server = json!({ "mailu_url": "nonsense", "api_token": rig.mailu.token() });
    said.push(rig.write("acme/config", server).await);
    for path in ["acme/status", "acme/events", "acme/versions/1", "config"] {
        said.push(rig.read(path).await);
    }
    said.push(rig.list("acme/versions").await);
    said.push(rig.list("tenants").await);
    let debug = format!("{:?} {:?}", rig.host, rig.record("acme").await);
    said.push(rig.delete("acme/admin").await);
    let exchanged = rig.debugged.lock().unwrap().clone();
    assert!(
        exchanged.contains("password"),
        "names are shown, values are not"
    );

    secrets.extend([
        String::from("a foreign password"),
        String::from("a foreign\u{1}password"),
    ]);
    secrets.sort();
    secrets.dedup();
    assert!(secrets.len() >= 7, "several passwords came and went");
    assert!(said.iter().any(|it| it.status == 503) && said.iter().any(|it| it.status == 400));
    let log = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(log.contains("password changed"), "the log was captured");
    let stored = rig.storage.snapshot();
    for secret in &secrets {
        assert!(!secret.is_empty());
        assert!(!log.contains(secret.as_str()), "in the log");
        assert!(!debug.contains(secret.as_str()), "in Debug");
        assert!(
            !exchanged.contains(secret.as_str()),
            "in a request or reply"
        );
        for answer in &said {
            assert!(
                !format!("{answer:?}").contains(secret.as_str()),
                "{answer:?}"
            );
        }
        for entry in stored.entries() {
            let text = String::from_utf8_lossy(&entry.value);
            assert!(
                !text.contains(secret.as_str()),
                "stored in clear: {}",
                entry.key
            );
        }
    }
}
