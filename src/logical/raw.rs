//! Answers that are not JSON.

use std::fmt;

/// A body that the host hands through as it is, with its own status.
///
/// For paths that browsers or other programs read: a page, a key, a revocation list. `Debug` shows
/// the body's length only.
///
/// Source: OpenBao `sdk/logical/response.go`; GET, POST, DELETE and HEAD seen on 2.7.2.
#[derive(Clone, PartialEq, Eq)]
pub struct RawResponse {
    /// The HTTP status, 200 to 599; anything else becomes 500, because it would stop the host.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: String,
    /// The body, verbatim.
    pub body: Vec<u8>,
    /// The `Cache-Control`; the host's own is `no-store`.
    pub cache_control: Option<String>,
    /// The `Pragma`.
    pub pragma: Option<String>,
    /// The `WWW-Authenticate`, for a 401.
    pub www_authenticate: Option<String>,
}

impl RawResponse {
    /// Builds an answer with the host's own cache headers.
    pub fn new(status: u16, content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type: content_type.into(),
            body: body.into(),
            cache_control: None,
            pragma: None,
            www_authenticate: None,
        }
    }
}

impl fmt::Debug for RawResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            content_type,
            body,
            cache_control,
            pragma,
            www_authenticate,
        } = self;
        f.debug_struct("RawResponse")
            .field("status", status)
            .field("content_type", content_type)
            .field("body", &format_args!("{} bytes", body.len()))
            .field("cache_control", cache_control)
            .field("pragma", pragma)
            .field("www_authenticate", www_authenticate)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_body() {
        let shown = format!("{:?}", RawResponse::new(200, "text/html", "hunter2"));
        assert!(
            shown.contains("text/html") && shown.contains("7 bytes"),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
