//! `config/notify/<name>/test`: sends a message now.

use std::sync::Arc;

use serde::Serialize;

use super::{NAME, name};
use crate::audit::{Outcome, Severity};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};
use crate::notify::{Message, Recipient};

const ANSWERS: &[Field] = &[
    Field::text("channel", "The channel.").example("ops"),
    Field::boolean("delivered", "The channel's host took the message.").example("true"),
    Field::text("event_id", "The identifier that the message carries.")
        .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "config/notify/{name}/test",
        synopsis: "Send a test message.",
        description: "Sends a test message over the channel now, to whom the channel itself \
                      names, and answers whether its host took it. Nothing of it is stored. While \
                      it is under way, the same request again joins it. An error begins with a stable code that says what to change.

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
    event_id: String,
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
    let now = engine.clock().now();
    let event_id = engine.identifiers().hex()?;
    let message = Message {
        event: None,
        event_id: event_id.clone(),
        channel: name.clone(),
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
    };
    // Always a 400: clients repeat a 503 by themselves, which would be another message each time.
    peer.deliver(&message)
        .await
        .map_err(|error| Error::invalid(error.code(), format!("{}.", error.hint())))?;
    Ok(Output {
        channel: name,
        delivered: true,
        event_id,
    })
}
