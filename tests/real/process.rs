//! The processes of a server: its own, under a shell that watches over it, and the plugins.
//!
//! The shell waits for the end of its own standard input: when this process ends, however it ends,
//! the shell kills the server and removes its folders.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A server that was told to stop has ended after so long, or never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills the server at the end of the input and tidies up; a line names another signal, after
/// which the folders stay for the next start.
const GUARD: &str = r#"
trap '' INT
folder=$1
sockets=$2
shift 2
cd "$folder"
"$@" </dev/null >>"$folder/server.log" 2>&1 &
server=$!
echo "$server"
if read -r signal; then
  kill -s "$signal" "$server"
  wait "$server" 2>/dev/null
else
  kill -s KILL "$server"
  wait "$server" 2>/dev/null
  cd /
  rm -rf "$folder" "$sockets"
fi
"#;

/// A server's process with its guard.
#[derive(Debug)]
pub(super) struct Process {
    guard: Child,
    input: Option<ChildStdin>,
    server: u32,
}

impl Process {
    /// Starts `program` as a server in `folder`, which has its configuration, with `sockets` for
    /// its temporary files.
    pub(super) fn start(program: &Path, folder: &Path, sockets: &Path) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .args([folder, sockets, program])
            .args(["server", "-config"])
            .arg(folder.join("server.hcl"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder)
            .env("TMPDIR", sockets)
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

    pub(super) fn runs(&self) -> bool {
        runs(self.server)
    }

    /// The server's living children.
    pub(super) fn children(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        processes
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .filter(|pid| parent(*pid) == Some(self.server))
            .collect()
    }

    /// Sends `signal` and waits for the end; the folder stays.
    pub(super) fn stop(mut self, signal: &str) {
        let mut input = self.input.take().unwrap();
        writeln!(input, "{signal}").unwrap();
        let (ended, wait) = mpsc::channel();
        std::thread::spawn(move || ended.send(self.guard.wait()));
        match wait.recv_timeout(PATIENCE) {
            Ok(status) => drop(status.unwrap()),
            Err(_) => panic!("the server did not end within {PATIENCE:?} after SIG{signal}"),
        }
    }

    /// Kills the server and removes its folder.
    pub(super) fn end(mut self) {
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

/// The file that a process was started from; `None` if it ended.
pub(super) fn program(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}
