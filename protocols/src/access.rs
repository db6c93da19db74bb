//! Who may do what: scopes of credentials, roles of users, and the rule a route declares.
//!
//! ```text
//! a request is served when
//!   its credential (API key or token) holds the scope of the route,  and
//!   its user has one of the roles the route is for,                  and
//!   what it asks for is its user's own, or the route is for an office
//! ```
//! Invariants:
//! - a scope that allows changes allows reading as well; nothing else follows from anything;
//! - the bits and numbers here stand on disk: they are added to, and never change their meaning.

use std::fmt;
use std::str::FromStr;

/// What a credential may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scope {
    /// Read tasks, dead letters, workflows, sessions and what else came of commands.
    CommandsRead = 0,
    /// Give commands and run workflows, whatever services they use, and change what belongs to them.
    Commands = 1,
    /// Read mail by the plain surface.
    MailRead = 2,
    /// Send mail, and change it, by the plain surface.
    Mail = 3,
    /// Read calendars by the plain surface.
    CalendarRead = 4,
    /// Change calendars by the plain surface.
    Calendar = 5,
    /// Read files by the plain surface.
    DriveRead = 6,
    /// Change files by the plain surface.
    Drive = 7,
    /// Read one's own account: user, keys, settings.
    AccountRead = 8,
    /// Change one's own account: make and revoke keys, set preferences.
    Account = 9,
    /// Read what operators and auditors see, where the user has one of these roles.
    AdminRead = 10,
    /// Change what operators may change, where the user is one.
    Admin = 11,
}

impl Scope {
    /// Every scope, in the order of their bits.
    pub const ALL: [Self; 12] = [
        Self::CommandsRead,
        Self::Commands,
        Self::MailRead,
        Self::Mail,
        Self::CalendarRead,
        Self::Calendar,
        Self::DriveRead,
        Self::Drive,
        Self::AccountRead,
        Self::Account,
        Self::AdminRead,
        Self::Admin,
    ];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CommandsRead => "commands:read",
            Self::Commands => "commands",
            Self::MailRead => "mail:read",
            Self::Mail => "mail",
            Self::CalendarRead => "calendar:read",
            Self::Calendar => "calendar",
            Self::DriveRead => "drive:read",
            Self::Drive => "drive",
            Self::AccountRead => "account:read",
            Self::Account => "account",
            Self::AdminRead => "admin:read",
            Self::Admin => "admin",
        }
    }

    /// The scope with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// The scope that reads what this one changes; a scope that reads is its own.
    #[must_use]
    pub const fn reading(self) -> Self {
        match self {
            Self::Commands => Self::CommandsRead,
            Self::Mail => Self::MailRead,
            Self::Calendar => Self::CalendarRead,
            Self::Drive => Self::DriveRead,
            Self::Account => Self::AccountRead,
            Self::Admin => Self::AdminRead,
            reads => reads,
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// Why a text names no set of scopes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopesError {
    /// Use the names of [`Scope::ALL`].
    #[error("`{0}` is no scope")]
    Unknown(String),
    /// Name at least one.
    #[error("no scope is named")]
    None,
}

/// A set of scopes, closed: with every scope that changes, the one that reads is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u16);

impl Scopes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything that users do with what is theirs: what a key gets that asks for nothing else.
    pub const USER: Self = Self((1 << 10) - 1);
    /// Everything.
    pub const ALL: Self = Self((1 << 12) - 1);

    /// The set with these bits, as [`Self::bits`] gave them. Bits without a meaning are dropped: they would be scopes
    /// of a newer version.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Scope::ALL
            .into_iter()
            .filter(|scope| bits & scope.bit() != 0)
            .fold(Self::NONE, |all, scope| all.with(scope))
    }

    /// The bits, as they stand on disk.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// With this scope, and the one that reads what it changes.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit() | scope.reading().bit())
    }

    /// What of it only reads.
    #[must_use]
    pub fn reading(self) -> Self {
        Scope::ALL
            .into_iter()
            .filter(|scope| self.allows(*scope))
            .fold(Self::NONE, |all, scope| all.with(scope.reading()))
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether this allows what `scope` allows.
    #[must_use]
    pub const fn allows(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether this allows all that `other` allows.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names, without those that follow from another.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let follows = move |scope: Scope| {
            Scope::ALL
                .into_iter()
                .any(|other| other != scope && other.reading() == scope && self.allows(other))
        };
        Scope::ALL.into_iter().filter(move |scope| self.allows(*scope) && !follows(*scope)).map(Scope::name)
    }

    /// The set of these names.
    ///
    /// # Errors
    /// [`ScopesError`].
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, ScopesError> {
        let mut all = Self::NONE;
        for name in names {
            all = all.with(Scope::from_name(name).ok_or_else(|| ScopesError::Unknown(name.to_owned()))?);
        }
        if all == Self::NONE { Err(ScopesError::None) } else { Ok(all) }
    }
}

impl FromStr for Scopes {
    type Err = ScopesError;

    /// Names with commas or blanks between them.
    fn from_str(text: &str) -> Result<Self, ScopesError> {
        Self::from_names(text.split([',', ' ']).filter(|name| !name.is_empty()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

/// What a user is to the gateway. Whatever the role, their own mail, calendar and files are served alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Sees and does what is their own.
    #[default]
    User = 0,
    /// Sees what operators see, and changes nothing of it.
    Auditor = 1,
    /// Keeps users.
    Operator = 2,
}

impl Role {
    /// Every role, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::User, Self::Auditor, Self::Operator];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
        }
    }

    /// The role with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The role of this number. One that a newer version knows is the least here.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        Self::ALL.into_iter().find(|role| role.number() == number).unwrap_or_default()
    }

    /// The most that a credential of such a user can hold.
    #[must_use]
    pub const fn scopes_max(self) -> Scopes {
        match self {
            Self::User => Scopes::USER,
            Self::Auditor => Scopes::USER.with(Scope::AdminRead),
            Self::Operator => Scopes::ALL,
        }
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        Self::from_name(name).ok_or("a role is `user`, `operator` or `auditor`")
    }
}

/// The rule of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, without a credential.
    Public,
    /// Any user, with a credential of this scope, upon what is theirs.
    Own(Scope),
    /// Operators and auditors, with a credential of this scope, upon what is everybody's.
    Read(Scope),
    /// Operators, with a credential of this scope, upon what is everybody's.
    Manage(Scope),
}

/// Why a request is refused although its credential is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Use a credential with this scope.
    #[error("this needs a credential with the scope `{}`", .0.name())]
    Scope(Scope),
    /// This is for users of another role.
    #[error("this is for operators{}", if *.0 { " and auditors" } else { "" })]
    Role(bool),
}

impl Access {
    /// The scope a credential needs; `None` where none is needed.
    #[must_use]
    pub const fn scope(self) -> Option<Scope> {
        match self {
            Self::Public => None,
            Self::Own(scope) | Self::Read(scope) | Self::Manage(scope) => Some(scope),
        }
    }

    /// The roles it is for.
    #[must_use]
    pub const fn roles(self) -> &'static [Role] {
        match self {
            Self::Public | Self::Own(_) => &Role::ALL,
            Self::Read(_) => &[Role::Auditor, Role::Operator],
            Self::Manage(_) => &[Role::Operator],
        }
    }

    /// Whether it is for an office: an administrative act.
    #[must_use]
    pub const fn is_for_office(self) -> bool {
        matches!(self, Self::Read(_) | Self::Manage(_))
    }

    /// Whether a user of this role may do it with a credential of these scopes.
    ///
    /// # Errors
    /// [`Forbidden`]; of both reasons the role, which another key does not mend.
    pub fn check(self, role: Role, scopes: Scopes) -> Result<(), Forbidden> {
        if !self.roles().contains(&role) {
            return Err(Forbidden::Role(matches!(self, Self::Read(_))));
        }
        match self.scope() {
            Some(scope) if !scopes.allows(scope) => Err(Forbidden::Scope(scope)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_changes_also_reads_and_nothing_else_follows() {
        for scope in Scope::ALL {
            let alone = Scopes::NONE.with(scope);
            for other in Scope::ALL {
                let expected = other == scope || other == scope.reading();
                assert_eq!(alone.allows(other), expected, "{scope:?} {other:?}");
            }
            assert_eq!(Scope::from_name(scope.name()), Some(scope));
            assert_eq!(Scope::ALL[usize::from(scope as u8)], scope);
        }
        assert_eq!(Scopes::ALL.to_string(), "commands mail calendar drive account admin");
        assert_eq!(Scopes::USER.to_string(), "commands mail calendar drive account");
        let reading = Scopes::ALL.reading();
        assert_eq!(
            reading.to_string(),
            "commands:read mail:read calendar:read drive:read account:read admin:read"
        );
        assert_eq!((reading.reading(), Scopes::NONE.reading()), (reading, Scopes::NONE));
        assert_eq!("mail:read,drive".parse::<Scopes>().unwrap().to_string(), "mail:read drive");
        assert_eq!("".parse::<Scopes>(), Err(ScopesError::None));
        assert_eq!("mail,male".parse::<Scopes>(), Err(ScopesError::Unknown("male".to_owned())));
    }

    #[test]
    fn roles_and_scopes_are_both_asked_for() {
        let admin = Scopes::ALL;
        assert_eq!(Access::Public.check(Role::User, Scopes::NONE), Ok(()));
        let own = Access::Own(Scope::Mail);
        for role in Role::ALL {
            assert_eq!(own.check(role, Scopes::NONE.with(Scope::Mail)), Ok(()));
            assert_eq!(
                own.check(role, Scopes::NONE.with(Scope::MailRead)),
                Err(Forbidden::Scope(Scope::Mail))
            );
            assert_eq!(Role::from_number(role.number()), role);
            assert_eq!(role.name().parse(), Ok(role));
        }
        let (read, manage) = (Access::Read(Scope::AdminRead), Access::Manage(Scope::Admin));
        assert!(read.is_for_office() && manage.is_for_office());
        assert!(!own.is_for_office() && !Access::Public.is_for_office());
        assert_eq!(read.check(Role::User, admin), Err(Forbidden::Role(true)));
        assert_eq!(read.check(Role::Auditor, admin), Ok(()));
        assert_eq!(manage.check(Role::Auditor, admin), Err(Forbidden::Role(false)));
        assert_eq!(manage.check(Role::Operator, admin), Ok(()));
        assert_eq!(manage.check(Role::Operator, Scopes::USER), Err(Forbidden::Scope(Scope::Admin)));
        assert_eq!(
            Role::Auditor.scopes_max().and(Scopes::ALL).to_string(),
            "commands mail calendar drive account admin:read"
        );
    }

    proptest! {
        #[test]
        fn a_set_is_the_same_by_its_bits_and_by_its_names(bits in any::<u16>()) {
            let set = Scopes::from_bits(bits);
            prop_assert_eq!(Scopes::from_bits(set.bits()), set);
            match set.to_string().parse::<Scopes>() {
                Ok(read) => prop_assert_eq!(read, set),
                Err(error) => prop_assert!(set == Scopes::NONE && error == ScopesError::None),
            }
            prop_assert!(Scopes::ALL.contains(set));
        }

        #[test]
        fn no_text_gives_more_than_it_names(text in "[a-z:, ]{0,60}|(commands|mail|mail:read|admin)( (drive|x|admin:read)){0,3}") {
            if let Ok(set) = text.parse::<Scopes>() {
                for scope in Scope::ALL.into_iter().filter(|scope| set.allows(*scope)) {
                    let named = text.split([',', ' ']).filter_map(Scope::from_name);
                    prop_assert!(named.into_iter().any(|named| named == scope || named.reading() == scope));
                }
            }
        }
    }
}
