//! The engine's endpoints, file for file as in `src/engine/paths`; `routes` is about all of them,
//! `cache`, `crowds`, `facts`, `failures`, `hosts`, `joining`, `nodes`, `numbers`, `secrets`,
//! `unknown_fields` and `waiting` about what holds on every path.

mod admin;
mod alerts;
mod audit_config;
mod cache;
mod config;
mod crowds;
mod deletion;
mod events;
mod facts;
mod failures;
mod hosts;
mod joining;
mod keyring;
pub(crate) mod mount_status;
mod nodes;
mod notify;
mod numbers;
mod ops;
mod pause;
mod reset;
mod reveal;
mod rollback;
mod rotate;
mod routes;
mod schedule;
mod secrets;
mod servers;
mod status;
mod tenant_config;
mod tenants;
mod ticks;
mod unknown_fields;
mod values;
mod verify;
mod versions;
mod waiting;
