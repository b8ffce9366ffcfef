//! A backend that is nothing but its routes.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Backend, Error, Mount, Operation, Reply, Request, Router, SpecialPaths};

/// A table of routes over a state, as a [`Backend`]. Ticks are answered and do nothing.
pub struct RoutedBackend<S> {
    router: Router<S>,
    state: Arc<S>,
    special_paths: SpecialPaths,
}

impl<S> RoutedBackend<S> {
    /// Joins routes and state, without special paths.
    #[must_use]
    pub fn new(router: Router<S>, state: S) -> Self {
        Self {
            router,
            state: Arc::new(state),
            special_paths: SpecialPaths::default(),
        }
    }

    /// Sets the special paths.
    #[must_use]
    pub fn with_special_paths(mut self, paths: SpecialPaths) -> Self {
        self.special_paths = paths;
        self
    }
}

impl<S> fmt::Debug for RoutedBackend<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutedBackend")
            .field("router", &self.router)
            .field("special_paths", &self.special_paths)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: Send + Sync + 'static> Backend for RoutedBackend<S> {
    fn special_paths(&self) -> SpecialPaths {
        self.special_paths.clone()
    }

    async fn handle_request(&self, mount: &Mount, request: Request) -> Reply {
        if request.operation == Operation::Rollback {
            return Ok(None);
        }
        self.router.handle(&self.state, mount, request).await
    }

    async fn existence_check(
        &self,
        mount: &Mount,
        request: Request,
    ) -> Result<Option<bool>, Error> {
        self.router.exists(&self.state, mount, request).await
    }
}
