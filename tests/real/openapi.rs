//! The OpenAPI document as the host merges it: it validates, and a stock generator makes a client
//! of it that works.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::harness::tests;
use super::rig::Rig;

tests! {
    a_generated_client_reads_and_rotates,
}

async fn a_generated_client_reads_and_rotates() {
    let packages = std::env::var_os("SMTP_TEST_OPENAPI").unwrap_or_else(|| {
        panic!(
            "SMTP_TEST_OPENAPI does not name the folder with the OpenAPI tools. Run \
             ./scripts/test, which installs them and sets the variable."
        )
    });
    let rig = Rig::shared("generated").await;
    rig.create("acme").await;
    let first = rig.password("acme").await;
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/openapi.py");
    let mut python = Command::new("python3");
    python
        .arg(program)
        .args([rig.api.address(), &rig.mount])
        .arg(folder.path())
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let token = format!("{}\n", rig.api.token());
    // The stand-in lives on this thread, and must answer meanwhile.
    let run = tokio::task::spawn_blocking(move || {
        let mut child = python.spawn().expect("python3");
        let mut input = child.stdin.take().unwrap();
        input.write_all(token.as_bytes()).unwrap();
        drop(input);
        child.wait_with_output().unwrap()
    });
    let output = run.await.unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{failed}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["before"], first.as_str());
    let second = rig.password("acme").await;
    assert_eq!(told["after"], second.as_str());
    rig.assert_live(&second).await;
    rig.assert_dead(&first).await;
    rig.assert_nothing_leaked();
}
