//! The server of the benchmark: OpenBao in development mode with storage in memory and without audit
//! devices, or with raft on the disk, then with a device if that is wanted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const TOKEN: &str = "root-token-of-the-benchmark";
const NAME: &str = "bench-plugin";
/// The file of the audit device.
const DEVICE: &str = "audit.log";

/// A running server; killed when dropped.
pub struct Server {
    process: Child,
    folder: tempfile::TempDir,
    client: reqwest::Client,
    token: String,
    pub address: String,
}

impl Server {
    /// Starts the server and mounts the plugin at `smtp/`, kv version 1 at `kv1/` and 2 at `kv2/`.
    pub async fn start(bao: &Path, plugin: &Path) -> Self {
        let (folder, address) = (folder(plugin), free_address());
        let mut command = Command::new(bao);
        command
            .args(["server", "-dev", "-dev-no-store-token", "-log-level=warn"])
            .arg(format!("-dev-root-token-id={TOKEN}"))
            .arg(format!("-dev-listen-address={address}"))
            .arg(format!(
                "-dev-plugin-dir={}",
                folder.path().join("plugins").display()
            ));
        let server = Self::run(command, folder, address).await;
        server.write("sys/mounts/smtp", json!({"type": NAME})).await;
        for version in ["1", "2"] {
            let body = json!({"type": "kv", "options": {"version": version}});
            server.write(&format!("sys/mounts/kv{version}"), body).await;
        }
        server
    }

    /// Starts a server with raft storage and mounts the plugin at `smtp/` and kv version 1 at `kv1/`.
    /// One node, nothing tuned. With `audited`, everything is written to a file device.
    pub async fn start_on_raft(bao: &Path, plugin: &Path, audited: bool) -> Self {
        let (folder, address) = (folder(plugin), free_address());
        let (path, cluster) = (folder.path().display(), free_address());
        let device =
            format!(r#"audit "file" "file" {{ options = {{ file_path = "{path}/{DEVICE}" }} }}"#);
        let device = if audited { device } else { String::new() };
        let text = format!(
            r#"
{device}
storage "raft" {{
  path    = "{path}/data"
  node_id = "one"
}}
listener "tcp" {{
  address         = "{address}"
  cluster_address = "{cluster}"
  tls_disable     = true
}}
api_addr         = "http://{address}"
cluster_addr     = "https://{cluster}"
plugin_directory = "{path}/plugins"
log_level        = "warn"
"#
        );
        let file = folder.path().join("server.hcl");
        fs::write(&file, text).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let mut command = Command::new(bao);
        command
            .arg("server")
            .arg(format!("-config={}", file.display()));
        let mut server = Self::run(command, folder, address).await;
        let keys = json!({"secret_shares": 1, "secret_threshold": 1});
        let keys = server.write("sys/init", keys).await;
        keys["root_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut server.token);
        let key = json!({"key": keys["keys_base64"][0]});
        server.write("sys/unseal", key).await;
        server.wait_for(200).await;
        let sha256 = hex::encode(Sha256::digest(fs::read(plugin).unwrap()));
        let entry = json!({"command": NAME, "sha256": sha256});
        let path = format!("sys/plugins/catalog/secret/{NAME}");
        server.write(&path, entry).await;
        server.write("sys/mounts/smtp", json!({"type": NAME})).await;
        let kv = json!({"type": "kv", "options": {"version": "1"}});
        server.write("sys/mounts/kv1", kv).await;
        server
    }

    /// The root token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// How many answers of `events/emit` and `events/flush` the file device has, events in them.
    pub fn lines_of_events(&self) -> u64 {
        let text = fs::read_to_string(self.folder.path().join(DEVICE)).unwrap();
        let answers = text
            .lines()
            .filter(|line| line.contains(r#""type":"response""#));
        let events = answers.map(|line| line.matches(r#""prev_hash":"#).count() as u64);
        events.sum()
    }

    async fn run(mut command: Command, folder: tempfile::TempDir, address: String) -> Self {
        let log = fs::File::create(folder.path().join("server.log")).unwrap();
        let process = command
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            process,
            folder,
            client: client(),
            token: TOKEN.to_owned(),
            address,
        };
        server.wait_ready().await;
        server
    }

    /// Starts the plugin anew.
    pub async fn reload(&self) {
        let body = json!({"plugin": NAME});
        self.write("sys/plugins/reload/backend", body).await;
    }

    /// The bytes on the disk of the raft storage: of its data, and of its log. Not their lengths:
    /// they grow in large steps and have holes.
    pub fn raft_bytes(&self) -> (u64, u64) {
        let bytes = |file: &str| {
            let file = self.folder.path().join("data").join(file);
            fs::metadata(file).unwrap().blocks() * 512
        };
        (bytes("vault.db"), bytes("raft/raft.db"))
    }

    /// The server's process.
    pub fn host(&self) -> u32 {
        self.process.id()
    }

    async fn wait_for(&self, health: u16) {
        for _ in 0..600 {
            let url = format!("http://{}/v1/sys/health", self.address);
            let answer = self.client.get(url).send().await;
            if answer.is_ok_and(|answer| answer.status() == health) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not lead");
    }

    async fn wait_ready(&self) {
        for _ in 0..600 {
            let url = format!("http://{}/v1/sys/health", self.address);
            if self.client.get(url).send().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = fs::read_to_string(self.folder.path().join("server.log"));
        panic!("the server did not start: {log:?}");
    }

    /// Writes and requires that it succeeds; repeats what the host asks to repeat.
    pub async fn write(&self, path: &str, body: Value) -> Value {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn read(&self, path: &str) -> Value {
        self.send(Method::GET, path, None).await
    }

    pub async fn delete(&self, path: &str) -> Value {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("http://{}/v1/{path}", self.address);
        for _ in 0..100 {
            let mut request = self.client.request(method.clone(), &url);
            request = request.header("x-vault-token", &self.token);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            // A fresh kv v2 mount upgrades itself for a moment.
            if text.contains("Upgrading from non-versioned") {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            assert!(matches!(status, 200 | 204), "{path}: {status} {text}");
            return serde_json::from_str(&text).unwrap_or(Value::Null);
        }
        panic!("{path} never became ready");
    }

    /// The plugin's process.
    pub fn plugin(&self) -> u32 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let children = tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
            .collect::<Vec<_>>()
            .join(" ");
        // The last one: one that was replaced may still be about to end.
        let plugin = children.split_whitespace().last().expect("a plugin runs");
        plugin.parse().unwrap()
    }

    /// The plugin's resident memory now and at most, in MiB.
    pub fn memory(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.plugin())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            kib / 1024.0
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

/// A folder for the server, with the plugin where it looks for one.
fn folder(plugin: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // The server takes every file there for a plugin.
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::copy(plugin, plugins.join(NAME)).unwrap();
    folder
}

fn free_address() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    port.local_addr().unwrap().to_string()
}

/// The processor time of a process so far, to ten milliseconds.
pub fn processor_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let mut times = fields
        .split_whitespace()
        .skip(11)
        .map(|text| text.parse::<u64>().unwrap());
    let ticks = times.next().unwrap() + times.next().unwrap();
    Duration::from_millis(ticks * 10)
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A client for the setting-up; the load has its own.
fn client() -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .build()
        .unwrap()
}

/// How long a start takes, from exec to the handshake line, in milliseconds; the median of `runs`.
pub fn handshake(binary: &PathBuf, runs: usize) -> f64 {
    let certificate = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    let pem = certificate.cert.pem();
    let mut taken: Vec<f64> = (0..runs).map(|_| one_handshake(binary, &pem)).collect();
    taken.sort_unstable_by(f64::total_cmp);
    taken[runs / 2]
}

fn one_handshake(binary: &PathBuf, pem: &str) -> f64 {
    use std::io::{BufRead as _, BufReader};
    let begin = std::time::Instant::now();
    let mut process = Command::new(binary)
        .env_clear()
        .env(
            "VAULT_BACKEND_PLUGIN",
            "6669da05-b1c8-4f49-97d9-c8e5bed98e20",
        )
        .env("PLUGIN_PROTOCOL_VERSIONS", "5")
        .env("PLUGIN_CLIENT_CERT", pem)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let taken = begin.elapsed().as_secs_f64() * 1e3;
    assert!(line.starts_with("1|5|unix|"), "{line:?}");
    // SIGTERM, so that the socket goes with it.
    let mut kill = Command::new("kill");
    kill.arg(process.id().to_string()).status().unwrap();
    process.wait().unwrap();
    taken
}
