//! Batches: many tenants in simulated time.

mod faults;
mod progress;
mod requests;

use serde_json::{Value, json};

use crate::support::engine::{Answer, Host};
use crate::support::faults::Plan;
use crate::support::mailbox::Mailbox;
use crate::support::world::{FIRST, World};

/// Tenants `t0000`, `t0001`, ..., each with an account of its own, shared out to some servers.
pub(crate) struct Fleet {
    pub(crate) world: World,
    pub(crate) host: Host,
    pub(crate) plan: Plan,
    pub(crate) tenants: usize,
    pub(crate) servers: usize,
}

impl Fleet {
    pub(crate) async fn of(tenants: usize, servers: usize) -> Self {
        let world = World::new();
        let plan = Plan::simulated();
        let host = world.process(&plan);
        // One hash for all: computing it is what takes time.
        let mailbox = Mailbox::new(FIRST);
        for index in 0..tenants {
            let (tenant, server) = (tenant(index), server(index % servers));
            world.mail.put(&server, &account(&tenant), mailbox.clone());
            let config = json!({ "mailu_url": server, "api_token": "token-of-the-mail-server" });
            host.write(&format!("{tenant}/config"), config).await.ok();
            let imported = json!({ "username": account(&tenant), "password": FIRST });
            host.write(&format!("{tenant}/admin"), imported).await.ok();
        }
        // The first tick sweeps.
        host.tick().await;
        world.later(3600).await;
        Self {
            world,
            host,
            plan,
            tenants,
            servers,
        }
    }

    /// A new process on what the other left behind.
    pub(crate) fn restart(&mut self) {
        self.plan.kill();
        self.plan = Plan::simulated();
        self.host = self.world.process(&self.plan);
    }

    pub(crate) async fn create(&self, body: Value) -> String {
        let created = self.host.write("batches", body).await.ok();
        created.text_of("id").to_owned()
    }

    pub(crate) async fn read(&self, id: &str) -> Answer {
        self.host.read(&format!("batches/{id}")).await.ok()
    }

    /// How many passwords arrived at the account of each tenant.
    pub(crate) fn writes(&self) -> Vec<usize> {
        let writes = |index| self.world.mail.arrived(&account(&tenant(index))).len();
        (0..self.tenants).map(writes).collect()
    }

    /// Asserts that every tenant is settled on a password that logs in.
    pub(crate) async fn all_settled(&self, what: &str) {
        for index in 0..self.tenants {
            let name = tenant(index);
            let read = self.host.read(&format!("{name}/admin")).await.ok();
            let live = self
                .world
                .mail
                .live(&server(index % self.servers), &account(&name));
            assert_eq!(read.get("state"), "settled", "{what} {name}");
            assert_eq!(
                Some(read.text_of("password")),
                live.as_deref(),
                "{what} {name}"
            );
        }
    }

    /// The mount's events of batches: name, outcome and code.
    pub(crate) async fn told(&self) -> Vec<String> {
        use vault_plugin_secrets_smtp::logical::Storage as _;
        let log = self.world.storage.get("mountlog").await.unwrap().unwrap();
        let log: Value = serde_json::from_slice(&log.value).unwrap();
        let events = log["log"]["events"].as_array().unwrap().clone();
        let text = |event: &Value| {
            let of = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", of("event"), of("outcome"), of("error_code"))
        };
        let batches = events
            .iter()
            .filter(|it| it["event"].as_str().unwrap().contains("batch"));
        batches
            .map(|event| text(event).trim_end().to_owned())
            .collect()
    }
}

pub(crate) fn tenant(index: usize) -> String {
    format!("t{index:04}")
}

pub(crate) fn account(tenant: &str) -> String {
    format!("admin@{tenant}.example.test")
}

pub(crate) fn server(index: usize) -> String {
    format!("https://mail-{index}.example.test")
}
