//! [`MailuClient`]: the calls.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use reqwest::Method;

use super::api::{self, Change, Creation};
use super::error::{Meaning, Operation, Shown, classify};
use super::login::SmtpLogin;
use super::transport::{Answer, Call, MAX_ANSWER, Transport};
use crate::crypto::{Sensitive, random_u128};
use crate::provider::registry::{ConnectError, MailuConfig};
use crate::provider::{
    Account, AppTokenId, EmailAddress, Login, MailProvider, NetworkPolicy, ReadError, Refusal,
    Sent, ServerVersion, Trouble,
};

/// Largest API description read, in bytes; that of the newest Mailu has 41,000.
const MAX_DESCRIPTION: usize = 1024 * 1024;

/// Largest list of app tokens read, in bytes: some 6,000 of the 150 bytes one was seen to take.
const MAX_TOKEN_LIST: usize = 1024 * 1024;

/// One Mailu server.
///
/// Calls are independent of each other; whoever needs them one at a time sees to it.
pub(in crate::provider) struct MailuClient {
    transport: Transport,
    login: Option<SmtpLogin>,
    /// An account was seen whose release knows `change_pw_next_login`.
    has_change_at_login: AtomicBool,
}

impl MailuClient {
    /// Prepares a client; does no network work.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] names the setting that is not usable.
    pub(in crate::provider) fn new(
        config: &MailuConfig,
        policy: &NetworkPolicy,
    ) -> Result<Self, ConnectError> {
        Ok(Self {
            transport: Transport::new(config, policy)?,
            login: SmtpLogin::new(config, policy)?,
            has_change_at_login: AtomicBool::new(false),
        })
    }

    async fn change(
        &self,
        operation: Operation<'_>,
        method: Method,
        path: &str,
        body: Option<zeroize::Zeroizing<Vec<u8>>>,
    ) -> Sent {
        let call = Call {
            method,
            path,
            body,
            authorized: true,
            limit: MAX_ANSWER,
        };
        match self.transport.call(call).await {
            Ok(answer) => match meaning(operation, &answer) {
                Meaning::Done => Sent::Acknowledged,
                Meaning::Content => Sent::Unknown(Trouble::Unintelligible),
                Meaning::Refused(refusal) => Sent::Refused(refusal),
                Meaning::Unknown(trouble) => Sent::Unknown(trouble),
            },
            Err(trouble) => Sent::Unknown(trouble),
        }
    }

    /// Reads content about an account; the answer is only given if it is some.
    ///
    /// Every look has a query of its own and asks not to be answered from a cache: fronts that cache
    /// mostly ignore what a request asks for. An answer that has an age is none.
    async fn read(
        &self,
        account: &EmailAddress,
        path: &str,
        limit: usize,
    ) -> Result<Answer, ReadError> {
        let nonce =
            random_u128().map_err(|_no_numbers| ReadError::Trouble(Trouble::Unreachable))?;
        let call = Call {
            method: Method::GET,
            path: &format!("{path}?_={nonce:032x}"),
            body: None,
            authorized: true,
            limit,
        };
        let answer = self
            .transport
            .call(call)
            .await
            .map_err(ReadError::Trouble)?;
        match meaning(Operation::Look(account), &answer) {
            _ if answer.cached => Err(ReadError::Trouble(Trouble::Cached)),
            Meaning::Content => Ok(answer),
            Meaning::Refused(refusal) => Err(ReadError::Refused(refusal)),
            Meaning::Unknown(trouble) => Err(ReadError::Trouble(trouble)),
            Meaning::Done => Err(ReadError::Trouble(Trouble::Unintelligible)),
        }
    }
}

fn meaning(operation: Operation<'_>, answer: &Answer) -> Meaning {
    let shown = Shown {
        status: answer.status,
        content_type: answer.content_type.as_deref(),
        retry_after: answer.retry_after,
        body: &answer.body,
    };
    classify(operation, shown)
}

impl fmt::Debug for MailuClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailuClient")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MailProvider for MailuClient {
    async fn set_password(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        let change = Change {
            raw_password: password.expose(),
            comment,
            // Older releases ignore it; what was not seen to have it is not sent it.
            change_pw_next_login: self
                .has_change_at_login
                .load(Ordering::Relaxed)
                .then_some(false),
        };
        let texts = password.expose().len() + comment.map_or(0, str::len);
        let Some(body) = api::encode(&change, texts) else {
            return Sent::Refused(Refusal::Invalid);
        };
        let path = format!("/user/{}", api::in_path(account));
        self.change(Operation::Change(account), Method::PATCH, &path, Some(body))
            .await
    }

    async fn create_account(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        let creation = Creation {
            email: account.as_str(),
            raw_password: password.expose(),
            global_admin: true,
            enabled: true,
            comment,
        };
        let texts = account.as_str().len() + password.expose().len() + comment.map_or(0, str::len);
        let Some(body) = api::encode(&creation, texts) else {
            return Sent::Refused(Refusal::Invalid);
        };
        self.change(
            Operation::Creation(account),
            Method::POST,
            "/user",
            Some(body),
        )
        .await
    }

    async fn account(&self, account: &EmailAddress) -> Result<Option<Account>, ReadError> {
        let answer = match self
            .read(
                account,
                &format!("/user/{}", api::in_path(account)),
                MAX_ANSWER,
            )
            .await
        {
            Ok(answer) => answer,
            Err(ReadError::Refused(Refusal::NoSuchAccount)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let shown = api::account(&answer.body, account)
            .ok_or(ReadError::Trouble(Trouble::Unintelligible))?;
        self.has_change_at_login
            .store(shown.has_change_at_login, Ordering::Relaxed);
        Ok(Some(shown.account))
    }

    async fn app_tokens(
        &self,
        account: &EmailAddress,
    ) -> Result<Option<Vec<AppTokenId>>, ReadError> {
        // There really is no slash between the two words.
        let path = format!("/tokenuser/{}", api::in_path(account));
        let answer = match self.read(account, &path, MAX_TOKEN_LIST).await {
            Ok(answer) => answer,
            // What the 2.0 line, which has no tokens, answers to any unknown path; and what any
            // front may answer for a while. Who believed that would leave the tokens alive.
            Err(ReadError::Trouble(Trouble::NoApi)) => {
                return match self.server_version().await {
                    ServerVersion::Mailu20 => Ok(None),
                    ServerVersion::Mailu2024 | ServerVersion::Unknown => {
                        Err(ReadError::Trouble(Trouble::Unintelligible))
                    }
                };
            }
            Err(error) => return Err(error),
        };
        api::app_tokens(&answer.body)
            .map(Some)
            .ok_or(ReadError::Trouble(Trouble::Unintelligible))
    }

    async fn delete_app_token(&self, token: &AppTokenId) -> Sent {
        let path = format!("/token/{token}");
        self.change(
            Operation::AppTokenDeletion(token),
            Method::DELETE,
            &path,
            None,
        )
        .await
    }

    async fn server_version(&self) -> ServerVersion {
        // Mailu tells this to anybody, so the token stays here. A cache may have kept it from before an
        // upgrade, and who believes that would leave app tokens alive.
        let Ok(nonce) = random_u128() else {
            return ServerVersion::Unknown;
        };
        let call = Call {
            method: Method::GET,
            path: &format!("/swagger.json?_={nonce:032x}"),
            body: None,
            authorized: false,
            limit: MAX_DESCRIPTION,
        };
        match self.transport.call(call).await {
            Ok(answer) if answer.status == 200 && !answer.cached => api::version(&answer.body),
            Ok(_) | Err(_) => ServerVersion::Unknown,
        }
    }

    /// Sends the change of a token that no server has, without a change in it and without the
    /// server's own token: who has the mistake looks for it, who has not asks for the header.
    ///
    /// Source: seen with Mailu 2024.06.51, 2024.06.57 and the master of 2026-07-26.
    async fn app_tokens_are_open(&self) -> Option<bool> {
        let none = AppTokenId::parse("0")?;
        let call = Call {
            method: Method::PATCH,
            path: &format!("/token/{none}"),
            body: Some(zeroize::Zeroizing::new(b"{}".to_vec())),
            authorized: false,
            limit: MAX_ANSWER,
        };
        let answer = self.transport.call(call).await.ok()?;
        match meaning(Operation::AppTokenDeletion(&none), &answer) {
            Meaning::Refused(Refusal::NoSuchAppToken) => Some(true),
            Meaning::Refused(Refusal::Token) if answer.status == 401 => Some(false),
            _ => None,
        }
    }

    fn certificate_expires_at(&self) -> Option<DateTime<Utc>> {
        self.transport.certificate_expires_at()
    }

    async fn login(&self, account: &EmailAddress, password: &Sensitive<String>) -> Login {
        match &self.login {
            Some(login) => login.attempt(account, password).await,
            None => Login::CannotTell,
        }
    }
}
