//! Has the operations of [`Admin`] done for a core: they block, so they run on a thread where that is allowed.
//!
//! Invariant: at most [`AT_ONCE_MAX`] of one core's are under way; a further one is refused.

use std::sync::Arc;

use sluice_protocols::problem::{Problem, ProblemKind};
use tokio::runtime::Handle;

use crate::admin::{Admin, AdminError};
use crate::audit::Author;

/// Operations of one core that may be under way.
const AT_ONCE_MAX: usize = 32;

/// One core's way to the operations.
pub(crate) struct Clerk {
    admin: Admin,
    runtime: Handle,
    /// Shared by the operations that are under way.
    leash: Arc<()>,
}

impl Clerk {
    pub(crate) fn new(admin: Admin, runtime: Handle) -> Self {
        Self { admin, runtime, leash: Arc::default() }
    }

    /// Has an operation done on this author's word and waits for it. It is done whether or not this is awaited to the end.
    pub(crate) async fn ask<T, F>(&self, author: Author, operation: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&Admin) -> Result<T, AdminError> + Send + 'static,
    {
        if Arc::strong_count(&self.leash) > AT_ONCE_MAX {
            let problem = Problem::new(ProblemKind::Overloaded, "too many changes of accounts are under way");
            return Err(problem.with_retry_after_s(1));
        }
        let (admin, leash) = (self.admin.on_word_of(author), Arc::clone(&self.leash));
        // By way of a thread of the runtime: a thread that a core starts would be bound to the core's CPU.
        let done = self.runtime.spawn(async move {
            let blocking = tokio::task::spawn_blocking(move || {
                let done = operation(&admin);
                drop(leash);
                done
            });
            blocking.await
        });
        match done.await.flatten() {
            Ok(done) => done.map_err(AdminError::into_problem),
            Err(error) => {
                tracing::error!(%error, "an operation on an account broke off");
                Err(Problem::new(
                    ProblemKind::Internal,
                    "the change broke off; whether it was made is not known",
                ))
            }
        }
    }
}
