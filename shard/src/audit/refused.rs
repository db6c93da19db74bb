//! How many refused acts of administration are told: somebody who is refused over and over must not fill the disk.
//!
//! An hour of a core tells at most [`PER_CORE_AN_HOUR`] of them, and of one user at most [`PER_USER_AN_HOUR`]. An entry has
//! at most 11 + 32 bytes of chain, and texts of at most some 250 bytes (actor 30, act 16, object 30, outcome 7, address 45,
//! request 64, and their lengths): so 30 KB an hour and core, or 260 MB a year, if somebody tries without a pause. What is
//! left out is counted by why.
//!
//! Invariant: the table of a core has at most [`PER_CORE_AN_HOUR`] rows.

use std::cell::RefCell;

use hashbrown::HashMap;
use sluice_protocols::ids::UserId;

/// Of all who are refused on a core.
pub(crate) const PER_CORE_AN_HOUR: u32 = 100;
/// Of one user, or of all together who are nobody here.
pub(crate) const PER_USER_AN_HOUR: u32 = 10;

const _: () = assert!(PER_USER_AN_HOUR < PER_CORE_AN_HOUR, "one user must not hide what others try");

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// Why a refused act is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOut {
    /// Enough is told of this user.
    User,
    /// Enough is told of this core's users.
    Core,
}

/// What one core has told in this hour.
#[derive(Debug, Default)]
pub(crate) struct Refusals(RefCell<Hour>);

#[derive(Debug, Default)]
struct Hour {
    /// Hours since 1970.
    number: u64,
    told: u32,
    of: HashMap<Option<UserId>, u32, foldhash::fast::RandomState>,
}

impl Refusals {
    /// Takes the place of one entry about this user, or about somebody who is nobody here.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn take(&self, who: Option<UserId>, unix_ms: u64) -> Result<(), LeftOut> {
        let mut hour = self.0.borrow_mut();
        let number = unix_ms / HOUR_MS;
        if hour.number != number {
            *hour = Hour { number, ..Hour::default() };
        }
        let of_user = hour.of.get(&who).copied().unwrap_or(0);
        if of_user >= PER_USER_AN_HOUR {
            return Err(LeftOut::User);
        }
        if hour.told >= PER_CORE_AN_HOUR {
            return Err(LeftOut::Core);
        }
        hour.told += 1;
        hour.of.insert(who, of_user + 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u8) -> Option<UserId> {
        Some(UserId::from_bytes([number; 16]))
    }

    #[test]
    fn one_user_takes_their_own_places_alone() {
        let refusals = Refusals::default();
        for who in [user(1), None] {
            for _ in 0..PER_USER_AN_HOUR {
                assert_eq!(refusals.take(who, 1), Ok(()));
            }
            assert_eq!(refusals.take(who, 1), Err(LeftOut::User));
        }
        assert_eq!(refusals.take(user(2), 1), Ok(()));
        assert_eq!(refusals.take(user(1), HOUR_MS), Ok(()));
    }

    #[test]
    fn many_users_take_no_more_than_the_cores_places_and_rows() {
        let refusals = Refusals::default();
        let told = (0..=255).filter(|number| refusals.take(user(*number), 7).is_ok()).count();
        assert_eq!(told, PER_CORE_AN_HOUR as usize);
        assert_eq!(refusals.take(user(254), 7), Err(LeftOut::Core));
        assert_eq!(refusals.0.borrow().of.len(), PER_CORE_AN_HOUR as usize);
        assert_eq!(refusals.take(user(254), 7 + HOUR_MS), Ok(()));
        assert_eq!(refusals.0.borrow().of.len(), 1);
    }
}
