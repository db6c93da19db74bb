//! The work on monoio over io_uring. It has no channels between threads; tokio's work with its wakers.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use monoio::net::udp::UdpSocket;
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};
use tokio::sync::mpsc;

use super::Figures;
use super::peer::{EchoJob, STOP_BYTES};
use super::tokio::{answer_all, ask_all, finish_fan_in, receive_all, send_all};
use super::wake::Task;
use super::work::{
    DATAGRAM_BYTES, ECHO_TASKS, PRODUCERS, Places, QUEUE_LEN, Spent, Timed, all_timers, join, pin,
    thread_time, timer_rounds,
};

fn runtime(cpu: Option<usize>) -> anyhow::Result<Runtime<TimeDriver<IoUringDriver>>> {
    pin(cpu)?;
    RuntimeBuilder::<IoUringDriver>::new().enable_timer().build().context("monoio does not start")
}

pub(super) fn echo(job: EchoJob) -> anyhow::Result<Spent> {
    if job.trains {
        bail!("no UDP control messages, so neither GSO nor GRO");
    }
    runtime(job.cpu)?.block_on(async move {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0")?);
        job.bound.send(socket.local_addr()?)?;
        let start = Instant::now();
        let cpu = thread_time()?;
        let tasks: Vec<_> = (0..ECHO_TASKS).map(|_| monoio::spawn(echo_one(Rc::clone(&socket)))).collect();
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
    let mut buffer = Vec::with_capacity(DATAGRAM_BYTES * 2);
    loop {
        let (received, back) = socket.recv_from(buffer).await;
        let (len, source) = received?;
        if len == STOP_BYTES {
            return Ok(datagrams);
        }
        let (sent, back) = socket.send_to(back, source).await;
        sent?;
        datagrams += 1;
        buffer = back;
        buffer.clear();
    }
}

pub(super) fn timers(places: Places, duration: Duration) -> anyhow::Result<Timed> {
    let sleep_until = |at| monoio::time::sleep_until(monoio::time::Instant::from_std(at));
    let task = |seed| monoio::spawn(timer_rounds(duration, seed, sleep_until));
    runtime(places.tested)?.block_on(all_timers(task))
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
