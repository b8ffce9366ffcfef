//! The gRPC services the server calls: one short method each.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::Instrument;
use zeroize::Zeroize;

use super::BackendFactory;
use super::instances::{Instance, Instances, MultiplexId, guarded};
use super::storage::HostStorage;
use super::system_view::HostSystemView;
use super::translate;
use crate::clock::Clock;
use crate::goplugin::Broker;
use crate::logical::{BackendInfo, Error, Mount, Reply};
use crate::proto::logical::plugin_version_server::PluginVersion;
use crate::proto::logical::{VersionReply, VersionRequest};
use crate::proto::pb;
use crate::proto::pb::backend_server::Backend as BackendRpc;
use crate::proto::pluginutil::multiplexing::plugin_multiplexing_server::PluginMultiplexing;
use crate::proto::pluginutil::multiplexing::{
    MultiplexingSupportRequest, MultiplexingSupportResponse,
};
use crate::tasks::Tasks;

/// The type of a secrets engine.
///
/// Source: OpenBao `sdk/logical/logical.go` (`TypeLogical`).
const TYPE_SECRETS: u32 = 1;

type Answer<T> = Result<Response<T>, Status>;

/// Serves `pb.Backend` for all mounts.
pub(super) struct BackendService {
    pub(super) instances: Instances,
    pub(super) factory: BackendFactory,
    pub(super) broker: Broker,
    pub(super) tasks: Tasks,
    /// Stamps new leases.
    pub(super) clock: Arc<dyn Clock>,
}

impl BackendService {
    /// Connects to the mount's storage and system view and makes its backend; calls neither.
    async fn set_up(&self, id: MultiplexId, args: pb::SetupArgs) -> Result<(), String> {
        let channel = self
            .broker
            .dial(args.broker_id)
            .await
            .map_err(|error| error.to_string())?;
        let mount = Mount {
            storage: Arc::new(HostStorage::new(channel.clone(), self.tasks.clone())),
            system: Arc::new(HostSystemView::new(channel)),
        };
        let uuid = args.backend_uuid;
        let info = BackendInfo { uuid: uuid.clone() };
        let backend = guarded(async { Ok((self.factory)(info)) })
            .await
            .map_err(|error| error.to_string())?;
        let instance = Instance {
            uuid,
            backend,
            mount,
        };
        if let Some(replaced) = self.instances.insert(id, instance) {
            replaced.clean_up().await;
        }
        Ok(())
    }

    async fn answer(&self, instance: &Instance, request: Option<pb::Request>) -> Reply {
        let request = translate::request(request.unwrap_or_default())?;
        let backend = &instance.backend;
        let span = tracing::info_span!("request", mount = instance.uuid);
        guarded(backend.handle_request(&instance.mount, request))
            .instrument(span)
            .await
    }

    async fn exists(
        &self,
        instance: &Instance,
        request: Option<pb::Request>,
    ) -> Result<Option<bool>, Error> {
        let mut request = request.unwrap_or_default();
        // Whether an entry exists does not depend on what is sent for it.
        request.data.zeroize();
        let request = translate::request(request)?;
        let backend = &instance.backend;
        let span = tracing::info_span!("existence", mount = instance.uuid);
        guarded(backend.existence_check(&instance.mount, request))
            .instrument(span)
            .await
    }
}

#[tonic::async_trait]
impl BackendRpc for BackendService {
    async fn setup(&self, request: Request<pb::SetupArgs>) -> Answer<pb::SetupReply> {
        let id = MultiplexId::of(request.metadata());
        let result = self.set_up(id, request.into_inner()).await;
        let err = result.err().unwrap_or_default();
        if !err.is_empty() {
            tracing::error!(error = err, "a mount could not be set up");
        }
        Ok(Response::new(pb::SetupReply { err }))
    }

    async fn r#type(&self, _request: Request<pb::Empty>) -> Answer<pb::TypeReply> {
        Ok(Response::new(pb::TypeReply {
            r#type: TYPE_SECRETS,
        }))
    }

    async fn special_paths(&self, request: Request<pb::Empty>) -> Answer<pb::SpecialPathsReply> {
        let instance = self.instances.find(request.metadata())?;
        let paths = guarded(async { Ok(instance.backend.special_paths()) })
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let paths = translate::special_paths(paths);
        Ok(Response::new(pb::SpecialPathsReply { paths: Some(paths) }))
    }

    async fn initialize(
        &self,
        request: Request<pb::InitializeArgs>,
    ) -> Answer<pb::InitializeReply> {
        let instance = self.instances.find(request.metadata())?;
        let span = tracing::info_span!("initialize", mount = instance.uuid);
        let result = guarded(instance.backend.initialize(&instance.mount))
            .instrument(span)
            .await;
        Ok(Response::new(pb::InitializeReply {
            err: result.err().map(|error| translate::error(&error)),
        }))
    }

    async fn handle_request(
        &self,
        request: Request<pb::HandleRequestArgs>,
    ) -> Answer<pb::HandleRequestReply> {
        let instance = self.instances.find(request.metadata())?;
        let reply = self.answer(&instance, request.into_inner().request).await;
        Ok(Response::new(translate::reply(reply, self.clock.now())))
    }

    async fn handle_existence_check(
        &self,
        request: Request<pb::HandleExistenceCheckArgs>,
    ) -> Answer<pb::HandleExistenceCheckReply> {
        let instance = self.instances.find(request.metadata())?;
        let found = self.exists(&instance, request.into_inner().request).await;
        Ok(Response::new(translate::existence(found)))
    }

    async fn invalidate_key(&self, request: Request<pb::InvalidateKeyArgs>) -> Answer<pb::Empty> {
        let instance = self.instances.find(request.metadata())?;
        let key = request.into_inner().key;
        let _logged_by_the_hook = guarded(async {
            instance.backend.invalidate_key(&key).await;
            Ok(())
        })
        .await;
        Ok(Response::new(pb::Empty {}))
    }

    /// Comes twice at unmount; the second time for an id that is gone, which is no error.
    async fn cleanup(&self, request: Request<pb::Empty>) -> Answer<pb::Empty> {
        let id = MultiplexId::of(request.metadata());
        if let Some(instance) = self.instances.remove(&id) {
            instance.clean_up().await;
        }
        Ok(Response::new(pb::Empty {}))
    }
}

/// Serves `logical.PluginVersion`.
#[derive(Debug)]
pub(super) struct VersionService(pub(super) &'static str);

#[tonic::async_trait]
impl PluginVersion for VersionService {
    async fn version(&self, _request: Request<VersionRequest>) -> Answer<VersionReply> {
        Ok(Response::new(VersionReply {
            plugin_version: format!("v{}", self.0),
        }))
    }
}

/// Serves `PluginMultiplexing`: yes, one process serves several mounts.
#[derive(Debug)]
pub(super) struct MultiplexingService;

#[tonic::async_trait]
impl PluginMultiplexing for MultiplexingService {
    async fn multiplexing_support(
        &self,
        _request: Request<MultiplexingSupportRequest>,
    ) -> Answer<MultiplexingSupportResponse> {
        Ok(Response::new(MultiplexingSupportResponse {
            supported: true,
        }))
    }
}
