//! The handshake: whatever a host sets, it is taken as it is or refused, and the one line on
//! stdout can be read back as the host reads it.

#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use vault_plugin_secrets_smtp::goplugin::{Error, HostEnv, fuzzing};
use vault_plugin_secrets_smtp::wire::{Flavour, PROTOCOL, ServerInfo};

#[derive(Arbitrary, Debug)]
struct Input {
    certificate: Certificate,
    directory: Option<Vec<Piece>>,
    group: Option<String>,
    multiplexing: Option<String>,
    cookie: Option<Cookie>,
    version: Option<String>,
    bao_version: Option<String>,
    mlock: Option<Lock>,
    bao_mlock: Option<Lock>,
    protocol: u32,
}

#[derive(Arbitrary, Debug)]
enum Certificate {
    Absent,
    Text(String),
    /// A PEM section of these bytes, with text around it.
    Pem {
        before: String,
        bytes: Vec<u8>,
        after: String,
    },
    Damaged(Vec<u8>, u16, char),
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Usual,
    Slash,
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Cookie {
    Right,
    Text(String),
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Lock {
    True,
    False,
    Odd,
    Empty,
}

impl Lock {
    fn text(self) -> &'static str {
        match self {
            Self::True => "true",
            Self::False => "false",
            Self::Odd => "TRUE",
            Self::Empty => "",
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64, with or without padding.
fn base64(bytes: &[u8], padding: &str) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for place in 0..=group.len() {
            text.push(ALPHABET[(word >> (18 - 6 * place)) as usize & 63] as char);
        }
        text.push_str(&padding.repeat(3 - group.len()));
    }
    text
}

fn pem(bytes: &[u8]) -> String {
    let body: Vec<u8> = base64(bytes, "=").into_bytes();
    let lines: Vec<&str> = body
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let body = lines.join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

fn path(pieces: &[Piece]) -> String {
    let text = |piece: &Piece| match piece {
        Piece::Usual => String::from("/tmp/plugin123"),
        Piece::Slash => String::from("/"),
        Piece::Text(text) => text.clone(),
    };
    pieces.iter().map(text).collect()
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn lock(lock: Option<Lock>) -> Option<Lock> {
    lock.filter(|lock| *lock != Lock::Empty)
}

/// One line, and nothing of a certificate, which may be long.
fn check_text(error: &Error) {
    let text = error.to_string();
    // Of the variables only the directory is repeated: an operator has to find it.
    let repeats = matches!(error, Error::SocketDir(_));
    assert!(
        !text.is_empty() && (repeats || text.len() < 600),
        "{text:?}"
    );
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// Reads the line as the host does: split at bars, the sixth is base64 without padding.
///
/// Source: go-plugin `client.go` (`Start`).
fn check_line(line: &str, env: &HostEnv, socket: &str, protocol: u32) {
    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    assert!(line.ends_with('\n') && !line.contains('\r'), "{line:?}");
    let segments: Vec<&str> = line.trim().split('|').collect();
    let expected = if env.multiplexing.is_asked_for() {
        7
    } else {
        6
    };
    assert_eq!(segments.len(), expected, "{line:?}");
    assert_eq!(segments[0].parse(), Ok(1));
    assert_eq!(segments[1].parse(), Ok(protocol));
    assert_eq!(segments[2], "unix");
    assert_eq!(segments[3], socket);
    assert_eq!(segments[4], "grpc");
    assert_eq!(segments[5], base64(&env.host_certificate, ""));
    if env.multiplexing.is_asked_for() {
        assert_eq!(segments[6], "true");
    }
}

fuzz_target!(|input: Input| {
    let certificate = match &input.certificate {
        Certificate::Absent => None,
        Certificate::Text(text) => Some(text.clone()),
        Certificate::Pem {
            before,
            bytes,
            after,
        } => Some(format!("{before}\n{}{after}", pem(bytes))),
        Certificate::Damaged(bytes, at, by) => {
            let mut letters: Vec<char> = pem(bytes).chars().collect();
            let at = usize::from(*at) % letters.len();
            letters[at] = *by;
            Some(letters.into_iter().collect())
        }
    };
    let directory = input.directory.as_deref().map(path);
    let lookup = |name: &str| match name {
        "PLUGIN_CLIENT_CERT" => certificate.clone(),
        "PLUGIN_UNIX_SOCKET_DIR" => directory.clone(),
        "PLUGIN_UNIX_SOCKET_GROUP" => input.group.clone(),
        "PLUGIN_MULTIPLEX_GRPC" => input.multiplexing.clone(),
        "VAULT_BACKEND_PLUGIN" => match &input.cookie {
            None => None,
            Some(Cookie::Right) => Some(String::from(PROTOCOL.cookie.value)),
            Some(Cookie::Text(text)) => Some(text.clone()),
        },
        "VAULT_VERSION" => input.version.clone(),
        "BAO_VERSION" => input.bao_version.clone(),
        "VAULT_PLUGIN_MLOCK_ENABLED" => input.mlock.map(|lock| String::from(lock.text())),
        "BAO_PLUGIN_MLOCK_ENABLED" => input.bao_mlock.map(|lock| String::from(lock.text())),
        _ => None,
    };

    let started = match &input.cookie {
        None => false,
        Some(Cookie::Right) => true,
        Some(Cookie::Text(text)) => text == PROTOCOL.cookie.value,
    };
    assert_eq!(PROTOCOL.cookie.check(lookup).is_ok(), started);

    let server = ServerInfo::parse(lookup);
    let is_bao = given(&input.bao_version).is_some();
    assert_eq!(server.flavour == Flavour::OpenBao, is_bao);
    let version = given(&input.bao_version).or(given(&input.version));
    assert_eq!(server.version.as_deref(), version);
    let asks = lock(input.bao_mlock).or(lock(input.mlock)) == Some(Lock::True);
    assert_eq!(server.asks_for_mlock, asks);

    let directory = given(&directory);
    // What would be taken for the end of the segment or of the line.
    let unfit = directory.is_some_and(|text| text.contains(|c: char| c == '|' || c.is_control()));
    match HostEnv::parse(lookup) {
        Err(error) => {
            check_text(&error);
            match error {
                Error::NoMutualTls => assert_eq!(given(&certificate), None),
                Error::HostCertificate(_) => {
                    assert!(given(&certificate).is_some());
                    if let Certificate::Pem { before, .. } = &input.certificate {
                        assert!(before.contains("-----"), "a good certificate was refused");
                    }
                }
                Error::SocketDir(_) => assert!(unfit),
                other => panic!("{other}"),
            }
        }
        Ok(env) => {
            assert!(!unfit, "{directory:?}");
            if let Certificate::Pem { before, bytes, .. } = &input.certificate
                && !before.contains("-----")
            {
                assert_eq!(env.host_certificate.as_ref(), bytes.as_slice());
            }
            let expected = directory.map_or_else(std::env::temp_dir, PathBuf::from);
            assert_eq!(env.socket_dir, expected);
            assert_eq!(env.socket_group.as_deref(), given(&input.group));
            let multiplexing = given(&input.multiplexing);
            assert_eq!(env.multiplexing.is_asked_for(), multiplexing.is_some());
            let yes = ["1", "t", "T", "true", "TRUE", "True"];
            let wanted = multiplexing.is_some_and(|text| yes.contains(&text));
            assert_eq!(env.multiplexing.is_wanted(), wanted);
            let socket = env.socket_dir.join("plugin-0123456789abcdef.sock");
            let line = fuzzing::handshake_line(
                input.protocol,
                &socket,
                &env.host_certificate,
                env.multiplexing.is_asked_for(),
            );
            check_line(&line, &env, socket.to_str().unwrap(), input.protocol);
        }
    }
});
