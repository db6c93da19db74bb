//! The work on glommio, with its shared channels.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use glommio::channels::shared_channel::{self, SharedReceiver, SharedSender};
use glommio::net::UdpSocket;
use glommio::timer::Timer;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use hdrhistogram::Histogram;

use super::Figures;
use super::peer::{EchoJob, STOP_BYTES};
use super::tokio::finish_fan_in;
use super::wake::Task;
use super::work::{
    DATAGRAM_BYTES, ECHO_TASKS, PRODUCERS, Places, QUEUE_LEN, Spent, Timed, all_timers, histogram, join,
    nanos, thread_time, timer_rounds,
};

fn executor(cpu: Option<usize>) -> anyhow::Result<LocalExecutor> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    // Its three rings and its registered memory count against the limit of locked memory; the default of
    // 10 MiB is more than many hosts allow.
    LocalExecutorBuilder::new(placement)
        .io_memory(1 << 20)
        .make()
        .map_err(|error| anyhow!("it does not start: {error}"))
}

pub(super) fn echo(job: EchoJob) -> anyhow::Result<Spent> {
    if job.trains {
        bail!("no UDP control messages, so neither GSO nor GRO");
    }
    executor(job.cpu)?.run(async move {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").map_err(|error| anyhow!("bind: {error}"))?);
        job.bound.send(socket.local_addr().map_err(|error| anyhow!("address: {error}"))?)?;
        let start = Instant::now();
        let cpu = thread_time()?;
        let tasks: Vec<_> =
            (0..ECHO_TASKS).map(|_| glommio::spawn_local(echo_one(Rc::clone(&socket)))).collect();
        let mut datagrams = 0;
        for task in tasks {
            datagrams += task.await?;
        }
        Spent::since(datagrams, start, cpu)
    })
}

/// One of several receives that are outstanding at once. Each ends at a stop of its own.
async fn echo_one(socket: Rc<UdpSocket>) -> anyhow::Result<u64> {
    let mut datagrams = 0;
    let mut buffer = vec![0; DATAGRAM_BYTES * 2];
    loop {
        let received = socket.recv_from(&mut buffer).await;
        let (len, source) = received.map_err(|error| anyhow!("receive: {error}"))?;
        if len == STOP_BYTES {
            return Ok(datagrams);
        }
        socket.send_to(&buffer[..len], source).await.map_err(|error| anyhow!("send: {error}"))?;
        datagrams += 1;
    }
}

pub(super) fn timers(places: Places, duration: Duration) -> anyhow::Result<Timed> {
    let sleep_until = |at: Instant| Timer::new(at.saturating_duration_since(Instant::now()));
    let task = |seed| glommio::spawn_local(timer_rounds(duration, seed, sleep_until));
    executor(places.tested)?.run(all_timers(task))
}

pub(super) fn block_on_wait(places: Places, task: Task) -> anyhow::Result<(Spent, Histogram<u64>)> {
    executor(places.tested)?.run(task.run())
}

pub(super) fn ping_pong(duration: Duration, places: Places) -> anyhow::Result<Figures> {
    let (ask, asked) = shared_channel::new_bounded(QUEUE_LEN);
    let (answer, answered) = shared_channel::new_bounded(QUEUE_LEN);
    let answering = std::thread::spawn(move || executor(places.driver)?.run(answer_all(asked, answer)));
    let asking = std::thread::spawn(move || executor(places.tested)?.run(ask_all(duration, ask, answered)));
    let (mut spent, latency) = join(asking)?;
    spent.cpu += join(answering)?.cpu;
    spent.figures(Some(&latency))
}

async fn answer_all(asked: SharedReceiver<u64>, answer: SharedSender<u64>) -> anyhow::Result<Spent> {
    let asked = asked.connect().await;
    let answer = answer.connect().await;
    let cpu = thread_time()?;
    let start = Instant::now();
    while let Some(count) = asked.recv().await {
        answer.send(count + 1).await.map_err(|_| anyhow!("the other side is gone"))?;
    }
    Spent::since(0, start, cpu)
}

async fn ask_all(
    duration: Duration,
    ask: SharedSender<u64>,
    answered: SharedReceiver<u64>,
) -> anyhow::Result<(Spent, Histogram<u64>)> {
    let ask = ask.connect().await;
    let answered = answered.connect().await;
    let mut latency = histogram();
    let mut count = 0;
    let cpu = thread_time()?;
    let start = Instant::now();
    while start.elapsed() < duration {
        let sent = Instant::now();
        ask.send(count).await.map_err(|_| anyhow!("the other side is gone"))?;
        let answer = answered.recv().await.context("the other side is gone")?;
        anyhow::ensure!(answer == count + 1, "the answer to another question");
        latency.saturating_record(nanos(sent.elapsed()));
        count = answer;
    }
    Ok((Spent::since(count, start, cpu)?, latency))
}

pub(super) fn fan_in(duration: Duration, places: Places) -> anyhow::Result<Figures> {
    let (mut producers, mut receivers) = (vec![], vec![]);
    for _ in 0..PRODUCERS {
        // Its channels have one sender, so there is one for each.
        let (sender, receiver) = shared_channel::new_bounded(QUEUE_LEN);
        receivers.push(receiver);
        producers.push(std::thread::spawn(move || executor(places.driver)?.run(send_all(duration, sender))));
    }
    let receiving = std::thread::spawn(move || executor(places.tested)?.run(receive_all(receivers)));
    finish_fan_in(receiving, producers)
}

async fn send_all(duration: Duration, sender: SharedSender<u64>) -> anyhow::Result<u64> {
    let sender = sender.connect().await;
    let mut sent = 0;
    let start = Instant::now();
    while sent % 256 != 0 || start.elapsed() < duration {
        sender.send(sent).await.map_err(|_| anyhow!("the receiver is gone"))?;
        sent += 1;
    }
    Ok(sent)
}

async fn receive_all(receivers: Vec<SharedReceiver<u64>>) -> anyhow::Result<Spent> {
    let cpu = thread_time()?;
    let start = Instant::now();
    let tasks: Vec<_> = receivers
        .into_iter()
        .map(|receiver| {
            glommio::spawn_local(async move {
                let receiver = receiver.connect().await;
                let mut received = 0;
                while receiver.recv().await.is_some() {
                    received += 1;
                }
                received
            })
        })
        .collect();
    let mut received = 0;
    for task in tasks {
        received += task.await;
    }
    Spent::since(received, start, cpu)
}
