//! Sharing files with people, each of whom is told once.
//!
//! Who is to be given the file, and has it not, goes to the journal before anybody is given it, and so does what those may do
//! who have it already and are to be allowed more: so a step that is taken up again gives it to those who are missing, and
//! taking it back leaves everybody with what they had before.

use serde::{Deserialize, Serialize};
use sluice_protocols::google::ApiCall;
use sluice_protocols::google::drive::{self, Permission, PermissionList};
use sluice_protocols::plan::{EmailAddress, Item, ItemRef, Recipient, ShareRole};
use sluice_protocols::problem::Problem;

use super::known::unresolved;
use super::step::{Done, StepRun};
use crate::upstream::CallError;

/// What a step's intent begins with, before what it is about to give.
const INTENT_GIVES: &str = "gives:";
/// The same as versions before wrote it: the addresses of new people alone.
const INTENT_SHARE: &str = "share:";
/// Pages of a hundred people each that are looked at: a file has 600 at most, at Google.
const PAGES_MAX: usize = 10;

/// What a step is about to give, and to whom.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Gift {
    /// What they may do then. None where nobody's role is changed.
    role: Option<ShareRole>,
    /// Addresses of those who have not got the file.
    new: Vec<String>,
    /// Those who have it, and may do less with it.
    raised: Vec<Raised>,
}

/// Somebody who is allowed more.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Raised {
    address: String,
    /// What they may do before.
    from: ShareRole,
}

impl Gift {
    fn of(people: &[EmailAddress], role: ShareRole, known: &[Permission]) -> Self {
        let mut gift = Self { role: Some(role), ..Self::default() };
        for address in people {
            let address = address.as_str();
            match known.iter().find(|one| one.is_of(address)) {
                None => gift.new.push(address.to_owned()),
                Some(one) if one.allows(role) => {}
                Some(one) => gift.raised.extend(
                    ShareRole::of_name(&one.role).map(|from| Raised { address: address.to_owned(), from }),
                ),
            }
        }
        gift
    }

    fn of_intent(intent: &str) -> Option<Self> {
        if let Some(gift) = intent.strip_prefix(INTENT_GIVES) {
            return serde_json::from_str(gift).ok();
        }
        let addresses = intent.strip_prefix(INTENT_SHARE)?.split(',');
        let new = addresses.filter(|address| !address.is_empty()).map(str::to_owned).collect();
        Some(Self { new, ..Self::default() })
    }

    fn to_intent(&self) -> String {
        format!("{INTENT_GIVES}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// The call after which somebody has what they had before, unless they have it.
    fn way_back(&self, file: &str, one: &Permission) -> Option<ApiCall> {
        if self.new.iter().any(|address| one.is_of(address)) {
            return Some(drive::unshare_file(file, &one.id));
        }
        let raised = self.raised.iter().find(|raised| one.is_of(&raised.address))?;
        // Who may do something else by now was given that by somebody else.
        let is_ours = self.role.is_some_and(|role| one.role == role.name());
        is_ours.then(|| drive::set_role(file, &one.id, raised.from.name()))
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
        if self.gift().is_none() {
            self.note_intent(Gift::of(&people, role, &known).to_intent()).await?;
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

    /// Takes a file from those whom the step gave it, and leaves those who had it with what they might do.
    ///
    /// # Errors
    /// Why it was not taken from one of them, or why that is not known.
    pub(super) async fn unshare(&self, item: &Item) -> Result<(), Problem> {
        let gift = self.gift().ok_or_else(|| unresolved("whom it was shared with was not noted"))?;
        let known = self.permissions(item).await?;
        for call in known.iter().filter_map(|one| gift.way_back(&item.id, one)) {
            match self.settle(&call, "it was taken back").await?.0 {
                Ok(_) => {}
                // They have it no longer.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(self.file_problem(item, &error)),
            }
        }
        Ok(())
    }

    fn gift(&self) -> Option<Gift> {
        Gift::of_intent(&self.shared.journal.read(|task| task.steps[self.index].intent.clone())?)
    }

    /// Everybody who has a file.
    async fn permissions(&self, item: &Item) -> Result<Vec<Permission>, Problem> {
        let (mut all, mut page) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let call = drive::list_permissions(&item.id, page.as_deref());
            let list = self.google.read_fresh::<PermissionList>(&call, self.limit()).await;
            let list = list.map_err(|error| self.file_problem(item, &error))?;
            all.extend(list.permissions);
            page = list.next_page_token;
            if page.is_none() {
                return Ok(all);
            }
        }
        Err(unresolved(format!("more people have the file “{}” than can be looked at", item.title)))
    }

    fn file_problem(&self, item: &Item, error: &CallError) -> Problem {
        if error.is_not_found() {
            return unresolved(format!("the file “{}” is not there any more", item.title));
        }
        self.problem(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(address: &str, role: &str) -> Permission {
        let email_address = Some(address.to_owned());
        Permission { id: format!("id-{address}"), email_address, role: role.to_owned() }
    }

    fn gift() -> Gift {
        let people = ["new@x.example", "Reads@x.example", "owns@x.example"]
            .map(|text| text.parse::<EmailAddress>().expect("an address"));
        let known = [one("reads@x.example", "reader"), one("owns@x.example", "owner")];
        Gift::of(&people, ShareRole::Writer, &known)
    }

    #[test]
    fn everybody_is_left_with_what_they_had_before() {
        let gift = gift();
        assert_eq!(Gift::of_intent(&gift.to_intent()), Some(Gift { ..self::gift() }));
        let back = |address, role| gift.way_back("f", &one(address, role));
        assert_eq!(
            back("new@X.example", "writer"),
            Some(drive::unshare_file("f", "id-new@X.example")),
            "who had it not has it no longer"
        );
        assert_eq!(
            back("reads@x.example", "writer"),
            Some(drive::set_role("f", "id-reads@x.example", "reader")),
            "who could read it can read it"
        );
        // It was taken back before, or somebody else has changed it since; the others are none of ours.
        for (address, role) in [
            ("reads@x.example", "reader"),
            ("reads@x.example", "commenter"),
            ("owns@x.example", "owner"),
            ("other@x.example", "writer"),
        ] {
            assert_eq!(back(address, role), None, "{address} {role}");
        }
    }

    #[test]
    fn what_older_versions_noted_is_read() {
        let gift = Gift::of_intent("share:a@x.example,b@x.example").expect("a gift");
        assert_eq!((gift.new.len(), gift.role), (2, None));
        assert_eq!(Gift::of_intent("share:"), Some(Gift::default()));
        assert_eq!((Gift::of_intent("labels:{}"), Gift::of_intent("gives:")), (None, None));
    }
}
