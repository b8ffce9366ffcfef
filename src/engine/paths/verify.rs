//! `<tenant>/verify`: ask Mailu which password is live.

use std::sync::Arc;

use serde::Serialize;

use super::tenant;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::mail::Purpose;
use crate::engine::rotation::{self, Verified};
use crate::engine::state::{self, State};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};
use crate::provider::ServerVersion;

const ANSWERS: &[Field] = &[
    Field::text("state", "settled, uncertain or drift; see <tenant>/admin.")
        .one_of(super::STATES)
        .example("settled")
        .nullable(),
    Field::integer("version", "The version that reads answer.")
        .example("4")
        .nullable(),
    Field::integer(
        "live_version",
        "The stored version that is live in Mailu, or null.",
    )
    .nullable(),
    Field::boolean(
        "enabled",
        "Whether the account may log in; null if it does not exist.",
    )
    .nullable(),
    Field::integer(
        "app_tokens",
        "The account's app tokens; null if the server has none.",
    )
    .nullable(),
    Field::text(
        "mailu_version",
        "Which Mailu it is; 2024.06 stands for later ones too.",
    )
    .one_of(&["2.0", "2024.06", "unknown"])
    .example("2024.06"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/verify",
        synopsis: "Ask Mailu which password is live.",
        description: "Settles a change that is still open, then compares every stored password \
                      with the hash Mailu keeps; no login is made and no limiter touched. \
                      Nothing is changed in Mailu unless a change is open: settling it may send \
                      the new password again. What came out is stored and answered.

    bao write -f smtp/acme/verify",
        fields: &[super::TENANT],
        endpoints: vec![Endpoint {
            operations: &[Operation::Create, Operation::Update],
            summary: "Ask Mailu which password is live.",
            unknown_fields: UnknownFields::Warned,
            answers: ANSWERS,
            handler: |engine, mount, call| Box::pin(verify(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output {
    state: Option<State>,
    version: Option<u64>,
    live_version: Option<u64>,
    enabled: Option<bool>,
    app_tokens: Option<usize>,
    mailu_version: &'static str,
}

async fn verify(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::No)?.question();
    let worker = Arc::clone(&engine);
    let work = async move {
        let verified = worker
            .at_server(&mount, &name, Purpose::Request, rotation::verify)
            .await?;
        answer(verified)
    };
    Ok(engine.join(&config, key, work).await?)
}

fn answer(verified: Verified) -> Result<Option<Response>, Error> {
    let record = &verified.tenant.record;
    let reading = record
        .live_credential()
        .and_then(|kept| state::read(record, kept));
    let output = Output {
        state: reading.as_ref().map(|reading| reading.state),
        version: reading.as_ref().map(|reading| reading.answer.number),
        live_version: verified.live_version,
        enabled: verified.enabled,
        app_tokens: verified.app_tokens,
        mailu_version: match verified.server_version {
            ServerVersion::Mailu20 => "2.0",
            ServerVersion::Mailu2024 => "2024.06",
            ServerVersion::Unknown => "unknown",
        },
    };
    let data = Data::from_serialize(&output)?;
    Ok(Some(Response {
        data: Some(data),
        warnings: verified.warnings,
        ..Response::default()
    }))
}
