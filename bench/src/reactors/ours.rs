//! The work on our own reactor: datagrams in place, mailboxes between cores.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use sluice_core::mailbox::{Delivery, MeshEnd, mesh};
use sluice_core::udp::{SendBuffer, SendMeta, UdpSocket};
use sluice_core::{CoreId, IoChoice, Reactor, ReactorConfig, sleep, sleep_until};

use super::Figures;
use super::peer::{EchoJob, STOP_BYTES};
use super::wake::Task;
use super::work::{
    PRODUCERS, Places, QUEUE_LEN, Spent, Timed, all_timers, histogram, join, nanos, thread_time, timer_rounds,
};

/// The core under test; the others drive it.
const TESTED: CoreId = CoreId::new(0);

fn reactor(io: IoChoice, core: CoreId, cpu: Option<usize>) -> anyhow::Result<Reactor> {
    Ok(Reactor::new(ReactorConfig { cpu, io: Some(io), ..ReactorConfig::new(core) })?)
}

pub(super) fn echo(io: IoChoice, job: EchoJob) -> anyhow::Result<Spent> {
    let reactor = reactor(io, TESTED, job.cpu)?;
    reactor.block_on(async move {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        job.bound.send(socket.local_addr()?)?;
        let socket = UdpSocket::new(Arc::new(OwnedFd::from(socket)))?;
        let mut datagrams = 0;
        let start = Instant::now();
        let cpu = thread_time()?;
        loop {
            poll_fn(|cx| socket.poll_arrived(cx)).await;
            loop {
                let mut buffer = SendBuffer::acquire().context("more in flight than the window")?;
                let arrived = socket.with_arrived(|meta, bytes| {
                    buffer.bytes().extend_from_slice(bytes);
                    *meta
                });
                let Some(meta) = arrived else { break };
                let meta = meta.context("an unreadable datagram")?;
                let len = buffer.bytes().len();
                if len == STOP_BYTES {
                    return Spent::since(datagrams, start, cpu);
                }
                datagrams += len.div_ceil(meta.segment.max(1)) as u64;
                let segment = if len > meta.segment { Some(u16::try_from(meta.segment)?) } else { None };
                buffer
                    .send(socket.fd(), &SendMeta { destination: meta.source, source: None, ecn: 0, segment });
            }
        }
    })?
}

pub(super) fn timers(io: IoChoice, places: Places, duration: Duration) -> anyhow::Result<Timed> {
    let task = move |seed| sluice_core::spawn(timer_rounds(duration, seed, sleep_until));
    reactor(io, TESTED, places.tested)?.block_on(async move { all_timers(task).await })?
}

pub(super) fn block_on_wait(
    io: IoChoice,
    places: Places,
    task: Task,
) -> anyhow::Result<(Spent, Histogram<u64>)> {
    reactor(io, TESTED, places.tested)?.block_on(task.run())?
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

pub(super) fn ping_pong(io: IoChoice, duration: Duration, places: Places) -> anyhow::Result<Figures> {
    let mut ends = mesh::<u64, u64>(2, QUEUE_LEN);
    let (driver, tested) = (ends.pop().context("two ends")?, ends.pop().context("two ends")?);
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let answering = std::thread::spawn(move || {
        reactor(io, CoreId::new(1), places.driver)?.block_on(async move {
            let cpu = thread_time()?;
            let start = Instant::now();
            let _mesh = driver.attach(Arc::default(), |delivery| {
                let Delivery { body, reply, .. } = delivery;
                if let Some(reply) = reply {
                    reply.send(body + 1);
                }
            });
            while !is_over.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(20)).await;
            }
            Spent::since(0, start, cpu)
        })?
    });
    let asking = std::thread::spawn(move || {
        let result = reactor(io, TESTED, places.tested)?.block_on(async move {
            let mesh = tested.attach(Arc::default(), |_| ());
            let mut latency = histogram();
            let (deadline, mut count) = (far(), 0);
            let cpu = thread_time()?;
            let start = Instant::now();
            while start.elapsed() < duration {
                let sent = Instant::now();
                let call = mesh.call(CoreId::new(1), deadline, count);
                let answer = call.map_err(|_| anyhow!("the lane is full"))?.await?;
                anyhow::ensure!(answer == count + 1, "the answer to another question");
                latency.saturating_record(nanos(sent.elapsed()));
                count = answer;
            }
            Ok((Spent::since(count, start, cpu)?, latency))
        });
        over.store(true, Ordering::Relaxed);
        result?
    });
    let (mut spent, latency) = join(asking)?;
    spent.cpu += join(answering)?.cpu;
    spent.figures(Some(&latency))
}

pub(super) fn fan_in(io: IoChoice, duration: Duration, places: Places) -> anyhow::Result<Figures> {
    let mut ends = mesh::<Option<u64>, ()>(usize::from(PRODUCERS) + 1, QUEUE_LEN).into_iter();
    let tested = ends.next().context("an end a core")?;
    let producers: Vec<_> =
        ends.map(|end| std::thread::spawn(move || produce(io, end, duration, places))).collect();
    let receiving = std::thread::spawn(move || receive(io, tested, places));
    let spent = join(receiving)?;
    let mut sent = 0;
    for producer in producers {
        sent += join(producer)?;
    }
    anyhow::ensure!(sent == spent.units, "{sent} messages sent, {} received", spent.units);
    spent.figures(None)
}

fn receive(io: IoChoice, end: MeshEnd<Option<u64>, ()>, places: Places) -> anyhow::Result<Spent> {
    reactor(io, TESTED, places.tested)?.block_on(async move {
        let (finish, finished) = mpsc::channel();
        let counted = std::rc::Rc::new(std::cell::Cell::new(0u64));
        let count = std::rc::Rc::clone(&counted);
        let cpu = thread_time()?;
        let start = Instant::now();
        let _mesh = end.attach(Arc::default(), move |delivery| match delivery.body {
            Some(_) => count.set(count.get() + 1),
            None => _ = finish.send(()),
        });
        for _ in 0..PRODUCERS {
            // What arrives is counted as it does; this only waits for the ends.
            while finished.try_recv().is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        }
        Spent::since(counted.get(), start, cpu)
    })?
}

fn produce(
    io: IoChoice,
    end: MeshEnd<Option<u64>, ()>,
    duration: Duration,
    places: Places,
) -> anyhow::Result<u64> {
    reactor(io, end.core(), places.driver)?.block_on(async move {
        let mesh = end.attach(Arc::default(), |_| ());
        let (deadline, mut sent) = (far(), 0);
        let start = Instant::now();
        while start.elapsed() < duration {
            // A full lane gives the message back: that is the end of this turn's share.
            while sent % 256 != 255 && mesh.send(TESTED, deadline, Some(sent)).is_ok() {
                sent += 1;
            }
            if mesh.send(TESTED, deadline, Some(sent)).is_ok() {
                sent += 1;
                sluice_core::quiesce().await;
            } else {
                sleep(Duration::from_micros(100)).await;
            }
        }
        while mesh.send(TESTED, deadline, None).is_err() {
            sleep(Duration::from_millis(1)).await;
        }
        // The last turn's messages are announced at its end.
        sleep(Duration::from_millis(1)).await;
        Ok(sent)
    })?
}
