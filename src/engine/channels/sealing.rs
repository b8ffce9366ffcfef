//! The secrets of channels: sealed for one channel, one life of it and one endpoint, and sealed anew
//! after a rotation of the keyring.

use std::collections::BTreeSet;

use super::{Channel, EmailTarget, Secured, SlackTarget, Target, WebhookTarget};
use crate::crypto::{self, Binding, Keyring, Sealed, Sensitive};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::storage::{self, CHANNELS};
use crate::logical::Mount;
use crate::network::{NetworkPolicy, WebUrl};
use crate::notify::{ChannelConfig, EmailConfig, MailLogin, MailTls, SlackConfig, WebhookConfig};

/// What a webhook's URL is sealed as.
const SECRET_URL: &str = "url";

/// The secrets of a channel, opened.
#[derive(Debug, Default)]
pub(in crate::engine) struct Secrets {
    /// The one that [`Target::secret`] names.
    pub(in crate::engine) own: Option<Sensitive<String>>,
    /// A webhook's URL, if that is one.
    pub(in crate::engine) url: Option<Sensitive<String>>,
}

impl Target {
    /// Returns the secret's name and, if there is one, the secret.
    pub(in crate::engine) const fn secret(&self) -> (&'static str, Option<&Sealed>) {
        match self {
            Self::Email(target) => ("password", target.password.as_ref()),
            Self::Slack(target) => ("url", target.url.as_ref()),
            Self::Webhook(target) => ("hmac_key", target.hmac_key.as_ref()),
        }
    }

    /// Returns a webhook's sealed URL, if that is a secret.
    pub(in crate::engine) const fn secret_url(&self) -> Option<&Sealed> {
        match self {
            Self::Webhook(target) => target.secret_url.as_ref(),
            Self::Email(_) | Self::Slack(_) => None,
        }
    }

    /// Encrypts every secret for this target, in this life of the channel.
    pub(in crate::engine) fn seal(
        &mut self,
        keyring: &Keyring,
        (name, id): (&str, &str),
        secrets: &Secrets,
    ) -> Result<(), Error> {
        let endpoint = self.endpoint();
        if let Some(secret) = &secrets.own {
            let (field, _) = self.secret();
            let sealed = seal(keyring, (name, id), (field, &endpoint), secret)?;
            self.set_secret(sealed);
        }
        if let (Self::Webhook(target), Some(url)) = (self, &secrets.url) {
            let sealed = seal(keyring, (name, id), (SECRET_URL, &endpoint), url)?;
            target.secret_url = Some(sealed);
        }
        Ok(())
    }

    /// Puts the sealed secret in its place.
    fn set_secret(&mut self, sealed: Sealed) {
        match self {
            Self::Email(target) => target.password = Some(sealed),
            Self::Slack(target) => target.url = Some(sealed),
            Self::Webhook(target) => target.hmac_key = Some(sealed),
        }
    }

    /// Reports whether the channel cannot be used without its secret.
    pub(in crate::engine) const fn needs_secret(&self) -> bool {
        match self {
            Self::Email(target) => target.username.is_some(),
            Self::Slack(_) | Self::Webhook(_) => true,
        }
    }

    /// Returns where the secret may be sent, as every ciphertext's associated data has it. A chat's
    /// URL is secret and endpoint in one.
    pub(in crate::engine) fn endpoint(&self) -> String {
        let digest = |pem: &Option<String>| {
            let digest = pem.as_ref().map(|pem| crypto::sha256_hex(pem.as_bytes()));
            digest.unwrap_or_default()
        };
        match self {
            Self::Email(target) => format!(
                "email|{}|{}|{}|{}|{}|{}",
                target.host,
                target.port,
                target.tls.as_str(),
                target.tls_server_name.as_deref().unwrap_or_default(),
                digest(&target.ca_cert),
                target.username.as_deref().unwrap_or_default(),
            ),
            Self::Slack(target) => format!("slack|{}", digest(&target.ca_cert)),
            Self::Webhook(target) => {
                format!("webhook|{}|{}", target.url, digest(&target.ca_cert))
            }
        }
    }
}

impl Secured {
    /// Returns the word that clients use.
    pub(in crate::engine) const fn as_str(self) -> &'static str {
        match self {
            Self::Starttls => "starttls",
            Self::Tls => "tls",
            Self::None => "none",
        }
    }
}

impl From<Secured> for MailTls {
    fn from(tls: Secured) -> Self {
        match tls {
            Secured::Starttls => Self::StartTls,
            Secured::Tls => Self::Implicit,
            Secured::None => Self::None,
        }
    }
}

/// Encrypts a secret of a channel that may be sent to `endpoint`.
fn seal(
    keyring: &Keyring,
    (name, id): (&str, &str),
    (field, endpoint): (&str, &str),
    secret: &Sensitive<String>,
) -> Result<Sealed, Error> {
    let owner = format!("{CHANNELS}{name}");
    keyring
        .seal(&binding(&owner, id, field, endpoint), secret)
        .map_err(|_rng| Error::Defect("encryption failed"))
}

impl Channel {
    /// Decrypts the channel's secrets.
    pub(in crate::engine) fn open(&self, keyring: &Keyring) -> Result<Secrets, Error> {
        let (owner, endpoint) = (format!("{CHANNELS}{}", self.name), self.target.endpoint());
        let open = |field: &str, sealed: Option<&Sealed>| {
            let opened = sealed
                .map(|sealed| keyring.open(&binding(&owner, &self.id, field, &endpoint), sealed));
            opened.transpose().map_err(Error::Unopenable)
        };
        let (field, sealed) = self.target.secret();
        Ok(Secrets {
            own: open(field, sealed)?,
            url: open(SECRET_URL, self.target.secret_url())?,
        })
    }

    /// Reports whether a write names the target that is stored: `target` is without its secrets, and
    /// `given` are those that were given, if any were.
    pub(in crate::engine) fn is_same_target(
        &self,
        target: &Target,
        given: &Secrets,
        keyring: &Keyring,
    ) -> bool {
        let mut target = target.clone();
        if let Some(sealed) = self.target.secret().1 {
            target.set_secret(sealed.clone());
        }
        if let (Target::Webhook(target), Some(sealed)) = (&mut target, self.target.secret_url())
            && given.url.is_some()
        {
            target.secret_url = Some(sealed.clone());
        }
        if target != self.target {
            return false;
        }
        // One that does not open any more is replaced by the one that is given.
        let Ok(kept) = self.open(keyring) else {
            return given.own.is_none() && given.url.is_none();
        };
        let is_kept = |given: &Option<Sensitive<String>>, kept: &Option<Sensitive<String>>| {
            given.is_none() || given == kept
        };
        is_kept(&given.own, &kept.own) && is_kept(&given.url, &kept.url)
    }

    /// Returns what it takes to use the channel, its secrets opened.
    pub(in crate::engine) fn usable(
        &self,
        keyring: &Keyring,
        policy: &NetworkPolicy,
    ) -> Result<ChannelConfig, Error> {
        let secrets = self.open(keyring)?;
        self.target.with(secrets, policy)
    }

    /// Encrypts the secrets with the newest key; returns whether there was anything to do.
    fn seal_anew(&mut self, keyring: &Keyring) -> Result<bool, Error> {
        let sealed = [self.target.secret().1, self.target.secret_url()];
        let newest = |sealed: &Sealed| sealed.key_version() == keyring.latest();
        if sealed.into_iter().flatten().all(newest) {
            return Ok(false);
        }
        let secrets = self.open(keyring)?;
        self.target
            .seal(keyring, (&self.name, &self.id), &secrets)?;
        Ok(true)
    }
}

impl Target {
    /// Returns what it takes to use the target with these secrets.
    pub(in crate::engine) fn with(
        &self,
        secrets: Secrets,
        policy: &NetworkPolicy,
    ) -> Result<ChannelConfig, Error> {
        let missing = Error::Defect("a channel without its secret");
        let secret = secrets.own;
        Ok(match self {
            Self::Email(target) => ChannelConfig::Email(email(target, secret)),
            Self::Slack(SlackTarget { ca_cert, .. }) => ChannelConfig::Slack(SlackConfig {
                url: web_url("url", secret.ok_or(missing)?.expose(), policy)?,
                ca_cert: ca_cert.clone(),
            }),
            Self::Webhook(WebhookTarget { url, ca_cert, .. }) => {
                let secret_url = secrets.url.as_ref().map(Sensitive::expose);
                ChannelConfig::Webhook(WebhookConfig {
                    url: web_url("url", secret_url.unwrap_or(url), policy)?,
                    hmac_key: secret.ok_or(missing)?,
                    ca_cert: ca_cert.clone(),
                })
            }
        })
    }
}

fn email(target: &EmailTarget, secret: Option<Sensitive<String>>) -> EmailConfig {
    let login = target.username.clone().zip(secret);
    EmailConfig {
        host: target.host.clone(),
        port: target.port,
        tls: target.tls.into(),
        tls_server_name: target.tls_server_name.clone(),
        ca_cert: target.ca_cert.clone(),
        login: login.map(|(username, password)| MailLogin { username, password }),
        ehlo_name: target.ehlo_name.clone(),
        from: target.from.clone(),
        to: target.to.clone(),
    }
}

/// Parses a URL under the address rules of the moment; the text is not repeated.
pub(in crate::engine) fn web_url(
    field: &str,
    text: &str,
    policy: &NetworkPolicy,
) -> Result<WebUrl, Error> {
    WebUrl::parse(text, policy)
        .map_err(|error| Error::invalid("invalid_channel", format!("`{field}`: {error}.")))
}

const fn binding<'a>(
    owner: &'a str,
    id: &'a str,
    field: &'a str,
    endpoint: &'a str,
) -> Binding<'a> {
    // No tenant has such a name: theirs have no slash.
    Binding {
        tenant: owner,
        incarnation: id,
        field,
        id: "",
        endpoint,
    }
}

impl Engine {
    /// Encrypts every channel's secret with the newest key; returns the names of those that could
    /// not be.
    pub(in crate::engine) async fn rewrap_channels(
        &self,
        mount: &Mount,
    ) -> Result<Vec<String>, Error> {
        let _guard = self.mount_lock.lock("notify").await;
        let keyring = self.keyring_for_writing(mount).await?;
        let channels = super::read_all(mount).await?;
        let mut left = channels.unreadable;
        for mut channel in channels.list {
            match channel.seal_anew(&keyring) {
                Ok(true) => self.put_channel(mount, &channel).await?,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(channel = channel.name, %error, "not encrypted anew");
                    left.push(channel.name);
                }
            }
        }
        Ok(left.iter().map(|name| storage::channel_key(name)).collect())
    }

    /// Returns the versions of the keyring that each channel depends on, by its storage key; none
    /// if it cannot be read.
    pub(in crate::engine) async fn sealed_channels(
        &self,
        mount: &Mount,
    ) -> Result<Vec<(String, Option<BTreeSet<u32>>)>, Error> {
        let _guard = self.mount_lock.lock("notify").await;
        let mut found = Vec::new();
        for name in mount.storage.list_page(CHANNELS, "", super::PAGE).await? {
            let key = storage::channel_key(&name);
            let Some(entry) = mount.storage.get(&key).await? else {
                continue;
            };
            let readable = Channel::decode(&key, &entry.value).is_ok();
            let versions = readable.then(|| storage::sealed_by(&entry.value));
            found.push((key, versions));
        }
        Ok(found)
    }
}
