//! A real server on loopback with the plugin in its catalog.
//!
//! Every server is watched by a shell that waits for the end of its own standard input: when this
//! process ends, however it ends, the shell kills the server and removes its folder.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use vault_plugin_secrets_smtp::audit::EXEMPT_RESPONSE_KEYS;

use super::api::Api;

pub(super) const PLUGIN: &str = "vault-plugin-secrets-smtp";
pub(super) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// Kills the server at the end of the input and tidies up; a line names another signal, after
/// which the folder stays for the next start.
const GUARD: &str = r#"
trap '' INT
folder=$1
shift
"$@" </dev/null >>"$folder/server.log" 2>&1 &
server=$!
echo "$server"
if read -r signal; then
  kill -s "$signal" "$server"
  wait "$server" 2>/dev/null
else
  kill -s KILL "$server"
  wait "$server" 2>/dev/null
  rm -rf "$folder"
fi
"#;

/// Waits for a condition that another process brings about; half a minute at most.
pub(super) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1200 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("waited in vain until {what}");
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    OpenBao,
    Vault,
}

impl Product {
    /// The server's program.
    fn program(self) -> PathBuf {
        match self {
            Self::OpenBao => std::env::var_os("SMTP_TEST_BAO").map_or_else(
                || {
                    panic!(
                        "SMTP_TEST_BAO does not name an OpenBao binary. Run ./scripts/test, which \
                         provides one and sets the variable."
                    )
                },
                PathBuf::from,
            ),
            Self::Vault => std::env::var_os("SMTP_TEST_VAULT")
                .map(PathBuf::from)
                .expect("SMTP_TEST_VAULT must name a vault binary. Run ./scripts/test."),
        }
    }
}

/// A running, unsealed server.
#[derive(Debug)]
pub(super) struct Server {
    product: Product,
    folder: PathBuf,
    address: String,
    process: Mutex<Option<Process>>,
    keys: Keys,
}

#[derive(Debug, Default)]
struct Keys {
    unseal: String,
    root: String,
}

#[derive(Debug)]
struct Process {
    guard: Child,
    input: Option<ChildStdin>,
    server: u32,
}

impl Server {
    /// The server that tests share which break nothing; each has a mount of its own.
    pub(super) async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Server>> = OnceCell::const_new();
        let server = SHARED.get_or_init(|| Self::start(Product::OpenBao));
        Arc::clone(server.await)
    }

    /// Starts, initialises and unseals a server of its own, the plugin registered.
    pub(super) async fn start(product: Product) -> Arc<Self> {
        let program = product.program();
        let folder = tempfile::tempdir().unwrap().keep();
        let [port, cluster_port] = free_ports();
        let address = format!("http://127.0.0.1:{port}");
        for name in ["data", "plugins"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        let configuration = configuration(product, &folder, &address, cluster_port);
        fs::write(folder.join("server.hcl"), configuration).unwrap();
        let process = Process::start(&program, &folder);
        let mut server = Self {
            product,
            folder,
            address,
            process: Mutex::new(Some(process)),
            keys: Keys::default(),
        };
        server.wait_listening().await;
        server.keys = server.initialise().await;
        server.unseal().await;
        if product == Product::Vault {
            let file = json!({"type": "file", "options": {"file_path": server.file("audit.log")}});
            server
                .api()
                .write("sys/audit/file", file)
                .await
                .no_content();
        }
        server.register(Some(VERSION)).await;
        Arc::new(server)
    }

    /// A client with the root token.
    pub(super) fn api(&self) -> Api {
        Api::new(&self.address, &self.keys.root)
    }

    /// Puts the plugin into the catalog, under a file name of its own; the host starts it and
    /// refuses a `version` that the program does not report.
    pub(super) async fn register(&self, version: Option<&str>) {
        let program = std::env::var("SMTP_TEST_PLUGIN")
            .unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_vault-plugin-secrets-smtp").to_owned());
        self.register_program(PLUGIN, Path::new(&program), version)
            .await;
    }

    /// Puts any program into the catalog.
    pub(super) async fn register_program(&self, name: &str, program: &Path, version: Option<&str>) {
        let command = format!("{name}-{}", version.unwrap_or("unversioned"));
        let file = self.file("plugins").join(&command);
        fs::copy(program, &file).unwrap();
        let entry = json!({
            "version": version.unwrap_or_default(),
            "command": command,
            "sha256": hex::encode(Sha256::digest(fs::read(&file).unwrap())),
            "env": ["SMTP_DEV_ALLOW_LOOPBACK=1", "SMTP_LOG_LEVEL=trace"],
        });
        let path = format!("sys/plugins/catalog/secret/{name}");
        self.api().write(&path, entry).await.no_content();
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
        let process = Process::start(&self.product.program(), &self.folder);
        *self.process.lock().unwrap() = Some(process);
        self.wait_listening().await;
    }

    pub(super) async fn unseal(&self) {
        let key = json!({"key": self.keys.unseal});
        self.api().write("sys/unseal", key).await.data();
        let api = self.api();
        until("the server is active", async || {
            let health = api.read("sys/health").await;
            (health.status == 200).then_some(())
        })
        .await;
    }

    /// The processes of the plugin: the server's living children.
    pub(super) fn plugins(&self) -> Vec<u32> {
        let server = self.process.lock().unwrap().as_ref().unwrap().server;
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        processes
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .filter(|pid| parent(*pid) == Some(server))
            .collect()
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

    /// The file in which all of the server's and the plugin's log is.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.file("server.log")).unwrap()
    }

    pub(super) fn audit(&self) -> String {
        fs::read_to_string(self.file("audit.log")).unwrap()
    }

    /// The audit records, one for each request and one for each response.
    pub(super) fn audit_records(&self) -> Vec<Value> {
        let text = self.audit();
        let whole = text.lines().map(serde_json::from_str);
        whole.collect::<Result<_, _>>().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    async fn wait_listening(&self) {
        let api = self.api();
        for _ in 0..1200 {
            if api.reaches_server().await {
                return;
            }
            let server = self.process.lock().unwrap().as_ref().unwrap().server;
            assert!(
                parent(server).is_some(),
                "the server ended:\n{}",
                self.log()
            );
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
            None => drop(fs::remove_dir_all(&self.folder)),
        }
    }
}

impl Process {
    fn start(program: &Path, folder: &Path) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(folder)
            .arg(program)
            .args(["server", "-config"])
            .arg(folder.join("server.hcl"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder)
            .env("TMPDIR", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell to watch the server");
        let mut line = String::new();
        let mut output = BufReader::new(guard.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        Self {
            input: guard.stdin.take(),
            server: line.trim().parse().expect("the server's process id"),
            guard,
        }
    }

    fn stop(mut self, signal: &str) {
        let mut input = self.input.take().unwrap();
        writeln!(input, "{signal}").unwrap();
        self.guard.wait().unwrap();
    }

    fn end(mut self) {
        drop(self.input.take());
        drop(self.guard.wait());
    }
}

/// The parent of a process that runs; `None` for one that ended, reaped or not.
fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    fields.next()?.parse().ok().filter(|_| state != "Z")
}

/// Reports whether a process runs.
pub(super) fn runs(pid: u32) -> bool {
    parent(pid).is_some()
}

fn free_ports() -> [u16; 2] {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listeners = [bind(), bind()];
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn configuration(product: Product, folder: &Path, address: &str, cluster_port: u16) -> String {
    let folder = folder.display();
    let listen = address.trim_start_matches("http://");
    let mut text = format!(
        r#"
storage "raft" {{
  path                   = "{folder}/data"
  node_id                = "one"
  performance_multiplier = 1
}}
listener "tcp" {{
  address         = "{listen}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable     = true
}}
api_addr         = "{address}"
cluster_addr     = "https://127.0.0.1:{cluster_port}"
plugin_directory = "{folder}/plugins"
log_level        = "trace"
"#
    );
    let special = match product {
        // OpenBao takes audit devices from its configuration only, Vault from its API only.
        Product::OpenBao => {
            format!(r#"audit "file" "file" {{ options = {{ file_path = "{folder}/audit.log" }} }}"#)
        }
        Product::Vault => String::from("disable_mlock = true"),
    };
    writeln!(text, "{special}").unwrap();
    text
}
