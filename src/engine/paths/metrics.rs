//! `metrics`: the mount's numbers as Prometheus reads them.
//!
//! No label names a tenant, a server, an account or a URL.
//!
//! Source: Prometheus, "Exposition formats", text format 0.0.4.

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::engine::Engine;
use crate::engine::census::{AuditWord, Census};
use crate::engine::counters::{BATCH_ENDS, Counters, OUTCOMES, TYPES};
use crate::engine::mail::Why;
use crate::engine::watch::Rule;
use crate::logical::{
    Call, Endpoint, Mount, Operation, RawResponse, Reply, Response, Route, UnknownFields,
};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "metrics",
        synopsis: "The mount's numbers, for Prometheus.",
        description: "Answers the numbers of status, and what this process counted since it \
                      started, in Prometheus' text format: not JSON. Only the active node \
                      answers; a standby forwards.

    bao read smtp/metrics
    curl -H \"X-Vault-Token: $TOKEN\" \"$BAO_ADDR/v1/smtp/metrics\"",
        fields: &[],
        endpoints: vec![Endpoint {
            operations: &[Operation::Read],
            summary: "Read the numbers for Prometheus.",
            unknown_fields: UnknownFields::Warned,
            answers: &[],
            handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
        }],
        existence: None,
    }
}

async fn read(engine: Arc<Engine>, mount: Mount, _call: Call) -> Reply {
    engine.require_active_node(&mount).await?;
    let census = engine.census(&mount).await?;
    let mut text = Text::default();
    of_tenants(&mut text, &census);
    of_ticks(&mut text, &census, &engine.counters);
    of_work(&mut text, &census, &engine.counters);
    of_background(&mut text, &census);
    of_notifications(&mut text, &census);
    of_audit(&mut text, &census);
    let body = RawResponse::new(200, CONTENT_TYPE, text.0);
    Ok(Some(Response::raw(body)))
}

/// The text under way.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    /// Begins a metric.
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "gauge", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "counter", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// A gauge that has no value before something happened.
    fn instant(&mut self, name: &str, help: &str, at: Option<DateTime<Utc>>) {
        self.begin(name, "gauge", help);
        if let Some(at) = at {
            let _ = writeln!(self.0, "{name} {}", at.timestamp());
        }
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }
}

fn of_tenants(text: &mut Text, census: &Census) {
    let counts = census.counts;
    for (name, help, value) in [
        (
            "smtp_tenants",
            "Tenants stored, destroyed ones included.",
            census.tenants,
        ),
        (
            "smtp_tenants_due",
            "Tenants of which a notice or a change is due.",
            counts.due,
        ),
        (
            "smtp_tenants_overdue",
            "Tenants whose change has been due for more than two hours.",
            counts.overdue,
        ),
        (
            "smtp_tenants_open",
            "Tenants for which there is something to do before the next check, or to be seen.",
            counts.open,
        ),
        (
            "smtp_tenants_uncertain",
            "Tenants of which the outcome of a change is open.",
            counts.uncertain,
        ),
        (
            "smtp_tenants_drift",
            "Tenants whose Mailu holds another password.",
            counts.drift,
        ),
        (
            "smtp_tenants_failing",
            "Tenants of which the last three tries of the schedule failed.",
            counts.failing,
        ),
        (
            "smtp_tenants_paused",
            "Tenants for which automatic rotation rests.",
            counts.paused,
        ),
        (
            "smtp_tenants_attention",
            "Tenants that need a person.",
            census.attention_total,
        ),
    ] {
        text.gauge(name, help, value);
    }
}

fn of_ticks(text: &mut Text, census: &Census, counters: &Counters) {
    text.gauge(
        "smtp_storage_refuses_writes",
        "Whether the server refused a write of this mount and has stored none since.",
        census.storage.refused_since.is_some().into(),
    );
    text.gauge(
        "smtp_foreign_storage",
        "Whether the storage was made by another mount.",
        census.storage.foreign_since.is_some().into(),
    );
    text.instant(
        "smtp_last_tick_timestamp_seconds",
        "When the server's last tick was taken, by the wall clock.",
        census.last_tick.map(|(at, _)| at),
    );
    let name = "smtp_last_tick_age_seconds";
    text.begin(
        name,
        "gauge",
        "Seconds since the server's last tick, by the monotonic clock.",
    );
    if let Some((_, age)) = census.last_tick {
        let _ = writeln!(text.0, "{name} {}", age.as_secs());
    }
    text.instant(
        "smtp_next_check_timestamp_seconds",
        "When due changes are made next.",
        census.next_check,
    );
    text.gauge(
        "smtp_mount_paused",
        "Whether automatic work rests for the whole mount.",
        census.paused_until.is_some().into(),
    );
    text.counter(
        "smtp_ticks_total",
        "Ticks taken as the active node.",
        counters.ticks(),
    );
}

fn of_work(text: &mut Text, census: &Census, counters: &Counters) {
    let name = "smtp_rotations_total";
    text.begin(
        name,
        "counter",
        "Changes of passwords that ended, by kind and outcome.",
    );
    for (_, kind) in TYPES {
        for outcome in OUTCOMES {
            let labels = format!("type=\"{kind}\",outcome=\"{outcome}\"");
            text.sample(name, &labels, counters.changes(kind, outcome));
        }
    }
    text.counter("smtp_drifts_total", "Drifts found.", counters.drifts());
    text.counter(
        "smtp_notices_total",
        "Notices of coming changes.",
        counters.notices(),
    );
    let name = "smtp_suspicious_activity_total";
    text.begin(
        name,
        "counter",
        "Alerts about suspicious activity, by rule.",
    );
    for rule in Rule::ALL {
        text.sample(
            name,
            &format!("rule=\"{}\"", rule.code()),
            counters.alerts(rule),
        );
    }
    of_batches(text, census, counters);
}

fn of_batches(text: &mut Text, census: &Census, counters: &Counters) {
    let batch = census.batch.as_ref();
    text.gauge(
        "smtp_batch_running",
        "Whether a batch is under way.",
        batch.is_some().into(),
    );
    let left = batch.map_or(0, |batch| batch.left());
    text.gauge(
        "smtp_batch_tenants_left",
        "Tenants of the batch without their turn.",
        left,
    );
    let name = "smtp_batches_ended_total";
    text.begin(name, "counter", "Batches that ended, by how.");
    for end in BATCH_ENDS {
        text.sample(name, &format!("state=\"{end}\""), counters.batches(end));
    }
}

fn of_background(text: &mut Text, census: &Census) {
    let sweep = &census.sweep;
    let running = sweep.started_at.is_some() && sweep.finished_at.is_none();
    text.gauge(
        "smtp_sweep_running",
        "Whether a sweep has begun and not ended.",
        running.into(),
    );
    text.instant(
        "smtp_sweep_finished_timestamp_seconds",
        "When a sweep of this process ended last.",
        sweep.last_end,
    );
    text.gauge(
        "smtp_sweep_tenants",
        "Tenants that the last sweep looked at.",
        sweep.tenants,
    );
    text.gauge(
        "smtp_sweep_unasked",
        "Tenants whose Mailu the last sweep could not ask yet.",
        sweep.unasked,
    );
    text.gauge(
        "smtp_sweep_unaskable",
        "Tenants whose Mailu the last sweep could not ask until somebody mends something.",
        sweep.unaskable,
    );
    let name = "smtp_servers_unasked";
    text.begin(name, "gauge", "Mail servers that cannot be asked, by why.");
    for why in Why::ALL {
        let servers = census.servers.iter().filter(|it| it.why == why);
        let count = u64::try_from(servers.count()).unwrap_or(u64::MAX);
        text.sample(name, &format!("code=\"{}\"", why.code()), count);
    }
    text.gauge(
        "smtp_tenants_unasked",
        "Tenants whose mail server cannot be asked.",
        census.servers.iter().map(|it| it.tenants).sum(),
    );
    let pool = census.hash_pool;
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    text.gauge(
        "smtp_hash_pool_places",
        "Hashes computed at a time.",
        number(pool.places),
    );
    text.gauge(
        "smtp_hash_pool_busy",
        "Hashes being computed.",
        number(pool.busy),
    );
    text.counter(
        "smtp_hash_checks_total",
        "Hashes computed by this process.",
        pool.checks,
    );
}

fn of_notifications(text: &mut Text, census: &Census) {
    let waiting = census.notifications.unwrap_or_default();
    for (name, help, value) in [
        (
            "smtp_notifications_pending",
            "Deliveries to channels that are still tried.",
            waiting.pending,
        ),
        (
            "smtp_notifications_dead",
            "Deliveries to channels that were given up.",
            waiting.dead,
        ),
    ] {
        text.gauge(name, help, value);
    }
    text.counter(
        "smtp_notifications_dropped_total",
        "Events that a channel was not told of because too much waited or had been given up.",
        waiting.dropped,
    );
    let name = "smtp_notifications_oldest_age_seconds";
    text.begin(
        name,
        "gauge",
        "Seconds since the event of the oldest delivery still tried.",
    );
    let age = waiting
        .oldest
        .map_or(0, |at| (census.now - at).num_seconds());
    let _ = writeln!(text.0, "{name} {}", age.max(0));
}

fn of_audit(text: &mut Text, census: &Census) {
    let waiting = census.audit.waiting.unwrap_or_default();
    let failing = matches!(census.audit.word(census.now), AuditWord::Failing(..));
    for (name, help, value) in [
        (
            "smtp_audit_failing",
            "Whether events do not reach the audit devices.",
            failing.into(),
        ),
        (
            "smtp_audit_undelivered_events",
            "Events that no audit device is known to have.",
            waiting.events,
        ),
        (
            "smtp_audit_parked_events",
            "Events that the server refused ten times.",
            waiting.parked,
        ),
        (
            "smtp_audit_held_back_changes",
            "Automatic changes that wait for the audit devices.",
            census.audit.held_back,
        ),
    ] {
        text.gauge(name, help, value);
    }
    text.counter(
        "smtp_audit_delivered_events_total",
        "Events that this process delivered to the audit devices.",
        census.audit.delivery.total,
    );
    let name = "smtp_audit_oldest_undelivered_age_seconds";
    text.begin(
        name,
        "gauge",
        "Seconds since the oldest event that no audit device is known to have.",
    );
    let age = waiting
        .oldest
        .map_or(0, |at| (census.now - at).num_seconds());
    let _ = writeln!(text.0, "{name} {}", age.max(0));
}
