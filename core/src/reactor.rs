//! The loop of one core.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::CoreId;
use crate::error::{EnterError, SetupError};
use crate::executor::{self, Tasks, spawn_on, with_inner};
use crate::io::{Backend as _, Io, IoBackend, IoChoice};
use crate::remote::{self, REACTORS_MAX, Remote, RemoteWaker};
use crate::stall::StallDetector;
use crate::stats::CoreStats;
use crate::timer::TimerWheel;

/// Polls before a turn enters the kernel even though tasks are still ready, so
/// that a task that always wakes itself cannot keep completions waiting.
const TURN_POLLS_MAX: usize = 4096;

/// How a reactor is made.
#[derive(Debug, Clone)]
pub struct ReactorConfig {
    /// Which core this is; for logs and metrics.
    pub core: CoreId,
    /// CPU to pin the calling thread to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Where the core counts; share it with whoever renders metrics.
    pub stats: Arc<CoreStats>,
    /// How to do I/O; `None` leaves it to the environment variable `SLUICE_IO`
    /// ([`IoChoice::from_environment`]), which is how the tests run on both
    /// backends.
    pub io: Option<IoChoice>,
}

impl ReactorConfig {
    /// A reactor that is not pinned, with counters of its own.
    pub fn new(core: CoreId) -> Self {
        Self { core, cpu: None, stats: Arc::default(), io: None }
    }
}

/// Something that takes part in every turn, such as a set of mailboxes.
pub trait TurnHook {
    /// Start of the turn: take in what has arrived.
    fn poll(&self);
    /// Whether something waits to be taken in, asked before the core sleeps.
    fn has_pending(&self) -> bool;
    /// End of the turn: pass on what was gathered, wake others.
    fn flush(&self);
}

pub(crate) struct Inner {
    pub(crate) number: u8,
    pub(crate) tasks: Tasks,
    pub(crate) timers: RefCell<TimerWheel<Waker>>,
    pub(crate) io: RefCell<Io>,
    pub(crate) stats: Arc<CoreStats>,
    stalls: RefCell<StallDetector>,
    now: Cell<Instant>,
    remote: Arc<Remote>,
    hooks: RefCell<Vec<Rc<dyn TurnHook>>>,
    woken: RefCell<Vec<usize>>,
}

impl Inner {
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    fn take_inbound(&self) {
        self.io.borrow_mut().reap();
        let mut woken = self.woken.borrow_mut();
        self.remote.take_woken(&mut woken);
        self.stats.wakes_foreign.add(woken.len() as u64);
        for word in woken.drain(..) {
            self.tasks.wake(remote::task_of(word));
        }
        drop(woken);
        self.each_hook(|hook| hook.poll());
        self.timers.borrow_mut().advance(self.now(), Waker::wake);
    }

    /// Hooks are few and may be added while they run.
    fn each_hook(&self, f: impl Fn(&dyn TurnHook)) {
        let mut index = 0;
        loop {
            let Some(hook) = self.hooks.borrow().get(index).cloned() else { break };
            f(&*hook);
            index += 1;
        }
    }

    fn has_pending(&self) -> bool {
        self.tasks.has_ready()
            || self.remote.has_woken()
            || self.hooks.borrow().iter().any(|hook| hook.has_pending())
    }

    /// One turn. The last one, when `is_done` says so after the tasks have
    /// run, submits what they left but does not wait.
    fn turn(&self, is_done: impl Fn() -> bool) -> Result<(), EnterError> {
        self.stalls.borrow_mut().begin(self.now());
        self.take_inbound();
        self.stats.turns.add(1);
        self.stats.polls.add(self.tasks.run(self.number, TURN_POLLS_MAX) as u64);
        self.each_hook(|hook| hook.flush());
        let before = Instant::now();
        self.stalls.borrow_mut().end(self.now(), before);
        self.sleep(before, is_done())
    }

    fn sleep(&self, before: Instant, is_done: bool) -> Result<(), EnterError> {
        let next = self.timers.borrow().next_deadline();
        self.remote.park();
        let wait = if is_done || self.has_pending() {
            Some(Duration::ZERO)
        } else {
            next.map(|at| at.saturating_duration_since(before))
        };
        let entered = self.io.borrow_mut().enter(wait);
        self.remote.unpark();
        self.now.set(Instant::now());
        entered
    }
}

/// The reactor of the calling thread. See the crate's documentation.
pub struct Reactor {
    inner: Rc<Inner>,
}

impl Reactor {
    /// Makes a reactor for the calling thread, and pins the thread when asked.
    ///
    /// # Errors
    /// When the host does not allow the I/O that is asked for; each error says
    /// what to change.
    pub fn new(config: ReactorConfig) -> Result<Self, SetupError> {
        if let Some(cpu) = config.cpu {
            pin(cpu).map_err(|source| SetupError::Pin { cpu, source })?;
        }
        let remote = Arc::new(Remote::new().map_err(|source| SetupError::Wake { source })?);
        let choice = config.io.map_or_else(IoChoice::from_environment, Ok)?;
        let io = Io::new(choice, remote.eventfd(), Arc::clone(&config.stats))?;
        let number = remote::register(&remote).ok_or(SetupError::TooMany { max: REACTORS_MAX })?;
        let now = Instant::now();
        let inner = Rc::new(Inner {
            number,
            tasks: Tasks::default(),
            timers: RefCell::new(TimerWheel::new(now)),
            io: RefCell::new(io),
            stalls: RefCell::new(StallDetector::new(config.core, Arc::clone(&config.stats))),
            stats: config.stats,
            now: Cell::new(now),
            remote,
            hooks: RefCell::default(),
            woken: RefCell::default(),
        });
        Ok(Self { inner })
    }

    /// The I/O backend this reactor got.
    pub fn io(&self) -> IoBackend {
        self.inner.io.borrow().backend()
    }

    /// Ends this core's sleep from another thread.
    pub fn remote_waker(&self) -> RemoteWaker {
        RemoteWaker(Arc::clone(&self.inner.remote))
    }

    /// Runs the loop until `future` is done. Tasks that are not done stay, and
    /// go on with the next call.
    ///
    /// # Errors
    /// When the kernel refuses to wait for events.
    ///
    /// # Panics
    /// When a reactor already runs on this thread, or a task panics.
    pub fn block_on<F: Future + 'static>(&self, future: F) -> Result<F::Output, EnterError> {
        let _guard = executor::enter(&self.inner);
        self.inner.now.set(Instant::now());
        self.inner.stalls.borrow_mut().enter_thread();
        let handle = spawn_on(&self.inner, future);
        let output = loop {
            if let Err(error) = self.inner.turn(|| handle.is_finished()) {
                break Err(error);
            }
            if let Some(output) = handle.take() {
                break Ok(output);
            }
        };
        self.inner.stalls.borrow_mut().leave_thread();
        output
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // Futures are dropped within the reactor, so that they can cancel.
        let _guard = executor::enter(&self.inner);
        self.inner.tasks.clear();
        self.inner.hooks.borrow_mut().clear();
        remote::unregister(self.inner.number);
    }
}

/// Adds something that takes part in every turn of the current reactor.
pub fn add_turn_hook(hook: Rc<dyn TurnHook>) {
    with_inner(|inner| inner.hooks.borrow_mut().push(hook));
}

/// Ends the current core's sleep, from any thread it is sent to.
pub fn remote_waker() -> RemoteWaker {
    with_inner(|inner| RemoteWaker(Arc::clone(&inner.remote)))
}

fn pin(cpu: usize) -> std::io::Result<()> {
    // SAFETY: a zeroed cpu_set_t is the empty set; CPU_SET checks its bounds, and
    // the set outlives the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{op, quiesce, sleep, sleep_until, spawn, timeout_at, yield_now};
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    fn reactor() -> Reactor {
        Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap()
    }

    fn pipe() -> (Rc<OwnedFd>, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Rc::new(OwnedFd::from(reader)), writer)
    }

    #[test]
    fn tasks_run_and_give_back_their_output() {
        let sum = reactor()
            .block_on(async {
                let parts: Vec<_> = (1..=10)
                    .map(|n| {
                        spawn(async move {
                            yield_now().await;
                            n
                        })
                    })
                    .collect();
                let mut sum = 0;
                for part in parts {
                    sum += part.await;
                }
                sum
            })
            .unwrap();
        assert_eq!(sum, 55);
    }

    #[test]
    fn quiesce_resumes_after_every_ready_task() {
        let order = reactor()
            .block_on(async {
                let order = Rc::new(RefCell::new(vec![]));
                let early = Rc::clone(&order);
                let waiting = spawn(async move {
                    quiesce().await;
                    early.borrow_mut().push("end");
                });
                let late = Rc::clone(&order);
                spawn(async move {
                    for _ in 0..3 {
                        yield_now().await;
                    }
                    late.borrow_mut().push("work");
                });
                waiting.await;
                Rc::try_unwrap(order).unwrap().into_inner()
            })
            .unwrap();
        assert_eq!(order, ["work", "end"]);
    }

    #[test]
    fn timers_fire_in_order_of_their_deadlines() {
        let order = reactor()
            .block_on(async {
                let order = Rc::new(RefCell::new(vec![]));
                let start = crate::now();
                let tasks: Vec<_> = [9u64, 3, 6]
                    .into_iter()
                    .map(|ms| {
                        let order = Rc::clone(&order);
                        spawn(async move {
                            sleep_until(start + Duration::from_millis(ms)).await;
                            assert!(crate::now() >= start + Duration::from_millis(ms), "fired early");
                            order.borrow_mut().push(ms);
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await;
                }
                order.take()
            })
            .unwrap();
        assert_eq!(order, [3, 6, 9]);
    }

    #[test]
    fn a_deadline_ends_what_never_finishes() {
        let result = reactor()
            .block_on(async {
                let deadline = crate::now() + Duration::from_millis(2);
                timeout_at(deadline, std::future::pending::<()>()).await
            })
            .unwrap();
        assert_eq!(result, Err(crate::Elapsed));
    }

    #[test]
    fn a_dropped_sleep_leaves_no_timer() {
        let reactor = reactor();
        reactor
            .block_on(async {
                let deadline = crate::now() + Duration::from_secs(3600);
                assert_eq!(timeout_at(deadline, async { 7 }).await, Ok(7));
                let _ =
                    timeout_at(crate::now() + Duration::from_millis(1), sleep(Duration::from_secs(9))).await;
            })
            .unwrap();
        assert!(reactor.inner.timers.borrow().is_empty());
    }

    #[test]
    fn a_wake_from_another_thread_reaches_a_sleeping_core() {
        struct Shared {
            done: AtomicBool,
            waker: std::sync::Mutex<Option<Waker>>,
        }
        let shared = Arc::new(Shared { done: AtomicBool::new(false), waker: std::sync::Mutex::default() });
        let (tell, told) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            told.recv().unwrap();
            theirs.done.store(true, Ordering::SeqCst);
            if let Some(waker) = theirs.waker.lock().unwrap().take() {
                waker.wake();
            }
        });
        reactor()
            .block_on(std::future::poll_fn(move |cx| {
                *shared.waker.lock().unwrap() = Some(cx.waker().clone());
                if shared.done.load(Ordering::SeqCst) {
                    return std::task::Poll::Ready(());
                }
                let _ = tell.send(());
                std::task::Poll::Pending
            }))
            .unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn wakers_may_outlive_their_reactor() {
        let waker = reactor()
            .block_on(std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())))
            .unwrap();
        waker.wake_by_ref();
        drop(waker);
    }

    #[test]
    fn a_read_returns_its_buffer_and_the_bytes() {
        use std::io::Write as _;
        let (reader, mut writer) = pipe();
        writer.write_all(b"hello").unwrap();
        let (result, buffer) = reactor().block_on(op::read(reader, vec![0; 16])).unwrap();
        assert_eq!(result.unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
    }

    #[test]
    fn a_failed_operation_reports_the_error() {
        let file = Rc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
        let (result, buffer) = reactor().block_on(op::read(file, vec![0; 4])).unwrap();
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EISDIR));
        assert_eq!(buffer.len(), 4);
    }

    #[test]
    fn a_read_of_an_empty_pipe_waits_for_its_writer() {
        use std::io::Write as _;
        let (reader, mut writer) = pipe();
        let bytes = reactor()
            .block_on(async move {
                let read = spawn(op::read(reader, vec![0; 16]));
                sleep(Duration::from_millis(1)).await;
                assert!(!read.is_finished());
                writer.write_all(b"late").unwrap();
                let (result, buffer) = read.await;
                buffer[..result.unwrap()].to_vec()
            })
            .unwrap();
        assert_eq!(bytes, b"late");
    }

    #[test]
    fn a_write_to_a_full_pipe_waits_for_room_and_not_on_the_core() {
        use std::io::{Read as _, Write as _};
        /// What a pipe holds unless told otherwise.
        const PIPE_BYTES: usize = 65_536;
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[0; PIPE_BYTES]).unwrap();
        reactor()
            .block_on(async move {
                let write = spawn(op::write(Rc::new(writer.into()), vec![7; 10]));
                sleep(Duration::from_millis(1)).await;
                assert!(!write.is_finished());
                reader.read_exact(&mut vec![0; PIPE_BYTES]).unwrap();
                assert_eq!(write.await.0.unwrap(), 10);
                let mut last = [0; 10];
                reader.read_exact(&mut last).unwrap();
                assert_eq!(last, [7; 10]);
            })
            .unwrap();
    }

    #[test]
    fn a_file_is_written_and_read_back() {
        use std::io::Seek as _;
        let mut file = tempfile::tempfile().unwrap();
        let fd = || Rc::new(OwnedFd::from(file.try_clone().unwrap()));
        let reactor = reactor();
        let (written, bytes) = reactor.block_on(op::write(fd(), vec![9; 10_000])).unwrap();
        assert_eq!(written.unwrap(), bytes.len());
        let again = fd();
        file.rewind().unwrap();
        let (read, back) = reactor.block_on(op::read(again, vec![0; 20_000])).unwrap();
        assert_eq!(back[..read.unwrap()], bytes);
    }

    struct Watched {
        bytes: Vec<u8>,
        freed: Rc<Cell<bool>>,
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.freed.set(true);
        }
    }

    // SAFETY: delegates to a vector's heap memory, which does not move.
    unsafe impl op::StableBuffer for Watched {
        fn as_mut_ptr(&mut self) -> *mut u8 {
            self.bytes.as_mut_ptr()
        }
        fn len(&self) -> usize {
            self.bytes.len()
        }
    }

    #[test]
    fn a_dropped_future_never_frees_a_buffer_the_kernel_holds() {
        let reactor = reactor();
        let freed = Rc::new(Cell::new(false));
        let (reader, mut writer) = pipe();
        let buffer = Watched { bytes: vec![0; 64], freed: Rc::clone(&freed) };
        let seen = Rc::clone(&freed);
        let io = reactor.io();
        reactor
            .block_on(async move {
                let mut read = Box::pin(op::read(reader, buffer));
                // Started and submitted: the kernel now holds the buffer.
                let past = crate::now() + Duration::from_millis(2);
                assert!(timeout_at(past, &mut read).await.is_err());
                drop(read);
                if io == IoBackend::Uring {
                    assert!(!seen.get(), "freed while the kernel may still write to it");
                }
                // Once the kernel has answered the cancellation, it goes; with
                // epoll the kernel holds nothing, and it may go at once.
                for _ in 0..1000 {
                    if seen.get() {
                        break;
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                assert!(seen.get(), "never given back");
            })
            .unwrap();
        assert_eq!(reactor.inner.io.borrow().ops_held(), 0);
        use std::io::Write as _;
        // The reading end closed with the buffer: nobody reads any more.
        assert!(writer.write_all(b"late").is_err());
    }

    #[test]
    fn dropping_the_reactor_gives_back_what_was_in_flight() {
        let freed = Rc::new(Cell::new(false));
        let (reader, _writer) = pipe();
        let buffer = Watched { bytes: vec![0; 64], freed: Rc::clone(&freed) };
        let reactor = reactor();
        let stats = Arc::clone(&reactor.inner.stats);
        reactor
            .block_on(async move {
                spawn(op::read(reader, buffer));
                sleep(Duration::from_millis(1)).await;
            })
            .unwrap();
        assert!(!freed.get());
        drop(reactor);
        assert!(freed.get());
        assert_eq!(stats.buffers_leaked.get(), 0);
    }

    #[test]
    fn a_long_turn_is_counted_as_a_stall() {
        let reactor = reactor();
        reactor
            .block_on(async {
                // Blocking on purpose: this is what the detector is for.
                std::thread::sleep(Duration::from_millis(3));
                yield_now().await;
            })
            .unwrap();
        assert!(reactor.inner.stats.stalls.get() >= 1);
        assert!(reactor.inner.stats.stall_longest_us.get() >= 3000);
    }

    #[test]
    fn finished_tasks_leave_no_trace() {
        let reactor = reactor();
        reactor
            .block_on(async {
                for _ in 0..100 {
                    spawn(async {}).await;
                }
            })
            .unwrap();
        assert_eq!(reactor.inner.tasks.len(), 0);
    }
}
