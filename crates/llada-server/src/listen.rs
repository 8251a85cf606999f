//! Sockets: connections that can neither stall the server nor pile up, and an orderly end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

use crate::app::App;

/// Longest head of a request.
const HEAD_BYTES: usize = 64 << 10;
/// After this much silence a peer is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Connections that may wait to be accepted; the system may allow fewer. A client beyond them tries
/// again after a whole second.
const BACKLOG: i32 = 4096;
/// How long to wait where the system has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long ended requests have to say so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until `stop` is ready, then lets requests go on for the grace that the configuration gives.
pub(crate) async fn serve(app: App, listener: TcpListener, stop: impl Future<Output = ()>) {
    let router = app.router();
    // Not needed: the listener has a shorter queue already.
    let _ = SockRef::from(&listener).listen(BACKLOG);
    let connections = Arc::new(Semaphore::new(app.config().connections));
    let graceful = GracefulShutdown::new();
    let accept = async {
        loop {
            let permit = connections.clone().acquire_owned().await;
            let stream = accept(&listener).await;
            let stall_timeout = app.config().stall_timeout;
            let connection = connection(stream, router.clone(), stall_timeout);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // A connection that breaks concerns nobody else.
                let _ = connection.await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    drop(listener);
    tracing::info!("stopping");
    app.drain();
    let ended = graceful.shutdown();
    tokio::pin!(ended);
    if timeout(app.config().shutdown_grace, &mut ended)
        .await
        .is_err()
    {
        app.give_up();
        let _ = timeout(LAST_WORDS, ended).await;
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type Io = TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>;

fn connection(
    stream: TcpStream,
    router: Router,
    stall_timeout: Duration,
) -> http1::Connection<Io, TowerToHyperService<Router>> {
    // Both make a connection better and neither is needed for it.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(stall_timeout));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(stall_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        )
}
