//! What came of the last attempts at each webhook.
//!
//! Several attempts at one webhook end at once, and each adds a line to the same record. So while any is under way there is
//! one copy of the record in memory, which all of them add to; it is written with each, in the order of their ends.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use hashbrown::HashMap;
use sluice_protocols::ids::WebhookId;
use sluice_store::record::{AttemptRecord, AttemptsRecord};
use sluice_store::{CoreStore, Key, ReadError};

use super::queue::Entry;

/// Attempts that are remembered of each webhook: 48 bytes each.
pub(super) const ATTEMPTS_MAX: usize = 50;

/// The records that are in use.
pub(super) struct Logs {
    open: RefCell<HashMap<WebhookId, Weak<Log>, foldhash::fast::RandomState>>,
    open_max: usize,
}

/// The record of one webhook.
#[derive(Default)]
pub(super) struct Log(RefCell<Option<AttemptsRecord>>);

impl Logs {
    /// For at most `open_max` users of records at once.
    pub(super) fn new(open_max: usize) -> Self {
        Self { open: RefCell::default(), open_max }
    }

    /// The record of a webhook, shared with whoever else has it. One that is damaged begins anew; a copy is kept aside.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(super) async fn open(&self, store: &CoreStore, entry: &Entry) -> Result<Rc<Log>, ReadError> {
        let log = self.shared(entry.webhook);
        if log.0.borrow().is_none() {
            let key = Key::webhook_attempts(&entry.user, &entry.webhook);
            let stored = match store.load::<AttemptsRecord>(entry.shard, &key).await {
                Ok(stored) => stored.map(|stored| stored.to_record()).unwrap_or_default(),
                Err(ReadError::Quarantined { .. }) => AttemptsRecord::default(),
                Err(error) => return Err(error),
            };
            // Another may have been quicker, and may have added to it since.
            log.0.borrow_mut().get_or_insert(stored);
        }
        Ok(log)
    }

    fn shared(&self, webhook: WebhookId) -> Rc<Log> {
        let mut open = self.open.borrow_mut();
        if let Some(log) = open.get(&webhook).and_then(Weak::upgrade) {
            return log;
        }
        if open.len() >= 2 * self.open_max {
            open.retain(|_, log| log.strong_count() > 0);
        }
        let log = Rc::new(Log::default());
        open.insert(webhook, Rc::downgrade(&log));
        log
    }
}

impl Log {
    /// Adds an attempt; the oldest beyond [`ATTEMPTS_MAX`] goes.
    pub(super) fn add(&self, attempt: AttemptRecord) {
        let mut record = self.0.borrow_mut();
        let attempts = &mut record.get_or_insert_default().attempts;
        attempts.push(attempt);
        let over = attempts.len().saturating_sub(ATTEMPTS_MAX);
        attempts.drain(..over);
    }

    /// Counts a message that was given up; gives how many were since one was delivered.
    pub(super) fn fail(&self) -> u32 {
        let mut record = self.0.borrow_mut();
        let failures = &mut record.get_or_insert_default().failures;
        *failures = failures.saturating_add(1);
        *failures
    }

    /// Begins to count given-up messages anew.
    pub(super) fn forgive(&self) {
        self.0.borrow_mut().get_or_insert_default().failures = 0;
    }

    /// The record as it is now.
    pub(super) fn record(&self) -> AttemptsRecord {
        self.0.borrow().clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::ids::DeliveryId;

    use super::*;

    #[test]
    fn only_the_last_attempts_are_remembered() {
        let log = Log::default();
        let numbers = 1..=u32::try_from(3 * ATTEMPTS_MAX).unwrap();
        for number in numbers.clone() {
            let message = DeliveryId::from_bytes([7; 16]);
            log.add(AttemptRecord {
                message,
                event: 0,
                number,
                at_ms: 1,
                took_ms: 1,
                status: 200,
                error: 0,
                outcome: 0,
            });
        }
        let kept: Vec<u32> = log.record().attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(kept, numbers.skip(2 * ATTEMPTS_MAX).collect::<Vec<_>>());
    }
}
