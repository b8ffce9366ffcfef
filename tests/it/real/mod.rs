//! The plugin inside a real server, against the Mailu stand-in over real TLS and SMTP.
//!
//! Needs an OpenBao binary in `SMTP_TEST_BAO`; `./scripts/test` provides it. With
//! `SMTP_TEST_VAULT` the story is told to that Vault as well. `SMTP_TEST_PLUGIN` replaces the
//! plugin's binary, for example by a released one. `SMTP_TEST_OPENAPI` is the folder with the
//! OpenAPI tools.
//!
//! Here is only what needs a real host: what it makes of our answers, what it writes about them,
//! how it starts, kills and revives us.

mod acl;
mod api;
mod audit;
mod batches;
mod cluster;
mod crash;
mod errors;
mod handover;
mod help;
mod notices;
mod openapi;
mod process;
mod reset;
mod rig;
mod schedule;
mod sdk;
mod server;
mod soak;
mod standby;
mod story;
mod taint;
mod upgrade;
