//! The host's half of one socket for all connections.
//!
//! Does as go-plugin does: one raw connection, ever; a yamux client on it; a listener for each
//! number that takes the session's next stream, whichever that is, once somebody knocked. So a
//! plugin that lets two doors be open at once meets the wrong one here as well.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use vault_plugin_secrets_smtp::proto::plugin::ConnInfo;
use vault_plugin_secrets_smtp::proto::plugin::conn_info::Knock;
use vault_plugin_secrets_smtp::tasks::Tasks;

/// A stream of the session.
pub type MuxStream = Compat<yamux::Stream>;

/// How the host answers a knock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// At once.
    #[default]
    Prompt,
    /// It opens and says so only when [`HostMux::answer_late`] is called.
    Late,
    /// At once; but before it answers the knock that is the so-manieth of all, it opens the doors
    /// whose knocks were not answered, and says so.
    LateBefore(usize),
    /// It opens no door.
    Refuse,
}

/// The session. Clones share it.
#[derive(Clone)]
pub struct HostMux {
    orders: mpsc::Sender<oneshot::Sender<MuxStream>>,
    inbound: Arc<tokio::sync::Mutex<mpsc::Receiver<MuxStream>>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    doors: BTreeMap<u32, mpsc::UnboundedSender<()>>,
    manner: Manner,
    unanswered: Vec<u32>,
    knocks: Vec<u32>,
}

impl HostMux {
    /// Connects; the session ends with `tasks`.
    pub async fn connect(socket: &Path, tasks: &Tasks) -> Self {
        let raw = UnixStream::connect(socket).await.unwrap();
        let (orders, mut wanted) = mpsc::channel::<oneshot::Sender<MuxStream>>(1);
        let (arrived, inbound) = mpsc::channel(256);
        let stop = tasks.cancelled();
        tasks.spawn(async move {
            let config = yamux::Config::default();
            let mut session = yamux::Connection::new(raw.compat(), config, yamux::Mode::Client);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    stream = poll_fn(|cx| session.poll_next_inbound(cx)) => match stream {
                        Some(Ok(stream)) => arrived.send(stream.compat()).await.unwrap(),
                        _ => return,
                    },
                    Some(order) = wanted.recv() => {
                        let opened = poll_fn(|cx| session.poll_new_outbound(cx)).await;
                        let _ = order.send(opened.unwrap().compat());
                    }
                }
            }
        });
        Self {
            orders,
            inbound: Arc::new(tokio::sync::Mutex::new(inbound)),
            state: Arc::default(),
        }
    }

    /// Opens a stream to the plugin's server.
    pub async fn dial(&self) -> std::io::Result<MuxStream> {
        let (order, opened) = oneshot::channel();
        let gone = || std::io::ErrorKind::NotConnected.into();
        self.orders.send(order).await.ok().ok_or_else(gone)?;
        opened.await.ok().ok_or_else(gone)
    }

    /// Makes a door for a number.
    pub fn door(&self, id: u32) -> Door {
        let (open, opened) = mpsc::unbounded_channel();
        self.state().doors.insert(id, open);
        Door {
            opened: tokio::sync::Mutex::new(opened),
            inbound: Arc::clone(&self.inbound),
        }
    }

    /// Takes a knock and returns the answers there are now.
    pub fn knocked(&self, info: &ConnInfo) -> Vec<ConnInfo> {
        assert!(info.knock.as_ref().is_some_and(|it| it.knock && !it.ack));
        let id = info.service_id;
        let mut state = self.state();
        state.knocks.push(id);
        match state.manner {
            Manner::Prompt => open(&state, id).into_iter().collect(),
            Manner::Refuse => vec![answer(id, "the door is locked")],
            Manner::Late => {
                state.unanswered.push(id);
                Vec::new()
            }
            Manner::LateBefore(knocks) => {
                let late = if state.knocks.len() == knocks {
                    std::mem::take(&mut state.unanswered)
                } else {
                    Vec::new()
                };
                let ids = late.into_iter().chain([id]);
                ids.filter_map(|id| open(&state, id)).collect()
            }
        }
    }

    /// Opens the doors whose knocks were not answered, and returns the answers.
    pub fn answer_late(&self) -> Vec<ConnInfo> {
        let mut state = self.state();
        let ids = std::mem::take(&mut state.unanswered);
        ids.into_iter().filter_map(|id| open(&state, id)).collect()
    }

    /// Answers from now on like this.
    pub fn set_manner(&self, manner: Manner) {
        self.state().manner = manner;
    }

    /// Returns the numbers that were knocked on.
    pub fn knocks(&self) -> Vec<u32> {
        self.state().knocks.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Opens a door. Nobody listens for knocks on one that is not there, so nobody answers.
fn open(state: &State, id: u32) -> Option<ConnInfo> {
    state.doors.get(&id)?.send(()).ok()?;
    Some(answer(id, ""))
}

fn answer(id: u32, error: &str) -> ConnInfo {
    ConnInfo {
        service_id: id,
        knock: Some(Knock {
            knock: true,
            ack: true,
            error: error.to_owned(),
        }),
        ..ConnInfo::default()
    }
}

/// Where connections for one number come in.
pub struct Door {
    opened: tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>,
    inbound: Arc<tokio::sync::Mutex<mpsc::Receiver<MuxStream>>>,
}

impl Door {
    /// Waits until it is opened, then for the session's next stream.
    pub async fn accept(&self) -> Option<MuxStream> {
        self.opened.lock().await.recv().await?;
        self.inbound.lock().await.recv().await
    }
}
