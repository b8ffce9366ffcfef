//! Stands in for the engine until it exists.

use async_trait::async_trait;
use vault_plugin_secrets_smtp::logical::{
    Backend, Error, Mount, Operation, Reply, Request, SpecialPaths,
};

/// What `--audit-keys` prints.
pub(crate) const AUDIT_KEYS: &str = "";

/// Knows no paths; takes ticks.
#[derive(Debug)]
pub(crate) struct Placeholder;

#[async_trait]
impl Backend for Placeholder {
    fn special_paths(&self) -> SpecialPaths {
        SpecialPaths::default()
    }

    async fn initialize(&self, _mount: &Mount) -> Result<(), Error> {
        Ok(())
    }

    async fn handle_request(&self, _mount: &Mount, request: Request) -> Reply {
        match request.operation {
            Operation::Rollback => Ok(None),
            _ => Err(Error::UnsupportedPath),
        }
    }

    async fn existence_check(
        &self,
        _mount: &Mount,
        _request: Request,
    ) -> Result<Option<bool>, Error> {
        Ok(None)
    }

    async fn invalidate_key(&self, _key: &str) {}

    async fn cleanup(&self) {}
}
