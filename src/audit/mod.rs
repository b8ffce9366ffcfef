//! What the engine did, as events for the host's audit devices.
//!
//! An event is stored with the change it describes, numbered without gaps per tenant and chained
//! by hash. This module knows what an event is and how the chain is computed; where events are
//! kept is the engine's business, and delivering them to the devices comes on top.
//!
//! An event never holds a secret, nor any text from a mail server.

mod event;
mod log;
mod other;

pub use event::{
    Actor, EXEMPT_RESPONSE_KEYS, Event, EventName, NewEvent, Outcome, PRIVATE_KEYS, RotationType,
    Severity,
};
pub use log::{DetailKey, EventLog, MAX_IN_RECORD};
pub use other::Other;
