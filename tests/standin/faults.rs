//! Failures to order: which requests they meet, how often, and what happens.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::shared::lock;

/// What happens to a request. "Committed" means that its write, if it is one, took effect.
///
/// Times are milliseconds; without one, a wait lasts until the faults are released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// The connection ends without an answer; not committed.
    CutBefore,
    /// Committed, then the connection ends: applied, but the answer is lost.
    CutAfter,
    /// Waits, then 504 from the edge; not committed.
    HangBefore { ms: Option<u64> },
    /// Committed, waits, then 504.
    HangAfter { ms: Option<u64> },
    /// A frozen admin: waits, then commits and answers honestly, whether or not anyone listens.
    Hold { ms: Option<u64> },
    /// 504 at once; committed when the faults are released. A late write.
    ApplyLater,
    /// 502 from the edge; not committed.
    BadGateway,
    /// 500; not committed.
    ErrorBefore,
    /// Committed, then 500.
    ErrorAfter,
    /// The honest answer, but nothing took effect.
    Lie,
    /// Committed; the honest answer comes one byte at a time, `ms` apart.
    SlowBody { ms: u64 },
    /// Committed; 200 with a JSON body of that many bytes.
    HugeBody { bytes: u64 },
    /// A login page from some proxy, 200; not committed.
    HtmlOk,
    /// 302 to `location`; not committed.
    Redirect { location: String },
    /// Committed; 200 with a body that is not JSON.
    Garbage,
    /// Something before Mailu words the answer, committed or not.
    Worded { committed: bool, words: Words },
    /// The request waits first; further rules still apply to it.
    Latency { ms: u64 },
}

/// An answer that is not Mailu's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    pub status: u16,
    pub media: Media,
    #[serde(default)]
    pub body: String,
    /// The `Location` header.
    #[serde(default)]
    pub location: Option<String>,
    /// The `Retry-After` header, in seconds.
    #[serde(default)]
    pub retry_after: Option<u32>,
}

/// What kind of body it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    Html,
    Text,
    Json,
}

impl Words {
    pub fn new(status: u16, media: Media, body: &str) -> Self {
        Self {
            status,
            media,
            body: body.to_owned(),
            location: None,
            retry_after: None,
        }
    }

    /// What fronts were seen to say after a request was committed: nginx' `error_page`, a WAF that
    /// judges answers, a router without a route, a limit, a gateway that speaks JSON.
    pub fn of_fronts() -> Vec<Self> {
        let page = "<html><body>Not here</body></html>";
        let mut limit = Self::new(429, Media::Text, "slow down");
        limit.retry_after = Some(2);
        let mut moved = Self::new(302, Media::Html, page);
        moved.location = Some("https://elsewhere.test/error".to_owned());
        vec![
            moved,
            Self::new(403, Media::Html, page),
            Self::new(404, Media::Html, page),
            limit,
            Self::new(400, Media::Json, r#"{"message":"upstream said no"}"#),
            Self::new(404, Media::Json, r#"{"code":404,"message":"no route"}"#),
            Self::new(409, Media::Json, r#"{"code":409,"message":"conflict"}"#),
            Self::new(200, Media::Json, r#"{"code":200,"message":"ok"}"#),
        ]
    }
}

impl Fault {
    /// The fault's name in the control API and in the journal.
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value
            .get("kind")
            .and_then(|kind| kind.as_str())
            .unwrap_or_default()
            .to_owned()
    }
}

/// A fault with the requests it is meant for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    pub fault: Fault,
    /// The method, or any.
    #[serde(default)]
    pub method: Option<String>,
    /// How the path below `/api/v1` begins; empty for any.
    #[serde(default)]
    pub path: String,
    /// Only requests with a password that has one of these characters; empty for any request.
    #[serde(default)]
    pub characters: String,
    /// Matching requests to let pass first.
    #[serde(default)]
    pub after: usize,
    /// Matching requests to meet, then.
    #[serde(default = "once")]
    pub times: usize,
}

const fn once() -> usize {
    1
}

impl Rule {
    /// Meets the next request, whatever it is.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            method: None,
            path: String::new(),
            characters: String::new(),
            after: 0,
            times: once(),
        }
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    pub fn path(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.path);
        self
    }

    pub fn characters(mut self, characters: &str) -> Self {
        characters.clone_into(&mut self.characters);
        self
    }

    pub fn after(mut self, passed: usize) -> Self {
        self.after = passed;
        self
    }

    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Counts a request in. Returns whether the fault meets it.
    fn meets(&mut self, method: &str, path: &str, password: Option<&str>) -> bool {
        let refused = |password: &str| password.contains(|it| self.characters.contains(it));
        let matches = self.method.as_deref().is_none_or(|wanted| wanted == method)
            && path.starts_with(&self.path)
            && (self.characters.is_empty() || password.is_some_and(refused));
        if !matches || self.times == 0 {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// The rules in force, and the requests they hold.
#[derive(Debug)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    /// How often the held requests were released.
    releases: watch::Sender<u64>,
    /// How many requests wait, by the number of releases they saw: a release answers only for
    /// those that came before it.
    held: watch::Sender<BTreeMap<u64, usize>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rules: Mutex::default(),
            releases: watch::Sender::new(0),
            held: watch::Sender::default(),
        }
    }
}

impl Faults {
    pub fn add(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    /// Drops the rules; requests already held stay held.
    pub fn clear(&self) {
        lock(&self.rules).clear();
    }

    /// Takes what meets this request: all latency together, and the first other fault.
    pub fn take(
        &self,
        method: &str,
        path: &str,
        password: Option<&str>,
    ) -> (Duration, Option<Fault>) {
        let mut latency = Duration::ZERO;
        let mut first = None;
        for rule in lock(&self.rules).iter_mut() {
            if let Fault::Latency { ms } = rule.fault {
                if rule.meets(method, path, password) {
                    latency += Duration::from_millis(ms);
                }
            } else if first.is_none() && rule.meets(method, path, password) {
                first = Some(rule.fault.clone());
            }
        }
        (latency, first)
    }

    /// Counts a request as held until the returned guard is dropped.
    pub fn hold(&self) -> Held {
        let mut releases = self.releases.subscribe();
        let seen = *releases.borrow_and_update();
        self.held
            .send_modify(|held| *held.entry(seen).or_default() += 1);
        Held {
            held: self.held.clone(),
            releases,
            seen,
        }
    }

    /// Lets every held request go on and waits until each is done with its write.
    pub async fn release(&self) {
        let mut count = 0;
        self.releases.send_modify(|releases| {
            *releases += 1;
            count = *releases;
        });
        let is_done = |held: &BTreeMap<u64, usize>| held.range(..count).all(|(_, n)| *n == 0);
        // The sender lives in `self`, so the channel cannot close under the wait.
        let _ = self.held.subscribe().wait_for(is_done).await;
    }

    /// Waits until at least `count` requests are held.
    pub async fn wait_held(&self, count: usize) {
        let is_enough = |held: &BTreeMap<u64, usize>| held.values().sum::<usize>() >= count;
        let _ = self.held.subscribe().wait_for(is_enough).await;
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct Held {
    held: watch::Sender<BTreeMap<u64, usize>>,
    releases: watch::Receiver<u64>,
    seen: u64,
}

impl Held {
    /// Waits for a release or for `limit`. Returns false when the stand-in stops instead.
    pub async fn wait(&mut self, limit: Option<u64>, stop: &CancellationToken) -> bool {
        let elapsed = async {
            match limit {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.releases.changed() => true,
            () = elapsed => true,
            () = stop.cancelled() => false,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.send_modify(|held| {
            if let Some(count) = held.get_mut(&self.seen) {
                *count -= 1;
            }
        });
    }
}
