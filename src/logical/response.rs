//! What an engine answers.

use std::time::Duration;

use super::Data;

/// A successful answer. `Ok(None)` instead of one means "nothing there": 404 on read and list,
/// 204 on write and delete.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The answered fields; `None` with warnings is an answer without data.
    pub data: Option<Data>,
    /// Texts for the caller, shown next to the data.
    pub warnings: Vec<String>,
    /// Forces response wrapping for this long: the client gets a single-use token only.
    pub wrap_ttl: Option<Duration>,
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

    /// Adds a warning.
    #[must_use]
    pub fn warn(mut self, text: impl Into<String>) -> Self {
        self.warnings.push(text.into());
        self
    }
}

/// What a handler returns: an answer, "nothing there", or an error.
pub type Reply = Result<Option<Response>, super::Error>;
