//! Whose server is tested, and what it cannot do.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    OpenBao,
    /// The community edition of HashiCorp Vault.
    Vault,
}

/// What a test may need of its host, beyond what all hosts do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Standby nodes run the plugin: it answers reads there and gets ticks.
    PluginOnStandby,
    Namespaces,
    /// `SCAN`, and `GET` with `scan=true`.
    Scan,
    /// The plugin is told the port that its client calls from.
    ClientPort,
}

impl Product {
    /// The one of this run.
    pub(crate) fn tested() -> Self {
        match Self::Vault.named() {
            Some(_) => Self::Vault,
            None => Self::OpenBao,
        }
    }

    /// The one table of what a host cannot do: the reason, or `None` if it can.
    pub(crate) const fn lacks(self, need: Need) -> Option<&'static str> {
        match (self, need) {
            (Self::OpenBao, _) => None,
            (Self::Vault, Need::PluginOnStandby) => {
                Some("a standby of Vault's community edition runs no plugin and forwards all")
            }
            (Self::Vault, Need::Namespaces) => Some("Vault's community edition has no namespaces"),
            (Self::Vault, Need::Scan) => Some("Vault has no SCAN"),
            (Self::Vault, Need::ClientPort) => Some("Vault tells plugins no client's port"),
        }
    }

    /// Whether it can; for tests whose way differs with it.
    pub(crate) const fn can(self, need: Need) -> bool {
        self.lacks(need).is_none()
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::OpenBao => "SMTP_TEST_BAO",
            Self::Vault => "SMTP_TEST_VAULT",
        }
    }

    /// How the program's version begins.
    const fn name(self) -> &'static str {
        match self {
            Self::OpenBao => "OpenBao",
            Self::Vault => "Vault",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::OpenBao => "Run ./scripts/test, which provides an OpenBao and sets the variable.",
            Self::Vault => "Name the file of a vault, or unset it to test in OpenBao.",
        }
    }

    /// What the variable says; nothing is said by an empty one, as in any shell.
    fn named(self) -> Option<OsString> {
        std::env::var_os(self.variable()).filter(|named| !named.is_empty())
    }

    /// The server's program.
    pub(crate) fn program(self) -> Result<PathBuf, String> {
        let (variable, remedy) = (self.variable(), self.remedy());
        let Some(named) = self.named() else {
            return Err(format!("{variable} is not set. {remedy}"));
        };
        // From its own folder a server would not find what is named from here.
        std::fs::canonicalize(&named).map_err(|error| {
            format!(
                "{variable} names no program: {}: {error}. {remedy}",
                named.display()
            )
        })
    }

    /// Which host it is, in one line; or, in one line, why there is none.
    pub(crate) fn introduction(self) -> Result<String, String> {
        let (variable, remedy) = (self.variable(), self.remedy());
        let program = self.program()?;
        let place = program.display();
        // Whatever it wants to keep, even now, it keeps there.
        let home = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let asked = Command::new(&program)
            .arg("version")
            .env_clear()
            .env("HOME", home.path())
            .output();
        let said = asked
            .map_err(|error| format!("{variable} names no program: {place}: {error}. {remedy}"))?;
        let said = String::from_utf8_lossy(&said.stdout);
        let said = said.lines().next().unwrap_or_default();
        if said.split(' ').next() != Some(self.name()) {
            let name = self.name();
            return Err(format!(
                "{variable} names no {name}: {place} says {said:?}. {remedy}"
            ));
        }
        Ok(format!("the host: {said}"))
    }
}
