//! Moving files between folders.
//!
//! The folders that a file is in go to the journal before it is moved, so that it can be moved back. Before every call it is
//! looked where the file is now, so a repeat asks for what is missing alone.

use sluice_protocols::google::drive::{self, File, Parents};
use sluice_protocols::plan::{Item, ItemRef};
use sluice_protocols::problem::Problem;

use super::known::unresolved;
use super::step::{Done, StepRun};
use crate::upstream::CallError;

/// What the ids of the folders in a step's intent begin with.
const INTENT_PARENTS: &str = "parents:";
/// Of so many folders a file is taken out at most: Drive has a file in one.
const PARENTS_MAX: usize = 16;

impl StepRun<'_> {
    pub(super) async fn drive_move(&self, file: ItemRef, folder: ItemRef) -> Result<Done, Problem> {
        let (item, folder) = (self.shared.known.item(file)?, self.shared.known.item(folder)?);
        let now = self.parents(&item).await?;
        if self.parents_before().is_none() {
            self.check_folder(&item, &folder).await?;
            self.note_intent(format!("{INTENT_PARENTS}{}", now.join(","))).await?;
        }
        self.place(&item, &now, std::slice::from_ref(&folder.id)).await?;
        Ok(Done::items([item]))
    }

    /// Puts a file where it was before the step.
    ///
    /// # Errors
    /// Why it was not, or why that is not known.
    pub(super) async fn move_back(&self, item: &Item) -> Result<(), Problem> {
        let before = self.parents_before().ok_or_else(|| unresolved("where the file was is not noted"))?;
        let now = self.parents(item).await?;
        self.place(item, &now, &before).await
    }

    /// Has a file that is in the folders `now` be in those of `wanted` alone.
    async fn place(&self, item: &Item, now: &[String], wanted: &[String]) -> Result<(), Problem> {
        let (into, out_of) = (missing(wanted, now), missing(now, wanted));
        if into.is_empty() && out_of.is_empty() {
            return Ok(());
        }
        let call = drive::move_file(&item.id, &into, &out_of);
        let is_done = async || {
            let now = self.parents(item).await;
            now.is_ok_and(|now| missing(wanted, &now).is_empty() && missing(&now, wanted).is_empty())
        };
        let moved = self.settle_unless(&call, "the file was moved", is_done).await?.0;
        moved.map(|_| ()).map_err(|error| self.gone(item, &error))
    }

    async fn check_folder(&self, item: &Item, folder: &Item) -> Result<(), Problem> {
        if item.id == folder.id {
            return Err(unresolved(format!("“{}” cannot be moved into itself", item.title)));
        }
        let found: Result<File, CallError> =
            self.google.read_fresh(&drive::get_file(&folder.id), self.deadline()).await;
        let found = found.map_err(|error| self.gone(folder, &error))?;
        if found.is_folder() {
            Ok(())
        } else {
            Err(unresolved(format!("“{}” is not a folder", folder.title)))
        }
    }

    async fn parents(&self, item: &Item) -> Result<Vec<String>, Problem> {
        let found = self.google.read_fresh::<Parents>(&drive::get_parents(&item.id), self.limit()).await;
        let mut parents = found.map_err(|error| self.gone(item, &error))?.parents;
        parents.truncate(PARENTS_MAX);
        Ok(parents)
    }

    fn parents_before(&self) -> Option<Vec<String>> {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone())?;
        let ids = intent.strip_prefix(INTENT_PARENTS)?.split(',');
        Some(ids.filter(|id| !id.is_empty()).map(str::to_owned).collect())
    }

    fn gone(&self, item: &Item, error: &CallError) -> Problem {
        if error.is_not_found() {
            return unresolved(format!("the file “{}” is not there any more", item.title));
        }
        self.problem(error)
    }
}

/// Those of the folders `of` that are not among `from`.
fn missing<'a>(of: &'a [String], from: &[String]) -> Vec<&'a str> {
    of.iter().filter(|id| !from.contains(id)).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_is_what_differs() {
        let ids = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (now, wanted) = (ids("root old"), ids("new root"));
        assert_eq!((missing(&wanted, &now), missing(&now, &wanted)), (vec!["new"], vec!["old"]));
        assert!(missing(&now, &now).is_empty());
    }
}
