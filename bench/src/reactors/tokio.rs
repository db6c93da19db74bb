//! The work on a current_thread runtime of tokio, with its own channels and, for UDP, quinn-udp as quinn uses
//! it: recvmmsg of 32, GRO and GSO.

use std::io::IoSliceMut;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, unconstrained};

use super::Figures;
use super::peer::{EchoJob, STOP_BYTES};
use super::wake::Task;
use super::work::{
    DATAGRAM_BYTES, PRODUCERS, Places, QUEUE_LEN, Spent, Timed, all_timers, histogram, join, nanos, pin,
    thread_time, timer_rounds,
};

fn runtime(cpu: Option<usize>) -> anyhow::Result<Runtime> {
    pin(cpu)?;
    Ok(Builder::new_current_thread().enable_all().build()?)
}

pub(super) fn echo(job: EchoJob) -> anyhow::Result<Spent> {
    runtime(job.cpu)?.block_on(async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let state = UdpSocketState::new((&socket).into())?;
        job.bound.send(socket.local_addr()?)?;
        // As large as a datagram, or as a whole train.
        let bytes = if job.trains { 64 * 1024 } else { DATAGRAM_BYTES * 2 };
        let mut buffers = vec![vec![0u8; bytes]; BATCH_SIZE];
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut datagrams = 0;
        let start = Instant::now();
        let cpu = thread_time()?;
        loop {
            socket.readable().await?;
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let received =
                socket.try_io(Interest::READABLE, || state.recv((&socket).into(), &mut slices, &mut metas));
            let count = match received {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            drop(slices);
            for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
                if meta.len == STOP_BYTES {
                    return Spent::since(datagrams, start, cpu);
                }
                let transmit = Transmit {
                    destination: meta.addr,
                    ecn: None,
                    contents: &buffer[..meta.len],
                    segment_size: (meta.len > meta.stride).then_some(meta.stride),
                    src_ip: None,
                };
                while let Err(error) =
                    socket.try_io(Interest::WRITABLE, || state.try_send((&socket).into(), &transmit))
                {
                    anyhow::ensure!(error.kind() == std::io::ErrorKind::WouldBlock, error);
                    socket.writable().await?;
                }
                datagrams += meta.len.div_ceil(meta.stride.max(1)) as u64;
            }
        }
    })
}

pub(super) fn timers(places: Places, duration: Duration) -> anyhow::Result<Timed> {
    let sleep_until = |at: Instant| tokio::time::sleep_until(at.into());
    // Without the budget that would make a task's polls pend after 128 of them.
    let task = |seed| {
        let task = tokio::task::spawn_local(unconstrained(timer_rounds(duration, seed, sleep_until)));
        async move { task.await.expect("the task does not panic") }
    };
    runtime(places.tested)?.block_on(LocalSet::new().run_until(all_timers(task)))
}

pub(super) fn block_on_wait(places: Places, task: Task) -> anyhow::Result<(Spent, Histogram<u64>)> {
    runtime(places.tested)?.block_on(task.run())
}

pub(super) fn ping_pong(duration: Duration, places: Places) -> anyhow::Result<Figures> {
    let (ask, asked) = mpsc::channel(QUEUE_LEN);
    let (answer, answered) = mpsc::channel(QUEUE_LEN);
    let answering = std::thread::spawn(move || runtime(places.driver)?.block_on(answer_all(asked, answer)));
    let asking =
        std::thread::spawn(move || runtime(places.tested)?.block_on(ask_all(duration, ask, answered)));
    let (mut spent, latency) = join(asking)?;
    spent.cpu += join(answering)?.cpu;
    spent.figures(Some(&latency))
}

/// One side of the ping-pong, on channels that work with any runtime.
pub(super) async fn answer_all(
    mut asked: mpsc::Receiver<u64>,
    answer: mpsc::Sender<u64>,
) -> anyhow::Result<Spent> {
    let cpu = thread_time()?;
    let start = Instant::now();
    while let Some(count) = asked.recv().await {
        answer.send(count + 1).await?;
    }
    Spent::since(0, start, cpu)
}

/// The other side.
pub(super) async fn ask_all(
    duration: Duration,
    ask: mpsc::Sender<u64>,
    mut answered: mpsc::Receiver<u64>,
) -> anyhow::Result<(Spent, Histogram<u64>)> {
    let mut latency = histogram();
    let mut count = 0;
    let cpu = thread_time()?;
    let start = Instant::now();
    while start.elapsed() < duration {
        let sent = Instant::now();
        ask.send(count).await?;
        let answer = answered.recv().await.context("the other side is gone")?;
        anyhow::ensure!(answer == count + 1, "the answer to another question");
        latency.saturating_record(nanos(sent.elapsed()));
        count = answer;
    }
    Ok((Spent::since(count, start, cpu)?, latency))
}

pub(super) fn fan_in(duration: Duration, places: Places) -> anyhow::Result<Figures> {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|_| {
            let sender = sender.clone();
            std::thread::spawn(move || runtime(places.driver)?.block_on(send_all(duration, sender)))
        })
        .collect();
    drop(sender);
    let receiving = std::thread::spawn(move || runtime(places.tested)?.block_on(receive_all(receiver)));
    finish_fan_in(receiving, producers)
}

pub(super) async fn send_all(duration: Duration, sender: mpsc::Sender<u64>) -> anyhow::Result<u64> {
    let mut sent = 0;
    let start = Instant::now();
    while sent % 256 != 0 || start.elapsed() < duration {
        sender.send(sent).await?;
        sent += 1;
    }
    Ok(sent)
}

pub(super) async fn receive_all(mut receiver: mpsc::Receiver<u64>) -> anyhow::Result<Spent> {
    let mut received = 0;
    let cpu = thread_time()?;
    let start = Instant::now();
    while receiver.recv().await.is_some() {
        received += 1;
    }
    Spent::since(received, start, cpu)
}

pub(super) fn finish_fan_in(
    receiving: std::thread::JoinHandle<anyhow::Result<Spent>>,
    producers: Vec<std::thread::JoinHandle<anyhow::Result<u64>>>,
) -> anyhow::Result<Figures> {
    let spent = join(receiving)?;
    let mut sent = 0;
    for producer in producers {
        sent += join(producer)?;
    }
    anyhow::ensure!(sent == spent.units, "{sent} messages sent, {} received", spent.units);
    spent.figures(None)
}
