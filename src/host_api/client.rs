//! [`Client`]: the calls, each made once, with one more login where a token may have ended.

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::session::Session;
use super::transport::{Call, Data, Transport};
use super::{Error, HostApi, HostApiConfig, HostApiOpener, OpenError, Reach, Taken};
use crate::clock::Clock;

/// Returns what makes clients, for addresses that `reach` admits.
#[must_use]
pub fn opener(reach: Reach) -> HostApiOpener {
    Arc::new(move |config, clock| {
        if !reach.admits(&config.address) {
            let unusable = reach.unusable();
            return Err(OpenError::OutOfReach { unusable });
        }
        Ok(Arc::new(Client::new(config, clock)?))
    })
}

/// A way to the host's own API over HTTP.
#[derive(Debug)]
struct Client {
    transport: Transport,
    session: Session,
}

/// What the engine answers to an event; the rest of it is not needed here.
#[derive(Deserialize)]
struct Emitted {
    event_id: String,
    hash: String,
    receipt: String,
}

/// What the server tells about a mount.
#[derive(Deserialize)]
struct MountInfo {
    config: MountTuning,
}

/// How a mount is tuned; a server leaves out what was never set.
#[derive(Deserialize)]
struct MountTuning {
    #[serde(default)]
    audit_non_hmac_response_keys: Vec<String>,
}

impl Client {
    fn new(config: &HostApiConfig, clock: &Arc<dyn Clock>) -> Result<Self, OpenError> {
        Ok(Self {
            transport: Transport::new(config)?,
            session: Session::new(config.login.clone(), Arc::clone(clock)),
        })
    }

    /// Makes one call; with a new token once more if the one at hand is refused, which is what an
    /// ended or revoked one meets.
    async fn call<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &[&str],
        body: Option<&[u8]>,
    ) -> Result<T, Error> {
        let mut grant = self.session.token(&self.transport).await?;
        loop {
            let call = Call {
                method: method.clone(),
                path: path.to_vec(),
                body: body.map(|body| Zeroizing::new(body.to_vec())),
                token: Some(&grant.token),
            };
            match self.transport.call(call).await {
                Err(Error::Denied) if grant.replaceable => {
                    self.session.forget(&grant.token).await;
                    grant = self.session.token(&self.transport).await?;
                    // Another call may just have fetched it: it is new all the same.
                    grant.replaceable = false;
                }
                ended => return ended,
            }
        }
    }
}

#[async_trait]
impl HostApi for Client {
    async fn emit(&self, mount_point: &str, tenant: &str, seq: u64) -> Result<Taken, Error> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if !tenant.bytes().all(plain) {
            return Err(Error::Refused);
        }
        let seq = seq.to_string();
        let mut path = segments(mount_point);
        path.extend(["events", "emit", tenant, seq.as_str()]);
        let answer: Data<Emitted> = self.call(&Method::POST, &path, Some(b"{}")).await?;
        Ok(Taken {
            event_id: answer.data.event_id,
            hash: answer.data.hash,
            receipt: answer.data.receipt,
        })
    }

    /// Asks `sys/internal/ui/mounts/<mount>`: it answers every token that may do anything on the
    /// mount, where `sys/mounts/<mount>/tune` would need a policy of its own, and it takes the
    /// mount's namespace as a part of the path. Both were tried in `OpenBao` 2.7.2.
    async fn exempt_keys(&self, mount_point: &str) -> Result<Option<Vec<String>>, Error> {
        let mut path = vec!["sys", "internal", "ui", "mounts"];
        path.extend(segments(mount_point));
        let answer: Result<Data<MountInfo>, Error> = self.call(&Method::GET, &path, None).await;
        match answer {
            Ok(answer) => Ok(Some(answer.data.config.audit_non_hmac_response_keys)),
            Err(Error::Denied | Error::Refused) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Cuts a mount point, which ends in a slash.
fn segments(mount_point: &str) -> Vec<&str> {
    let path = mount_point.strip_suffix('/').unwrap_or(mount_point);
    path.split('/').collect()
}
