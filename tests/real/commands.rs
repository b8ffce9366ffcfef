//! The commands of the README, as they stand there: what a reader types works, in this host.
//!
//! Only what names the reader's own world is replaced (addresses, files, identifiers that a server
//! gives out); what the text says about waiting is done. A block that nobody runs fails the test.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use chrono::{SecondsFormat, TimeDelta};
use vault_plugin_secrets_smtp::clock::{Clock as _, SystemClock};

use super::harness::tests;
use super::product::Product;
use super::server::{PLUGIN, Server, Special, within_ticks};
use crate::support::mailu::standin::{Config, MailuStandin};
use crate::support::sinks::{Begins, HookSink, MailSink};

tests! {
    what_the_readme_says_to_type_works,
}

const README: &str = include_str!("../../README.md");

/// Blocks of shell that are not run here: how they begin, and who runs them.
const ELSEWHERE: [(&str, &str); 3] = [
    ("./scripts/dev ", ".ci/run runs the demo"),
    ("./scripts/test ", "they run this test"),
    (
        "# hourly; silent",
        "the tests of the rules, where there is a jq",
    ),
];

/// What has to be there before a block: how it begins, and the commands. The text around it says so.
const BEFORE: [(&str, &str); 5] = [
    ("bao write sys/plugins/catalog", INSTALLED),
    ("bao plugin register", INSTALLED),
    (
        "# a new password",
        "printf %s \"$API_TOKEN\" | bao write smtp/globex/config mailu_url=https://mail.acme.example api_token=-",
    ),
    // Each of them within the interval after the one before.
    (
        "bao write smtp/acme/rollback",
        "bao write smtp/config min_rotation_interval=0s\n\
         bao write -f smtp/acme/rotate\nbao write -f smtp/acme/rotate",
    ),
    (
        "bao write smtp/acme/reveal",
        "bao write smtp/acme/release reason=over",
    ),
];

/// The variables of the installation.
const INSTALLED: &str = "\
version=$(target/release/vault-plugin-secrets-smtp --version | cut -d' ' -f2)
file=vault-plugin-secrets-smtp-$version
sha256=$(sha256sum \"/etc/openbao/plugins/$file\" | cut -d' ' -f1)";

/// What the shell of every block has beside its commands.
const SHELL: &str = r#"
set -euo pipefail
# It is built: this test runs it.
cargo() { [[ "$*" == 'build --release --locked' ]]; }
# `bao` leaves what it said in a file.
wrapping_token() { sed -n 's/^wrapping_token: *//p' said; }
newest_batch() { bao list -format=json smtp/batches | python3 -c 'import json, sys; print(json.load(sys.stdin)[-1])'; }
# For as long as the text says to wait.
patiently() { for _ in {1..240}; do if "$@"; then return; fi; sleep 1; done; return 1; }
"#;

/// A reader's machine: a folder, programs, and a world to talk to.
struct Reader {
    server: Server,
    folder: tempfile::TempDir,
    mailu: MailuStandin,
    relay: MailSink,
    hook: HookSink,
    replaced: Vec<(&'static str, String)>,
}

/// Every block of shell in the README.
fn blocks() -> Vec<&'static str> {
    let parts = README.split("\n```sh\n").skip(1);
    parts
        .map(|part| part.split_once("\n```").expect("the block ends").0)
        .collect()
}

fn begins<'a>(table: &[(&str, &'a str)], block: &str) -> Option<&'a str> {
    let row = table.iter().find(|(begin, _)| block.starts_with(begin));
    row.map(|(_, what)| *what)
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Reader {
    async fn new() -> Self {
        let (special, tls, ca) = Special::with_tls(&["127.0.0.1", "bao.example"]);
        let server = Server::founder(&special).await;
        let config = ["admin@acme.example", "admin@globex.example"]
            .into_iter()
            .fold(Config::default(), |config, email| {
                config.user(email, "first-password-of-the-account-5e01")
            });
        let mut reader = Self {
            server,
            folder: tempfile::tempdir().unwrap(),
            mailu: MailuStandin::start(config).await.unwrap(),
            relay: MailSink::start(Begins::WithStartTls).await,
            hook: HookSink::start().await,
            replaced: Vec::new(),
        };
        reader.replaced = reader.own_world(&tls);
        reader.furnish(&ca);
        reader
    }

    /// What names the reader's world, and what that is here.
    fn own_world(&self, tls: &str) -> Vec<(&'static str, String)> {
        let later = SystemClock::new().now() + TimeDelta::days(14);
        let program = std::env::var("SMTP_TEST_PLUGIN")
            .unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_vault-plugin-secrets-smtp").to_owned());
        let loopback = "SMTP_DEV_ALLOW_LOOPBACK=1";
        let relay = self.relay.address.port();
        vec![
            ("target/release/vault-plugin-secrets-smtp", program),
            (
                "/etc/openbao/plugins",
                self.server.file("plugins").display().to_string(),
            ),
            (
                "env=SMTP_LOG_LEVEL=debug",
                format!("env=SMTP_LOG_LEVEL=debug env={loopback}"),
            ),
            (
                "mailu_url=https://mail.acme.example ",
                format!("mailu_url={} ca_cert=@mailu.pem ", self.mailu.url()),
            ),
            (
                "01K8Z5Y4N6D3T7Q2W9R1M0XVBC",
                String::from("$(newest_batch)"),
            ),
            ("<wrapping_token>", String::from("$(wrapping_token)")),
            (
                "2026-12-27T00:00:00Z",
                later.to_rfc3339_opts(SecondsFormat::Secs, true),
            ),
            ("https://bao.example:8200", tls.to_owned()),
            ("https://127.0.0.1:8200", tls.to_owned()),
            ("BAO_TOKEN=…", String::from("BAO_TOKEN=$TOKEN")),
            ("/var/log/openbao/audit.log", String::from("audit.log")),
            ("2026-11-21T06:00:00Z", String::from("$(date -u +%FT%TZ)")),
            (
                "host=smtp.ops.example",
                format!("host=localhost port={relay} ca_cert=@relay.pem"),
            ),
            ("username=vault@ops.example", String::from("username=vault")),
            (
                "https://hooks.ops.example/smtp",
                format!("{} ca_cert=@hook.pem", self.hook.url("/smtp")),
            ),
            (
                "bao write -f smtp/config/keyring/trim",
                String::from("patiently bao write -f smtp/config/keyring/trim"),
            ),
        ]
    }

    /// Puts into the folder what the commands find there.
    fn furnish(&self, ca: &str) {
        let folder = self.folder.path();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        symlink(repository.join("scripts"), folder.join("scripts")).unwrap();
        symlink(self.server.file("audit.log"), folder.join("audit.log")).unwrap();
        for (name, pem) in [
            ("ca.pem", ca),
            ("mailu.pem", self.mailu.ca_pem()),
            ("relay.pem", self.relay.authority.pem()),
            ("hook.pem", self.hook.authority.pem()),
        ] {
            fs::write(folder.join(name), pem).unwrap();
        }
        let programs = folder.join("bin");
        fs::create_dir(&programs).unwrap();
        let program = Product::tested().program().unwrap();
        let bao = format!(
            "#!/usr/bin/env bash\nset -o pipefail\n'{}' \"$@\" | tee said.new\nstatus=$?\n\
             mv said.new said\nexit $status\n",
            program.display()
        );
        executable(&programs.join("bao"), &bao);
        // A machine that only tests may have none: what the README asks of it.
        let curl = "#!/usr/bin/env python3\nimport sys, urllib.request\n\
             assert sys.argv[1] == '-H' and len(sys.argv) == 4, sys.argv\n\
             name, value = sys.argv[2].split(': ')\n\
             request = urllib.request.Request(sys.argv[3], headers={name: value})\n\
             print(urllib.request.urlopen(request).read().decode())\n";
        executable(&programs.join("curl"), curl);
    }

    /// Runs commands in one shell, and returns what they said.
    async fn run(&mut self, commands: &str) -> String {
        let mut text = commands.to_owned();
        for (named, here) in &self.replaced {
            text = text.replace(named, here);
        }
        let told = self.hook.posted().pop();
        let header = |name: &str| {
            let headers = told.as_ref().map(|posted| &posted.headers);
            let value = headers.and_then(|headers| headers.get(name));
            value.cloned().unwrap_or_default()
        };
        let body = told.as_ref().map(|posted| posted.body.clone());
        let body = String::from_utf8(body.unwrap_or_default()).unwrap();
        let api = self.server.api();
        let path = std::env::var("PATH").unwrap();
        let programs = self.folder.path().join("bin");
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &format!("{SHELL}{text}")])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("HOME", self.folder.path())
            .env("LC_ALL", "C.UTF-8")
            .env("API_TOKEN", self.mailu.token())
            .env("PASSWORD", "first-password-of-the-account-5e01")
            .env("RELAY_PASSWORD", "right")
            .env("SLACK_URL", self.hook.url("/services/T1/B1/key"))
            .env("TIMESTAMP", header("x-smtp-timestamp"))
            .env("BODY", body)
            .env("TOKEN", api.token())
            .stdin(Stdio::null());
        for product in ["BAO", "VAULT"] {
            shell.env(format!("{product}_ADDR"), self.server.address());
            shell.env(format!("{product}_TOKEN"), api.token());
        }
        let ran = tokio::task::spawn_blocking(move || shell.output().unwrap());
        let output = ran.await.unwrap();
        let mut said = String::from_utf8(output.stdout).unwrap();
        write!(said, "{}", String::from_utf8_lossy(&output.stderr)).unwrap();
        assert!(
            output.status.success(),
            "{}\n{text}\n\n{said}\n{}",
            output.status,
            self.server.log().lines().rev().take(5).collect::<String>()
        );
        said
    }
}

async fn what_the_readme_says_to_type_works() {
    let mut reader = Reader::new().await;
    let mut unused: Vec<&str> = reader.replaced.iter().map(|(named, _)| *named).collect();
    let mut proof = None;
    let mut run = 0;
    for block in blocks() {
        unused.retain(|named| !block.contains(named));
        if begins(&ELSEWHERE, block).is_some() {
            continue;
        }
        run += 1;
        // The trail is proven when the devices have it: when the chapter after it was done.
        if block.starts_with("export BAO_ADDR=") {
            proof = Some(block);
            continue;
        }
        let verifies = block.starts_with("printf '%s.%s'");
        if verifies {
            reader
                .run("bao write -f smtp/config/notify/hook/test")
                .await;
        }
        let before = begins(&BEFORE, block).unwrap_or_default();
        let said = reader.run(&format!("{before}\n{block}")).await;
        if verifies {
            let posted = reader.hook.posted().pop().unwrap();
            let signature = posted.headers["x-smtp-signature"].replace("v1=", "");
            assert!(said.contains(&signature), "{said}: {signature}");
        }
        if block.contains("smtp/config/audit") {
            let api = reader.server.api();
            within_ticks("the trail is delivered", async || {
                let status = api.read("smtp/status").await;
                let audit = &status.data()["audit_delivery"];
                (audit["undelivered"] == 0 && status.data()["audit"] == "delivering").then_some(())
            })
            .await;
            let said = reader.run(proof.expect("the block before")).await;
            assert!(said.contains("every event is proven"), "{said}");
        }
    }
    assert!(run > 15, "{run} blocks of {PLUGIN}");
    assert_eq!(unused, Vec::<&str>::new(), "no block names it any more");
}
