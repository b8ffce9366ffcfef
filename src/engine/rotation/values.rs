//! The one door for values: every password that is to be sent passes it, whoever made it.

use std::collections::{BTreeMap, BTreeSet};

use super::change::Change;
use crate::audit::RotationType;
use crate::crypto::{PasswordEncoding, PasswordShape, Sensitive};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::logical::SystemView;

/// Characters of a value. SMTP AUTH PLAIN breaks on longer lines.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=500;

/// How often a policy is tried before it is stored.
const DRAWS: usize = 64;

/// How many more are drawn beside each password that is used: whoever changes the policy later tries
/// it nowhere.
const WITNESSES: usize = 3;

/// What a policy has to give, in bits: the logarithms of the different characters at each position,
/// summed up.
const LEAST_BITS: f64 = 80.0;

/// Lets a candidate in: printable ASCII of a length that every login takes, and no value that is
/// kept, unless the change names the version it has it from. Whatever made it may have few outcomes,
/// and a "new" password that is an old one ends nothing.
///
/// # Errors
///
/// A 400 `password_policy_unusable`.
pub(super) fn check(
    tenant: &LockedTenant,
    change: &Change,
    password: &Sensitive<String>,
) -> Result<(), Error> {
    acceptable(password)?;
    if change.source.is_some() || change.again.is_some() {
        return Ok(());
    }
    let versions = tenant.record.credential.iter();
    let versions = versions.flat_map(|kept| &kept.versions);
    let kept = versions.map(|version| (version.number, &version.password));
    let open = tenant.record.intent.iter();
    let open = open.map(|intent| (intent.version, &intent.candidate));
    for (number, sealed) in kept.chain(open) {
        match tenant.open_password(number, sealed) {
            Ok(old) if old == *password => {
                return Err(unusable(
                    "the new password is that of a version that is kept",
                ));
            }
            // What does not open any more is nothing that could be set again by name.
            Ok(_) | Err(Error::Unopenable(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn acceptable(password: &Sensitive<String>) -> Result<(), Error> {
    let text = password.expose();
    let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    // Blanks at the ends are lost on the way into many a configuration file.
    let bare = text.trim() == text;
    if LENGTHS.contains(&text.len()) && printable && bare {
        return Ok(());
    }
    Err(unusable(
        "the policy must generate 16 to 500 printable ASCII characters without blanks at the ends",
    ))
}

fn unusable(why: &str) -> Error {
    Error::invalid(
        "password_policy_unusable",
        format!(
            "{why}. Check password_policy in the mount's config and the policy at \
             sys/policies/password/."
        ),
    )
}

/// Makes the password of an ordinary change by the mount's settings.
///
/// # Errors
///
/// A 400 `password_policy_unusable`.
pub(super) async fn ordinary(tenant: &LockedTenant) -> Result<Sensitive<String>, Error> {
    match &tenant.config.password_policy {
        Some(policy) => witnessed(&*tenant.mount.system, policy).await,
        None => generate(tenant, tenant.config.password_shape()?),
    }
}

/// Makes the password of an emergency. The host's policy is not asked: an emergency waits for nobody,
/// and what a policy gives may be anything.
pub(super) fn emergency(tenant: &LockedTenant) -> Result<Sensitive<String>, Error> {
    generate(tenant, tenant.config.emergency_password_shape()?)
}

/// Returns the mount's encoding if a change's value is made by it.
pub(super) fn encoding(tenant: &LockedTenant, change: &Change) -> Option<PasswordEncoding> {
    let emergency = change.rotation_type == Some(RotationType::Emergency);
    let own = change.source.is_none() && change.again.is_none();
    let generated = emergency || tenant.config.password_policy.is_none();
    (own && generated).then_some(tenant.config.password_encoding)
}

/// Makes a value. While one is kept that was not taken, it has only characters that nothing on the way
/// to the account stumbles over: a front may refuse `+` and `/` for ever.
fn generate(tenant: &LockedTenant, shape: PasswordShape) -> Result<Sensitive<String>, Error> {
    let credential = tenant.record.credential.iter();
    let mut versions = credential.flat_map(|kept| &kept.versions);
    let shape = if versions.any(|version| version.abandoned) {
        shape.plain()
    } else {
        shape
    };
    shape
        .generate()
        .map_err(|_rng| Error::Defect("the random number generator failed"))
}

async fn witnessed(system: &dyn SystemView, policy: &str) -> Result<Sensitive<String>, Error> {
    let password = by_policy(system, policy).await?;
    let mut seen = Draws::default();
    seen.add(password.clone());
    for _ in 0..WITNESSES {
        if !seen.add(by_policy(system, policy).await?) {
            return Err(unusable(
                "the policy generated the same password twice within a few tries",
            ));
        }
    }
    Ok(password)
}

async fn by_policy(system: &dyn SystemView, policy: &str) -> Result<Sensitive<String>, Error> {
    let password = system.generate_password(policy).await;
    password.map_err(|_host_text| unusable("the host did not generate a password by this policy"))
}

/// Tries a policy before it is believed: 64 passwords, all different, and at least 80 bits by the
/// characters that were seen at each position.
///
/// # Errors
///
/// A 400 `password_policy_unusable` with the number of bits.
pub(in crate::engine) async fn try_policy(
    system: &dyn SystemView,
    policy: &str,
) -> Result<(), Error> {
    let mut seen = Draws::default();
    for _ in 0..DRAWS {
        let password = by_policy(system, policy).await?;
        acceptable(&password)?;
        if !seen.add(password) {
            return Err(unusable(
                "the policy generated the same password twice within 64 tries",
            ));
        }
    }
    let bits = seen.bits();
    if bits < LEAST_BITS {
        return Err(unusable(&format!(
            "the policy's passwords differ by some {bits:.0} bits, counted by position in 64 tries, \
             and must by 80. Let it use more different characters, or more of them"
        )));
    }
    Ok(())
}

/// Passwords that were tried, and wiped when this is dropped.
#[derive(Default)]
struct Draws {
    passwords: Vec<Sensitive<String>>,
}

impl Draws {
    /// Returns false for one that was there already.
    fn add(&mut self, password: Sensitive<String>) -> bool {
        let is_new = !self.passwords.contains(&password);
        self.passwords.push(password);
        is_new
    }

    fn bits(&self) -> f64 {
        let mut at: BTreeMap<usize, BTreeSet<u8>> = BTreeMap::new();
        for password in &self.passwords {
            for (position, byte) in password.expose().bytes().enumerate() {
                at.entry(position).or_default().insert(byte);
            }
        }
        let counts = at.values().map(|bytes| u32::try_from(bytes.len()));
        counts
            .map(|count| f64::from(count.unwrap_or(1)).log2())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(passwords: impl Iterator<Item = String>) -> f64 {
        let mut draws = Draws::default();
        for password in passwords {
            draws.add(Sensitive::new(password));
        }
        draws.bits()
    }

    #[test]
    fn bits_are_counted_by_position() {
        assert!(bits(std::iter::repeat_n(String::from("aaaa"), 9)).abs() < 1e-9);
        let two = bits(["ab", "ac"].map(String::from).into_iter());
        assert!((two - 1.0).abs() < 1e-9, "{two}");
        let counted = bits((0..64).map(|number| format!("{number:02}aaaaaaaaaaaaaaaa")));
        assert!(
            (counted - (7.0_f64.log2() + 10.0_f64.log2())).abs() < 1e-9,
            "{counted}"
        );
    }

    #[test]
    fn a_value_is_printable_and_no_line_is_too_long() {
        for (text, good) in [
            ("a".repeat(16), true),
            ("a".repeat(500), true),
            ("a".repeat(15), false),
            ("a".repeat(501), false),
            (format!("{}\n", "a".repeat(20)), false),
            (format!("{}ü", "a".repeat(20)), false),
            (format!(" {}", "a".repeat(20)), false),
            (format!("{} {}", "a".repeat(20), "b"), true),
        ] {
            assert_eq!(
                acceptable(&Sensitive::new(text.clone())).is_ok(),
                good,
                "{text:?}"
            );
        }
    }
}
