//! Connections, each served for itself: so many at once, and each with a time
//! within which a request has to begin. Who holds a place and asks nothing
//! that may be asked gives it up when others come. It knows no paths.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::geteuid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Connections at once, by each way.
const CONNECTIONS: usize = 128;
/// Time for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 64 << 10;
/// A pause when no connection can be accepted, for there are too many files open.
const PAUSE: Duration = Duration::from_millis(100);
/// After so many seconds of silence the kernel asks whether a peer is there …
const IDLE: i32 = 60;
/// … and gives it up after three questions with this between them.
const BETWEEN: i32 = 10;

/// Serves this user and root at a Unix socket, for ever.
pub async fn unix(listener: UnixListener, router: Router) {
    let places = Arc::new(Places::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = stream.peer_cred().map(|peer| peer.uid());
                if peer.is_ok_and(|uid| uid == 0 || uid == geteuid().as_raw()) {
                    serve(stream, &router, &places).await;
                }
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Serves all who come to an address, for ever.
pub async fn tcp(listener: TcpListener, router: Router) {
    let places = Arc::new(Places::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Lines are small and shall be seen at once.
                let _ = stream.set_nodelay(true);
                give_up_dead_peers(&stream);
                serve(stream, &router, &places).await;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Who follows may say nothing for ever, and so may a machine that is no more.
fn give_up_dead_peers(stream: &TcpStream) {
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, IDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, BETWEEN),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    ] {
        let size = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the kernel reads an int, which lives until the call has returned.
        // Where it is refused, the connection is served without.
        let _ = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size,
            )
        };
    }
}

/// Serves one, when there is a place for it.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: &Router,
    places: &Arc<Places>,
) {
    let (permit, place) = places.take().await;
    let router = router.clone().layer(Extension(place.clone()));
    let id = place.id;
    let task = tokio::spawn(async move {
        let _held = (permit, place);
        let service = TowerToHyperService::new(router);
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        // A client that goes away is no news.
        let _ = served.await;
    });
    // It has not run yet: this thread is the only one, and has not waited since.
    places.idle().insert(id, task.abort_handle());
}

/// The places of one way.
struct Places {
    free: Arc<Semaphore>,
    /// Connections that have asked for nothing yet, or for what they may not, oldest first.
    idle: Mutex<BTreeMap<u64, AbortHandle>>,
    next: AtomicU64,
}

/// What a connection holds.
pub struct Place {
    id: u64,
    places: Arc<Places>,
}

impl Places {
    fn new() -> Places {
        Places {
            free: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place: if there is none, that of who has held one in vain for longest.
    async fn take(self: &Arc<Places>) -> (Option<OwnedSemaphorePermit>, Arc<Place>) {
        if self.free.available_permits() == 0
            && let Some((_, longest)) = self.idle().pop_first()
        {
            longest.abort();
        }
        // Fails for a closed semaphore only.
        let permit = self.free.clone().acquire_owned().await.ok();
        let place = Place {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            places: self.clone(),
        };
        (permit, Arc::new(place))
    }
}

impl Place {
    /// It is used: nobody takes it away.
    pub fn keep(&self) {
        self.places.idle().remove(&self.id);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keep();
    }
}
