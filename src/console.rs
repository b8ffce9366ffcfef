//! What the program itself says on a terminal: to its arguments, which no host gives, and when it
//! could not start.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use vault_plugin_secrets_smtp::audit::EXEMPT_RESPONSE_KEYS;
use vault_plugin_secrets_smtp::goplugin;

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");
const HELP: &str = include_str!("help.txt");

/// Answers the arguments; `None` if there are none, which is how a host starts the program.
pub(crate) fn answer() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (text, code) = match arguments.as_slice() {
        [] => return None,
        ["--version"] => (format!("{NAME} {VERSION}\n"), 0),
        ["--help" | "-h"] => (HELP.to_owned(), 0),
        ["--audit-keys"] => (format!("{}\n", EXEMPT_RESPONSE_KEYS.join(",")), 0),
        _ => (format!("unknown argument\n\n{HELP}"), 2),
    };
    Some(match code {
        0 => say(std::io::stdout(), &text, code),
        _ => say(std::io::stderr(), &text, code),
    })
}

/// Says why the program could not start.
///
/// A host that started it takes the level from the prefix, and DEBUG without one.
pub(crate) fn failed(error: &(dyn Error + 'static)) -> ExitCode {
    let by_hand = matches!(
        error.downcast_ref(),
        Some(goplugin::Error::NotStartedByHost)
    );
    let level = if by_hand { "" } else { "[ERROR] " };
    say(std::io::stderr(), &format!("{level}{NAME}: {error}\n"), 1)
}

/// Writes `text` and returns the exit code, a failure if it could not be written.
fn say(mut out: impl Write, text: &str, code: u8) -> ExitCode {
    let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    said.map_or(ExitCode::FAILURE, |()| ExitCode::from(code))
}
