//! What a message says, once for all channels.
//!
//! A sentence and a list of facts come from closed vocabularies; free text stands apart, named as
//! what somebody wrote, and [`defused`].

use chrono::{DateTime, Utc};

use super::{Explained, Message};
use crate::audit::{EventName, Outcome, RotationType, Severity};

/// Longest free text shown, in characters.
const MOST_SHOWN: usize = 600;

/// A message as text.
#[derive(Debug)]
pub(super) struct Text {
    /// One line without free text.
    pub(super) summary: String,
    /// What to do, one sentence; empty if there is nothing.
    pub(super) advice: &'static str,
    /// Label and value; no free text.
    pub(super) facts: Vec<(&'static str, String)>,
    /// What was found or went wrong, a line each; no free text.
    pub(super) notes: Vec<String>,
    /// Label and what somebody wrote, defused.
    pub(super) written: Vec<(&'static str, String)>,
}

/// Renders a message.
pub(super) fn render(message: &Message) -> Text {
    let mut facts = vec![
        (
            "Event",
            message.event.map_or("test", EventName::as_str).to_owned(),
        ),
        ("Event id", plain(&message.event_id)),
        ("Tenant", tenant(message)),
        ("Time", minute(message.timestamp)),
        ("Severity", severity(message.severity).to_owned()),
        ("Outcome", outcome(message.outcome).to_owned()),
    ];
    let mut add = |label, value: Option<String>| facts.extend(value.map(|value| (label, value)));
    add("Kind of change", message.rotation_type.map(kind));
    add("Version", message.version.map(|number| number.to_string()));
    let previous = message.previous_version;
    add(
        "Previous version",
        previous.map(|number| number.to_string()),
    );
    add("Next change", message.next_rotation.map(minute));
    let changed = (!message.changed.is_empty()).then(|| plain(&message.changed.join(", ")));
    add("Changed", changed);
    add("Old server", message.old_host.as_deref().map(plain));
    add("New server", message.new_host.as_deref().map(plain));
    let wrong = message.error.iter().chain(&message.findings);
    let written = [
        ("Incident", message.incident_id.as_deref()),
        ("Reason", message.reason.as_deref()),
        ("Caller", Some(message.display_name.as_str())),
    ];
    let written = written.into_iter().filter_map(|(label, text)| {
        let text = text.filter(|text| !text.is_empty())?;
        Some((label, format!("\u{201c}{}\u{201d}", defused(text))))
    });
    Text {
        summary: summary(message),
        advice: advice(message),
        notes: wrong.map(note).collect(),
        written: written.collect(),
        facts,
    }
}

/// What happened in one line, without free text.
pub(super) fn summary(message: &Message) -> String {
    let tenant = tenant(message);
    let said = match message.event {
        None => {
            return format!(
                "Test of the notification channel {}",
                plain(&message.channel)
            );
        }
        Some(EventName::RotationNotice) => match message.next_rotation {
            Some(at) => format!("the password will be changed on {}", minute(at)),
            None => String::from("the password will be changed soon"),
        },
        Some(EventName::RotationFailed) if message.severity == Severity::Critical => {
            String::from("the automatic change of the password keeps failing")
        }
        Some(EventName::SuspiciousActivity) => suspicion(rule(message)).0.to_owned(),
        Some(event) => happened(event, message.outcome).to_owned(),
    };
    format!("{tenant}: {said}")
}

const fn happened(event: EventName, outcome: Outcome) -> &'static str {
    match event {
        EventName::Stored => "a credential was stored",
        EventName::Imported => "a credential was imported",
        EventName::RotationStarted => "a change of the password began",
        EventName::Rotated => "the password was changed",
        EventName::RotationFailed => "a change of the password failed",
        EventName::RotationNotice => "the password will be changed soon",
        EventName::EmergencyResetStarted => "an emergency reset of the password began",
        EventName::EmergencyReset => match outcome {
            Outcome::Failure => "the emergency reset of the password failed",
            Outcome::Started | Outcome::Success | Outcome::Other(_) => {
                "the password was reset after an incident"
            }
        },
        EventName::Revealed => "a person looked at the password",
        EventName::RolledBack => "an earlier password was set again",
        EventName::Rehomed => "the account moved to another server",
        EventName::DriftDetected => "Mailu holds a password that was not set from here",
        EventName::Adopted => "a password that was set elsewhere was adopted",
        EventName::Deleted => "the credential was deleted",
        EventName::Undeleted => "the credential was taken back",
        EventName::Destroyed => "the credential was destroyed",
        EventName::ConfigChanged => "the mount's settings were written",
        EventName::TenantConfigChanged => "the tenant's settings were written",
        EventName::TenantEndpointChanged => "the tenant's passwords are sent to another server now",
        EventName::HoldReleased => "the hold of an emergency reset was ended",
        EventName::RotationPaused => "automatic changes were paused",
        EventName::KeyringRotated => "the keyring was rotated",
        EventName::KeyringTrimmed => "the keyring was trimmed",
        EventName::StorageAdopted => "the storage of another mount was taken over",
        EventName::SuspiciousActivity => "something suspicious happened",
        EventName::AuditStalled => "automatic changes wait for the audit devices",
        EventName::BatchStarted => "a batch of changes began",
        EventName::BatchEnded => match outcome {
            Outcome::Failure => "a batch of changes stopped before its end",
            Outcome::Started | Outcome::Success | Outcome::Other(_) => "a batch of changes ended",
        },
        EventName::Other(_) => "something happened that this version does not know",
    }
}

/// The rule that found something suspicious.
fn rule(message: &Message) -> &str {
    message.error.as_ref().map_or("", |error| &error.code)
}

/// What a rule found, and what to do at once.
fn suspicion(rule: &str) -> (&'static str, &'static str) {
    match rule {
        "many_reveals" => (
            "somebody looked at many passwords, or chose the servers that get them, within an hour, \
             this tenant's among them",
            "Ask the person now. If it was not them, revoke their tokens and reset every password \
             they saw.",
        ),
        "reveal_outside_hours" => (
            "somebody looked at the password outside working hours",
            "Ask the person. If it was not them, revoke their tokens and reset the password.",
        ),
        "incident_unmatched" => (
            "an emergency reset was made for an incident with an unusual number",
            "Ask the person for the incident. The reset was not stopped: every earlier password \
             ends with it.",
        ),
        "repeated_refusals" => (
            "Mailu keeps refusing changes of the password",
            "Look at the tenant's status for the cause, and at its events for who keeps asking.",
        ),
        "password_tries" => (
            "somebody tries passwords to learn whether they are stored",
            "Ask the person what for. No further one of that day is compared with anything.",
        ),
        "stale_storage" => (
            "somebody else writes the account, or Vault's storage went back in time",
            "Find out whether storage was restored or another cluster acts on the account. Nothing \
             is changed by itself until a person decides.",
        ),
        "compromised_live" => (
            "a password that an emergency reset had replaced is live again",
            "Find out who set it in Mailu, and reset the password again.",
        ),
        _ => ("something suspicious happened", "Read the tenant's events."),
    }
}

fn advice(message: &Message) -> &'static str {
    match message.event {
        None => "This is only a test. The channel works.",
        Some(EventName::SuspiciousActivity) => suspicion(rule(message)).1,
        Some(EventName::RotationNotice) if !message.findings.is_empty() => {
            "Look at what was found below, before the change: some of it may make it fail."
        }
        Some(EventName::RotationNotice) => {
            "Nothing has to be done: who reads the password from Vault gets the new one after the \
             change."
        }
        Some(EventName::RotationFailed) => {
            "The old password is kept as long as it may be live. Read the tenant's status for the \
             current state."
        }
        Some(EventName::DriftDetected) => {
            "Find out who changed it. A rotation overwrites it; an emergency reset makes every \
             earlier password unusable."
        }
        Some(EventName::TenantEndpointChanged) => {
            "Whoever chooses the server reads the next password. Ask the person now; if it was not \
             them, write the right server back, revoke their tokens and reset the password."
        }
        Some(
            EventName::Rotated
            | EventName::EmergencyReset
            | EventName::RolledBack
            | EventName::Rehomed
            | EventName::Adopted,
        ) => "Read the password from Vault; this message never has one.",
        Some(_) => "",
    }
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
        Severity::Other(_) => "unknown",
    }
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Started => "started",
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Other(_) => "unknown",
    }
}

fn kind(kind: RotationType) -> String {
    let text = match kind {
        RotationType::Automated => "automated",
        RotationType::Manual => "manual",
        RotationType::Emergency => "emergency",
        RotationType::Bulk => "bulk",
        RotationType::Rollback => "rollback",
        RotationType::Reveal => "reveal",
        RotationType::Rehome => "rehome",
        RotationType::Other(_) => "unknown",
    };
    text.to_owned()
}

fn tenant(message: &Message) -> String {
    if message.tenant == "-" {
        String::from("the mount")
    } else {
        plain(&message.tenant)
    }
}

fn note(explained: &Explained) -> String {
    let (code, meaning) = (plain(&explained.code), &explained.meaning);
    if explained.hint.is_empty() {
        format!("{code}: {meaning}.")
    } else {
        format!("{code}: {meaning}. What to do: {}.", explained.hint)
    }
}

/// An instant to the minute.
fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// A word of a closed grammar, as it is; whatever else storage may have held is left out.
pub(super) fn plain(text: &str) -> String {
    let allowed = |it: &char| it.is_ascii_alphanumeric() || "-_.".contains(*it);
    text.chars().filter(allowed).take(128).collect()
}

/// Free text, so that it cannot be taken for anything but text: one line, no invisible characters,
/// no quotation mark that would end it, nothing that a reader's program would make a link of.
pub(super) fn defused(text: &str) -> String {
    let mut out = String::new();
    let mut shown = 0;
    let mut characters = text.chars().peekable();
    let mut before = ' ';
    while let Some(character) = characters.next() {
        if shown == MOST_SHOWN {
            out.push('\u{2026}');
            break;
        }
        shown += 1;
        let next = characters.peek().copied().unwrap_or(' ');
        match character {
            '\u{201c}' | '\u{201d}' => out.push('"'),
            // A dot within a name and a colon before a path are what links are made of.
            '.' if before.is_alphanumeric() && next.is_alphanumeric() => out.push_str("[.]"),
            ':' if next == '/' => out.push_str("[:]"),
            '@' => out.push_str("[@]"),
            it if it.is_control() || it.is_whitespace() || is_invisible(it) => out.push(' '),
            it => out.push(it),
        }
        before = character;
    }
    out
}

/// Characters without a picture of their own: they hide text, or turn its direction.
const fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// A message with every field filled, for tests.
#[cfg(test)]
pub(super) fn example() -> Message {
    use super::Recipient;
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let explained = |code: &str| Explained {
        code: code.to_owned(),
        meaning: String::from("the Mailu server gave no usable answer"),
        hint: String::from("check the server"),
    };
    Message {
        event: Some(EventName::RotationFailed),
        event_id: String::from("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
        channel: String::from("ops"),
        recipient: Recipient::Channel,
        tenant: String::from("acme"),
        severity: Severity::Critical,
        outcome: Outcome::Failure,
        rotation_type: Some(RotationType::Automated),
        version: Some(4),
        previous_version: Some(3),
        timestamp: at(1_790_000_000),
        sent_at: at(1_790_000_060),
        next_rotation: Some(at(1_800_000_000)),
        error: Some(explained("mailu_unreachable")),
        findings: vec![explained("unreachable")],
        changed: Vec::new(),
        old_host: None,
        new_host: None,
        incident_id: Some(String::from("INC-7")),
        reason: Some(String::from("yearly change")),
        display_name: String::from("userpass-alice"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: char = '\u{201d}';

    #[test]
    fn free_text_is_quoted_and_no_link() {
        for (written, shown) in [
            ("quarterly change. Done.", "quarterly change. Done."),
            (
                "see https://evil.example/x",
                "see https[:]//evil[.]example/x",
            ),
            ("mail a@evil.example", "mail a[@]evil[.]example"),
            ("a\r\nBcc: x\u{0}y", "a  Bcc: x y"),
            ("\u{201d} said\u{202e}drow \u{201c}", "\" said drow \""),
            ("a\u{200b}b", "a b"),
        ] {
            assert_eq!(defused(written), shown);
        }
        let long = defused(&"x".repeat(2_000));
        assert_eq!(long.chars().count(), MOST_SHOWN + 1);
    }

    #[test]
    fn every_fact_is_told_and_free_text_only_where_it_belongs() {
        let mut message = example();
        for field in [&mut message.reason, &mut message.incident_id] {
            *field = Some(String::from("free-words"));
        }
        message.display_name = String::from("free-words");
        let text = render(&message);
        assert_eq!(
            text.summary,
            "acme: the automatic change of the password keeps failing"
        );
        assert_eq!(text.written.len(), 3);
        assert!(
            text.written
                .iter()
                .all(|(_, it)| it == "\u{201c}free-words\u{201d}")
        );
        let rest = format!(
            "{}{:?}{:?}{}",
            text.summary, text.facts, text.notes, text.advice
        );
        assert!(!rest.contains("free-words"));
        for told in [
            "smtp_credentials_rotation_failed",
            "01K8Z5Y4N6D3T7Q2W9R1M0XVBC",
            "2026-09-21 14:13 UTC",
            "critical",
            "automated",
            "2027-01-15 08:00 UTC",
            "mailu_unreachable: the Mailu server gave no usable answer. What to do: check the server.",
        ] {
            assert!(rest.contains(told), "{told} in {rest}");
        }
    }

    #[test]
    fn every_alert_has_a_sentence_and_advice_of_its_own() {
        let mut told = std::collections::BTreeSet::new();
        for code in [
            "many_reveals",
            "reveal_outside_hours",
            "incident_unmatched",
            "repeated_refusals",
            "stale_storage",
            "compromised_live",
            "of a later version",
        ] {
            let mut message = example();
            message.event = Some(EventName::SuspiciousActivity);
            message.error.as_mut().unwrap().code = code.to_owned();
            let text = render(&message);
            assert!(text.summary.starts_with("acme: ") && text.advice.ends_with('.'));
            assert!(told.insert((text.summary, text.advice)), "{code}");
        }
    }

    proptest! {
        #[test]
        fn no_text_gets_through_as_a_line_or_a_link(text in "(?s)[a-z.:/@\u{202e}\u{201d}\r\n\t ]{0,60}") {
            let shown = defused(&text);
            prop_assert!(!shown.contains(char::is_control));
            let (link, mark) = (shown.contains("://"), shown.contains(END));
            prop_assert!(!link && !mark);
            prop_assert!(!shown.replace("[@]", "").contains('@'));
        }
    }
}
