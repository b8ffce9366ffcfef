//! What a simulation came to.

use std::fmt;

use chrono::TimeDelta;

/// What a simulation came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub tenants: usize,
    pub days: u32,
    pub seed: u64,
    pub ticks: u64,
    pub quiet_minutes: u32,
    pub sweep_days: u32,
    pub rotations: u64,
    /// In the check with the most: changes, and the most of them in one minute.
    pub largest_check: usize,
    pub peak_per_minute: usize,
    /// Passwords being set at the same time, at most.
    pub most_at_once: usize,
    /// Of tenants that nothing was wrong with.
    pub latest_after_slot: TimeDelta,
    /// Due tenants with a failing server that were found with their error.
    pub in_attention: usize,
    /// Calls to servers that were well, and to failing ones.
    pub calls: u64,
    pub failed_calls: u64,
    /// Of a tick without any call to a mail server, between checks: median and most. The most is of
    /// ticks that look whether a server is still to be left alone, or find a pointer to remove.
    pub quiet_tick_calls: (u64, u64),
    pub quiet_ticks: usize,
    /// Of storage at the end.
    pub bytes_per_tenant: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = match self.quiet_minutes {
            1 => String::new(),
            minutes => format!(" (between checks one every {minutes} minutes)"),
        };
        writeln!(f, "tenants                         {}", self.tenants)?;
        writeln!(f, "days                            {}", self.days)?;
        writeln!(f, "seed                            {}", self.seed)?;
        writeln!(f, "ticks                           {}{between}", self.ticks)?;
        writeln!(
            f,
            "sweep of every tenant           every {} days",
            self.sweep_days
        )?;
        writeln!(f, "rotations                       {}", self.rotations)?;
        writeln!(
            f,
            "largest check                   {} rotations",
            self.largest_check
        )?;
        writeln!(
            f,
            "most rotations in one minute    {}",
            self.peak_per_minute
        )?;
        writeln!(
            f,
            "passwords being set at once     {} at most",
            self.most_at_once
        )?;
        writeln!(
            f,
            "latest after its slot           {} s (ordinary tenants)",
            self.latest_after_slot.num_seconds()
        )?;
        writeln!(f, "failing, due and in attention   {}", self.in_attention)?;
        writeln!(
            f,
            "calls to mail servers           {} and {} to failing ones",
            self.calls, self.failed_calls
        )?;
        writeln!(
            f,
            "storage calls of a quiet tick   {} (median), {} (most) of {}",
            self.quiet_tick_calls.0, self.quiet_tick_calls.1, self.quiet_ticks
        )?;
        write!(
            f,
            "storage per tenant at the end   {} bytes",
            self.bytes_per_tenant
        )
    }
}
