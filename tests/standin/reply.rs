//! The shapes in which Mailu and the nginx before it answer.

use serde_json::{Value, json};

use super::faults::{Media, Words};

/// One answer, before it meets a fault.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub location: Option<String>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

const JSON: &str = "application/json";

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        let mut body = body.to_string().into_bytes();
        body.push(b'\n');
        Self {
            status,
            content_type: JSON,
            location: None,
            headers: Vec::new(),
            body,
        }
    }

    /// A change that was made: always 200, never 201 or 204.
    pub fn done(message: &str) -> Self {
        Self::business(200, message)
    }

    /// The admin's own refusals repeat the status as `code`.
    pub fn business(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "code": status, "message": message }))
    }

    /// The framework's refusals carry a message alone.
    pub fn message(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "message": message }))
    }

    /// A body that does not fit its schema. As Mailu does, the text repeats the offending value.
    pub fn schema(key: &str, complaint: &str) -> Self {
        Self::json(
            400,
            &json!({ "errors": { key: complaint }, "message": "Input payload validation failed" }),
        )
    }

    pub fn internal_error() -> Self {
        Self::message(500, "Internal Server Error")
    }

    /// A page, as nginx and Flask's own error handler write.
    pub fn html(status: u16, title: &str) -> Self {
        let page = format!(
            "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n\
             <center><h1>{status} {title}</h1></center>\r\n<hr><center>nginx</center>\r\n\
             </body>\r\n</html>\r\n"
        );
        Self {
            status,
            content_type: "text/html; charset=utf-8",
            location: None,
            headers: Vec::new(),
            body: page.into_bytes(),
        }
    }

    /// 204, as the edge's `/health` answers.
    pub fn empty() -> Self {
        Self {
            status: 204,
            content_type: JSON,
            location: None,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn not_found_page() -> Self {
        Self::html(404, "Not Found")
    }

    pub fn redirect(status: u16, location: String) -> Self {
        let mut reply = Self::html(status, "Moved");
        reply.location = Some(location);
        reply
    }

    /// What something before Mailu says in words of its own.
    pub fn worded(words: &Words) -> Self {
        Self {
            status: words.status,
            content_type: match words.media {
                Media::Html => "text/html; charset=utf-8",
                Media::Text => "text/plain",
                Media::Json => JSON,
            },
            location: words.location.clone(),
            headers: words
                .retry_after
                .iter()
                .map(|seconds| ("retry-after".to_owned(), seconds.to_string()))
                .collect(),
            body: words.body.clone().into_bytes(),
        }
    }

    /// A 200 whose body says nothing a client can use.
    pub fn garbage() -> Self {
        Self {
            status: 200,
            content_type: JSON,
            location: None,
            headers: Vec::new(),
            body: b"{\"code\": 200, \"mess\xff".to_vec(),
        }
    }
}
