//! A real server on loopback with the plugin in its catalog; one alone, or a node of a cluster.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Timelike as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use vault_plugin_secrets_smtp::audit::EXEMPT_RESPONSE_KEYS;
use vault_plugin_secrets_smtp::clock::{Clock as _, SystemClock};

use super::api::{Answer, Api};
use super::process::{Process, runs};
use super::product::Product;
use crate::support::mailu::standin::Authority;

pub(super) const PLUGIN: &str = "vault-plugin-secrets-smtp";
pub(super) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// The version that the next release would have, if it were the same program: as long as
/// [`VERSION`], so that one can stand in the place of the other.
pub(super) const NEXT: &str = "v9.8.7";

/// The program of [`NEXT`]: this one with another number in it.
fn next(mut program: Vec<u8>) -> Vec<u8> {
    let [old, new] = [VERSION, NEXT].map(|version| &version.as_bytes()[1..]);
    assert_eq!(old.len(), new.len(), "choose a NEXT as long as VERSION");
    let starts = program.windows(old.len()).enumerate();
    let starts = starts.filter_map(|(at, bytes)| (bytes == old).then_some(at));
    for at in starts.collect::<Vec<_>>() {
        program[at..at + new.len()].copy_from_slice(new);
    }
    program
}

/// Waits for a condition that another process brings about; two minutes at most, because sixteen
/// servers start at once beside everything else.
#[track_caller]
pub(super) fn until<T>(
    what: &str,
    probe: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    const PATIENCE: Duration = Duration::from_secs(120);
    wait(what, probe, Duration::from_millis(25), PATIENCE)
}

/// As long as three of the host's ticks, which come once a minute, and a minute for what they begin:
/// many servers share a machine here.
pub(super) const THREE_TICKS: Duration = Duration::from_secs(240);

/// Waits for what the host's ticks have to do; three of them at most.
#[track_caller]
pub(super) fn within_ticks<T>(
    what: &str,
    probe: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    wait(what, probe, Duration::from_millis(250), THREE_TICKS)
}

/// Probes again after each pause until patience ends. The place of a failure is the caller's.
#[track_caller]
fn wait<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
    pause: Duration,
    patience: Duration,
) -> impl Future<Output = T> {
    let place = Location::caller();
    async move {
        let began = Instant::now();
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            let waited = began.elapsed();
            assert!(
                waited < patience,
                "waited in vain until {what}: {waited:.0?}, at {place}"
            );
            tokio::time::sleep(pause).await;
        }
    }
}

/// Waits, if the next full minute is near, until it has come. A server ticks each minute after it
/// was unsealed, and checks are with the full minute: what became due right after one check would
/// miss the tick before the next, and a test that counts with one tick would take two.
pub(super) async fn early_in_a_minute() {
    const LATE: u32 = 50;
    while SystemClock::new().now().second() >= LATE {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A node's part in its cluster; a server alone is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Active,
    Standby,
}

/// What a server has beside, or instead of, what all have.
#[derive(Clone, Debug, Default)]
pub(super) struct Special {
    /// More of its configuration.
    pub(super) configuration: String,
    /// Its audit device, if not a file.
    pub(super) audit: Option<Device>,
    /// Files in its folder, with their names.
    pub(super) files: Vec<(&'static str, String)>,
}

impl Special {
    /// A TLS listener beside the other one, with a certificate for `names`; also returns its
    /// address and the authority that signed it.
    pub(super) fn with_tls(names: &[&str]) -> (Self, String, String) {
        let authority = Authority::new().unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let (certificate, key) = authority.certificate(names).unwrap();
        let [port, cluster_port] = free_ports();
        let configuration = format!(
            r#"
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file   = "listener.pem"
  tls_key_file    = "listener.key"
}}
"#
        );
        let special = Self {
            configuration,
            files: vec![("listener.pem", certificate), ("listener.key", key)],
            ..Self::default()
        };
        let address = format!("https://127.0.0.1:{port}");
        (special, address, authority.pem().to_owned())
    }
}

/// An audit device, whichever way the host is told of it.
#[derive(Clone, Debug)]
pub(super) struct Device {
    kind: &'static str,
    options: Vec<(&'static str, String)>,
}

impl Default for Device {
    /// A file. Its path is relative to the server's folder, so that it is the same on every node:
    /// OpenBao wants their configurations alike, and Vault stores the path for all.
    fn default() -> Self {
        Self {
            kind: "file",
            options: vec![("file_path", String::from("audit.log"))],
        }
    }
}

impl Device {
    /// Who listens at this address.
    pub(super) fn socket(address: &str) -> Self {
        let kind = ("socket_type", String::from("tcp"));
        Self {
            kind: "socket",
            options: vec![("address", address.to_owned()), kind],
        }
    }

    /// As OpenBao's configuration declares it.
    fn declared(&self) -> String {
        let options = self.options.iter();
        let options = options.map(|(name, value)| format!("    {name} = \"{value}\"\n"));
        let (kind, options) = (self.kind, options.collect::<String>());
        format!("audit \"{kind}\" \"{kind}\" {{\n  options = {{\n{options}  }}\n}}")
    }

    /// Enables it by Vault's API.
    async fn enable(&self, operator: &Api) {
        let options = self.options.iter();
        let options = options.map(|(name, value)| ((*name).to_owned(), json!(value)));
        let options = options.collect::<serde_json::Map<_, _>>();
        let path = format!("sys/audit/{}", self.kind);
        let body = json!({"type": self.kind, "options": options});
        operator.write(&path, body).await.no_content();
    }
}

/// A running, unsealed server.
#[derive(Debug)]
pub(super) struct Server {
    folder: PathBuf,
    /// Its temporary files: its and the plugins' sockets.
    sockets: PathBuf,
    address: String,
    process: Mutex<Option<Process>>,
    keys: Keys,
}

#[derive(Clone, Debug, Default)]
struct Keys {
    unseal: String,
    root: String,
}

impl Server {
    /// The server that tests share which break nothing; each has a mount of its own.
    pub(super) async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Server>> = OnceCell::const_new();
        let server = SHARED.get_or_init(Self::start);
        Arc::clone(server.await)
    }

    /// Starts, initialises and unseals a server of its own, the plugin registered.
    pub(super) async fn start() -> Arc<Self> {
        Self::special(&Special::default()).await
    }

    /// Like [`Server::start`], with a difference.
    pub(super) async fn special(special: &Special) -> Arc<Self> {
        let server = Arc::new(Self::founder(special).await);
        server.register(Some(VERSION)).await;
        server
    }

    /// Starts, initialises and unseals a server with a difference, its catalog empty.
    pub(super) async fn founder(special: &Special) -> Self {
        let mut server = Self::boot("one", special).await;
        server.keys = server.initialise().await;
        server.unseal_alone().await;
        if Product::tested() == Product::Vault {
            let device = special.audit.clone().unwrap_or_default();
            device.enable(&server.api()).await;
        }
        server
    }

    /// Starts a server that becomes a standby node beside `leader`.
    pub(super) async fn follower(leader: &Self, special: &Special) -> Self {
        let mut server = Self::boot("two", special).await;
        server.keys = leader.keys.clone();
        let leader = json!({"leader_api_addr": leader.address});
        let joined = server.api().write("sys/storage/raft/join", leader).await;
        assert_eq!(joined.body["joined"], true, "{}", joined.body);
        server.unseal().await;
        server
    }

    /// Starts a server with an empty storage.
    async fn boot(node: &str, special: &Special) -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let sockets = folder_for_sockets(&folder);
        let [port, cluster_port] = free_ports();
        let address = format!("http://127.0.0.1:{port}");
        for name in ["data", "plugins"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        let configuration = configuration(node, &folder, &address, cluster_port, special);
        fs::write(folder.join("server.hcl"), configuration).unwrap();
        for (name, text) in &special.files {
            fs::write(folder.join(name), text).unwrap();
        }
        let process = Process::start(&Product::tested().program().unwrap(), &folder, &sockets);
        let server = Self {
            folder,
            sockets,
            address,
            process: Mutex::new(Some(process)),
            keys: Keys::default(),
        };
        server.wait_listening().await;
        server
    }

    /// A client with the root token.
    pub(super) fn api(&self) -> Api {
        Api::new(&self.address, &self.keys.root)
    }

    /// The server's address.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Puts the plugin into the catalog, under a file name of its own; the host starts it and
    /// refuses a `version` that the program does not report.
    pub(super) async fn register(&self, version: Option<&str>) {
        self.try_register(version).await.no_content();
    }

    /// Like [`Server::register`]; returns what the host said.
    pub(super) async fn try_register(&self, version: Option<&str>) -> Answer {
        let file = self.install(version);
        self.catalog(PLUGIN, &file, version).await
    }

    /// Puts any program into the catalog.
    pub(super) async fn register_program(&self, name: &str, program: &Path, version: Option<&str>) {
        let file = self.place(name, program);
        self.catalog(name, &file, version).await.no_content();
    }

    /// Puts any program where the server looks for plugins, and returns its path.
    pub(super) fn place(&self, name: &str, program: &Path) -> PathBuf {
        let file = self.file("plugins").join(name);
        fs::copy(program, &file).unwrap();
        file
    }

    async fn catalog(&self, name: &str, file: &Path, version: Option<&str>) -> Answer {
        let entry = json!({
            "version": version.unwrap_or_default(),
            "command": file.file_name().unwrap().to_str(),
            "sha256": hex::encode(Sha256::digest(fs::read(file).unwrap())),
            "env": [
                "SMTP_DEV_ALLOW_LOOPBACK=1",
                "SMTP_LOG_LEVEL=trace",
                "SMTP_AUDIT_SOCKETS=/proc/self/cwd",
            ],
        });
        let path = format!("sys/plugins/catalog/secret/{name}");
        self.api().write(&path, entry).await
    }

    /// Puts the plugin's file where the server looks for it, and returns its path. The one of
    /// [`NEXT`] reports that version.
    pub(super) fn install(&self, version: Option<&str>) -> PathBuf {
        let program = std::env::var("SMTP_TEST_PLUGIN")
            .unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_vault-plugin-secrets-smtp").to_owned());
        let command = format!("{PLUGIN}-{}", version.unwrap_or("unversioned"));
        let file = self.file("plugins").join(command);
        fs::copy(&program, &file).unwrap();
        if version == Some(NEXT) {
            fs::write(&file, next(fs::read(program).unwrap())).unwrap();
        }
        file
    }

    /// Mounts the plugin at `mount`, with the audit exemptions that `--audit-keys` prints.
    pub(super) async fn mount(&self, mount: &str, version: Option<&str>) {
        let body = json!({
            "type": PLUGIN,
            "config": {
                "plugin_version": version.unwrap_or_default(),
                "audit_non_hmac_response_keys": EXEMPT_RESPONSE_KEYS,
            },
        });
        let path = format!("sys/mounts/{mount}");
        self.api().write(&path, body).await.no_content();
    }

    /// Stops the server with `signal` and waits for its end. What it stored stays.
    pub(super) fn stop(&self, signal: &str) {
        let process = self.process.lock().unwrap().take().expect("it runs");
        process.stop(signal);
    }

    /// Starts the server again after [`Server::stop`]; it is sealed then.
    pub(super) async fn start_again(&self) {
        let program = Product::tested().program().unwrap();
        let process = Process::start(&program, &self.folder, &self.sockets);
        *self.process.lock().unwrap() = Some(process);
        self.wait_listening().await;
    }

    pub(super) async fn unseal(&self) {
        const AGAIN: Duration = Duration::from_secs(10);
        let give_key = async || {
            let key = json!({"key": self.keys.unseal});
            self.api().write("sys/unseal", key).await
        };
        give_key().await.data();
        let mut given = Instant::now();
        until("the server is unsealed", async || {
            let role = self.role().await;
            // A node that joins needs its leader for this; where that did not answer in time, the key
            // is given again, as whoever runs a cluster does.
            if role.is_none() && given.elapsed() > AGAIN {
                give_key().await;
                given = Instant::now();
            }
            role
        })
        .await;
    }

    /// Unseals the only node there is, which leads again after a moment as a standby.
    pub(super) async fn unseal_alone(&self) {
        self.unseal().await;
        until("the only node leads", async || {
            (self.role().await == Some(Role::Active)).then_some(())
        })
        .await;
    }

    /// What the node is now; `None` while it is sealed or becomes something else.
    pub(super) async fn role(&self) -> Option<Role> {
        match self.api().read("sys/health").await.status {
            200 => Some(Role::Active),
            429 => Some(Role::Standby),
            _ => None,
        }
    }

    /// The processes of the plugin: the server's living children.
    pub(super) fn plugins(&self) -> Vec<u32> {
        self.process.lock().unwrap().as_ref().unwrap().children()
    }

    /// The one process of the plugin.
    pub(super) fn plugin(&self) -> u32 {
        let plugins = self.plugins();
        assert_eq!(plugins.len(), 1, "one process for all mounts: {plugins:?}");
        plugins[0]
    }

    /// Kills the plugin without giving it a chance; it is dead when this returns.
    pub(super) async fn kill_plugin(&self) {
        let pid = self.plugin();
        let mut kill = Command::new("kill");
        let status = kill.args(["-s", "KILL", &pid.to_string()]).status();
        assert!(status.unwrap().success());
        until("the killed plugin is dead", async || {
            (!runs(pid)).then_some(())
        })
        .await;
    }

    /// Has every mount of the plugin start anew.
    pub(super) async fn reload(&self) {
        let body = json!({"plugin": PLUGIN});
        let answer = self.api().write("sys/plugins/reload/backend", body).await;
        assert!(answer.status < 300, "{}", answer.body);
    }

    /// Has every mount of the plugin start anew on every node of the cluster; the other nodes do
    /// so some time after this returned.
    pub(super) async fn reload_everywhere(&self) {
        let body = json!({"plugin": PLUGIN, "scope": "global"});
        let answer = self.api().write("sys/plugins/reload/backend", body).await;
        assert!(answer.status < 300, "{}", answer.body);
    }

    /// The file in which all of the server's and the plugin's log is.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.file("server.log")).unwrap()
    }

    /// Its audit file; empty on a Vault's standby, which forwards everything and writes nothing.
    pub(super) fn audit(&self) -> String {
        match fs::read_to_string(self.file("audit.log")) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                assert_eq!(Product::tested(), Product::Vault, "no audit file");
                String::new()
            }
            text => text.unwrap(),
        }
    }

    /// The audit records, one for each request and one for each response.
    pub(super) fn audit_records(&self) -> Vec<Value> {
        let text = self.audit();
        let whole = text.lines().map(serde_json::from_str);
        whole.collect::<Result<_, _>>().unwrap()
    }

    /// The files in the server's temporary folder: its and the plugins' sockets.
    pub(super) fn temporary_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.sockets).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// A file in the server's folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    async fn wait_listening(&self) {
        let api = self.api();
        for _ in 0..1200 {
            if api.reaches_server().await {
                return;
            }
            let runs = self.process.lock().unwrap().as_ref().unwrap().runs();
            assert!(runs, "the server ended:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the server does not listen:\n{}", self.log());
    }

    async fn initialise(&self) -> Keys {
        let shares = json!({"secret_shares": 1, "secret_threshold": 1});
        let answer = self.api().write("sys/init", shares).await;
        let text = |value: &Value| value.as_str().expect("an initialised server").to_owned();
        Keys {
            unseal: text(&answer.body["keys_base64"][0]),
            root: text(&answer.body["root_token"]),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match self.process.get_mut().unwrap().take() {
            Some(process) => process.end(),
            None => {
                drop(fs::remove_dir_all(&self.folder));
                drop(fs::remove_dir_all(&self.sockets));
            }
        }
    }
}

pub(super) fn free_ports() -> [u16; 2] {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listeners = [bind(), bind()];
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Makes the folder for the temporary files of the server in `folder`. Where that is too deep for
/// the path of a socket, which has 107 bytes, the other one is below `/tmp`.
fn folder_for_sockets(folder: &Path) -> PathBuf {
    // What the host and the plugin add.
    const NAMES: usize = 50;
    let beside = folder.join("tmp");
    if beside.as_os_str().len() + NAMES > 107 {
        return tempfile::tempdir_in("/tmp").unwrap().keep();
    }
    fs::create_dir(&beside).unwrap();
    beside
}

fn configuration(
    node: &str,
    folder: &Path,
    address: &str,
    cluster_port: u16,
    special: &Special,
) -> String {
    let folder = folder.display();
    let listen = address.trim_start_matches("http://");
    let mut text = format!(
        r#"
storage "raft" {{
  path                         = "{folder}/data"
  node_id                      = "{node}"
  performance_multiplier       = 1
  autopilot_reconcile_interval = "200ms"
  autopilot_update_interval    = "100ms"
}}
listener "tcp" {{
  address         = "{listen}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable     = true
}}
api_addr             = "{address}"
cluster_addr         = "https://127.0.0.1:{cluster_port}"
plugin_directory     = "{folder}/plugins"
log_level            = "trace"
raw_storage_endpoint = true
"#
    );
    // OpenBao takes audit devices from its configuration only, Vault from its API only.
    let device = match Product::tested() {
        Product::OpenBao => special.audit.clone().unwrap_or_default().declared(),
        Product::Vault => String::from("disable_mlock = true"),
    };
    writeln!(text, "{device}\n{}", special.configuration).unwrap();
    text
}
