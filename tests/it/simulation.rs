//! 400 days of a mount in simulated time, at a size for every test run; `scripts/simulate` runs it
//! at that of the largest installation.

use crate::plot_of_400_days::{Settings, run};
use crate::support::mailu::standin::hash_password;

#[test]
fn every_tenant_is_rotated_in_its_check_once_a_period_through_all_that_happens() {
    let figures = run(&Settings {
        tenants: 300,
        days: 400,
        seed: 1,
        quiet_minutes: 50,
        sweep_days: 20,
        hash: hash_password,
        tell: |_text| {},
    });
    assert!(figures.rotations >= 600, "{figures}");
    assert!(figures.in_attention >= 1, "{figures}");
    assert!(figures.quiet_tick_calls.0 <= 5, "{figures}");
}
