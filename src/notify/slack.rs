//! Slack's incoming webhooks, and chats that take the same.
//!
//! Free text is sent in `plain_text` objects, which know no markup, and with the three characters
//! escaped that stand for mentions and links elsewhere; the notification's own line has none.
//!
//! Source: Slack, "Sending messages using incoming webhooks" and "Formatting text for app
//! surfaces" (escape `&`, `<` and `>`); a section's text has at most 3,000 characters ("Block Kit",
//! section block).

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use serde::Serialize;

use super::http::Poster;
use super::registry::{ConnectError, SlackConfig};
use super::{Channel, Error, Message, text};
use crate::network::NetworkPolicy;

/// Longest text of a block, in characters.
const MOST: usize = 2_900;

/// An incoming webhook; its URL is the secret.
#[derive(Debug)]
pub(super) struct Slack {
    poster: Poster,
}

impl Slack {
    pub(super) fn new(config: &SlackConfig, policy: &NetworkPolicy) -> Result<Self, ConnectError> {
        Ok(Self {
            poster: Poster::new(&config.url, config.ca_cert.as_deref(), policy)?,
        })
    }
}

#[async_trait]
impl Channel for Slack {
    async fn deliver(&self, message: &Message) -> Result<(), Error> {
        let body = document(message).map_err(|_no_text| Error::Rejected)?;
        self.poster
            .post(HeaderMap::new(), body, Err(Error::Rejected))
            .await
    }
}

#[derive(Serialize)]
struct Document {
    text: String,
    mrkdwn: bool,
    unfurl_links: bool,
    unfurl_media: bool,
    blocks: Vec<Block>,
}

#[derive(Serialize)]
struct Block {
    #[serde(rename = "type")]
    kind: &'static str,
    text: PlainText,
}

#[derive(Serialize)]
struct PlainText {
    #[serde(rename = "type")]
    kind: &'static str,
    text: String,
    emoji: bool,
}

fn document(message: &Message) -> Result<Vec<u8>, serde_json::Error> {
    let text = text::render(message);
    let lines = |pairs: &[(&str, String)]| {
        let lines = pairs
            .iter()
            .map(|(label, value)| format!("{label}: {value}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let sections = [
        text.summary.clone(),
        text.advice.to_owned(),
        text.notes.join("\n"),
        lines(&text.facts),
        lines(&text.written),
    ];
    let blocks = sections.iter().filter(|it| !it.is_empty());
    serde_json::to_vec(&Document {
        text: escaped(&text.summary),
        mrkdwn: false,
        unfurl_links: false,
        unfurl_media: false,
        blocks: blocks.map(|it| block(it)).collect(),
    })
}

fn block(text: &str) -> Block {
    Block {
        kind: "section",
        text: PlainText {
            kind: "plain_text",
            text: escaped(text),
            emoji: false,
        },
    }
}

/// Escapes what Slack takes for mentions and links, and cuts what is too long for a block.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut length = 0;
    for character in text.chars() {
        let shown = match character {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            _ => "",
        };
        length += shown.len().max(1);
        if length > MOST {
            out.push('\u{2026}');
            break;
        }
        if shown.is_empty() {
            out.push(character);
        } else {
            out.push_str(shown);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::text::example;

    #[test]
    fn no_free_text_becomes_a_mention_a_link_or_markup() {
        let mut message = example();
        message.reason = Some(String::from(
            "<!channel> <https://evil.example|click> *bold* & \"quoted\"\n> quote",
        ));
        message.display_name = "x".repeat(5_000);
        let body = String::from_utf8(document(&message).unwrap()).unwrap();
        assert!(!body.contains('<') && !body.contains('>'), "{body}");
        assert!(!body.contains("mrkdwn\":true") && !body.contains("\"type\":\"mrkdwn\""));
        assert!(body.contains("&lt;!channel&gt;") && body.contains("&amp;"));
        assert!(!body.contains("://") && !body.contains("evil.example"));
        let (before, _) = body.split_once("\"blocks\"").unwrap();
        assert!(!before.contains("channel"), "{before}");
        assert!(body.contains("\"emoji\":false"));
    }

    #[test]
    fn a_block_has_what_slack_takes_at_most() {
        let text = escaped(&"&".repeat(3_000));
        assert!(text.chars().count() <= 3_000, "{}", text.len());
        assert!(text.ends_with("&amp;\u{2026}"));
    }
}
