//! Mailu's admin API as a [`MailProvider`](super::MailProvider).
//!
//! Three concerns apart: `transport` moves bytes (addresses, TLS, limits), `error` decides what an
//! answer means, `api` knows the bodies; `login` is apart from them and speaks SMTP. What must stay true: the token goes into one header of
//! requests to its own server, a password only into a JSON body; no text of the server leaves.

mod api;
mod client;
mod error;
mod login;
mod transport;

#[cfg(test)]
mod tests;

pub(super) use client::MailuClient;
