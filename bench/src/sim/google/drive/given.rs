//! Files of other users who gave them to this one.
//!
//! A file stays in its owner's drive, under that one's lock; what others may do with it, its permissions say. Two drives are
//! never locked at once. Only what is given to a person counts: groups and domains have no members here, a link opens nothing,
//! and who is given a folder is not given what is in it.

use std::ops::Deref;
use std::sync::Arc;

use super::Drive;
use crate::sim::world::{File, ROOT, User};

/// Whose drive a file is in.
pub(super) enum Holder<'a> {
    Own(&'a User),
    Other(Arc<User>),
}

impl Deref for Holder<'_> {
    type Target = User;

    fn deref(&self) -> &User {
        match self {
            Self::Own(user) => user,
            Self::Other(user) => user,
        }
    }
}

impl Drive<'_> {
    /// Who has the file of this id, as far as the user may know of it; the user, when nobody has.
    pub(super) fn holder(&self, id: &str) -> Holder<'_> {
        let id = if id == "root" { ROOT } else { id };
        if self.user.drive().position(id).is_some() {
            return Holder::Own(self.user);
        }
        let gave = |giver: &Arc<User>| {
            let drive = giver.drive();
            drive.position(id).is_some_and(|at| self.is_given(&drive.files[at]))
        };
        let giver = self.request.state.world.givers(self.user).into_iter().find(gave);
        giver.map_or(Holder::Own(self.user), Holder::Other)
    }

    /// What others gave the user.
    pub(super) fn given(&self) -> Vec<File> {
        let mut files = Vec::new();
        for giver in self.request.state.world.givers(self.user) {
            let drive = giver.drive();
            let given = drive.files.iter().filter(|file| self.is_given(file));
            files.extend(given.map(|file| File { parents: self.parents(file), ..file.clone() }));
        }
        files
    }

    /// The folders that a file is in, for the user: nobody sees the top of another's drive.
    pub(super) fn parents(&self, file: &File) -> Vec<String> {
        let is_foreign = self.is_given(file);
        file.parents.iter().filter(|parent| !(is_foreign && *parent == ROOT)).cloned().collect()
    }

    /// Whether it is somebody else's, and the user has it. What its owner threw away is seen by nobody else.
    pub(super) fn is_given(&self, file: &File) -> bool {
        let me = &self.user.person.email;
        let own = file.permissions.iter().find(|permission| permission.is_of(me));
        !file.owner.email.eq_ignore_ascii_case(me)
            && !file.trashed
            && own.is_some_and(|own| own.given.is_some())
    }
}
