//! Where the engine may connect to: endpoints as types, the rules their addresses must pass, and
//! which certificates are believed, and the two ways of speaking: HTTP and SMTP. Mail servers and notification channels are both called with it.
//!
//! An operator of one tenant chooses URLs that a process inside the secrets server then calls, so
//! a URL is a request to act with that process's reach. What must stay true: no byte is sent to an
//! address that [`NetworkPolicy::check`] did not allow. Names are therefore resolved here and
//! connected to by the very addresses that were checked; literals, which skip resolution, are
//! checked when they are parsed and again when they are used.

pub(crate) mod connect;
pub(crate) mod endpoint;
mod fault;
pub(crate) mod hello_name;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod policy;
mod ranges;
mod rules;
pub(crate) mod smtp;
pub(crate) mod tls;
mod tls_fault;
mod web_url;

pub use endpoint::{EndpointError, EndpointUrl, Scheme, SmtpAddress, SmtpAddressError};
pub use fault::Fault;
pub use hello_name::{HelloNameError, parse_hello_name};
pub use host::{HostError, parse_host};
pub use policy::{AddressRefusal, NetworkPolicy};
pub use rules::{AddressRule, AddressRuleError};
pub use smtp::{SmtpReply, SmtpStage};
pub use tls::{CaError, ExpiredCa, ServerNameError, expired_cas, parse_ca, parse_server_name};
pub use tls_fault::TlsFault;
pub use web_url::WebUrl;
