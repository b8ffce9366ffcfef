//! [`Wire`]: a way to the server on which answers can be held back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use vault_plugin_secrets_smtp::tasks::Tasks;

/// Passes connections on to the server.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) address: String,
    state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct State {
    holds: AtomicBool,
    held: Semaphore,
}

impl Wire {
    /// Listens on loopback; `server` is its address, `http://` before it.
    pub(super) async fn to(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(State {
            holds: AtomicBool::new(false),
            held: Semaphore::new(0),
        });
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let (ends, kept) = (stop.clone(), Arc::clone(&state));
        let accept = async move {
            let tasks = Tasks::new();
            while let Ok((client, _)) = listener.accept().await {
                let passing = pass(client, server.clone(), Arc::clone(&kept));
                let ends = ends.clone();
                tasks.spawn(async move { ends.run_until_cancelled(passing).await });
            }
        };
        let ends = stop.clone();
        Tasks::new().spawn(async move { ends.run_until_cancelled(accept).await });
        Self {
            address,
            state,
            _stop: stop.drop_guard(),
        }
    }

    /// Answers that hold an event reach nobody from now on, or do again.
    pub(super) fn hold(&self, holds: bool) {
        self.state.holds.store(holds, Ordering::SeqCst);
    }

    /// Waits until an answer was held back since the last time.
    pub(super) async fn wait_held(&self) {
        let held = timeout(Duration::from_secs(120), self.state.held.acquire()).await;
        let held = held.expect("an answer is held back within half a minute");
        held.unwrap().forget();
    }
}

async fn pass(client: TcpStream, server: String, state: Arc<State>) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let answers = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from_server.read(&mut bytes).await?;
            if count == 0 {
                return to_client.shutdown().await;
            }
            let answer = &bytes[..count];
            let event = answer.windows(8).any(|window| window == b"event_id");
            if event && state.holds.load(Ordering::SeqCst) {
                state.held.add_permits(1);
            } else {
                to_client.write_all(answer).await?;
            }
        }
    };
    tokio::try_join!(requests, answers).map(drop)
}
