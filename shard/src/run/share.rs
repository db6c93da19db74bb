//! Sharing files with people, each of whom is told once.
//!
//! Who is to be given the file, and has it not or may do less with it, goes to the journal before anybody is given it: so a step
//! that is taken up again gives it to those who are missing, and taking it back takes from nobody what they had before.

use sluice_protocols::google::drive::{self, Permission, PermissionList};
use sluice_protocols::plan::{EmailAddress, Item, ItemRef, Recipient, ShareRole};
use sluice_protocols::problem::Problem;

use super::known::unresolved;
use super::step::{Done, StepRun};
use crate::upstream::CallError;

/// What those whom a step gives more, in its intent, begin with: addresses, and behind those who had the file before what they
/// might do with it, and what they may then.
const INTENT_SHARE: &str = "share:";

/// Somebody whom a step gives more than they had.
struct Gift {
    address: String,
    /// Drive's names of the roles before and after; none for who had nothing.
    raised: Option<(String, String)>,
}

impl Gift {
    /// What this person is given; nothing, where they have as much.
    fn of(address: &EmailAddress, role: ShareRole, known: &[Permission]) -> Option<Self> {
        let before = known.iter().find(|one| one.is_of(address.as_str()));
        if before.is_some_and(|one| one.allows(role)) {
            return None;
        }
        let raised = before.map(|one| (one.role.clone(), role.name().to_owned()));
        Some(Self { address: address.as_str().to_owned(), raised })
    }

    fn written(&self) -> String {
        match &self.raised {
            Some((before, after)) => format!("{} {before} {after}", self.address),
            None => self.address.clone(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        let address = words.next().filter(|address| !address.is_empty())?;
        Some(Self { address, raised: words.next().zip(words.next()) })
    }
}

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
        if self.gifts().is_none() {
            let gifts = people.iter().filter_map(|address| Gift::of(address, role, &known));
            let gifts: Vec<String> = gifts.map(|gift| gift.written()).collect();
            self.note_intent(format!("{INTENT_SHARE}{}", gifts.join(","))).await?;
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

    /// Takes a file from those whom the step gave it, and what more it gave from those who had it.
    ///
    /// # Errors
    /// Why it was not taken from one of them, or why that is not known.
    pub(super) async fn unshare(&self, item: &Item) -> Result<(), Problem> {
        let gifts = self.gifts().ok_or_else(|| unresolved("whom it was shared with was not noted"))?;
        let known = self.permissions(item).await?;
        for one in &known {
            let Some(gift) = gifts.iter().find(|gift| one.is_of(&gift.address)) else { continue };
            let call = match &gift.raised {
                None => drive::unshare_file(&item.id, &one.id),
                Some((before, after)) if one.role == *after => drive::change_role(&item.id, &one.id, before),
                // It is so already, or somebody else has decided since.
                Some(_) => continue,
            };
            match self.settle(&call, "it was taken back").await?.0 {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(self.file_problem(item, &error)),
            }
        }
        Ok(())
    }

    fn gifts(&self) -> Option<Vec<Gift>> {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone())?;
        Some(intent.strip_prefix(INTENT_SHARE)?.split(',').filter_map(Gift::read).collect())
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
