//! One TCP connection to a host that may have several addresses.
//!
//! An address that does not answer must not keep the others from being tried: a host whose IPv6
//! leads nowhere is the common case. The next one is begun when the one before has failed, or has
//! had its time; whichever answers first is used. Source: RFC 8305, section 5.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

use super::Fault;

/// How long an address has before the next one is tried beside it. Source: RFC 8305, section 8.
const NEXT: Duration = Duration::from_millis(250);

/// Connects to one of the addresses, which were checked; `limit` is for all of them together.
///
/// # Errors
///
/// [`Fault::Unreachable`] if none of them answers.
///
/// # Cancel safety
///
/// Dropping the future closes what was begun.
pub(crate) async fn connect(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, Fault> {
    let any = first(addresses, TcpStream::connect);
    match tokio::time::timeout(limit, any).await {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) | Err(_) => Err(Fault::Unreachable),
    }
}

/// Returns what answers first; `None` once every address has failed.
async fn first<T, F>(addresses: &[SocketAddr], dial: impl Fn(SocketAddr) -> F) -> Option<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.iter();
    let mut begun = FuturesUnordered::new();
    loop {
        let last = match waiting.next() {
            Some(address) => {
                begun.push(dial(*address));
                false
            }
            None => true,
        };
        tokio::select! {
            biased;
            ended = begun.next() => match ended {
                Some(Ok(stream)) => return Some(stream),
                Some(Err(_text_of_the_system)) => {}
                // Nothing is under way and nothing is left.
                None => return None,
            },
            () = tokio::time::sleep(NEXT), if !last => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        let port = |port| SocketAddr::from(([10, 0, 0, 1], port));
        (1..=count).map(port).collect()
    }

    /// What an address does: nothing, fail, or answer after so many milliseconds.
    #[derive(Clone, Copy)]
    enum Does {
        Hangs,
        Fails,
        Answers(u64),
    }

    /// Dials addresses that do so; returns who answered, after how many milliseconds, and who was
    /// dialled.
    async fn dial(does: &[Does]) -> (Option<u16>, u128, Vec<u16>) {
        let begin = Instant::now();
        let dialled = Mutex::new(Vec::new());
        let addresses = addresses(u16::try_from(does.len()).unwrap());
        let answered = first(&addresses, |address| {
            let port = address.port();
            dialled.lock().unwrap().push(port);
            let does = does[usize::from(port) - 1];
            async move {
                match does {
                    Does::Hangs => std::future::pending().await,
                    Does::Fails => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                    Does::Answers(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        Ok(port)
                    }
                }
            }
        });
        let limit = Duration::from_secs(10);
        let answered = tokio::time::timeout(limit, answered).await.unwrap_or(None);
        let after = begin.elapsed().as_millis();
        (answered, after, dialled.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_hangs_or_fails_keeps_no_other_from_being_tried() {
        use Does::{Answers, Fails, Hangs};
        for (does, answered, after, dialled) in [
            (&[Answers(0)][..], Some(1), 0, 1),
            (&[Hangs, Answers(0)], Some(2), 250, 2),
            (&[Hangs, Hangs, Answers(10)], Some(3), 510, 3),
            (&[Fails, Answers(0)], Some(2), 0, 2),
            (&[Fails, Fails, Fails], None, 0, 3),
            (&[Hangs, Fails, Answers(0)], Some(3), 250, 3),
            // A slow one is not given up for the one after it.
            (&[Answers(300), Hangs], Some(1), 300, 2),
            (&[Answers(100), Answers(0)], Some(1), 100, 1),
            (&[Hangs, Hangs], None, 10_000, 2),
            (&[], None, 0, 0),
        ] {
            let (found, time, tried) = dial(does).await;
            assert_eq!((found, time), (answered, after));
            assert_eq!(tried.len(), dialled);
        }
    }

    #[tokio::test]
    async fn a_dead_address_is_passed_over_for_one_that_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let dead = {
            let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        let limit = Duration::from_secs(10);
        let stream = connect(&[dead, alive], limit).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        assert_eq!(
            connect(&[dead], limit).await.unwrap_err(),
            Fault::Unreachable
        );
        assert_eq!(connect(&[], limit).await.unwrap_err(), Fault::Unreachable);
    }
}
