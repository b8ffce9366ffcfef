//! `config/notify/<name>/test`: sends a message now.

use std::sync::Arc;

use serde::Serialize;

use super::{NAME, name};
use crate::audit::{Outcome, Severity};
use crate::engine::Engine;
use crate::engine::channels::Target;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};
use crate::notify::{self, Message, Recipient, Scope};

const ANSWERS: &[Field] = &[
    Field::text("channel", "The channel.").example("ops"),
    Field::boolean(
        "delivered",
        "The channel's host took the message, for every address of the channel.",
    )
    .example("true"),
    Field::objects(
        "addresses",
        "email: what became of the mail to each address, in the order of `to`.",
    )
    .of(const {
        &[
            Field::text("address", "The address.").example("oncall@ops.example"),
            Field::boolean("delivered", "The mail server took the mail for it.").example("true"),
            Field::text("error_code", "Why not; null if it did.")
                .example("notify_rejected")
                .nullable(),
            Field::text("error", "The same in words, and what to do.").nullable(),
        ]
    }),
    Field::text("event_id", "The identifier that the message carries.")
        .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "config/notify/{name}/test",
        synopsis: "Send a test message.",
        description: "Sends a test message over the channel now, to whom the channel itself \
                      names, and answers whether its host took it, for mail for each address. If \
                      nobody could have it, that is an error. A channel that was left alone after \
                      a refusal is tried again once a test got through. While it is under way, the \
                      same request again joins it. An error begins with a stable code that says \
                      what to change.

    bao write -f smtp/config/notify/ops/test",
        fields: const { &[NAME] },
        endpoints: vec![Endpoint {
            operations: &[Operation::Create, Operation::Update],
            summary: "Send a test message over a channel.",
            unknown_fields: UnknownFields::Warned,
            answers: ANSWERS,
            handler: |engine, mount, call| Box::pin(test(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output {
    channel: String,
    delivered: bool,
    addresses: Vec<AddressOutput>,
    event_id: String,
}

/// What became of the mail to one address.
#[derive(Serialize)]
struct AddressOutput {
    address: String,
    delivered: bool,
    error_code: Option<&'static str>,
    error: Option<String>,
}

impl AddressOutput {
    fn new(address: &str, outcome: Result<(), notify::Error>) -> Self {
        let error = outcome.err();
        Self {
            address: address.to_owned(),
            delivered: error.is_none(),
            error_code: error.map(notify::Error::code),
            error: error.map(notify::Error::explain),
        }
    }
}

async fn test(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = name(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let channels = engine.channels(&mount).await?;
    let channel = channels.find(&name).ok_or(Error::UnknownChannel)?;
    // A repeat joins: each message of a test is one that somebody gets. Once the channel was written
    // it is another test.
    let written = format!("{} {}", channel.id, channel.written_at);
    let key = engine.work_key(&call, Kept::ForRepeats)?.on(&written);
    let worker = Arc::clone(&engine);
    let caller = call.request.display_name.clone();
    let work = async move {
        let output = send(&worker, &mount, name, caller).await?;
        Ok(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}

async fn send(
    engine: &Engine,
    mount: &Mount,
    name: String,
    display_name: String,
) -> Result<Output, Error> {
    let channels = engine.channels(mount).await?;
    let channel = channels.find(&name).ok_or(Error::UnknownChannel)?;
    let peer = engine.connect_channel(mount, channel).await?;
    let message = message(engine, name.clone(), display_name)?;
    let sent = match &channel.target {
        Target::Email(target) if target.to.len() > 1 => {
            to_each(peer.as_ref(), &message, &target.to).await
        }
        Target::Email(target) => {
            let outcome = peer.deliver(&message).await;
            let to = target.to.iter();
            (
                outcome,
                to.map(|to| AddressOutput::new(to, outcome)).collect(),
            )
        }
        Target::Slack(_) | Target::Webhook(_) => (peer.deliver(&message).await, Vec::new()),
    };
    let (outcome, addresses) = sent;
    let some = addresses.iter().any(|it| it.delivered);
    match outcome {
        Err(error) if !some => return Err(refused(error, &addresses)),
        Ok(()) | Err(_) => {}
    }
    // It takes something again: what waits for it need not wait for the end of a rest.
    if let Err(error) = engine.reopen_channel(mount, channel).await {
        tracing::warn!(channel = name, %error, "the channel works, and waits for its time");
    }
    Ok(Output {
        channel: name,
        delivered: outcome.is_ok(),
        addresses,
        event_id: message.event_id,
    })
}

/// Sends the message to each address on its own, as events are. What the channel itself fails with
/// is not met once for each of the others.
async fn to_each(
    peer: &dyn notify::Channel,
    message: &Message,
    to: &[String],
) -> (Result<(), notify::Error>, Vec<AddressOutput>) {
    let mut first = Ok(());
    let mut closed = None;
    let mut addresses = Vec::new();
    for address in to {
        let outcome = match closed {
            Some(error) => Err(error),
            None => {
                let mut message = message.clone();
                message.recipient = Recipient::Address(address.clone());
                peer.deliver(&message).await
            }
        };
        closed = outcome.err().filter(|it| it.scope() == Scope::Channel);
        first = first.and(outcome);
        addresses.push(AddressOutput::new(address, outcome));
    }
    (first, addresses)
}

/// Nobody could have it. Always a 400: clients repeat a 503 by themselves, which would be another
/// message each time.
fn refused(error: notify::Error, addresses: &[AddressOutput]) -> Error {
    let each = match addresses {
        [] | [_] => String::new(),
        addresses => {
            let each = addresses.iter().map(|it| {
                let code = it.error_code.unwrap_or_default();
                format!("{}: {code}", it.address)
            });
            format!(" By address: {}.", each.collect::<Vec<_>>().join(", "))
        }
    };
    Error::invalid(error.code(), format!("{}.{each}", error.explain()))
}

fn message(engine: &Engine, channel: String, display_name: String) -> Result<Message, Error> {
    let now = engine.clock().now();
    Ok(Message {
        event: None,
        event_id: engine.identifiers().hex()?,
        channel,
        recipient: Recipient::Channel,
        tenant: String::from("-"),
        severity: Severity::Info,
        outcome: Outcome::Success,
        rotation_type: None,
        version: None,
        previous_version: None,
        timestamp: now,
        sent_at: now,
        next_rotation: None,
        error: None,
        findings: Vec::new(),
        changed: Vec::new(),
        old_host: None,
        new_host: None,
        incident_id: None,
        reason: None,
        display_name,
    })
}
