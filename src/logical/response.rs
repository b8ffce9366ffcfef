//! What an engine answers.

use std::collections::BTreeMap;
use std::fmt;

use super::{Data, Lease, RawResponse, Wrap};

/// A successful answer. `Ok(None)` instead of one means "nothing there": 404 on read and list,
/// 204 on write and delete.
///
/// `Debug` is safe to log: data shows its keys only, and headers their names.
#[derive(Clone, Default)]
pub struct Response {
    /// The answered fields; `None` with warnings is an answer without data.
    pub data: Option<Data>,
    /// Texts for the caller, shown next to the data.
    pub warnings: Vec<String>,
    /// Forces response wrapping.
    pub wrap: Option<Wrap>,
    /// HTTP headers; each must be let through by the mount (`allowed_response_headers`).
    pub headers: BTreeMap<String, Vec<String>>,
    /// What the answer is besides data.
    pub special: Option<Special>,
}

/// What some answers are besides data. One type for both, because a host refuses a lease together
/// with a body that is not JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Special {
    /// The data is leased.
    Lease(Lease),
    /// Sent in place of data and warnings.
    Raw(RawResponse),
}

impl Response {
    /// Answers `data` and nothing else.
    #[must_use]
    pub fn data(data: Data) -> Self {
        Self {
            data: Some(data),
            ..Self::default()
        }
    }

    /// Answers a list of keys, or nothing (404) if there are none, as the host's own engines do.
    #[must_use]
    pub fn keys(keys: Vec<String>) -> Option<Self> {
        if keys.is_empty() {
            None
        } else {
            Some(Self::data(Data::keys(keys)))
        }
    }

    /// Answers data on a lease, or renews the lease.
    ///
    /// The host keeps a copy of the data with the lease and hands it back at renewal and
    /// revocation; what a renewal answers replaces it.
    #[must_use]
    pub fn leased(data: Data, lease: Lease) -> Self {
        Self {
            special: Some(Special::Lease(lease)),
            ..Self::data(data)
        }
    }

    /// Answers a body that is not JSON.
    #[must_use]
    pub fn raw(raw: RawResponse) -> Self {
        Self {
            special: Some(Special::Raw(raw)),
            ..Self::default()
        }
    }

    /// Adds a warning.
    #[must_use]
    pub fn warn(mut self, text: impl Into<String>) -> Self {
        self.warnings.push(text.into());
        self
    }

    /// Forces response wrapping.
    #[must_use]
    pub const fn wrapped(mut self, wrap: Wrap) -> Self {
        self.wrap = Some(wrap);
        self
    }

    /// Adds an HTTP header; the same name again adds a value.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let values = self.headers.entry(name.into()).or_default();
        values.push(value.into());
        self
    }

    /// Returns the lease, if the answer has one.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        match &self.special {
            Some(Special::Lease(lease)) => Some(lease),
            Some(Special::Raw(_)) | None => None,
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every field by name: a new one does not compile until it is decided what it shows.
        let Self {
            data,
            warnings,
            wrap,
            headers,
            special,
        } = self;
        f.debug_struct("Response")
            .field("data", data)
            .field("warnings", warnings)
            .field("wrap", wrap)
            .field("headers", &headers.keys())
            .field("special", special)
            .finish()
    }
}

/// What a handler returns: an answer, "nothing there", or an error.
pub type Reply = Result<Option<Response>, super::Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_names_only() {
        let answer = Response::data(Data::texts([("password", "hunter2")]))
            .header("Set-Cookie", "hunter2")
            .header("Set-Cookie", "hunter2 again");
        assert_eq!(answer.headers["Set-Cookie"].len(), 2);
        let shown = format!("{answer:?}");
        assert!(
            shown.contains("password") && shown.contains("Set-Cookie"),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
