//! The remote off switch.

use tonic::{Request, Response, Status};

use super::host_link::HostLink;
use crate::proto::plugin::Empty;
use crate::proto::plugin::grpc_controller_server::GrpcController;

/// Answers Shutdown and starts the end; the answer still reaches the host, because the server
/// drains.
#[derive(Debug)]
pub(super) struct Controller(pub(super) HostLink);

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.0.shut_down();
        Ok(Response::new(Empty {}))
    }
}
