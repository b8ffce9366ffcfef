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
//! - A late answer may also come while a dial counts. Then two doors are open, the stream may be
//!   behind either, and the certificate is the same behind both. So no stream is sent while more
//!   than one door is known to be open, and one is dropped if another door's answer came before
//!   the handshake ended; then all of it is done anew, a few times at most.
//! - A number whose knock was not answered is not knocked again until the answer comes: go-plugin
//!   drops knocks on doors it has taken away without a word, and each would cost all others five
//!   seconds.
//!
//! What remains: a host opens a door before it says so. If a knock was given up, and its door opens
//! while a later dial counts, and the host says so only after that dial's handshake, then nothing
//! tells the two doors apart, and the stream may be behind the wrong one. For that a host must be
//! late by more than six seconds and then overtake its own answer. Who uses the storage behind the
//! door can tell: one that keeps its mount's identifier in it notices another mount's before it reads
//! a secret or writes anything.
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
/// How often a dial is made before it fails because other doors open next to its own.
const DIALS: usize = 3;
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
    /// Each time the host opened another door as well, for a knock it had left unanswered.
    #[error(
        "the host opened connection {0} together with another, so what is behind it is not certain; try again, and reload the plugin if this lasts"
    )]
    Crossed(u32),
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
        let opened = answer.is_ok();
        let mut doors = self.doors();
        let knocked = doors.knocked.take_if(|(knocked, _)| *knocked == id);
        let knocking = knocked.is_some();
        // One that waits takes its place back under the same lock.
        let awaited = knocked.is_some_and(|(_, waiting)| waiting.send(answer).is_ok());
        if awaited {
            doors.owed += usize::from(opened);
        } else if (doors.unanswered.remove(&id) || knocking) && opened {
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
        for _ in 1..DIALS {
            match self.connect_once(id).await {
                Err(KnockError::Crossed(_)) => {}
                connected => return connected,
            }
        }
        self.connect_once(id).await
    }

    async fn connect_once(&self, id: u32) -> Result<TlsStream<Transport>, KnockError> {
        if self.doors().in_doubt {
            self.settle(id).await?;
        }
        self.doors().in_doubt = true;
        let entered = self.enter(id).await;
        let mut doors = self.doors();
        // An answer that came late in the meantime leaves everything in doubt.
        match entered {
            Ok(_) if doors.owed > 0 => Err(KnockError::Crossed(id)),
            Ok(_) | Err(KnockError::Refused { .. }) => {
                doors.in_doubt = doors.owed > 0;
                entered
            }
            failed => failed,
        }
    }

    /// Makes sure that no door is open: by a dial that does not count, because its stream may come
    /// out anywhere, and one more for each answer that comes late.
    async fn settle(&self, id: u32) -> Result<(), KnockError> {
        tracing::warn!("making sure that no earlier connection to the host is left half open");
        self.walk_in_for_nothing(id).await?;
        self.knock_until_open(id).await?;
        let end = Instant::now() + SETTLE;
        loop {
            self.walk_in_for_nothing(id).await?;
            if timeout_at(end, self.late.notified()).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Gives every door that is known to be open its stream.
    async fn walk_in_for_nothing(&self, id: u32) -> Result<(), KnockError> {
        while self.doors().owed > 0 {
            drop(self.walk_in(id).await?);
        }
        Ok(())
    }

    async fn enter(&self, id: u32) -> Result<TlsStream<Transport>, KnockError> {
        self.knock_until_open(id).await?;
        if self.doors().owed != 1 {
            return Err(KnockError::Crossed(id));
        }
        self.walk_in(id).await
    }

    async fn knock_until_open(&self, id: u32) -> Result<(), KnockError> {
        let mut refusals = 0;
        loop {
            let Err(reason) = self.knock(id).await? else {
                return Ok(());
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
        let exchanged = timeout(STEP, exchange).await;
        if let Ok(Some(answer)) = exchanged {
            return Ok(answer);
        }
        let mut doors = self.doors();
        doors.knocked = None;
        // It may have come in the last instant.
        if let Ok(answer) = answer.try_recv() {
            return Ok(answer);
        }
        if exchanged.is_ok() {
            return Err(gone);
        }
        doors.unanswered.insert(id);
        Err(KnockError::Unanswered(id))
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

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED: Knock = Knock {
        knock: true,
        ack: true,
        error: String::new(),
    };

    fn knocker() -> Knocker {
        let tls = MutualTls::new(vec![0].into()).unwrap();
        let tasks = Tasks::new();
        Knocker::new(tls, Mux::new(&tasks), tasks)
    }

    #[tokio::test]
    async fn a_knock_that_was_not_sent_is_answered_by_nobody() {
        let knocker = knocker();
        drop(knocker.stream_opened());
        let knocked = knocker.knock(1).await;
        assert!(matches!(knocked, Err(KnockError::NoSession(1))));
        knocker.answered(1, &OPENED);
        assert_eq!(knocker.doors().owed, 0, "no door asked for a stream");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_nobody_waits_for_is_late() {
        let knocker = knocker();
        let mut sent = knocker.stream_opened();
        // The dial is dropped between its knock and the answer.
        tokio::select! {
            _ = knocker.knock(1) => panic!("nobody answered"),
            _ = sent.recv() => {}
        }
        knocker.answered(1, &OPENED);
        assert_eq!(knocker.doors().owed, 1);
        assert!(knocker.doors().in_doubt);
    }
}
