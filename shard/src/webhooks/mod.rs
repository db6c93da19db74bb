//! Tells users' webhooks what happens, by Standard Webhooks 1.0.0.
//!
//! ```text
//! something ends -> one message for each webhook that asked for it, in the batch that makes the end durable
//!                -> queue (by time; bounds for core, user and receiver) -> sign -> egress pool: one attempt
//!                -> taken: message away | failed: message anew, not before | given up: message away; each with what came
//!                   of the attempt, in one batch
//! restart:       scan webhooks and pending messages of every owned shard -> index, queue
//! ```
//! Invariants:
//! - a message stands on disk from the moment of what it tells of until it was taken by its receiver or given up, and the
//!   end of each is counted: so each is sent at least once, and now and then twice (a crash between an answer and its
//!   entry on disk);
//! - id and body of a message are the same each time it is sent;
//! - messages are made, attempts are begun, and attempts are remembered within stated bounds; what is over one is counted;
//! - whoever changes a user's webhooks has their turn ([`Holds`]), so that no two changes cross;
//! - what messages are signed with stands sealed ([`sluice_store::vault`]) and is opened for each attempt.

mod config;
mod deliver;
mod index;
mod log;
mod manage;
mod queue;
mod secret;
mod verdict;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use sluice_net::egress::Egress;
use sluice_protocols::api::{EventSet, TaskNotice, WebhookEvent, task_path, webhook_message};
use sluice_protocols::ids::{DeliveryId, ShardId, UserId, WebhookId};
use sluice_protocols::problem::Problem;
use sluice_store::record::{DeliveryRecord, TaskRecord, WebhookRecord};
use sluice_store::{Batch, CoreStore, CoreVault, Key, KeyRange, Kind, ReadError, Value};

pub use config::WebhookConfig;

use crate::clock::{Clock, timestamp_of};
use crate::holds::Holds;
use crate::metrics::CoreMetrics;
use crate::mint::Mint;
use crate::run::{codes, error_of};
use crate::tasks::Backoff;
use index::{Full, Index, Subscription};
use log::Logs;
pub(crate) use manage::{MadeWebhook, attempt_view, event_name, view};
use queue::{Entry, Queue, QueueLimits};
use verdict::Schedule;

/// Rows read at once.
const PAGE_ROWS: usize = 128;
/// How often a drain looks whether the last attempt has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// What webhooks are served with.
pub(crate) struct Means {
    pub(crate) store: CoreStore,
    pub(crate) vault: CoreVault,
    pub(crate) egress: Egress,
    pub(crate) clock: Clock,
    pub(crate) mint: Rc<Mint>,
    pub(crate) metrics: Arc<CoreMetrics>,
}

/// The webhooks of one core's users.
pub(crate) struct Webhooks {
    config: WebhookConfig,
    schedule: Schedule,
    index: RefCell<Index>,
    queue: RefCell<Queue>,
    logs: Logs,
    /// Users whose webhooks are being changed.
    holds: Holds,
    store: CoreStore,
    vault: CoreVault,
    egress: Egress,
    clock: Clock,
    mint: Rc<Mint>,
    metrics: Arc<CoreMetrics>,
    /// When the queue is next looked at, in milliseconds since 1970; `u64::MAX` for never.
    alarm_ms: Cell<u64>,
    is_draining: Cell<bool>,
    /// For those that keep it alive.
    me: Weak<Self>,
}

impl Webhooks {
    pub(crate) fn new(config: &WebhookConfig, means: Means) -> Rc<Self> {
        let Means { store, vault, egress, clock, mint, metrics } = means;
        let limits = QueueLimits {
            running_max: config.running_max,
            running_per_user_max: config.running_per_user_max,
            running_per_place_max: config.running_per_place_max,
        };
        Rc::new_cyclic(|me| Self {
            schedule: Schedule::new(config),
            index: RefCell::new(Index::new(config.pending_max, config.pending_per_user_max)),
            queue: RefCell::new(Queue::new(limits)),
            logs: Logs::new(config.running_max),
            holds: Holds::default(),
            config: config.clone(),
            store,
            vault,
            egress,
            clock,
            mint,
            metrics,
            alarm_ms: Cell::new(u64::MAX),
            is_draining: Cell::new(false),
            me: me.clone(),
        })
    }

    /// Writes what is to be told of a task that ends with this batch: one message for each webhook of its user that asked for
    /// it. They are begun by [`Announced::take_up`], once the batch is durable.
    pub(crate) fn announce_end(&self, batch: &mut Batch, task: &TaskRecord) -> Announced {
        let Some(event) = WebhookEvent::of_end(codes::task_state(task.state)) else {
            return self.nothing(task.user);
        };
        let at_ms = task.finished_ms.unwrap_or(task.created_ms);
        self.announce(batch, task.user, event, at_ms, || notice_of(task))
    }

    /// Writes what is to be told of something that this batch makes so, as [`Self::announce_end`] does.
    pub(crate) fn announce<T: Serialize>(
        &self,
        batch: &mut Batch,
        user: UserId,
        event: WebhookEvent,
        at_ms: u64,
        notice: impl FnOnce() -> T,
    ) -> Announced {
        let mut announced = self.nothing(user);
        let wanting = self.index.borrow().wanting(&user, event);
        if wanting.is_empty() {
            return announced;
        }
        let body = webhook_message(event, timestamp_of(at_ms), &notice());
        for webhook in wanting {
            // It is counted and logged; what happens, happens all the same.
            let _full = self.write_message(batch, &mut announced, webhook, event, &body);
        }
        announced
    }

    fn nothing(&self, user: UserId) -> Announced {
        Announced { webhooks: self.me.clone(), user, made: Vec::new() }
    }

    fn write_message(
        &self,
        batch: &mut Batch,
        announced: &mut Announced,
        webhook: WebhookId,
        event: WebhookEvent,
        body: &str,
    ) -> Result<DeliveryId, Full> {
        let (user, shard) = (announced.user, batch.shard());
        if let Err(full) = self.index.borrow_mut().reserve(user) {
            let (cell, whose) = match full {
                Full::User => (&self.metrics.webhook_messages_refused_user, "user"),
                Full::Core => (&self.metrics.webhook_messages_refused_core, "core"),
            };
            cell.add(1);
            tracing::warn!(%user, %webhook, event = event.name(), whose, "too many messages wait; this one is not made");
            return Err(full);
        }
        let created_ms = self.clock.unix_ms();
        let id = self.mint.message(created_ms);
        announced.made.push((id, Entry { shard, user, webhook }));
        let (attempts, not_before_ms) = (0, 0);
        let body = body.to_owned();
        let record = DeliveryRecord {
            id,
            webhook,
            user,
            event: event.number(),
            body,
            created_ms,
            attempts,
            not_before_ms,
        };
        let written = batch.put_record(&Key::delivery(&user, &webhook, &id), &record);
        assert!(written.is_ok(), "a message is far smaller than a value may be");
        Ok(id)
    }

    /// Begins what is due.
    fn start_due(&self) {
        while !self.is_draining.get() {
            let next = self.queue.borrow_mut().next(self.clock.unix_ms());
            let Some((message, entry)) = next else { break };
            let Some(webhooks) = self.me.upgrade() else { break };
            sluice_core::spawn(async move { webhooks.deliver(message, entry).await });
        }
        self.set_alarm();
        self.note();
    }

    /// Looks at the queue again when the next message is due that is not yet. An alarm that was overtaken by an earlier
    /// one only looks once more.
    fn set_alarm(&self) {
        let Some(due_ms) = self.queue.borrow().due_ms() else { return };
        if self.is_draining.get() || due_ms >= self.alarm_ms.get() {
            return;
        }
        self.alarm_ms.set(due_ms);
        let wait = Duration::from_millis(due_ms.saturating_sub(self.clock.unix_ms()).max(1));
        let me = self.me.clone();
        sluice_core::spawn(async move {
            sluice_core::sleep(wait).await;
            let Some(webhooks) = me.upgrade() else { return };
            if webhooks.alarm_ms.get() == due_ms {
                webhooks.alarm_ms.set(u64::MAX);
            }
            webhooks.start_due();
        });
    }

    fn note(&self) {
        let (queue, index) = (self.queue.borrow(), self.index.borrow());
        self.metrics.webhooks.set(index.webhooks() as u64);
        self.metrics.webhook_messages_pending.set(queue.len() as u64);
        self.metrics.webhook_messages_running.set(queue.running() as u64);
    }

    /// Forgets a message that this process is done with.
    fn forget(&self, message: DeliveryId) {
        let entry = self.queue.borrow_mut().remove(message);
        if let Some(entry) = entry {
            self.index.borrow_mut().release(&entry.user);
        }
    }

    /// Forgets a user who is being erased: they are told nothing more, and what comes of an attempt under way is not
    /// written.
    pub(crate) fn forget_user(&self, user: &UserId) {
        self.index.borrow_mut().remove_all(user);
        let messages = self.queue.borrow().of_user(user);
        for message in messages {
            self.forget(message);
        }
        self.start_due();
    }

    /// Takes up every webhook and every pending message of the shards. Goes on until the store answers.
    pub(crate) async fn recover(&self, shards: &[ShardId]) {
        for shard in shards {
            self.each_row(*shard, Kind::Webhook, |key, value| self.recover_webhook(*shard, key, value)).await;
            self.each_row(*shard, Kind::Delivery, |key, value| self.recover_message(*shard, key, value))
                .await;
        }
        let pending = self.queue.borrow().len();
        if pending > 0 {
            tracing::info!(messages = pending, "taking up pending messages to webhooks");
        }
        self.start_due();
    }

    async fn each_row(
        &self,
        shard: ShardId,
        kind: Kind,
        mut each: impl FnMut(&Key, Value) -> Result<(), ReadError>,
    ) {
        let mut next = Some(KeyRange::kind(kind));
        let mut backoff = Backoff::new();
        while let Some(range) = next.take() {
            match self.store.scan(shard, range.clone(), PAGE_ROWS, false).await {
                Ok(page) => {
                    for (key, value) in page.rows {
                        if let Err(error) = each(&key, value) {
                            tracing::error!(%error, ?kind, "a record of a webhook cannot be read and stays where it is");
                            self.metrics.webhook_records_unreadable.add(1);
                        }
                    }
                    next = page.next;
                }
                Err(error) => {
                    tracing::error!(%error, %shard, "cannot read webhooks yet");
                    backoff.wait().await;
                    next = Some(range);
                }
            }
        }
    }

    fn recover_webhook(&self, shard: ShardId, key: &Key, value: Value) -> Result<(), ReadError> {
        // What came of its last attempts stands beside it, and is read when it is needed.
        let (Some(user), Some(id)) = (key.user_id(), key.webhook_id()) else { return Ok(()) };
        let record = self.store.validate::<WebhookRecord>(shard, key, value)?;
        let record = record.get();
        let events = EventSet::from_bits(record.events.to_native());
        let subscription = Subscription { id, events, enabled: record.enabled };
        self.index.borrow_mut().put(user, subscription);
        Ok(())
    }

    fn recover_message(&self, shard: ShardId, key: &Key, value: Value) -> Result<(), ReadError> {
        let foreign = || ReadError::Foreign { reason: format!("{key:?} is no pending message") };
        let user = key.user_id().ok_or_else(foreign)?;
        let (webhook, message) = key.delivery_id().ok_or_else(foreign)?;
        let record = self.store.validate::<DeliveryRecord>(shard, key, value)?;
        let due_ms = record.get().not_before_ms.to_native();
        self.index.borrow_mut().take_in(user);
        self.queue.borrow_mut().push(message, Entry { shard, user, webhook }, due_ms);
        self.metrics.webhook_messages_recovered.add(1);
        Ok(())
    }

    /// Begins nothing more and waits for attempts under way, until `deadline`. What is left is on disk.
    pub(crate) async fn drain(&self, deadline: Instant) {
        self.is_draining.set(true);
        while self.queue.borrow().running() > 0 && sluice_core::now() < deadline {
            sluice_core::sleep_until(deadline.min(sluice_core::now() + DRAIN_LOOK)).await;
        }
    }
}

fn notice_of(task: &TaskRecord) -> TaskNotice {
    TaskNotice {
        id: task.id,
        state: codes::task_state(task.state),
        mode: codes::mode(task.mode),
        priority: codes::priority(task.priority),
        session: task.session,
        location: task_path(task.id),
        error: error_of(task).as_ref().map(Problem::kind),
        created: timestamp_of(task.created_ms),
        finished: task.finished_ms.map(timestamp_of),
    }
}

/// Messages that stand in a batch, with their places. Dropped, it gives the places back: the batch was not written.
#[must_use = "messages are begun when their batch is durable"]
pub(crate) struct Announced {
    webhooks: Weak<Webhooks>,
    user: UserId,
    made: Vec<(DeliveryId, Entry)>,
}

impl Announced {
    /// Begins the messages, now that they are durable.
    pub(crate) fn take_up(mut self) {
        let made = std::mem::take(&mut self.made);
        let Some(webhooks) = self.webhooks.upgrade().filter(|_| !made.is_empty()) else { return };
        for (message, entry) in &made {
            webhooks.queue.borrow_mut().push(*message, *entry, 0);
        }
        webhooks.metrics.webhook_messages_made.add(made.len() as u64);
        webhooks.start_due();
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let Some(webhooks) = self.webhooks.upgrade() else { return };
        for _ in &self.made {
            webhooks.index.borrow_mut().release(&self.user);
        }
    }
}
