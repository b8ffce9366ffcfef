//! The host's view of a mount, over the brokered connection.

use std::time::Duration;

use async_trait::async_trait;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::crypto::Sensitive;
use crate::logical::{ReplicationState, SystemView, SystemViewError};
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
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn failed(status: &Status) -> SystemViewError {
    match status.code() {
        Code::Unimplemented => SystemViewError::Unsupported,
        _ => SystemViewError::Failed(status.message().to_owned()),
    }
}

/// Reads nanoseconds; a negative lease time does not occur and counts as none.
fn lease(reply: &pb::TtlReply) -> Duration {
    Duration::from_nanos(u64::try_from(reply.ttl).unwrap_or_default())
}

#[async_trait]
impl SystemView for HostSystemView {
    async fn replication_state(&self) -> Result<ReplicationState, SystemViewError> {
        let mut client = self.client.clone();
        let reply = client.replication_state(call(pb::Empty {})).await;
        let bits = reply.map_err(|status| failed(&status))?.into_inner().state;
        Ok(ReplicationState(bits.cast_unsigned()))
    }

    async fn local_mount(&self) -> Result<bool, SystemViewError> {
        let mut client = self.client.clone();
        let reply = client.local_mount(call(pb::Empty {})).await;
        Ok(reply.map_err(|status| failed(&status))?.into_inner().local)
    }

    async fn tainted(&self) -> Result<bool, SystemViewError> {
        let mut client = self.client.clone();
        let reply = client.tainted(call(pb::Empty {})).await;
        Ok(reply
            .map_err(|status| failed(&status))?
            .into_inner()
            .tainted)
    }

    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        let mut client = self.client.clone();
        let reply = client.default_lease_ttl(call(pb::Empty {})).await;
        Ok(lease(
            &reply.map_err(|status| failed(&status))?.into_inner(),
        ))
    }

    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        let mut client = self.client.clone();
        let reply = client.max_lease_ttl(call(pb::Empty {})).await;
        Ok(lease(
            &reply.map_err(|status| failed(&status))?.into_inner(),
        ))
    }

    async fn generate_password(&self, policy: &str) -> Result<Sensitive<String>, SystemViewError> {
        let mut client = self.client.clone();
        let request = pb::GeneratePasswordFromPolicyRequest {
            policy_name: policy.to_owned(),
        };
        let reply = client.generate_password_from_policy(call(request)).await;
        Ok(Sensitive::new(
            reply
                .map_err(|status| failed(&status))?
                .into_inner()
                .password,
        ))
    }
}
