//! Where the engine may connect to: endpoints as types, and the rules their addresses must pass.
//!
//! An operator of one tenant chooses URLs that a process inside the secrets server then calls, so
//! a URL is a request to act with that process's reach. What must stay true: no byte is sent to an
//! address that [`NetworkPolicy::check`] did not allow. Names are therefore resolved here and
//! connected to by the very addresses that were checked; literals, which skip resolution, are
//! checked when they are parsed and again when they are used.

mod endpoint;
mod policy;
mod ranges;
mod rules;

pub use endpoint::{EndpointError, EndpointUrl, Scheme, SmtpAddress, SmtpAddressError};
pub use policy::{AddressRefusal, NetworkPolicy};
pub use rules::{AddressRule, AddressRuleError};
