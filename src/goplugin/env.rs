//! What a host tells a plugin through its environment, parsed once.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Error;

/// The `PLUGIN_*` variables.
///
/// Left out: `PLUGIN_PROTOCOL_VERSIONS`, because a plugin of one version answers that version
/// whatever is listed, and the host reports the mismatch; `PLUGIN_MIN_PORT` and `PLUGIN_MAX_PORT`,
/// because nothing here listens on TCP.
///
/// Source: go-plugin `client.go` (`Start`), `server.go` (`Serve`).
#[derive(Clone, Debug)]
pub struct HostEnv {
    /// The host's one-off certificate: its client certificate on the main connection and its
    /// server certificate on brokered ones.
    pub host_certificate: CertificateDer<'static>,
    /// Where the socket is to be made; the system's temporary directory unless the host says.
    pub socket_dir: PathBuf,
    /// The group, by number or name, that may connect besides this user.
    pub socket_group: Option<String>,
    /// Whether all connections are to run over one socket.
    pub multiplexing: Multiplexing,
}

/// What a host says of multiplexing all connections over one socket (`PLUGIN_MULTIPLEX_GRPC`).
///
/// Any value asks whether the plugin can, a true one also has it done; "true" is what Go's
/// `strconv.ParseBool` takes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiplexing {
    /// The host knows of no multiplexing, and must not be answered about it.
    Unknown,
    /// The host asks whether the plugin can, but does not want it.
    Declined,
    /// The host wants it.
    Wanted,
}

impl Multiplexing {
    /// Reads the variable.
    fn parse(value: Option<&str>) -> Self {
        match value {
            None => Self::Unknown,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Self::Wanted,
            Some(_) => Self::Declined,
        }
    }

    /// Reports whether the host is to be told that the plugin can multiplex.
    #[must_use]
    pub const fn is_asked_for(self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Reports whether all connections share one socket.
    #[must_use]
    pub const fn is_wanted(self) -> bool {
        matches!(self, Self::Wanted)
    }
}

impl HostEnv {
    /// Parses the variables; an empty one counts as absent.
    ///
    /// # Errors
    ///
    /// [`Error::NoMutualTls`] and [`Error::HostCertificate`] for `PLUGIN_CLIENT_CERT`,
    /// [`Error::SocketDir`] for a directory that the handshake line cannot carry.
    pub fn parse(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let lookup = |name| lookup(name).filter(|value| !value.is_empty());
        let pem = lookup("PLUGIN_CLIENT_CERT").ok_or(Error::NoMutualTls)?;
        let host_certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(Error::HostCertificate)?;
        let socket_dir =
            lookup("PLUGIN_UNIX_SOCKET_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        if !fits_handshake(&socket_dir) {
            return Err(Error::SocketDir(socket_dir));
        }
        Ok(Self {
            host_certificate,
            socket_dir,
            socket_group: lookup("PLUGIN_UNIX_SOCKET_GROUP"),
            multiplexing: Multiplexing::parse(lookup("PLUGIN_MULTIPLEX_GRPC").as_deref()),
        })
    }
}

/// Reports whether a path comes out of the handshake line as it went in.
fn fits_handshake(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|text| !text.contains(|c: char| c == '|' || c.is_control()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<HostEnv, Error> {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        HostEnv::parse(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    fn pem() -> String {
        rcgen::generate_simple_self_signed([String::from("localhost")])
            .unwrap()
            .cert
            .pem()
    }

    #[test]
    fn a_host_without_mutual_tls_is_refused() {
        assert!(matches!(parse(&[]), Err(Error::NoMutualTls)));
        assert!(matches!(
            parse(&[("PLUGIN_CLIENT_CERT", "")]),
            Err(Error::NoMutualTls)
        ));
        assert!(matches!(
            parse(&[("PLUGIN_CLIENT_CERT", "not a certificate")]),
            Err(Error::HostCertificate(_))
        ));
    }

    #[test]
    fn what_the_host_leaves_open_has_defaults() {
        let env = parse(&[
            ("PLUGIN_CLIENT_CERT", &pem()),
            ("PLUGIN_UNIX_SOCKET_GROUP", ""),
        ])
        .unwrap();
        assert_eq!(env.socket_dir, std::env::temp_dir());
        assert_eq!(env.socket_group, None);
        assert_eq!(env.multiplexing, Multiplexing::Unknown);
    }

    #[test]
    fn a_directory_that_would_break_the_handshake_line_is_refused() {
        for directory in ["/run/a|b", "/run/a\nb", "/run/a\rb", "/run/a\u{85}b"] {
            let refused = parse(&[
                ("PLUGIN_CLIENT_CERT", &pem()),
                ("PLUGIN_UNIX_SOCKET_DIR", directory),
            ])
            .unwrap_err();
            assert!(matches!(refused, Error::SocketDir(_)), "{refused:?}");
            let text = refused.to_string();
            assert!(text.contains("PLUGIN_UNIX_SOCKET_DIR"), "{text}");
            assert!(!text.contains(char::is_control), "{text}");
        }
    }

    #[test]
    fn what_the_host_says_is_taken() {
        let env = parse(&[
            ("PLUGIN_CLIENT_CERT", &pem()),
            ("PLUGIN_UNIX_SOCKET_DIR", "/run/plugin"),
            ("PLUGIN_UNIX_SOCKET_GROUP", "1000"),
            ("PLUGIN_MULTIPLEX_GRPC", "true"),
        ])
        .unwrap();
        assert_eq!(env.socket_dir, PathBuf::from("/run/plugin"));
        assert_eq!(env.socket_group.as_deref(), Some("1000"));
        assert_eq!(env.multiplexing, Multiplexing::Wanted);
    }

    #[test]
    fn multiplexing_is_read_as_go_reads_it() {
        for wanted in ["1", "t", "T", "true", "TRUE", "True"] {
            assert!(Multiplexing::parse(Some(wanted)).is_wanted());
        }
        for declined in ["0", "false", "yes", "tRUE"] {
            let said = Multiplexing::parse(Some(declined));
            assert!(said.is_asked_for() && !said.is_wanted(), "{declined}");
        }
    }
}
