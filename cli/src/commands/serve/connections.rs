//! Connections, each served for itself: so many at once, and each with a time
//! within which a request has to begin. It knows no paths.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::geteuid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once, by each way.
const CONNECTIONS: usize = 128;
/// Time for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 64 << 10;
/// A pause when no connection can be accepted, for there are too many files open.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves this user and root at a Unix socket, for ever.
pub async fn unix(listener: UnixListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = place(&places).await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = stream.peer_cred().map(|peer| peer.uid());
                if peer.is_ok_and(|uid| uid == 0 || uid == geteuid().as_raw()) {
                    tokio::spawn(serve(stream, router.clone(), place));
                }
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Serves all who come to an address, for ever.
pub async fn tcp(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = place(&places).await;
        match listener.accept().await {
            Ok((stream, _)) => {
                // Lines are small and shall be seen at once.
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, router.clone(), place));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // Fails for a closed semaphore only.
    places.clone().acquire_owned().await.ok()
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    _place: Option<OwnedSemaphorePermit>,
) {
    let service = TowerToHyperService::new(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away is no news.
    let _ = served.await;
}
