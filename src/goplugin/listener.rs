//! The unix socket the host connects to.
//!
//! Whoever may open it may connect to it, without proving anything, as often as they like. They
//! cannot get in, but they can be in the way: only so many may be proving who they are at the same
//! time, and one more costs the oldest. Those of this process's parent are counted apart, so no
//! other process can push the host out that way. That takes a host that is seen as the parent: one
//! on the other side of a container is not. There, somebody who is allowed to open the socket and
//! connects faster than the host proves itself keeps the host out, and a host with one socket for
//! all does not try twice. Only the socket's file mode, and its directory's, guard against that.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::either::Either;

use super::Error;
use super::host_stream::Gate;
use super::mux::{self, Mux};
use super::refusals;
use crate::tasks::Tasks;

/// Connections that may be proving who they are at the same time, those of the parent not counted.
/// One more costs the oldest: a queue of silent ones must not keep the host waiting.
const MAX_UNPROVEN: usize = 64;
/// Pause after a failed accept, which means that this process has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest path of a socket in bytes: `sun_path` of `unix(7)` without its final zero.
const MAX_PATH: usize = 107;
/// The file with the names of groups.
const GROUP_FILE: &str = "/etc/group";

/// A bound socket; its file is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    file: SocketFile,
}

impl Listener {
    /// Binds a socket with a random name in `dir`: for this user only, or for `group` as well.
    ///
    /// Source: go-plugin `server.go` (`serverListener_unix`).
    pub(super) fn bind(dir: &Path, group: Option<&str>, name: [u8; 8]) -> Result<Self, Error> {
        let path = dir.join(format!("plugin-{}.sock", hex::encode(name)));
        if path.as_os_str().as_bytes().len() > MAX_PATH {
            return Err(Error::SocketPath(path));
        }
        let failed = |source| Error::Socket {
            path: path.clone(),
            source,
        };
        let group = group.map(group_id).transpose()?;
        let socket = UnixListener::bind(&path).map_err(failed)?;
        let file = SocketFile(path.clone());
        if group.is_some() {
            std::os::unix::fs::chown(&path, None, group).map_err(failed)?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Self { socket, file })
    }

    /// Returns where the socket is.
    pub(super) fn path(&self) -> &Path {
        &self.file.0
    }

    /// Accepts until the tasks are stopped; what proves to be the host's goes through `gate`, on a
    /// socket each or, with `mux`, as streams of one.
    ///
    /// Each proof runs on a task of its own with a deadline, so a peer that is silent or talks
    /// nonsense keeps nobody else waiting, and a bounded number of them runs.
    pub(super) fn accept(self, gate: Gate, mux: Option<Mux>, tasks: &Tasks) {
        let most = mux.as_ref().map_or(MAX_UNPROVEN, |_| mux::MAX_UNPROVEN);
        let stopping = tasks.cancelled();
        let proofs = tasks.clone();
        tasks.spawn(async move {
            let Self { socket, file } = self;
            let mut unproven = Unproven::default();
            let mut reports = tokio::time::interval(refusals::PERIOD);
            loop {
                let accepted = tokio::select! {
                    () = stopping.cancelled() => break,
                    _ = reports.tick() => {
                        gate.report_refusals();
                        continue;
                    }
                    accepted = socket.accept() => accepted,
                };
                match accepted {
                    Ok(_) if mux.as_ref().is_some_and(Mux::is_taken) => {
                        gate.refused("it came next to the host's only one");
                    }
                    Ok((stream, _)) => {
                        let (gate, mux) = (gate.clone(), mux.clone());
                        let queue = unproven.queue(is_parent(&stream));
                        if make_room(queue, most) {
                            gate.refused("too many did not say who they are");
                        }
                        queue.push_back(proofs.spawn(async move {
                            match mux {
                                None => gate.admit(Either::Left(stream)).await,
                                Some(mux) => mux.admit(stream, &gate).await,
                            }
                        }));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            drop(file);
            for proof in unproven.strangers.iter().chain(&unproven.parents) {
                proof.abort();
            }
        });
    }
}

/// The proofs under way, the oldest first.
#[derive(Debug, Default)]
struct Unproven {
    strangers: VecDeque<JoinHandle<()>>,
    parents: VecDeque<JoinHandle<()>>,
}

impl Unproven {
    fn queue(&mut self, of_parent: bool) -> &mut VecDeque<JoinHandle<()>> {
        if of_parent {
            &mut self.parents
        } else {
            &mut self.strangers
        }
    }
}

/// Reports whether the peer is seen to be the process that started this one. It proves nothing.
fn is_parent(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    // Zero is anybody outside this process's container.
    peer.and_then(|pid| u32::try_from(pid).ok())
        .is_some_and(|pid| pid != 0 && pid == std::os::unix::process::parent_id())
}

/// Forgets the proofs that ended and, if that is not enough, aborts the oldest. Reports whether it
/// had to.
fn make_room(unproven: &mut VecDeque<JoinHandle<()>>, most: usize) -> bool {
    unproven.retain(|proof| !proof.is_finished());
    if unproven.len() < most {
        return false;
    }
    if let Some(oldest) = unproven.pop_front() {
        oldest.abort();
    }
    true
}

/// Finds the number of a group given by number or name.
fn group_id(group: &str) -> Result<u32, Error> {
    let unknown = || Error::UnknownGroup(group.to_owned());
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string(GROUP_FILE).map_err(|source| Error::Socket {
        path: PathBuf::from(GROUP_FILE),
        source,
    })?;
    groups
        .lines()
        .filter_map(|line| {
            let mut columns = line.split(':');
            let name = columns.next()?;
            Some((name, columns.nth(1)?))
        })
        .find(|(name, _)| *name == group)
        .and_then(|(_, number)| number.parse().ok())
        .ok_or_else(unknown)
}

/// The socket's place in the file system, removed on drop.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // There is nobody left to tell if it is gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_this_user_only_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(dir.path(), None, [7; 8]).unwrap();
        let path = listener.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_group_may_connect_if_the_host_names_one() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(dir.path()).unwrap().gid().to_string();
        let listener = Listener::bind(dir.path(), Some(&own), [7; 8]).unwrap();
        let metadata = std::fs::metadata(listener.path()).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o660);
        assert_eq!(metadata.gid().to_string(), own);
    }

    #[tokio::test]
    async fn a_flood_of_strangers_costs_no_proof_of_the_parent() {
        let tasks = Tasks::new();
        let mut unproven = Unproven::default();
        unproven
            .queue(true)
            .push_back(tasks.spawn(std::future::pending()));
        for number in 0..5 {
            let queue = unproven.queue(false);
            assert_eq!(make_room(queue, 2), number >= 2);
            queue.push_back(tasks.spawn(std::future::pending()));
        }
        assert_eq!(unproven.strangers.len(), 2);
        assert!(!make_room(unproven.queue(true), 2));
        assert_eq!(unproven.parents.len(), 1);
        let (own, _) = UnixStream::pair().unwrap();
        assert!(!is_parent(&own), "this process is not its own parent");
    }

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("4711").unwrap(), 4711);
        assert!(matches!(
            group_id("no such group"),
            Err(Error::UnknownGroup(_))
        ));
    }
}
