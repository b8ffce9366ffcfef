//! Logs as hosts want them: one JSON object a line on stderr, in the format of hclog.
//!
//! Lines go through a bounded queue to a thread of their own, because stderr is a pipe and a host
//! that does not read would otherwise stop whoever logs. What does not fit is dropped and counted;
//! the count is logged as soon as there is room. The host writes what it gets to the server's log
//! verbatim: nothing secret may be logged, and of other crates only warnings and errors are, since
//! nobody here knows what their traces hold.
//!
//! Source: go-plugin `log_entry.go`, hclog `intlogger.go`; levels seen arriving on OpenBao 2.7.2.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::Error;
use crate::clock::Clock;

/// Lines that may wait for the host to read.
const QUEUE: usize = 1024;
/// Longest text of one field in bytes, before it is escaped.
const MAX_TEXT: usize = 4096;
/// Longest line in bytes. Hosts split lines above 64 KiB and lose their level.
const MAX_LINE: usize = 64 << 10;
/// How long the end of the process waits for the host to read what is queued.
const FLUSH: Duration = Duration::from_millis(300);

/// What is logged.
#[derive(Clone, Copy, Debug)]
pub struct Logging {
    /// Variable with the lowest level wanted: `trace`, `debug`, `info` (the default), `warn`,
    /// `error` or `off`. Hosts do not tell their own level.
    pub level_variable: &'static str,
    /// Prefix of the targets that are this plugin's own.
    pub target: &'static str,
}

/// Writes out what is queued when it is dropped, for 300 ms at most.
#[derive(Debug)]
pub struct LogGuard(SyncSender<Message>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        // With a full queue the host is not reading anyway.
        if self.0.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

/// Sends everything logged from now on to stderr, and panics without their text: it may hold what
/// was being worked on.
pub(super) fn install(
    logging: &Logging,
    lookup: impl Fn(&str) -> Option<String>,
    clock: Arc<dyn Clock>,
) -> Result<LogGuard, Error> {
    let wanted = lookup(logging.level_variable).filter(|text| !text.is_empty());
    let level = wanted.as_deref().and_then(|text| text.parse().ok());
    let (queue, lines) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let layer = Hclog {
        filter: Filter {
            level: level.unwrap_or(LevelFilter::INFO),
            target: logging.target,
        },
        queue: queue.clone(),
        dropped: Arc::clone(&dropped),
        clock: Arc::clone(&clock),
    };
    std::thread::Builder::new()
        .name(String::from("hclog"))
        .spawn(move || write_lines(&lines, &dropped, &*clock, &mut std::io::stderr()))
        .map_err(|error| Error::Logging(error.to_string()))?;
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(|error| Error::Logging(error.to_string()))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "a task panicked");
    }));
    if let (Some(wanted), None) = (wanted, level) {
        let variable = logging.level_variable;
        tracing::warn!(variable, wanted, "there is no such log level; it is info");
    }
    Ok(LogGuard(queue))
}

/// What the writing thread is sent.
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

fn write_lines(
    messages: &Receiver<Message>,
    dropped: &AtomicU64,
    clock: &dyn Clock,
    out: &mut impl Write,
) {
    // A host that closed its end cannot be told so.
    while let Ok(message) = messages.recv() {
        match message {
            Message::Line(line) => {
                let _ = out.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let line = Line {
                level: Level::WARN,
                time: clock.now(),
                module: module_path!(),
                message: "log lines were dropped because the host did not read them",
                fields: &[("lines", Value::Unsigned(lost))],
            };
            let _ = out.write_all(&line.encode());
        }
    }
}

/// Which records are logged.
#[derive(Clone, Copy, Debug)]
struct Filter {
    level: LevelFilter,
    target: &'static str,
}

impl Filter {
    fn accepts(self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with(self.target);
        *metadata.level() <= self.level && (own || *metadata.level() <= Level::WARN)
    }
}

/// The tracing layer.
struct Hclog {
    filter: Filter,
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
}

impl Hclog {
    fn send(&self, line: Vec<u8>) {
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Hclog {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        self.filter.accepts(metadata)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.list.extend(outer.list.iter().cloned());
            }
        }
        event.record(&mut fields);
        let line = Line {
            level: *event.metadata().level(),
            time: self.clock.now(),
            module: event.metadata().target(),
            message: &fields.message,
            fields: &fields.list,
        };
        self.send(line.encode());
    }
}

/// A field's value. Hosts print anything else through its `Debug` text.
#[derive(Clone, Debug)]
enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

/// The fields of a record or span; the message apart.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    list: Vec<(&'static str, Value)>,
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.list.push((field.name(), Value::Bool(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.list.push((field.name(), Value::Signed(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.list.push((field.name(), Value::Unsigned(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.list.push((field.name(), Value::Float(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text: String = value
            .char_indices()
            .take_while(|(start, _)| *start < MAX_TEXT)
            .map(|(_, character)| character)
            .collect();
        if field.name() == "message" {
            self.message = text;
        } else {
            self.list.push((field.name(), Value::Text(text)));
        }
    }
}

/// One line in hclog's format.
struct Line<'a> {
    level: Level,
    time: DateTime<Utc>,
    module: &'a str,
    message: &'a str,
    fields: &'a [(&'static str, Value)],
}

impl Line<'_> {
    /// Encodes the line with its line end, so that it can be written at once.
    fn encode(&self) -> Vec<u8> {
        // Strings, numbers and booleans always encode.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        if line.len() >= MAX_LINE {
            // Escapes make a text up to six times as long. The message alone always fits.
            let left_out = [("left_out", Value::Unsigned(self.fields.len() as u64))];
            let fields = left_out.as_slice();
            line = serde_json::to_vec(&Line { fields, ..*self }).unwrap_or_default();
        }
        line.push(b'\n');
        line
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let level = match self.level {
            Level::TRACE => "trace",
            Level::DEBUG => "debug",
            Level::INFO => "info",
            Level::WARN => "warn",
            Level::ERROR => "error",
        };
        // Hosts take these three for strings without looking: another type crashes them.
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("@level", level)?;
        map.serialize_entry("@message", self.message)?;
        map.serialize_entry(
            "@timestamp",
            &self.time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        )?;
        map.serialize_entry("@module", self.module)?;
        for (name, value) in self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::starting_at(
            DateTime::from_timestamp(1_700_000_000, 123_000_000).unwrap(),
        ))
    }

    /// Runs `work` under the layer with room for `room` lines; returns what is written.
    fn logged(level: LevelFilter, room: usize, work: impl FnOnce()) -> String {
        let (queue, lines) = sync_channel(room);
        let dropped = Arc::new(AtomicU64::new(0));
        let layer = Hclog {
            filter: Filter {
                level,
                target: "vault_plugin_secrets_smtp",
            },
            queue,
            dropped: Arc::clone(&dropped),
            clock: clock(),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let mut out = Vec::new();
        write_lines(&lines, &dropped, &*clock(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_what_hosts_parse() {
        let text = logged(LevelFilter::INFO, 8, || {
            let span = tracing::info_span!("mount", mount = "uuid-1");
            let _entered = span.enter();
            tracing::warn!(attempt = 3_u64, fatal = false, "it \"failed\"\nagain");
        });
        assert_eq!(
            text,
            concat!(
                r#"{"@level":"warn","@message":"it \"failed\"\nagain","#,
                r#""@timestamp":"2023-11-14T22:13:20.123000Z","#,
                r#""@module":"vault_plugin_secrets_smtp::goplugin::hclog::tests","#,
                r#""mount":"uuid-1","attempt":3,"fatal":false}"#,
                "\n"
            )
        );
    }

    #[test]
    fn other_crates_are_heard_from_warning_up_only() {
        let text = logged(LevelFilter::TRACE, 8, || {
            tracing::trace!(target: "h2", "frames");
            tracing::info!(target: "h2", "more");
            tracing::warn!(target: "h2", "trouble");
            tracing::trace!("own");
        });
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("trouble") && text.contains("own"));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let text = logged(LevelFilter::INFO, 1, || {
            for _ in 0..5 {
                tracing::info!("line");
            }
        });
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains(r#""lines":4"#), "{text}");
    }

    #[test]
    fn long_texts_are_cut() {
        let text = logged(LevelFilter::INFO, 1, || {
            tracing::info!(long = "é".repeat(100_000), "line");
        });
        assert!(text.len() < 2 * MAX_TEXT);
    }
    #[test]
    fn a_line_is_never_longer_than_hosts_read() {
        let text = logged(LevelFilter::INFO, 1, || {
            let noise = "\u{1}".repeat(MAX_TEXT);
            tracing::info!(a = noise, b = noise, "{noise}");
        });
        assert!(text.len() <= MAX_LINE, "{}", text.len());
        assert!(text.contains(r#""left_out":2}"#));
    }
}
