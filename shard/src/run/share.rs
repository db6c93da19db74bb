//! Sharing files with people, each of whom is told once.
//!
//! Who is to be given the file, and has it not, goes to the journal before anybody is given it: so a step that is taken up
//! again gives it to those who are missing, and taking it back takes it from nobody who had it before.

use sluice_protocols::google::drive::{self, Permission, PermissionList};
use sluice_protocols::plan::{EmailAddress, Item, ItemRef, Recipient, ShareRole};
use sluice_protocols::problem::Problem;

use super::known::unresolved;
use super::step::{Done, StepRun};
use crate::upstream::CallError;

/// What the addresses of new people in a step's intent begin with.
const INTENT_SHARE: &str = "share:";

impl StepRun<'_> {
    pub(super) async fn drive_share(
        &self,
        file: ItemRef,
        people: &[Recipient],
        role: ShareRole,
    ) -> Result<Done, Problem> {
        let item = self.shared.known.item(file)?;
        let people = self.shared.known.addresses(people)?;
        let known = self.permissions(&item).await?;
        if self.newcomers().is_none() {
            let new = people.iter().filter(|address| !known.iter().any(|one| one.is_of(address.as_str())));
            let new: Vec<&str> = new.map(EmailAddress::as_str).collect();
            self.note_intent(format!("{INTENT_SHARE}{}", new.join(","))).await?;
        }
        let has = |known: &[Permission], address: &EmailAddress| {
            known.iter().any(|one| one.is_of(address.as_str()) && one.allows(role))
        };
        for address in people.iter().filter(|address| !has(&known, address)) {
            let share = drive::share_file(&item.id, address.as_str(), role);
            // To share it again changes nothing, but they would be told of it again.
            let is_done = async || self.permissions(&item).await.is_ok_and(|known| has(&known, address));
            let shared = self.settle_unless(&share, "the file was shared", is_done).await?.0;
            shared.map_err(|error| self.file_problem(&item, &error))?;
        }
        Ok(Done::items([item]))
    }

    /// Takes a file from those whom the step gave it.
    ///
    /// # Errors
    /// Why it was not taken from one of them, or why that is not known.
    pub(super) async fn unshare(&self, item: &Item) -> Result<(), Problem> {
        let newcomers =
            self.newcomers().ok_or_else(|| unresolved("whom it was shared with was not noted"))?;
        let known = self.permissions(item).await?;
        for one in known.iter().filter(|one| newcomers.iter().any(|address| one.is_of(address))) {
            match self.settle(&drive::unshare_file(&item.id, &one.id), "it was taken back").await?.0 {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(self.file_problem(item, &error)),
            }
        }
        Ok(())
    }

    fn newcomers(&self) -> Option<Vec<String>> {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone())?;
        let addresses = intent.strip_prefix(INTENT_SHARE)?.split(',');
        Some(addresses.filter(|address| !address.is_empty()).map(str::to_owned).collect())
    }

    async fn permissions(&self, item: &Item) -> Result<Vec<Permission>, Problem> {
        let list =
            self.google.read_fresh::<PermissionList>(&drive::list_permissions(&item.id), self.limit()).await;
        list.map(|list| list.permissions).map_err(|error| self.file_problem(item, &error))
    }

    fn file_problem(&self, item: &Item, error: &CallError) -> Problem {
        if error.is_not_found() {
            return unresolved(format!("the file “{}” is not there any more", item.title));
        }
        self.problem(error)
    }
}
