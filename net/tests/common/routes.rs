//! What the services of the tests do alike, whichever way requests come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sluice_core::spawn;
use sluice_net::{Admit, Answer, Request, Responder};
use sluice_protocols::http::Response;
use tokio::sync::Semaphore;

/// What a test and the routes know of each other.
#[derive(Clone)]
pub(crate) struct Shared {
    /// `/held`, `/quiet`, `/unread` and `/stall` wait for a permit of it.
    pub(crate) gate: Arc<Semaphore>,
    /// Bytes that `/endless` could write.
    pub(crate) written: Arc<AtomicU64>,
    /// Bodies whose clients went.
    pub(crate) gone: Arc<AtomicU64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), written: Arc::default(), gone: Arc::default() }
    }
}

/// Routes whose body comes in pieces.
pub(crate) fn admit(path: &str, bytes_max: usize) -> Option<Admit> {
    matches!(path, "/piped" | "/unread").then_some(Admit::Stream { bytes_max })
}

impl Shared {
    /// `/held` answers `held` when it may, `/drop` nothing, `/empty` nothing but a
    /// status, `/invalid` a field that cannot be sent, `/piped` what it is sent, as
    /// it comes, `/endless` without end, `/broken` breaks off, `/quiet` waits in
    /// its midst, `/unread` before it reads, `/stall` keeps its whole core waiting.
    /// Other requests are given back.
    pub(crate) fn call(
        &self,
        request: Request,
        respond: Responder,
        held: impl FnOnce(&Request) -> Response,
    ) -> Option<(Request, Responder)> {
        match request.head.path() {
            "/held" => {
                let (gate, held) = (Arc::clone(&self.gate), held(&request));
                spawn(async move {
                    gate.acquire_owned().await.expect("never closed").forget();
                    respond.send(held);
                });
            }
            "/stall" => {
                while self.gate.try_acquire().map(|permit| permit.forget()).is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                respond.send(Response::new(204));
            }
            "/piped" => {
                let body = request.stream.expect("admitted so");
                respond.answer(Answer::Streamed(Response::new(200), body));
            }
            "/endless" => {
                let (written, gone) = (Arc::clone(&self.written), Arc::clone(&self.gone));
                let mut writer = respond.stream(Response::new(200));
                spawn(async move {
                    while writer.send(Bytes::from_static(&[7; 10_000])).await.is_ok() {
                        written.fetch_add(10_000, Ordering::Relaxed);
                    }
                    gone.fetch_add(1, Ordering::Relaxed);
                });
            }
            "/broken" => {
                let mut writer = respond.stream(Response::new(200));
                spawn(async move { writer.send(Bytes::from_static(b"half")).await });
            }
            "/quiet" => {
                let (gate, gone) = (Arc::clone(&self.gate), Arc::clone(&self.gone));
                let mut writer = respond.stream(Response::new(200));
                spawn(async move {
                    let _ = writer.send(Bytes::from_static(b"first")).await;
                    tokio::select! {
                        permit = gate.acquire_owned() => permit.expect("never closed").forget(),
                        () = writer.gone() => {
                            gone.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                    }
                    let _ = writer.send(Bytes::from_static(b"last")).await;
                    writer.finish();
                });
            }
            "/unread" => {
                let (gate, mut body) = (Arc::clone(&self.gate), request.stream.expect("admitted so"));
                spawn(async move {
                    gate.acquire_owned().await.expect("never closed").forget();
                    let mut length = 0;
                    while let Some(piece) = body.next().await {
                        match piece {
                            Ok(piece) => length += piece.len(),
                            Err(error) => return respond.send(Response::new(error.status())),
                        }
                    }
                    respond.send(Response::new(200).json(&length));
                });
            }
            "/empty" => respond.send(Response::new(204)),
            "/invalid" => respond.send(Response::new(200).with_field("x", "line\nbreak")),
            "/drop" => drop(respond),
            _ => return Some((request, respond)),
        }
        None
    }
}
