//! The handshake: the magic cookie in, one line on stdout out.

use std::io::Write;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustls::pki_types::CertificateDer;

use super::Error;

/// Version of go-plugin's own protocol; there has only been one.
const CORE_PROTOCOL: u32 = 1;

/// What identifies a kind of plugin to its hosts.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Proves that a host of the right kind started the process.
    pub cookie: Cookie,
    /// The application protocol version, answered whatever the host lists: where it is not
    /// listed, the host says so better than this process could.
    pub version: u32,
}

/// An environment variable with a fixed value. Not a secret: it keeps people from running a
/// plugin by accident.
#[derive(Clone, Copy, Debug)]
pub struct Cookie {
    /// Name of the variable.
    pub key: &'static str,
    /// Its only accepted value.
    pub value: &'static str,
}

impl Cookie {
    /// Checks that the host set the cookie.
    ///
    /// # Errors
    ///
    /// [`Error::NotStartedByHost`] if it is absent or different.
    pub fn check(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
        match lookup(self.key) {
            Some(value) if value == self.value => Ok(()),
            Some(_) | None => Err(Error::NotStartedByHost),
        }
    }
}

/// Formats the handshake line, with its line end.
///
/// The certificate is base64 without padding. The seventh segment appears only if the host asks
/// for multiplexing, because older ones take it for part of the sixth; it says that the plugin can.
///
/// Source: go-plugin `server.go` (`Serve`), `client.go` (`Start`).
pub(super) fn line(
    version: u32,
    socket: &Path,
    certificate: &CertificateDer<'_>,
    asks_for_multiplexing: bool,
) -> String {
    let certificate = STANDARD_NO_PAD.encode(certificate);
    let multiplexing = if asks_for_multiplexing { "|true" } else { "" };
    format!(
        "{CORE_PROTOCOL}|{version}|unix|{}|grpc|{certificate}{multiplexing}\n",
        socket.display()
    )
}

/// Writes the handshake line at once and flushes it.
pub(super) fn announce(line: &str, out: &mut impl Write) -> Result<(), Error> {
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Handshake)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: Cookie = Cookie {
        key: "COOKIE",
        value: "right",
    };

    #[test]
    fn only_the_right_cookie_passes() {
        assert!(COOKIE.check(|_| Some(String::from("right"))).is_ok());
        assert!(COOKIE.check(|_| Some(String::from("wrong"))).is_err());
        assert!(COOKIE.check(|_| None).is_err());
    }

    #[test]
    fn the_line_has_six_segments_and_no_padding() {
        // One byte is where padded base64 would end in "==".
        let certificate = CertificateDer::from(vec![0_u8]);
        assert_eq!(
            line(5, Path::new("/tmp/s"), &certificate, false),
            "1|5|unix|/tmp/s|grpc|AA\n"
        );
    }

    #[test]
    fn a_host_asking_for_multiplexing_is_told_yes() {
        let certificate = CertificateDer::from(vec![0_u8]);
        assert_eq!(
            line(5, Path::new("/tmp/s"), &certificate, true),
            "1|5|unix|/tmp/s|grpc|AA|true\n"
        );
    }
}
