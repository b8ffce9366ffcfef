//! Connections into a host whose connections all share one socket: knock, wait, walk in.
//!
//! Such a host opens a door for number *n* when it is told "knock *n*" on the broker stream, says so,
//! and gives the next stream of the session to whoever waits behind that door. Nothing in the stream
//! itself says where it belongs, and behind each door is the storage of another mount. So a stream
//! must never meet two open doors, and that is harder than go-plugin has it: its dialler lets go
//! after five seconds, and between the stream's start and its arrival. Here:
//!
//! - One dial runs at a time, from the knock to the end of the TLS handshake: then the stream
//!   certainly has its place. It runs on a task, so nobody who loses patience can cut it half-way.
//! - After a dial that ended any other way than that or by a refusal, a door may still be open, now
//!   or later. Before the next dial counts, it is made once for nothing, and answers that come late
//!   are waited for and given a stream each, closed at once.
//! - A number whose knock was not answered is not knocked again until the answer comes: go-plugin
//!   drops knocks on doors it has taken away without a word, and each would cost all others five
//!   seconds.
//!
//! Source: go-plugin `grpc_broker.go` (`knock`, `muxDial`, `listenForKnocks`),
//! `internal/grpcmux/blocked_client_listener.go`.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::host_stream::Transport;
use super::mux::Mux;
use super::tls::MutualTls;
use crate::proto::plugin::ConnInfo;
use crate::proto::plugin::conn_info::Knock;
use crate::tasks::Tasks;

/// How long a host may take to answer a knock, and again for its side of the TLS handshake.
const STEP: Duration = Duration::from_secs(5);
/// How long late answers are waited for once a later knock was answered: the host has read the
/// earlier ones by then, and what is left is the scheduling of its threads.
const SETTLE: Duration = Duration::from_secs(1);
/// Knocks on one door before a refusal is believed, and the pause between them. A go-plugin host
/// listens for knocks an instant before the door is there, and refuses in between.
const KNOCKS: usize = 4;
/// See [`KNOCKS`].
const PAUSE: Duration = Duration::from_millis(50);
/// Longest text of a refusal that is kept, in characters.
const MAX_REASON: usize = 256;

/// Why nobody opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KnockError {
    /// The host has not opened the broker stream, or the session or this process is ending.
    #[error(
        "there is no session with the host to make connection {0} in; it is ending, or reload the plugin"
    )]
    NoSession(u32),
    /// The host refused.
    #[error(
        "the host refused connection {id}: {reason:?}; reload the plugin, so that its mounts are set up anew"
    )]
    Refused {
        /// The connection's number.
        id: u32,
        /// What the host said.
        reason: String,
    },
    /// The host did not answer, now or the last time, and may have taken the door away.
    #[error(
        "the host did not answer the knock for connection {0} within 5 s; reload the plugin, so that its mounts are set up anew"
    )]
    Unanswered(u32),
    /// The host answered, but there was no TLS handshake.
    #[error("the host opened connection {id}, but the TLS handshake failed: {reason}")]
    Tls {
        /// The connection's number.
        id: u32,
        /// What went wrong.
        reason: String,
    },
}

/// Dials by knocking. Clones share one queue.
#[derive(Clone, Debug)]
pub(super) struct Knocker {
    tls: MutualTls,
    mux: Mux,
    tasks: Tasks,
    /// Where knocks are sent: the plugin's half of the broker stream, once there is one.
    knocks: watch::Sender<Option<mpsc::Sender<ConnInfo>>>,
    doors: Arc<Mutex<Doors>>,
    /// Held by the one dial under way.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Told of late answers.
    late: Arc<Notify>,
}

/// What is known of the host's doors.
#[derive(Debug, Default)]
struct Doors {
    /// The knock under way.
    knocked: Option<(u32, oneshot::Sender<Result<(), String>>)>,
    /// Numbers whose knock was given up.
    unanswered: BTreeSet<u32>,
    /// Doors that were opened and have not been sent a stream.
    owed: usize,
    /// A door may be open that nobody walked through.
    in_doubt: bool,
}

impl Knocker {
    pub(super) fn new(tls: MutualTls, mux: Mux, tasks: Tasks) -> Self {
        Self {
            tls,
            mux,
            tasks,
            knocks: watch::Sender::new(None),
            doors: Arc::default(),
            turn: Arc::default(),
            late: Arc::default(),
        }
    }

    /// Begins to send knocks on a new broker stream.
    pub(super) fn stream_opened(&self) -> mpsc::Receiver<ConnInfo> {
        let (knocks, outbound) = mpsc::channel(1);
        self.knocks.send_replace(Some(knocks));
        outbound
    }

    /// Takes an answer to a knock.
    pub(super) fn answered(&self, id: u32, knock: &Knock) {
        let answer = if !knock.error.is_empty() {
            Err(knock.error.chars().take(MAX_REASON).collect())
        } else if knock.knock && knock.ack {
            Ok(())
        } else {
            Err(String::from("no acknowledgement"))
        };
        let mut doors = self.doors();
        let opened = answer.is_ok();
        if let Some((_, waiting)) = doors.knocked.take_if(|(knocked, _)| *knocked == id) {
            doors.owed += usize::from(opened);
            // It waits: it takes its place back under the same lock.
            let _ = waiting.send(answer);
        } else if doors.unanswered.remove(&id) && opened {
            doors.owed += 1;
            doors.in_doubt = true;
            self.late.notify_one();
        }
    }

    /// Connects to what is behind door `id`, after those who came before.
    ///
    /// # Cancel safety
    ///
    /// A dial that is under way ends in good order, and what it made is dropped.
    pub(super) async fn dial(&self, id: u32) -> Result<TlsStream<Transport>, KnockError> {
        let (answer, dialled) = oneshot::channel();
        let (this, stopping) = (self.clone(), self.tasks.cancelled());
        self.tasks.spawn(async move {
            let work = async {
                let _turn = this.turn.lock().await;
                if !answer.is_closed() {
                    let _ = answer.send(this.connect(id).await);
                }
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = work => {}
            }
        });
        dialled
            .await
            .unwrap_or_else(|_stopped| Err(KnockError::NoSession(id)))
    }

    async fn connect(&self, id: u32) -> Result<TlsStream<Transport>, KnockError> {
        if self.doors().unanswered.contains(&id) {
            return Err(KnockError::Unanswered(id));
        }
        if self.doors().in_doubt {
            self.settle(id).await?;
        }
        self.doors().in_doubt = true;
        let entered = self.enter(id).await;
        // An answer that came late in the meantime leaves everything in doubt.
        let mut doors = self.doors();
        if matches!(entered, Ok(_) | Err(KnockError::Refused { .. })) && doors.owed == 0 {
            doors.in_doubt = false;
        }
        drop(doors);
        entered
    }

    /// Makes sure that no door is open: by a dial that does not count, because its stream may come
    /// out anywhere, and one more for each answer that comes late.
    async fn settle(&self, id: u32) -> Result<(), KnockError> {
        tracing::warn!("making sure that no earlier connection to the host is left half open");
        drop(self.enter(id).await?);
        let end = Instant::now() + SETTLE;
        loop {
            while self.doors().owed > 0 {
                drop(self.walk_in(id).await?);
            }
            if timeout_at(end, self.late.notified()).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn enter(&self, id: u32) -> Result<TlsStream<Transport>, KnockError> {
        let mut refusals = 0;
        loop {
            let Err(reason) = self.knock(id).await? else {
                return self.walk_in(id).await;
            };
            refusals += 1;
            if refusals == KNOCKS {
                return Err(KnockError::Refused { id, reason });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Knocks and returns the host's answer.
    async fn knock(&self, id: u32) -> Result<Result<(), String>, KnockError> {
        let gone = KnockError::NoSession(id);
        // A host may open the broker stream after the call that makes this necessary.
        let mut stream = self.knocks.subscribe();
        let opened = timeout(STEP, stream.wait_for(Option::is_some)).await;
        let opened = opened.ok().and_then(Result::ok);
        let Some(knocks) = opened.and_then(|sender| sender.clone()) else {
            return Err(gone);
        };
        let knock = ConnInfo {
            service_id: id,
            knock: Some(Knock {
                knock: true,
                ..Knock::default()
            }),
            ..ConnInfo::default()
        };
        let (waiting, mut answer) = oneshot::channel();
        self.doors().knocked = Some((id, waiting));
        let exchange = async {
            knocks.send(knock).await.ok()?;
            (&mut answer).await.ok()
        };
        if let Ok(answer) = timeout(STEP, exchange).await {
            return answer.ok_or(gone);
        }
        let mut doors = self.doors();
        doors.knocked = None;
        // It may have come in the last instant.
        answer.try_recv().map_err(|_empty| {
            doors.unanswered.insert(id);
            KnockError::Unanswered(id)
        })
    }

    /// Opens the stream the host gives to the open door, and proves both sides on it.
    async fn walk_in(&self, id: u32) -> Result<TlsStream<Transport>, KnockError> {
        let connect = async {
            let mut stream = self.mux.open().await.ok_or(KnockError::NoSession(id))?;
            let handshake = async {
                // Nothing, but with the announcement of the stream: from here on the host sees one.
                let _ = stream.write(&[]).await?;
                self.sent_one();
                TlsConnector::from(Arc::clone(&self.tls.client))
                    .connect(self.tls.server_name.clone(), stream)
                    .await
            };
            handshake.await.map_err(|error| tls_failed(id, &error))
        };
        timeout(STEP, connect)
            .await
            .unwrap_or_else(|_| Err(tls_failed(id, &io::ErrorKind::TimedOut.into())))
    }

    fn sent_one(&self) {
        let mut doors = self.doors();
        doors.owed = doors.owed.saturating_sub(1);
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        // No field depends on another in a way that a panic between two changes could break.
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls_failed(id: u32, error: &io::Error) -> KnockError {
    KnockError::Tls {
        id,
        reason: error.to_string(),
    }
}
