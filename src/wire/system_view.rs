//! The host's view of a mount, over the brokered connection.

use std::time::Duration;

use async_trait::async_trait;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::translate;
use crate::crypto::Sensitive;
use crate::logical::{
    Cluster, Entity, Group, ReplicationState, ServerVersion, SystemView, SystemViewError,
};
use crate::proto::pb;
use crate::proto::pb::system_view_client::SystemViewClient;

/// How long the host may take; these calls read its memory.
const DEADLINE: Duration = Duration::from_secs(10);

/// `pb.SystemView` as [`SystemView`].
#[derive(Clone, Debug)]
pub(super) struct HostSystemView {
    client: SystemViewClient<Channel>,
}

impl HostSystemView {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            client: SystemViewClient::new(channel),
        }
    }

    fn client(&self) -> SystemViewClient<Channel> {
        self.client.clone()
    }
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Takes the message out of a reply. A server that lacks the call is told from one that failed.
fn answer<T>(reply: Result<Response<T>, Status>) -> Result<T, SystemViewError> {
    reply
        .map(Response::into_inner)
        .map_err(|status| match status.code() {
            Code::Unimplemented => SystemViewError::Unsupported,
            _ => SystemViewError::Failed(status.message().to_owned()),
        })
}

/// Judges the error text of a call that succeeded at the gRPC level; empty is none.
fn succeeded(text: String) -> Result<(), SystemViewError> {
    if text.is_empty() {
        Ok(())
    } else {
        Err(SystemViewError::Failed(text))
    }
}

fn about(entity_id: &str) -> Request<pb::EntityInfoArgs> {
    call(pb::EntityInfoArgs {
        entity_id: entity_id.to_owned(),
    })
}

/// Reads a lease time; a negative one does not occur and counts as none.
fn lease(reply: &pb::TtlReply) -> Duration {
    translate::duration(reply.ttl).unwrap_or_default()
}

#[async_trait]
impl SystemView for HostSystemView {
    async fn replication_state(&self) -> Result<ReplicationState, SystemViewError> {
        let reply = self.client().replication_state(call(pb::Empty {})).await;
        Ok(ReplicationState(answer(reply)?.state.cast_unsigned()))
    }

    async fn local_mount(&self) -> Result<bool, SystemViewError> {
        let reply = self.client().local_mount(call(pb::Empty {})).await;
        Ok(answer(reply)?.local)
    }

    async fn tainted(&self) -> Result<bool, SystemViewError> {
        let reply = self.client().tainted(call(pb::Empty {})).await;
        Ok(answer(reply)?.tainted)
    }

    async fn caching_disabled(&self) -> Result<bool, SystemViewError> {
        let reply = self.client().caching_disabled(call(pb::Empty {})).await;
        Ok(answer(reply)?.disabled)
    }

    async fn mlock_enabled(&self) -> Result<bool, SystemViewError> {
        let reply = self.client().mlock_enabled(call(pb::Empty {})).await;
        Ok(answer(reply)?.enabled)
    }

    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        let reply = self.client().default_lease_ttl(call(pb::Empty {})).await;
        Ok(lease(&answer(reply)?))
    }

    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        let reply = self.client().max_lease_ttl(call(pb::Empty {})).await;
        Ok(lease(&answer(reply)?))
    }

    async fn entity(&self, id: &str) -> Result<Option<Entity>, SystemViewError> {
        if id.is_empty() {
            return Ok(None);
        }
        let reply = answer(self.client().entity_info(about(id)).await)?;
        succeeded(reply.err)?;
        Ok(reply.entity.map(translate::entity))
    }

    async fn groups_of_entity(&self, id: &str) -> Result<Vec<Group>, SystemViewError> {
        if id.is_empty() {
            return Ok(Vec::new());
        }
        let reply = answer(self.client().groups_for_entity(about(id)).await)?;
        succeeded(reply.err)?;
        Ok(reply.groups.into_iter().map(translate::group).collect())
    }

    async fn server_version(&self) -> Result<ServerVersion, SystemViewError> {
        let reply = answer(self.client().plugin_env(call(pb::Empty {})).await)?;
        succeeded(reply.err)?;
        let told = reply.plugin_environment.unwrap_or_default();
        Ok(ServerVersion {
            version: told.vault_version,
            prerelease: told.vault_version_prerelease,
            metadata: told.vault_version_metadata,
        })
    }

    async fn cluster(&self) -> Result<Cluster, SystemViewError> {
        let reply = answer(self.client().cluster_info(call(pb::Empty {})).await)?;
        succeeded(reply.err)?;
        Ok(Cluster {
            name: reply.cluster_name,
            id: reply.cluster_id,
        })
    }

    async fn generate_password(&self, policy: &str) -> Result<Sensitive<String>, SystemViewError> {
        let request = pb::GeneratePasswordFromPolicyRequest {
            policy_name: policy.to_owned(),
        };
        let mut client = self.client();
        let reply = client.generate_password_from_policy(call(request)).await;
        Ok(Sensitive::new(answer(reply)?.password))
    }
}
