//! A mount in simulated time: its tenants, their mail servers and the host's ticks, for hundreds of
//! days, through everything that happens to a cluster. Shared by a test of an ordinary size and by
//! `scripts/simulate`, whose size is that of the largest installation.
//!
//! The engine is the real one, entered as a host does, over storage in memory. Mail servers are in
//! memory as well, but hash as Mailu does, so that each proof is a real one. The clock is tokio's
//! paused time: work under way takes the time its servers take, and minutes without work pass at
//! once.
//!
//! What must hold is in `expect`; it is computed from the documented rules and from what the mail
//! servers saw, not from what the engine stored.

mod clock;
mod expect;
mod figures;
mod mail;
mod node;
mod plot;
mod population;
mod run;

pub use figures::Figures;
pub use run::run;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many tenants.
    pub tenants: usize,
    /// How many days; at least the 400 of the plot.
    pub days: u32,
    /// Which tenants are which.
    pub seed: u64,
    /// Minutes between ticks from 04:00 to 02:00, when no check is under way.
    pub quiet_minutes: u32,
    /// Days between two sweeps; the engine sweeps daily. More is told to it by a slower monotonic
    /// clock.
    pub sweep_days: u32,
    /// Makes a password hash as Mailu does.
    pub hash: fn(&str, u32) -> String,
    /// Is told how far it has come.
    pub tell: fn(&str),
}
