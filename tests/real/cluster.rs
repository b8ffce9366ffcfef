//! Two raft nodes on loopback, the plugin in their catalog.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::product::{Need, Product};
use super::rig::Rig;
use super::server::{Role, Server, Special, VERSION, until};

/// Two nodes of one cluster, each with a folder, a log, an audit file and plugin files of its own.
///
/// With two nodes nothing goes on while one of them is away.
#[derive(Debug)]
pub(super) struct Cluster {
    nodes: [Arc<Server>; 2],
}

/// Who is what at the moment.
#[derive(Clone, Debug)]
pub(super) struct Roles {
    pub(super) active: Arc<Server>,
    pub(super) standby: Arc<Server>,
}

impl Cluster {
    /// The cluster that tests share which break nothing; each has a mount of its own.
    pub(super) async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Cluster>> = OnceCell::const_new();
        Arc::clone(SHARED.get_or_init(Self::start).await)
    }

    /// Starts a cluster of its own for a test that breaks things.
    pub(super) async fn start() -> Arc<Self> {
        Self::special(&Special::default()).await
    }

    /// Like [`Cluster::start`], each node with a difference.
    pub(super) async fn special(special: &Special) -> Arc<Self> {
        let founder = Server::founder(special).await;
        let follower = Server::follower(&founder, special).await;
        let api = founder.api();
        // A leader without another voter would keep the lead for itself.
        until("both nodes vote", async || {
            let raft = api.read("sys/storage/raft/configuration").await;
            let servers = raft.data()["config"]["servers"].as_array()?.clone();
            let voters = servers.iter().filter(|server| server["voter"] == true);
            (voters.count() == 2).then_some(())
        })
        .await;
        let cluster = Self {
            nodes: [Arc::new(founder), Arc::new(follower)],
        };
        cluster.register(Some(VERSION)).await;
        Arc::new(cluster)
    }

    pub(super) const fn nodes(&self) -> &[Arc<Server>; 2] {
        &self.nodes
    }

    /// Waits until one node is active and the other one its standby, with a way to it: for a
    /// moment after a change of roles the host redirects clients (307) or knows no active node.
    pub(super) async fn roles(&self) -> Roles {
        let [one, two] = &self.nodes;
        until(
            "one node is active and the other one's way to it",
            async || {
                let (active, standby) = match (one.role().await?, two.role().await?) {
                    (Role::Active, Role::Standby) => (one, two),
                    (Role::Standby, Role::Active) => (two, one),
                    _ => return None,
                };
                // Writes go to the active node.
                let written = standby.api().write("cubbyhole/way", json!({"a": 1})).await;
                (written.status == 204).then(|| Roles {
                    active: Arc::clone(active),
                    standby: Arc::clone(standby),
                })
            },
        )
        .await
    }

    /// The nodes that run the plugin: both, or the active one where standbys do not.
    pub(super) async fn runners(&self) -> Vec<Arc<Server>> {
        if Product::tested().can(Need::PluginOnStandby) {
            self.nodes.to_vec()
        } else {
            vec![self.roles().await.active]
        }
    }

    /// Puts the plugin's file on every node and into the catalog.
    pub(super) async fn register(&self, version: Option<&str>) {
        for node in &self.nodes {
            node.install(version);
        }
        self.roles().await.active.register(version).await;
    }

    /// Waits until `node` answers for `mount` by itself, its plugin started.
    pub(super) async fn wait_mounted(&self, node: &Server, mount: &str) {
        let api = node.api();
        until("the node has the mount", async || {
            let answer = api.read(&format!("{mount}/config")).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// A new mount as seen through the active node and through the standby.
    pub(super) async fn rigs(&self, mount: &str, version: Option<&str>) -> (Rig, Rig) {
        let roles = self.roles().await;
        roles.active.mount(mount, version).await;
        let active = Rig::at(Arc::clone(&roles.active), mount).await;
        self.wait_mounted(&roles.standby, mount).await;
        let standby = active.through(&roles.standby);
        (active, standby)
    }

    /// Has the active node hand over to the other one; returns who is what then.
    pub(super) async fn step_down(&self) -> Roles {
        let before = self.roles().await;
        let asked = before.active.api().write("sys/step-down", json!({})).await;
        asked.no_content();
        until("the other node is active", async || {
            (before.standby.role().await? == Role::Active).then_some(())
        })
        .await;
        self.roles().await
    }
}

/// A kind of request as the audit file tells it: the path, and one of several operations.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Read,
    List,
    /// Whatever changes something.
    Write,
}

impl Asked {
    fn includes(self, operation: &str) -> bool {
        match self {
            Self::Read => operation == "read",
            Self::List => operation == "list",
            Self::Write => matches!(operation, "create" | "update" | "patch" | "delete"),
        }
    }
}

impl Server {
    /// How many requests for `path` this node answered itself, by its audit file.
    pub(super) fn answered(&self, asked: Asked, path: &str) -> usize {
        let responses = self.responses(asked, path);
        responses.iter().filter(|it| !is_forwarded(it)).count()
    }

    /// How many requests for `path` this node left to the active one, by its audit file.
    pub(super) fn forwarded(&self, asked: Asked, path: &str) -> usize {
        let responses = self.responses(asked, path);
        responses.iter().filter(|it| is_forwarded(it)).count()
    }

    fn responses(&self, asked: Asked, path: &str) -> Vec<Value> {
        let mut records = self.audit_records();
        records.retain(|record| {
            let request = &record["request"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            record["type"] == "response"
                && asked.includes(&text(&request["operation"]))
                // The host ends the path of a list with a slash.
                && text(&request["path"]).trim_end_matches('/') == path.trim_end_matches('/')
        });
        records
    }
}

/// Reports whether the record is of a request that the plugin left to the active node.
fn is_forwarded(record: &Value) -> bool {
    let error = record["error"].as_str().unwrap_or_default();
    error.contains("cannot write to readonly storage")
}
