//! [`MailuClient`]: the calls.

use async_trait::async_trait;

use crate::crypto::Sensitive;
use crate::provider::registry::{ConnectError, MailuConfig};
use crate::provider::{
    Account, EmailAddress, Login, MailProvider, NetworkPolicy, ReadError, Sent, ServerVersion,
    Trouble,
};

/// One Mailu server.
#[derive(Debug)]
pub(in crate::provider) struct MailuClient;

impl MailuClient {
    pub(in crate::provider) fn new(
        _config: &MailuConfig,
        _policy: &NetworkPolicy,
    ) -> Result<Self, ConnectError> {
        Ok(Self)
    }
}

#[async_trait]
impl MailProvider for MailuClient {
    async fn set_password(
        &self,
        _account: &EmailAddress,
        _password: &Sensitive<String>,
        _comment: Option<&str>,
    ) -> Sent {
        Sent::Unknown(Trouble::Unreachable)
    }

    async fn create_account(
        &self,
        _account: &EmailAddress,
        _password: &Sensitive<String>,
        _comment: Option<&str>,
    ) -> Sent {
        Sent::Unknown(Trouble::Unreachable)
    }

    async fn account(&self, _account: &EmailAddress) -> Result<Option<Account>, ReadError> {
        Err(ReadError::Trouble(Trouble::Unreachable))
    }

    async fn app_tokens(&self, _account: &EmailAddress) -> Result<Option<usize>, ReadError> {
        Err(ReadError::Trouble(Trouble::Unreachable))
    }

    async fn server_version(&self) -> ServerVersion {
        ServerVersion::Unknown
    }

    async fn login(&self, _account: &EmailAddress, _password: &Sensitive<String>) -> Login {
        Login::CannotTell
    }
}
