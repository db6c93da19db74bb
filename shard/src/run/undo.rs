//! Takes back what a failed workflow has done, as far as the API allows it.
//!
//! Every way back sets a state or deletes what is ours, so to go it twice is to go it once; and it is journaled before
//! it is gone, so that what was taken back is not taken back again after a restart.

use sluice_protocols::google::{ApiCall, UpstreamFault, calendar, drive, gmail};
use sluice_protocols::plan::{Item, Undo};
use sluice_protocols::problem::Problem;

use super::known::unresolved;
use super::step::StepRun;

impl StepRun<'_> {
    /// Takes a finished step back; `items` is what it brought.
    ///
    /// # Errors
    /// Why it was not taken back, or why that is not known.
    pub(super) async fn take_back(&self, undo: Undo, items: &[Item]) -> Result<(), Problem> {
        let id = || {
            let item = items.first().ok_or_else(|| unresolved("what the step made is not known"));
            item.map(|item| item.id.as_str())
        };
        // What is gone already need not be deleted.
        let (call, is_deletion): (ApiCall, bool) = match undo {
            Undo::CancelEvent => (calendar::delete_event(id()?), true),
            Undo::DeleteDraft => {
                let draft =
                    self.intended_draft().ok_or_else(|| unresolved("the draft's id was not noted"))?;
                (gmail::delete_draft(&draft), true)
            }
            Undo::TrashFile => (drive::trash_file(id()?, true), true),
            Undo::ChangeEventBack => {
                let item = items.first().ok_or_else(|| unresolved("what the step changed is not known"))?;
                return self.change_event_back(item).await;
            }
            Undo::RestoreEvent => return self.restore_event().await,
            Undo::RestoreMessage => {
                let item =
                    items.first().ok_or_else(|| unresolved("what the step threw away is not known"))?;
                return self.restore_message(item).await;
            }
            Undo::RestoreFile => {
                let item =
                    items.first().ok_or_else(|| unresolved("what the step threw away is not known"))?;
                return self.restore_file(item).await;
            }
            Undo::RestoreLabels => {
                let Some(call) = self.labels_before(id()?)? else { return Ok(()) };
                (call, false)
            }
            Undo::Unshare => {
                let item = items.first().ok_or_else(|| unresolved("what the step shared is not known"))?;
                return self.unshare(item).await;
            }
            Undo::MoveBack => {
                let item = items.first().ok_or_else(|| unresolved("what the step moved is not known"))?;
                return self.move_back(item).await;
            }
        };
        match self.settle(&call, "it was taken back").await?.0 {
            Ok(_) => Ok(()),
            Err(error)
                if is_deletion && (error.is_not_found() || error.fault() == Some(UpstreamFault::Gone)) =>
            {
                Ok(())
            }
            Err(error) => Err(self.problem(&error)),
        }
    }
}
