//! A password is never lost and never lied about: every crash point of every operation, and long
//! random histories, in memory and in simulated time.

mod crash_matrix;
mod found;
mod history;
mod model;
mod operations;

use serde_json::Value;

use crate::support::engine::Host;
use crate::support::world::World;

/// What a read of the credential says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// There is none, or it is deleted.
    Nothing,
    /// It is not handed out.
    Held,
    Settled(String),
    /// Any of these may be live.
    Uncertain(Vec<String>),
    Drift,
}

impl Said {
    /// Reads the credential of a tenant.
    pub(crate) async fn of(host: &Host, tenant: &str, what: &str) -> Self {
        let read = host.read(&format!("{tenant}/admin")).await;
        if read.status == 404 {
            return Self::Nothing;
        }
        if read.code == "on_hold" {
            return Self::Held;
        }
        assert_eq!(read.status, 200, "{what}: {read:?}");
        let password = read.text_of("password").to_owned();
        match read.text_of("state") {
            "settled" => Self::Settled(password),
            "uncertain" => {
                let candidates = read.get("candidates").as_array().unwrap();
                let text = |it: &Value| it["password"].as_str().unwrap().to_owned();
                let others = candidates.iter().map(text);
                Self::Uncertain(others.chain([password]).collect())
            }
            "drift" => Self::Drift,
            other => panic!("{what}: a state {other}"),
        }
    }
}

/// Asserts what must hold at every instant while nobody but the engine changes the account: what
/// logs in is stored, and no read says otherwise.
pub(crate) async fn nothing_is_lost(world: &World, host: &Host, before: &Before, what: &str) {
    let live = world.live();
    let untouched = live == before.live;
    let stored = world.stored("acme").await;
    let kept = live
        .as_ref()
        .is_some_and(|live| stored.values().any(|it| it == live));
    let known = kept || (untouched && !before.stored);
    let said = Said::of(host, "acme", what).await;
    // Deleted softly, everything is kept; destroyed, everything was given up.
    let given_up = world
        .record("acme")
        .await
        .is_none_or(|it| it.credential.is_none());
    assert!(
        known || given_up,
        "{what}: what logs in is not stored; {said:?}"
    );
    match said {
        Said::Nothing | Said::Held => {}
        Said::Settled(password) => {
            assert_eq!(Some(password), live, "{what}: settled is a lie");
        }
        Said::Uncertain(candidates) => {
            let listed = live.is_some_and(|live| candidates.contains(&live));
            let reset = open_reset(world, "acme").await;
            assert!(
                listed || !kept || reset,
                "{what}: what logs in is stored and not listed"
            );
        }
        Said::Drift => {
            // What an emergency superseded may have landed before.
            let found = before.drift || drifted_to(world, "acme").await == live;
            assert!(found, "{what}: nobody else changed anything");
        }
    }
}

/// What was before an operation.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    pub(crate) live: Option<String>,
    /// Whether what logs in was stored already.
    pub(crate) stored: bool,
    pub(crate) drift: bool,
    /// Whether a change was open, which any request may settle first.
    pub(crate) open: bool,
}

impl Before {
    pub(crate) async fn of(world: &World) -> Self {
        let (live, stored) = (world.live(), world.stored("acme").await);
        let record = world.record("acme").await;
        let open = record.as_ref().is_some_and(|it| it.intent.is_some());
        let credential = record.and_then(|record| record.credential);
        Self {
            open,
            stored: live
                .as_ref()
                .is_some_and(|live| stored.values().any(|it| it == live)),
            live,
            drift: credential.is_some_and(|credential| credential.drift.is_some()),
        }
    }
}

/// The password that the record says has become live.
async fn drifted_to(world: &World, tenant: &str) -> Option<String> {
    let credential = world.record(tenant).await?.credential?;
    world
        .stored(tenant)
        .await
        .remove(&credential.drift?.live_version?)
}

/// The candidate of an open emergency reset is not listed by reads.
async fn open_reset(world: &World, tenant: &str) -> bool {
    use vault_plugin_secrets_smtp::audit::RotationType;
    let record = world.record(tenant).await;
    let intent = record.and_then(|record| record.intent);
    intent.is_some_and(|intent| intent.rotation_type == Some(RotationType::Emergency))
}
