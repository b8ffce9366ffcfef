//! The standard gRPC health check, asked by hosts for the service `plugin`.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::proto::grpc::health::v1::health_check_response::ServingStatus;
use crate::proto::grpc::health::v1::health_server::Health as HealthService;
use crate::proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

/// The name hosts ask for. The empty name means the whole server.
const SERVICE: &str = "plugin";

/// Always serving: a process that is not has ended.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) stopping: CancellationToken,
}

const fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status as i32,
    }
}

#[tonic::async_trait]
impl HealthService for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" | SERVICE => Ok(Response::new(answer(ServingStatus::Serving))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" | SERVICE => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        // The status never changes while the stream lives.
        let stream = futures_util::stream::iter([Ok(answer(status))])
            .chain(futures_util::stream::pending())
            .take_until(self.stopping.clone().cancelled_owned());
        Ok(Response::new(Box::pin(stream)))
    }
}
