//! What a read of a channel answers; never a secret.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    ALLOWED_DOMAINS, CA_CERT, EHLO_NAME, EVENTS, FROM, HOST, PORT, TLS, TLS_SERVER_NAME, TO, TYPE,
    USERNAME,
};
use crate::audit::EventName;
use crate::engine::channels::{Channel, Target};
use crate::engine::error::Error;
use crate::engine::outbox::{ChannelState, Undelivered};
use crate::logical::{Data, Field, Response, instant};

pub(super) const ANSWERS: &[Field] = &[
    Field::text("name", "The channel's name.").example("ops"),
    TYPE,
    EVENTS,
    HOST,
    PORT,
    TLS,
    TLS_SERVER_NAME,
    CA_CERT,
    EHLO_NAME,
    USERNAME,
    FROM,
    TO,
    ALLOWED_DOMAINS,
    Field::text(
        "url",
        "webhook: where documents are posted; slack, and a webhook whose URL has a query: scheme, \
         host and port of it only.",
    )
    .example("https://hooks.ops.example/smtp"),
    Field::instant("written_at", "When the channel was written last.")
        .example("2026-09-01T02:14:00Z"),
    Field::integer("delivered", "How many messages were delivered.").example("12"),
    Field::instant(
        "last_delivered_at",
        "When the last one was; null if none was.",
    )
    .example("2026-09-01T02:15:00Z")
    .nullable(),
    Field::integer(
        "pending",
        "How many are still to be delivered; null where this is not known: on standbys, and until \
         the first tick after a start.",
    )
    .example("0")
    .nullable(),
    Field::integer(
        "dead",
        "How many were given up; kept for 30 days and tried again by any write of the channel. \
         Null as for `pending`.",
    )
    .example("0")
    .nullable(),
    Field::object(
        "last_error",
        "Why the last message was not delivered; null since one was.",
    )
    .of(const {
        &[
            Field::text("code", "The stable code.").example("notify_unreachable"),
            Field::instant("since", "Since when.").example("2026-09-01T02:14:00Z"),
            Field::text(
                "message",
                "What was met, and what to do; null if the code says it all.",
            )
            .nullable(),
        ]
    })
    .nullable(),
];

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    events: Vec<&'static str>,
    #[serde(flatten)]
    target: TargetOutput<'a>,
    #[serde(serialize_with = "instant::serialize")]
    written_at: DateTime<Utc>,
    delivered: u64,
    #[serde(serialize_with = "instant::serialize")]
    last_delivered_at: Option<DateTime<Utc>>,
    pending: Option<u64>,
    dead: Option<u64>,
    last_error: Option<ErrorOutput<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TargetOutput<'a> {
    Email {
        host: &'a str,
        port: u16,
        tls: &'static str,
        tls_server_name: &'a str,
        ca_cert: &'a str,
        ehlo_name: &'a str,
        username: &'a str,
        from: &'a str,
        to: &'a [String],
        allowed_domains: &'a [String],
    },
    Web {
        url: &'a str,
        ca_cert: &'a str,
    },
}

#[derive(Serialize)]
struct ErrorOutput<'a> {
    code: &'a str,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
    message: Option<&'a str>,
}

pub(super) fn response(
    channel: &Channel,
    state: &ChannelState,
    waiting: Option<Undelivered>,
) -> Result<Response, Error> {
    let text = |text: &'_ Option<String>| text.as_deref().unwrap_or_default().to_owned();
    let (ca_cert, server_name, username) = match &channel.target {
        Target::Email(it) => (
            text(&it.ca_cert),
            text(&it.tls_server_name),
            text(&it.username),
        ),
        Target::Slack(it) => (text(&it.ca_cert), String::new(), String::new()),
        Target::Webhook(it) => (text(&it.ca_cert), String::new(), String::new()),
    };
    let target = match &channel.target {
        Target::Email(it) => TargetOutput::Email {
            host: &it.host,
            port: it.port,
            tls: it.tls.as_str(),
            tls_server_name: &server_name,
            ca_cert: &ca_cert,
            ehlo_name: it.ehlo_name.as_deref().unwrap_or_default(),
            username: &username,
            from: &it.from,
            to: &it.to,
            allowed_domains: &it.allowed_domains,
        },
        Target::Slack(it) => TargetOutput::Web {
            url: &it.origin,
            ca_cert: &ca_cert,
        },
        Target::Webhook(it) => TargetOutput::Web {
            url: &it.url,
            ca_cert: &ca_cert,
        },
    };
    let output = Output {
        name: &channel.name,
        kind: super::type_of(&channel.target),
        events: channel
            .events
            .iter()
            .copied()
            .map(EventName::as_str)
            .collect(),
        target,
        written_at: channel.written_at,
        delivered: state.delivered,
        last_delivered_at: state.last_delivered_at,
        pending: waiting.map(|waiting| waiting.pending),
        dead: waiting.map(|waiting| waiting.dead),
        last_error: state.last_error.as_ref().map(|error| ErrorOutput {
            code: &error.code,
            since: error.since,
            message: error.message.as_deref(),
        }),
    };
    Ok(Response::data(Data::from_serialize(&output)?))
}
