//! What a write of the credential asks for, checked before anything is touched.

use chrono::{DateTime, Utc};

use crate::crypto::Sensitive;
use crate::engine::error::Error;
use crate::engine::storage::record::RotationPolicy;
use crate::logical::{Call, Patch};
use crate::provider::EmailAddress;

const MOST_ADMIN_EMAILS: usize = 10;

/// A checked request.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) username: Option<EmailAddress>,
    pub(super) webmail_url: Patch<String>,
    /// The policy, and how it was written.
    pub(super) rotation_policy: Patch<(RotationPolicy, String)>,
    pub(super) admin_emails: Patch<Vec<String>>,
    pub(super) password: Option<Sensitive<String>>,
    pub(super) last_rotated: Option<DateTime<Utc>>,
    pub(super) cas: Option<u64>,
    pub(super) take_over: bool,
}

impl Input {
    /// Reports whether a request says what the credential is, and not which version it changes.
    pub(super) fn describes(&self) -> bool {
        let settings = !self.webmail_url.is_absent()
            || !self.rotation_policy.is_absent()
            || !self.admin_emails.is_absent();
        self.cas.is_none() && (settings || self.username.is_some() || self.password.is_some())
    }

    pub(super) fn parse(call: &Call, now: DateTime<Utc>) -> Result<Self, Error> {
        let fields = &call.fields;
        let username = fields.text("username").try_map(|text| {
            EmailAddress::parse(text)
                .map_err(|error| Error::invalid("invalid_field", format!("`username` is {error}.")))
        })?;
        let password = fields.secret("password").set();
        if password
            .as_ref()
            .is_some_and(|password| password.expose().is_empty())
        {
            return Err(Error::invalid(
                "invalid_field",
                "`password` is empty. Leave it out to have one generated.",
            ));
        }
        let last_rotated = fields.instant("last_rotated").set();
        if last_rotated.is_some() && password.is_none() {
            return Err(Error::invalid(
                "invalid_field",
                "`last_rotated` belongs to an imported `password`. Leave it out.",
            ));
        }
        if last_rotated.is_some_and(|at| at > now || at < DateTime::UNIX_EPOCH) {
            return Err(Error::invalid(
                "invalid_field",
                "`last_rotated` must be an instant between 1970 and now.",
            ));
        }
        let cas = fields
            .integer("cas")
            .set()
            .map(u64::try_from)
            .transpose()
            .map_err(|_range| {
                Error::invalid("invalid_field", "`cas` must be 0 or a version number.")
            })?;
        Ok(Self {
            username: username.set(),
            webmail_url: fields.text("webmail_url").try_map(webmail_url)?,
            rotation_policy: fields.text("rotation_policy").try_map(|text| {
                let text = text.trim();
                RotationPolicy::parse(text).map(|policy| (policy, text.to_owned()))
            })?,
            admin_emails: fields.texts("admin_emails").try_map(admin_emails)?,
            password,
            last_rotated,
            cas,
            take_over: fields.boolean("take_over").set().unwrap_or(false),
        })
    }
}

fn webmail_url(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let usable = url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "https" | "http")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if usable {
        Ok(text.to_owned())
    } else {
        Err(Error::invalid(
            "invalid_field",
            "`webmail_url` must be an http or https URL without user name or password.",
        ))
    }
}

fn admin_emails(mut emails: Vec<String>) -> Result<Vec<String>, Error> {
    let checked = emails.iter_mut().try_for_each(|email| {
        EmailAddress::parse(email).map(|parsed| parsed.as_str().clone_into(email))
    });
    match checked {
        Ok(()) if emails.len() <= MOST_ADMIN_EMAILS => Ok(emails),
        Ok(()) => Err(Error::invalid(
            "invalid_field",
            "`admin_emails` takes at most 10 mail addresses.",
        )),
        Err(error) => Err(Error::invalid(
            "invalid_field",
            format!("`admin_emails`: {error}."),
        )),
    }
}
