//! The unix socket the host connects to, and TLS on each connection.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::Error;
use super::host_link::{ConnectionGuard, HostLink};
use super::tls::MutualTls;
use crate::tasks::Tasks;

/// How long a connection may take to prove who it is.
const TLS_DEADLINE: Duration = Duration::from_secs(10);
/// Connections that may be proving who they are at the same time. One more costs the oldest: a
/// queue of silent ones must not keep the host waiting.
const MAX_UNPROVEN: usize = 64;
/// Pause after a failed accept, which means that this process has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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

    /// Accepts for ever and hands out the connections that proved to be the host's.
    ///
    /// Each TLS handshake runs on a task of its own with a deadline, so a peer that is silent or
    /// talks nonsense keeps nobody else waiting. At most 64 of them run.
    pub(super) fn accept(
        self,
        tls: &MutualTls,
        link: &HostLink,
        tasks: &Tasks,
    ) -> ReceiverStream<io::Result<HostStream>> {
        let (ready, connections) = mpsc::channel(1);
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.server));
        let (link, tasks) = (link.clone(), tasks.clone());
        tasks.clone().spawn(async move {
            let stopping = tasks.cancelled();
            let Self { socket, file } = self;
            let mut unproven = VecDeque::new();
            loop {
                let accepted = tokio::select! {
                    () = stopping.cancelled() => break,
                    accepted = socket.accept() => accepted,
                };
                match accepted {
                    Ok((stream, _)) => {
                        let (acceptor, link) = (acceptor.clone(), link.clone());
                        let ready = ready.clone();
                        make_room(&mut unproven);
                        unproven.push_back(tasks.spawn(async move {
                            if let Some(stream) = handshake(&acceptor, stream, &link).await {
                                // Fails only if the server has ended already.
                                let _ = ready.send(Ok(stream)).await;
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
            for handshake in unproven {
                handshake.abort();
            }
        });
        ReceiverStream::new(connections)
    }
}

/// Forgets the handshakes that ended and, if that is not enough, aborts the oldest.
fn make_room(unproven: &mut VecDeque<JoinHandle<()>>) {
    unproven.retain(|handshake| !handshake.is_finished());
    if unproven.len() >= MAX_UNPROVEN
        && let Some(oldest) = unproven.pop_front()
    {
        oldest.abort();
        tracing::warn!("dropped a connection because too many did not say who they are");
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: UnixStream,
    link: &HostLink,
) -> Option<HostStream> {
    match tokio::time::timeout(TLS_DEADLINE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => Some(HostStream {
            tls: Box::new(tls),
            _open: link.connection_opened(),
        }),
        Ok(Err(error)) => {
            tracing::warn!(%error, "refused a connection that is not the host's");
            None
        }
        Err(_) => {
            tracing::warn!("dropped a connection that did not speak in time");
            None
        }
    }
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

/// A connection that proved to be the host's.
#[derive(Debug)]
pub(super) struct HostStream {
    tls: Box<TlsStream<UnixStream>>,
    _open: ConnectionGuard,
}

impl Connected for HostStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for HostStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
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
