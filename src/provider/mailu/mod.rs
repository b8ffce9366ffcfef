//! Mailu's admin API as a [`MailProvider`](super::MailProvider).

mod client;

pub(super) use client::MailuClient;
