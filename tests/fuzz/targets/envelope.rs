//! The envelope: what was sealed opens if and only if neither it nor its place changed.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use vault_plugin_secrets_smtp::crypto::{
    Binding, Keyring, OpenError, Sealed, SealedParseError, Sensitive, sha256_hex,
};

#[derive(Arbitrary, Debug)]
struct Input {
    keys: Vec<u8>,
    secret: String,
    place: Place,
    /// Which part of the place is another one when it is opened, and what it is then.
    moved: Option<(u8, String)>,
    damage: Damage,
    foreign: Foreign,
}

#[derive(Arbitrary, Clone, Debug, PartialEq)]
struct Place {
    parts: [String; 5],
}

#[derive(Arbitrary, Debug)]
enum Damage {
    None,
    /// A bit of the decoded bytes.
    Bit(u16),
    /// A byte of the text form.
    Text(u16, u8),
    Cut(u8),
    Append(Vec<u8>),
    KeyVersion(u32),
    /// Bytes from the end moved to the front.
    Turn(u8),
}

/// Something that was never sealed.
#[derive(Arbitrary, Debug)]
enum Foreign {
    Text(String),
    Bytes(u32, Vec<u8>),
}

impl Place {
    fn binding(&self) -> Binding<'_> {
        let [tenant, incarnation, field, id, endpoint] = &self.parts;
        Binding {
            tenant,
            incarnation,
            field,
            id,
            endpoint,
        }
    }
}

/// A keyring with these keys, written by hand in its stored form.
fn keyring(keys: &[u8]) -> Keyring {
    let mut bytes = b"smtpkeys\0\0\0\x01".to_vec();
    bytes.extend([7; 32]);
    bytes.extend((keys.len() as u32).to_be_bytes());
    for (version, key) in (1_u32..).zip(keys) {
        bytes.extend(version.to_be_bytes());
        bytes.extend(0_u64.to_be_bytes());
        bytes.extend([*key; 32]);
    }
    let sum = sha256_hex(&bytes);
    bytes.extend((0..32).map(|at| u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).unwrap()));
    Keyring::from_bytes(&bytes).unwrap()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for place in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() {
                letter as char
            } else {
                '='
            });
        }
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let letters: Vec<u32> = group
            .iter()
            .filter_map(|letter| ALPHABET.iter().position(|known| known == letter))
            .map(|at| at as u32)
            .collect();
        let word = letters.iter().fold(0, |word, letter| word << 6 | letter);
        let word = word << (6 * (4 - letters.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..letters.len()]);
    }
    bytes
}

/// The text form after the damage.
fn damaged(text: &str, damage: &Damage) -> String {
    let (version, encoded) = text.split_once(':').unwrap();
    let mut bytes = unbase64(encoded);
    assert_eq!(base64(&bytes), encoded, "standard base64 with padding");
    match damage {
        Damage::None => {}
        Damage::Bit(bit) => {
            let bit = usize::from(*bit) % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Damage::Text(at, byte) => {
            let mut text = text.as_bytes().to_vec();
            let at = usize::from(*at) % text.len();
            text[at] = byte % 128;
            return String::from_utf8(text).unwrap();
        }
        Damage::Cut(count) => bytes.truncate(bytes.len().saturating_sub(usize::from(*count))),
        Damage::Append(more) => bytes.extend(more),
        Damage::KeyVersion(version) => return format!("v{version}:{encoded}"),
        Damage::Turn(by) => {
            let by = usize::from(*by) % bytes.len();
            bytes.rotate_right(by);
        }
    }
    format!("{version}:{}", base64(&bytes))
}

fn never_opens(keyring: &Keyring, place: &Place, text: &str) {
    match text.parse::<Sealed>() {
        Err(SealedParseError::KeyVersion | SealedParseError::Base64 | SealedParseError::Short) => {}
        Ok(sealed) => {
            assert_eq!(sealed.to_string(), text, "one text per value");
            let refused = keyring.open(&place.binding(), &sealed).unwrap_err();
            let version = sealed.key_version();
            let known = keyring.versions().any(|known| known.version == version);
            let expected = if known {
                OpenError::Refused
            } else {
                OpenError::UnknownKey(version)
            };
            assert_eq!(refused, expected);
        }
    }
}

fuzz_target!(|input: Input| {
    let mut keys = input.keys.clone();
    keys.truncate(4);
    keys.push(1);
    let ring = keyring(&keys);
    let secret = Sensitive::new(input.secret.clone());
    let sealed = ring.seal(&input.place.binding(), &secret).unwrap();
    let text = sealed.to_string();

    // Only what was asked for is in it: the newest key, a nonce, the secret's length and a tag.
    assert_eq!(sealed.key_version() as usize, keys.len());
    let bytes = unbase64(text.split_once(':').unwrap().1);
    assert_eq!(bytes.len(), 12 + input.secret.len() + 16);
    if input.secret.len() >= 8 {
        let plain = input.secret.as_bytes();
        assert!(!bytes.windows(plain.len()).any(|window| window == plain));
    }
    assert!(!format!("{sealed:?}").contains(&text[3..]));

    // Its text form, a copy of the keyring and a rotated keyring open it.
    let back: Sealed = text.parse().unwrap();
    assert_eq!(back, sealed);
    let copy = Keyring::from_bytes(ring.to_bytes().expose()).unwrap();
    let rotated = ring.rotate(chrono::DateTime::UNIX_EPOCH).unwrap();
    for ring in [&ring, &copy, &rotated] {
        let opened = ring.open(&input.place.binding(), &back).unwrap();
        assert_eq!(opened.expose(), &input.secret);
    }

    // Elsewhere it does not open.
    if let Some((part, value)) = &input.moved {
        let mut place = input.place.clone();
        place.parts[usize::from(*part) % 5].clone_from(value);
        let opened = ring.open(&place.binding(), &back);
        if place == input.place {
            assert_eq!(opened.unwrap().expose(), &input.secret);
        } else {
            assert_eq!(opened.unwrap_err(), OpenError::Refused);
        }
    }
    // Two neighbouring parts with the border between them moved are another place.
    let mut shifted = input.place.clone();
    if let Some(last) = shifted.parts[0].pop() {
        shifted.parts[1].insert(0, last);
        let refused = ring.open(&shifted.binding(), &back).unwrap_err();
        assert_eq!(refused, OpenError::Refused);
    }

    // Changed it does not open, nor under another keyring.
    let changed = damaged(&text, &input.damage);
    if changed == text {
        let opened = ring.open(&input.place.binding(), &changed.parse().unwrap());
        assert_eq!(opened.unwrap().expose(), &input.secret);
    } else if let Damage::KeyVersion(_) = input.damage {
        // Equal keys under two numbers are made by this target only.
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        if distinct.len() == keys.len() {
            never_opens(&ring, &input.place, &changed);
        }
    } else if !changed.starts_with('v') || changed.split(':').next() == text.split(':').next() {
        never_opens(&ring, &input.place, &changed);
    }
    let other = keyring(&keys.iter().map(|key| key ^ 0x80).collect::<Vec<_>>());
    never_opens(&other, &input.place, &text);

    // What was never sealed does not open. Under keys of its own, because libFuzzer remembers
    // texts that runs before this one sealed, and rightly those open.
    let fresh = Keyring::generate(chrono::DateTime::UNIX_EPOCH).unwrap();
    match &input.foreign {
        Foreign::Text(text) => never_opens(&fresh, &input.place, text),
        Foreign::Bytes(version, bytes) => {
            let text = format!("v{version}:{}", base64(bytes));
            never_opens(&fresh, &input.place, &text);
        }
    }
});
