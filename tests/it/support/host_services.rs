//! What a host serves to a mount: storage over a map, with transactions and faults, and a system
//! view.
//!
//! Behaves as OpenBao 2.7.2 was seen to: errors are texts of successful calls, an unknown
//! transaction is silently none, the second of two overlapping commits fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use vault_plugin_secrets_smtp::proto::logical::{Entity, Group};
use vault_plugin_secrets_smtp::proto::pb;
use vault_plugin_secrets_smtp::proto::pb::storage_server::Storage;
use vault_plugin_secrets_smtp::proto::pb::system_view_server::SystemView;

type Answer<T> = Result<Response<T>, Status>;
type Map = BTreeMap<String, (Vec<u8>, bool)>;

/// What every storage call is answered instead.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error text in a successful call.
    Text(String),
    /// A gRPC error.
    Status(Status),
    /// No answer at all.
    Silence,
    /// The usual answer, but only once the token is cancelled.
    Held(CancellationToken),
}

#[derive(Default)]
struct State {
    entries: Map,
    /// Open transactions: the entries as they were at its start, and its writes.
    transactions: BTreeMap<String, (Map, Map)>,
    /// What a host has that Vault and old OpenBao have not.
    transactional: bool,
    paged: bool,
    next: u32,
    fault: Option<Fault>,
    /// The only call the fault is for; all if empty.
    faulty: String,
    /// What somebody else writes just before the next commit.
    interloper: Option<(String, Vec<u8>)>,
    calls: Vec<String>,
}

/// One mount's storage. Clones share it.
#[derive(Clone, Default)]
pub struct MapStorage(Arc<Mutex<State>>);

impl MapStorage {
    /// A storage like OpenBao's.
    pub fn transactional() -> Self {
        let storage = Self::paged();
        storage.state().transactional = true;
        storage
    }

    /// A storage like that of the first OpenBao releases: pages, but no transactions. The default
    /// is Vault's, which has neither.
    pub fn paged() -> Self {
        let storage = Self::default();
        storage.state().paged = true;
        storage
    }

    /// Answers every call from now on with `fault`.
    pub fn fail_with(&self, fault: impl Into<Option<Fault>>) {
        self.state().fault = fault.into();
    }

    /// Answers every call of this name from now on with `fault`.
    pub fn fail_on(&self, call: &str, fault: Fault) {
        let mut state = self.state();
        call.clone_into(&mut state.faulty);
        state.fault = Some(fault);
    }

    /// Lets somebody else write just before the next commit.
    pub fn interfere(&self, key: &str, value: &[u8]) {
        self.state().interloper = Some((key.to_owned(), value.to_vec()));
    }

    /// Returns the calls so far, and forgets them.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// Returns a stored value.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        self.state()
            .entries
            .get(key)
            .map(|(value, _)| value.clone())
    }

    /// Stores a value behind the plugin's back.
    pub fn store(&self, key: &str, value: &[u8]) {
        let entry = (value.to_vec(), false);
        self.state().entries.insert(key.to_owned(), entry);
    }

    /// Returns how many transactions are open.
    pub fn open_transactions(&self) -> usize {
        self.state().transactions.len()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Notes the call; returns the error text to answer, if any.
    async fn called(&self, call: &str) -> Result<String, Status> {
        let fault = {
            let mut state = self.state();
            state.calls.push(call.to_owned());
            let meant = state.faulty.is_empty() || state.faulty == call;
            state.fault.clone().filter(|_| meant)
        };
        match fault {
            None => Ok(String::new()),
            Some(Fault::Text(text)) => Ok(text),
            Some(Fault::Status(status)) => Err(status),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Held(until)) => {
                until.cancelled().await;
                Ok(String::new())
            }
        }
    }

    fn only_with_transactions(&self) -> Result<(), Status> {
        implemented(self.state().transactional)
    }

    fn one_level(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = self
            .state()
            .entries
            .keys()
            .filter_map(|key| key.strip_prefix(prefix))
            .map(|rest| match rest.split_once('/') {
                Some((folder, _)) => format!("{folder}/"),
                None => rest.to_owned(),
            })
            .collect();
        keys.dedup();
        keys
    }
}

fn implemented(is: bool) -> Result<(), Status> {
    if is {
        Ok(())
    } else {
        Err(Status::unimplemented("unknown method"))
    }
}

#[tonic::async_trait]
impl Storage for MapStorage {
    async fn list(&self, request: Request<pb::StorageListArgs>) -> Answer<pb::StorageListReply> {
        let err = self.called("list").await?;
        let keys = self.one_level(&request.into_inner().prefix);
        Ok(Response::new(pb::StorageListReply { keys, err }))
    }

    async fn list_page(
        &self,
        request: Request<pb::StorageListPageArgs>,
    ) -> Answer<pb::StorageListReply> {
        let err = self.called("list_page").await?;
        implemented(self.state().paged)?;
        let args = request.into_inner();
        let mut keys = self.one_level(&args.prefix);
        keys.retain(|key| *key > args.after);
        if args.limit > 0 {
            keys.truncate(usize::try_from(args.limit).unwrap());
        }
        Ok(Response::new(pb::StorageListReply { keys, err }))
    }

    async fn get(&self, request: Request<pb::StorageGetArgs>) -> Answer<pb::StorageGetReply> {
        let err = self.called("get").await?;
        let args = request.into_inner();
        let state = self.state();
        let own = state.transactions.get(&args.txn);
        let found = own
            .and_then(|(_, writes)| writes.get(&args.key))
            .or_else(|| state.entries.get(&args.key));
        let entry = found.map(|(value, seal_wrap)| pb::StorageEntry {
            key: args.key.clone(),
            value: value.clone(),
            seal_wrap: *seal_wrap,
        });
        Ok(Response::new(pb::StorageGetReply { entry, err }))
    }

    async fn put(&self, request: Request<pb::StoragePutArgs>) -> Answer<pb::StoragePutReply> {
        let err = self.called("put").await?;
        if err.is_empty() {
            let args = request.into_inner();
            let entry = args.entry.unwrap();
            let mut state = self.state();
            let State {
                entries,
                transactions,
                ..
            } = &mut *state;
            let target = transactions
                .get_mut(&args.txn)
                .map_or(entries, |(_, writes)| writes);
            target.insert(entry.key, (entry.value, entry.seal_wrap));
        }
        Ok(Response::new(pb::StoragePutReply { err }))
    }

    async fn delete(
        &self,
        request: Request<pb::StorageDeleteArgs>,
    ) -> Answer<pb::StorageDeleteReply> {
        let err = self.called("delete").await?;
        if err.is_empty() {
            self.state().entries.remove(&request.into_inner().key);
        }
        Ok(Response::new(pb::StorageDeleteReply { err }))
    }

    async fn is_transactional(
        &self,
        _request: Request<pb::Empty>,
    ) -> Answer<pb::IsTransactionalReply> {
        self.called("is_transactional").await?;
        self.only_with_transactions()?;
        Ok(Response::new(pb::IsTransactionalReply {
            transactional: true,
        }))
    }

    async fn begin_read_only_tx(&self, request: Request<pb::Empty>) -> Answer<pb::BeginTxReply> {
        self.begin_tx(request).await
    }

    async fn begin_tx(&self, _request: Request<pb::Empty>) -> Answer<pb::BeginTxReply> {
        let err = self.called("begin").await?;
        self.only_with_transactions()?;
        let mut state = self.state();
        state.next += 1;
        let txn = format!("txn-{}", state.next);
        let snapshot = state.entries.clone();
        state
            .transactions
            .insert(txn.clone(), (snapshot, BTreeMap::new()));
        Ok(Response::new(pb::BeginTxReply { txn, err }))
    }

    async fn commit(&self, request: Request<pb::EndTxArgs>) -> Answer<pb::EndTxReply> {
        let mut err = self.called("commit").await?;
        let mut state = self.state();
        if let Some((key, value)) = state.interloper.take() {
            state.entries.insert(key, (value, false));
        }
        let (snapshot, writes) = state
            .transactions
            .remove(&request.into_inner().txn)
            .ok_or_else(|| Status::unknown("missing storage implementation"))?;
        if writes
            .keys()
            .any(|key| state.entries.get(key) != snapshot.get(key))
        {
            err = String::from("transaction commit failed");
        } else {
            state.entries.extend(writes);
        }
        Ok(Response::new(pb::EndTxReply { err }))
    }

    async fn rollback(&self, request: Request<pb::EndTxArgs>) -> Answer<pb::EndTxReply> {
        self.state().transactions.remove(&request.into_inner().txn);
        let err = self.called("rollback").await?;
        Ok(Response::new(pb::EndTxReply { err }))
    }
}

/// The system view of an active node of a server without `PluginEnv`; knows no password policies
/// and one entity, `e-1`. The entity `broken` it fails on.
#[derive(Clone, Copy, Debug)]
pub struct ActiveNode;

fn not_there<T>() -> Answer<T> {
    Err(Status::unimplemented("unknown method"))
}

/// An error text in a successful call.
fn error_of(entity_id: &str) -> String {
    match entity_id {
        "broken" => String::from("the identity store is gone"),
        _ => String::new(),
    }
}

#[tonic::async_trait]
impl SystemView for ActiveNode {
    async fn default_lease_ttl(&self, _request: Request<pb::Empty>) -> Answer<pb::TtlReply> {
        Ok(Response::new(pb::TtlReply {
            ttl: 2_764_800_000_000_000,
        }))
    }

    async fn max_lease_ttl(&self, request: Request<pb::Empty>) -> Answer<pb::TtlReply> {
        self.default_lease_ttl(request).await
    }

    async fn tainted(&self, _request: Request<pb::Empty>) -> Answer<pb::TaintedReply> {
        Ok(Response::new(pb::TaintedReply { tainted: false }))
    }

    async fn replication_state(
        &self,
        _request: Request<pb::Empty>,
    ) -> Answer<pb::ReplicationStateReply> {
        Ok(Response::new(pb::ReplicationStateReply { state: 0x2020 }))
    }

    async fn local_mount(&self, _request: Request<pb::Empty>) -> Answer<pb::LocalMountReply> {
        Ok(Response::new(pb::LocalMountReply { local: false }))
    }

    async fn caching_disabled(
        &self,
        _request: Request<pb::Empty>,
    ) -> Answer<pb::CachingDisabledReply> {
        Ok(Response::new(pb::CachingDisabledReply { disabled: true }))
    }

    async fn response_wrap_data(
        &self,
        _request: Request<pb::ResponseWrapDataArgs>,
    ) -> Answer<pb::ResponseWrapDataReply> {
        not_there()
    }

    async fn mlock_enabled(&self, _request: Request<pb::Empty>) -> Answer<pb::MlockEnabledReply> {
        Ok(Response::new(pb::MlockEnabledReply { enabled: true }))
    }

    async fn entity_info(
        &self,
        request: Request<pb::EntityInfoArgs>,
    ) -> Answer<pb::EntityInfoReply> {
        let id = request.into_inner().entity_id;
        let entity = (id == "e-1").then(|| Entity {
            id: id.clone(),
            name: String::from("alice"),
            ..Entity::default()
        });
        let err = error_of(&id);
        Ok(Response::new(pb::EntityInfoReply { entity, err }))
    }

    async fn plugin_env(&self, _request: Request<pb::Empty>) -> Answer<pb::PluginEnvReply> {
        not_there()
    }

    async fn groups_for_entity(
        &self,
        request: Request<pb::EntityInfoArgs>,
    ) -> Answer<pb::GroupsForEntityReply> {
        let id = request.into_inner().entity_id;
        let groups = (id == "e-1").then(|| Group {
            name: String::from("operators"),
            ..Group::default()
        });
        Ok(Response::new(pb::GroupsForEntityReply {
            groups: groups.into_iter().collect(),
            err: error_of(&id),
        }))
    }

    async fn generate_password_from_policy(
        &self,
        _request: Request<pb::GeneratePasswordFromPolicyRequest>,
    ) -> Answer<pb::GeneratePasswordFromPolicyReply> {
        Err(Status::internal("failed to generate password"))
    }

    async fn cluster_info(&self, _request: Request<pb::Empty>) -> Answer<pb::ClusterInfoReply> {
        Ok(Response::new(pb::ClusterInfoReply {
            cluster_id: String::from("c-1"),
            ..pb::ClusterInfoReply::default()
        }))
    }
}
