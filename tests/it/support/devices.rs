//! The host's own API and its audit devices, as the emitter meets them: a request goes through the
//! engine's real handler, and what that answers becomes a line before it is answered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::host_api::{Error, HostApi, HostApiConfig, HostApiOpener, Taken};
use vault_plugin_secrets_smtp::logical::Operation;
use vault_plugin_secrets_smtp::network::Fault;

use super::engine::Host;
use super::faults::{Kind, Plan};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// Nothing is written, and the answer is this.
    Fails(Error),
    /// A device takes it, and the answer does not arrive.
    LosesAnswer,
    /// It is taken and never answered.
    Hangs,
    /// Another server answers.
    LiesAbout(&'static str),
    /// A server of somebody's own answers: it knows the event by heart, and says this as receipt.
    Knows(&'static str),
    /// The same with the receipt of another event, which it got by asking for that one.
    Borrows(&'static str),
    /// The same with the last receipt that was answered to anybody.
    Replays,
}

/// The devices of one world; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Devices(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Whose handler answers; the process of the moment.
    host: Option<Host>,
    lines: Vec<Value>,
    /// For every call from now on.
    always: Option<Does>,
    /// For the next calls.
    next: VecDeque<Does>,
    /// For this event only, `tenant/seq`.
    never: Vec<(String, Does)>,
    calls: Vec<String>,
    mount_points: Vec<String>,
    configs: Vec<HostApiConfig>,
    exempt: Option<Vec<String>>,
    /// The last receipt that was answered.
    receipt: String,
    /// How long the host waits for a device that hangs beside a good one.
    takes: Duration,
}

impl Devices {
    /// Makes clients for a process that `plan` may kill.
    pub(crate) fn opener(&self, plan: &Plan) -> HostApiOpener {
        // The devices hold the process that answers, and that must not hold the devices in turn.
        let (devices, plan) = (Arc::downgrade(&self.0), plan.clone());
        Arc::new(move |config: &HostApiConfig, _clock| {
            if let Some(state) = devices.upgrade() {
                state.lock().unwrap().configs.push(config.clone());
            }
            Ok(Arc::new(Client {
                devices: Weak::clone(&devices),
                plan: plan.clone(),
            }) as Arc<dyn HostApi>)
        })
    }

    /// The process that answers requests from now on.
    pub(crate) fn serve(&self, host: &Host) {
        let mut host = host.clone();
        host.caller = String::from("approle");
        self.0.lock().unwrap().host = Some(host);
    }

    /// Lets every call do this, or none.
    pub(crate) fn always(&self, does: Option<Does>) {
        self.0.lock().unwrap().always = does;
    }

    /// Lets the next calls do this.
    pub(crate) fn next(&self, does: impl IntoIterator<Item = Does>) {
        self.0.lock().unwrap().next = does.into_iter().collect();
    }

    /// Lets every call that is answered take so long.
    pub(crate) fn takes(&self, time: Duration) {
        self.0.lock().unwrap().takes = time;
    }

    /// Lets every call for one event do this, `None`: no more.
    pub(crate) fn never(&self, event: &str, does: Option<Does>) {
        let mut state = self.0.lock().unwrap();
        state.never.retain(|(one, _)| one != event);
        state
            .never
            .extend(does.map(|does| (event.to_owned(), does)));
    }

    /// What the mount's tuning says; `None` if the emitter may not read it.
    pub(crate) fn exempt(&self, keys: Option<&[&str]>) {
        let keys = keys.map(|keys| keys.iter().map(|&key| key.to_owned()).collect());
        self.0.lock().unwrap().exempt = keys;
    }

    /// Every line, in order: what `response.data` of the log has.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.0.lock().unwrap().lines.clone()
    }

    /// The lines as `tenant/seq event`, without the common prefix.
    pub(crate) fn story(&self) -> Vec<String> {
        let lines = self.lines();
        let line = |line: &Value| {
            let name = line["event"].as_str().unwrap();
            let name = name.strip_prefix("smtp_credentials_").unwrap_or(name);
            let tenant = line["tenant_id"].as_str().unwrap();
            format!("{tenant}/{} {name}", line["seq"])
        };
        lines.iter().map(line).collect()
    }

    /// Every call, as `tenant/seq`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.clone()
    }

    /// Where every call went.
    pub(crate) fn mount_points(&self) -> Vec<String> {
        self.0.lock().unwrap().mount_points.clone()
    }

    /// What clients were opened with.
    pub(crate) fn configs(&self) -> Vec<HostApiConfig> {
        self.0.lock().unwrap().configs.clone()
    }

    /// Asserts that the lines are a chain without gap for each log, whatever was told twice.
    pub(crate) fn check_chains(&self, what: &str) {
        let mut seen: std::collections::BTreeMap<(String, u64), Value> = Default::default();
        for line in self.lines() {
            let tenant = line["tenant_id"].as_str().unwrap().to_owned();
            let key = (tenant, line["seq"].as_u64().unwrap());
            let mut line = line;
            // What differs between two answers about one event.
            for key in ["replayed", "receipt"] {
                line.as_object_mut().unwrap().remove(key);
            }
            if let Some(earlier) = seen.insert(key.clone(), line.clone()) {
                assert_eq!(earlier, line, "{what}: told differently: {key:?}");
            }
        }
        for ((tenant, seq), line) in &seen {
            let before = match seq {
                1 => "0".repeat(64),
                _ => {
                    let before = seen.get(&(tenant.clone(), seq - 1));
                    let before = before.unwrap_or_else(|| panic!("{what}: gap at {tenant}/{seq}"));
                    before["hash"].as_str().unwrap().to_owned()
                }
            };
            assert_eq!(line["prev_hash"], before, "{what}: {tenant}/{seq}");
        }
    }
}

#[derive(Debug)]
struct Client {
    devices: Weak<Mutex<State>>,
    plan: Plan,
}

impl Client {
    fn devices(&self) -> Arc<Mutex<State>> {
        self.devices.upgrade().expect("the world has ended")
    }

    async fn request(&self, tenant: &str, seq: u64) -> Result<Taken, Error> {
        let host = self.devices().lock().unwrap().host.clone();
        let host = host.expect("no process serves");
        let path = format!("events/emit/{tenant}/{seq}");
        let answer = host.write_as(&host.request_id(), &path, json!({})).await;
        match answer.status {
            200 => {}
            0 | 500..=599 => return Err(Error::Failing),
            403 => return Err(Error::Denied),
            _ => return Err(Error::Refused),
        }
        let receipt = answer.text_of("receipt").to_owned();
        let devices = self.devices();
        let mut state = devices.lock().unwrap();
        state.lines.push(answer.data.clone());
        state.receipt.clone_from(&receipt);
        Ok(Taken {
            event_id: answer.text_of("event_id").to_owned(),
            hash: answer.text_of("hash").to_owned(),
            receipt,
        })
    }

    /// Answers what is stored, without asking the server for it: no device takes anything.
    async fn by_heart(&self, tenant: &str, seq: u64, receipt: String) -> Taken {
        let host = self.devices().lock().unwrap().host.clone();
        let host = host.expect("no process serves");
        let asked = json!({ "tenant": tenant, "limit": 200 });
        let read = host.send(Operation::Read, "events", asked).await.ok();
        let events = read.get("events").as_array().unwrap();
        let event = events.iter().find(|event| event["seq"] == seq);
        let event = event.expect("it is stored");
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        Taken {
            event_id: text("event_id"),
            hash: text("hash"),
            receipt,
        }
    }
}

#[async_trait]
impl HostApi for Client {
    async fn emit(&self, mount_point: &str, tenant: &str, seq: u64) -> Result<Taken, Error> {
        self.plan.alive().await;
        let does = {
            let devices = self.devices();
            let mut state = devices.lock().unwrap();
            let event = format!("{tenant}/{seq}");
            let never = state.never.iter().find(|(one, _)| *one == event);
            let never = never.map(|(_, does)| *does);
            state.calls.push(event);
            state.mount_points.push(mount_point.to_owned());
            never.or(state.always).or_else(|| state.next.pop_front())
        };
        match does {
            Some(Does::Fails(error)) => return Err(error),
            Some(Does::Hangs) => {
                self.request(tenant, seq).await?;
                tokio::time::sleep(Duration::from_secs(5)).await;
                return Err(Error::Unreachable(Fault::Timeout));
            }
            Some(Does::LosesAnswer) => {
                self.request(tenant, seq).await?;
                return Err(Error::Unreachable(Fault::Broken));
            }
            Some(Does::Knows(receipt)) => {
                return Ok(self.by_heart(tenant, seq, receipt.to_owned()).await);
            }
            Some(Does::Borrows(event)) => {
                let (other, number) = event.split_once('/').unwrap();
                let borrowed = self.request(other, number.parse().unwrap()).await?;
                return Ok(self.by_heart(tenant, seq, borrowed.receipt).await);
            }
            Some(Does::Replays) => {
                let receipt = self.devices().lock().unwrap().receipt.clone();
                return Ok(self.by_heart(tenant, seq, receipt).await);
            }
            Some(Does::LiesAbout(event_id)) => {
                let mut taken = self.request(tenant, seq).await?;
                event_id.clone_into(&mut taken.event_id);
                return Ok(taken);
            }
            None => {}
        }
        let Some(fault) = self.plan.enter(String::from("device emit")) else {
            let taken = self.request(tenant, seq).await;
            let takes = self.devices().lock().unwrap().takes;
            if takes > Duration::ZERO {
                tokio::time::sleep(takes).await;
            }
            return taken;
        };
        if fault.after {
            self.request(tenant, seq).await?;
        }
        if fault.kind == Kind::Crash {
            self.plan.die().await;
        }
        Err(Error::Unreachable(Fault::Broken))
    }

    async fn exempt_keys(&self, _mount_point: &str) -> Result<Option<Vec<String>>, Error> {
        self.plan.alive().await;
        Ok(self.devices().lock().unwrap().exempt.clone())
    }
}
