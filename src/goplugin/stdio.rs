//! The copy of standard output and error that a host may ask for: open and silent.
//!
//! Vault and OpenBao read it and throw it away; logs go to stderr itself. Refusing it would cost a
//! warning in the host's log at each start.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::proto::plugin::StdioData;
use crate::proto::plugin::grpc_stdio_server::GrpcStdio;

/// Keeps the stream open until `stopping`, without which the server could not drain.
#[derive(Debug)]
pub(super) struct Stdio {
    pub(super) stopping: CancellationToken,
}

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = Pin<Box<dyn Stream<Item = Result<StdioData, Status>> + Send>>;

    async fn stream_stdio(
        &self,
        _request: Request<()>,
    ) -> Result<Response<Self::StreamStdioStream>, Status> {
        let silent =
            futures_util::stream::pending().take_until(self.stopping.clone().cancelled_owned());
        Ok(Response::new(Box::pin(silent)))
    }
}
