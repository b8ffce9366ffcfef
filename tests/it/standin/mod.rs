//! The stand-in itself, against a real HTTP client and a real SMTP client.
//!
//! Every expectation here was observed on a running Mailu: if one fails, tests of the engine
//! against the stand-in mean nothing.

mod api;
mod faults;
mod mail;
mod rig;
