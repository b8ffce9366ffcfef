//! A Mailu server that is not Mailu: the admin API, SMTP AUTH and their failures, on loopback.
//!
//! It keeps users, domains, app tokens and real password hashes, so a test ends with "the old
//! password is refused and the new one logs in", not with "a call was made". What it imitates was
//! observed on Mailu 2024.06.57 and 2.0.43; where the two differ, [`Release`] chooses.
//!
//! It does not store or relay mail, has no web pages, and knows nothing of the plugin: whatever it
//! shared with the code under test could hide the same mistake twice.
//!
//! What must stay true: a request that arrived is worked on to its end even when its client is
//! gone (as Mailu does), every request is in the journal, and no password is.
//!
//! Three users: both integration tests include this file as a module, `main.rs` makes it a program.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::expect_used,
    reason = "test equipment shared by three binaries, each of which uses a part of it"
)]

mod api;
mod auth;
mod clock;
mod config;
mod control;
mod exchange;
mod faults;
mod hash;
mod http;
mod journal;
mod limits;
mod login;
mod reply;
mod schema;
mod server;
mod shared;
mod smtp;
mod swagger;
mod tables;
mod tls;
mod tokens;
mod users;

pub use config::{Config, HashShown, LoginService, Rehash, Release};
pub use faults::{Fault, Media, Rule, Words};
pub use hash::{hash as hash_password, sha256_hex};
pub use journal::{Entry, SmtpLogin, TokenSeen};
pub use login::LoginAnswer;
pub use server::MailuStandin;
pub use tls::Authority;
pub use tokens::AppToken;
pub use users::User;
