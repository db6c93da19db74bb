//! What operators do: make users and keys, and connect accounts. For ordinary threads; everything here blocks.
//!
//! Changes are seen by the cores at once: what takes something from a user raises their stamp ([`Revocations`]). A new
//! connection is seen when the user's access token is next fetched.
//!
//! Invariants:
//! - a name leads to at most one user. All changes of a process go through one lock, and one process holds the
//!   data directory; a name whose user was never written (a crash between two shards of a replicated log) is free;
//! - what is done is told in the audit log, in the same write ([`crate::audit`]);
//! - a key's secret is shown once, by [`Admin::create_key`], and stored as its hash alone; refresh tokens are stored sealed.

mod accounts;
pub(crate) mod browser;
mod erasure;
mod forget;
mod revoker;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::api::{
    BROWSER_SESSION_LIFE_DEFAULT, BROWSER_SESSIONS_PER_USER_MAX, CONNECTIONS_PER_USER_MAX, KEYS_PER_USER_MAX,
    NewUser, UserEdit,
};
use sluice_protocols::ids::{ApiKey, ConnectionId, ShardId, UserId};
use sluice_protocols::plan::EmailAddress;
use sluice_store::key::KeyError;
use sluice_store::record::{
    ConnectionRecord, ConnectionState, LimitRecord, Provider, Record, RecordError, UserRecord, encode,
};
use sluice_store::vault::{Place, VaultError};
use sluice_store::{Batch, CommitError, Key, KeyRange, Kind, ReadError, Store, Vault};

pub(crate) use accounts::Newcomer;
use accounts::key_record;
pub use accounts::{KeyLimit, KeySpec};
pub use erasure::Erased;
use forget::Memories;
pub(crate) use forget::{Forget, TASKS_MAX};
pub use revoker::{RevocationClient, Revoked, Revoker, RevokerStats};

use crate::audit::{Act, Author, Object};
use crate::auth::Revocations;
use crate::clock::Clock;
use crate::limit::COUNT_MAX;

/// Users read at once while listing.
const PAGE_ROWS: usize = 500;

/// Users made in one write: some 2 MB.
pub const SEEDED_AT_ONCE_MAX: usize = 5_000;

/// Which users [`Admin::seed_users`] makes.
#[derive(Clone, Debug)]
pub struct Seed {
    /// What their names begin with.
    pub name_prefix: String,
    /// Number of the first.
    pub first: u64,
    /// How many.
    pub count: usize,
    /// What their refresh tokens begin with; without it they are not connected.
    pub refresh_token_prefix: Option<String>,
}

/// Why an operation was not done. Nothing was changed unless the store says its outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Choose another name.
    #[error("there is a user called {name:?} already: {user}")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        user: UserId,
    },
    /// Choose a name of an allowed length.
    #[error(transparent)]
    Name(#[from] KeyError),
    /// Mend the field.
    #[error("{field} is {found:?}: {allowed}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Choose another address, or look at that user.
    #[error("there is a user with the address or the name {email:?} already: {user}")]
    EmailTaken {
        /// The address.
        email: String,
        /// Whose it is.
        user: UserId,
    },
    /// The identity is another user's; it is not moved.
    #[error("the identity belongs to the user {user}")]
    IdentityTaken {
        /// Whose it is.
        user: UserId,
    },
    /// Give the name of the user who is meant.
    #[error("the name is not that of the user: nothing was erased")]
    OtherName,
    /// Wait until it is done, or ask for it again.
    #[error("the user {user} is being erased")]
    Erasing {
        /// Who.
        user: UserId,
    },
    /// Restart.
    #[error(transparent)]
    Fence(#[from] sluice_store::FenceFull),
    /// Look at the user's keys.
    #[error("the user has no key of this id")]
    NoSuchKey,
    /// Look at the user's sessions.
    #[error("the user has no session of a browser of this id")]
    NoSuchBrowserSession,
    /// Wait.
    #[error("you have signed in {BROWSER_SESSIONS_PER_USER_MAX} times within an hour")]
    SignedInTooOften {
        /// Seconds until it is possible again.
        wait_s: u64,
    },
    /// Revoke one that is not used any more.
    #[error("a user has at most {KEYS_PER_USER_MAX} keys; revoke one first")]
    TooManyKeys,
    /// Ask for less, or by a credential that has more.
    #[error("a key or session cannot be given more, or for longer, than the credential that asks for it has")]
    Beyond,
    /// Choose a later end.
    #[error("the end is past")]
    Past,
    /// Make the user first.
    #[error("there is no user {user}")]
    NoSuchUser {
        /// Who was named.
        user: UserId,
    },
    /// The store could not be read; see its message.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The change was not stored; see its message.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The fields together are too large.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A refresh token could not be sealed; see its message.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The host gives no random bytes; nothing can be made without them.
    #[error("the host has no random source: {0}")]
    Random(getrandom::Error),
}

/// The operations. Clones share the lock.
#[derive(Clone, Debug)]
pub struct Admin {
    store: Store,
    vault: Vault,
    lock: Arc<Mutex<()>>,
    revocations: Arc<Revocations>,
    /// One erasure at a time: each rewrites tables.
    erasing: Arc<Mutex<()>>,
    memories: Arc<Memories>,
    /// The way to Google, where there is one.
    revoker: Option<Arc<Revoker>>,
    revoked: Arc<RevokerStats>,
    /// The longest that a browser's session lasts.
    browser_session_life: Duration,
    /// On whose word they are done.
    author: Author,
}

impl Admin {
    /// The operations on a store and its vault, on the word of the operator at the machine. Make one for the process and
    /// clone it.
    pub fn new(store: Store, vault: Vault) -> Self {
        Self {
            store,
            vault,
            lock: Arc::default(),
            revocations: Arc::default(),
            erasing: Arc::default(),
            memories: Arc::default(),
            revoker: None,
            revoked: Arc::default(),
            browser_session_life: BROWSER_SESSION_LIFE_DEFAULT,
            author: Author::operator(),
        }
    }

    /// The same operations on another's word, as the audit log tells it.
    pub(crate) fn on_word_of(&self, author: Author) -> Self {
        Self { author, ..self.clone() }
    }

    /// The vault, for what is done to all users' keys.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Makes a user. The name is unique, upper and lower case being the same.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn create_user(&self, name: &str, email: &str, time_zone: &str) -> Result<UserRecord, AdminError> {
        self.make_user(&NewUser {
            name: name.to_owned(),
            email: email.to_owned(),
            time_zone: Some(time_zone.to_owned()),
            role: Role::User,
            identity: None,
        })
    }

    /// What takes beliefs back; hand it to the cores.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The user of this name or e-mail address.
    ///
    /// # Errors
    /// [`AdminError::Name`] or [`AdminError::Read`].
    pub fn find_user(&self, name: &str) -> Result<Option<UserRecord>, AdminError> {
        self.named(name)
    }

    /// A user's record.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub fn user(&self, user: &UserId) -> Result<Option<UserRecord>, AdminError> {
        let record = self.store.load_blocking::<UserRecord>(self.shard_of(user), &Key::user(user))?;
        Ok(record.map(|record| record.to_record()))
    }

    /// At most `limit` users, in the order of their shards; those whose record is damaged are left out.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub fn list_users(&self, limit: usize) -> Result<Vec<UserRecord>, AdminError> {
        let mut users = Vec::new();
        for shard in self.store.shard_count().shards() {
            let mut next = Some(KeyRange::kind(Kind::User));
            while let Some(range) = next.take().filter(|_| users.len() < limit) {
                let rows_max = PAGE_ROWS.min(limit - users.len());
                let page = self.store.scan_blocking(shard, range, rows_max, false)?;
                for (key, value) in page.rows {
                    match sluice_store::record::decode::<UserRecord>(value) {
                        Ok(user) => users.push(user),
                        Err(error) => tracing::error!(?key, %error, "a user cannot be read"),
                    }
                }
                next = page.next;
            }
        }
        Ok(users)
    }

    /// Gives or takes a user's right to be served.
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`], [`AdminError::Read`], [`AdminError::Commit`].
    pub fn set_disabled(&self, user: &UserId, disabled: bool) -> Result<(), AdminError> {
        self.edit_user(user, &UserEdit { disabled: Some(disabled), ..UserEdit::default() })?;
        Ok(())
    }

    /// What a user is allowed, where that is not what all are.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub fn limit(&self, user: &UserId) -> Result<LimitRecord, AdminError> {
        let record = self.store.load_blocking::<LimitRecord>(self.shard_of(user), &Key::limit(user))?;
        Ok(record.map(|record| record.to_record()).unwrap_or_default())
    }

    /// Sets what a user is allowed, from the next request on.
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`], [`AdminError::Field`], [`AdminError::Read`], [`AdminError::Commit`].
    pub fn set_limit(&self, user: &UserId, limit: &LimitRecord) -> Result<(), AdminError> {
        let counts = [limit.per_minute, limit.per_hour, limit.concurrent_max];
        if let Some(count) = counts.into_iter().flatten().find(|count| *count > COUNT_MAX) {
            let allowed = "0 to 10,000,000, where 0 is no limit";
            return Err(AdminError::Field { field: "limit", found: count.to_string(), allowed });
        }
        let _guard = self.lock();
        self.require(user)?;
        let (shard, key) = (self.shard_of(user), Key::limit(user));
        let mut batch = if *limit == LimitRecord::default() {
            let mut batch = Batch::new(shard);
            batch.delete(&key);
            batch
        } else {
            put(shard, &key, limit)?
        };
        self.author.tell(&mut batch, Act::SettingChange, Object::User(user), now_ms());
        self.store.write_blocking(vec![batch])?;
        // What is allowed is part of what is believed of a credential.
        self.revocations.revoke(user);
        Ok(())
    }

    /// Makes an API key for whatever its user may do, without an end. Its text ([`ApiKey::expose`]) cannot be had again.
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`], [`AdminError::Read`], [`AdminError::Commit`], [`AdminError::Random`].
    pub fn create_key(&self, user: &UserId, label: &str) -> Result<ApiKey, AdminError> {
        Ok(self.make_key(user, &everything(label), &KeyLimit::NONE)?.0)
    }

    /// Makes many users at once, each with a key and, when `refresh_token_prefix` is given, connected by the
    /// refresh token that is the prefix and the name: for load tests. They are `name_prefix` and a number from
    /// `first` on. Nothing is done when one of the names is taken. One write, so at most
    /// [`SEEDED_AT_ONCE_MAX`] of them.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn seed_users(&self, seed: &Seed) -> Result<Vec<(UserRecord, ApiKey)>, AdminError> {
        if seed.count > SEEDED_AT_ONCE_MAX {
            let allowed = "at most 5,000 users at once";
            return Err(AdminError::Field { field: "count", found: seed.count.to_string(), allowed });
        }
        let _guard = self.lock();
        let mut made = Vec::with_capacity(seed.count);
        let mut batches = Vec::with_capacity(seed.count * 3);
        for number in (seed.first..).take(seed.count) {
            let name = format!("{}{number:07}", seed.name_prefix);
            let email = format!("{name}@example.com");
            check_email(&email)?;
            if let Some(user) = self.named(&name)? {
                return Err(AdminError::NameTaken { name, user: user.id });
            }
            if let Some(user) = self.named(&email)? {
                return Err(AdminError::EmailTaken { email, user: user.id });
            }
            let created_ms = now_ms();
            let id = UserId::from_bytes(random()?);
            let user = UserRecord {
                id,
                name,
                email,
                time_zone: "UTC".to_owned(),
                created_ms,
                disabled: false,
                role: Role::User.number(),
                tokens_since_ms: 0,
            };
            batches.extend(self.entries(&user)?);
            let key = ApiKey::new(id, random()?);
            batches.push(self.seeded(&user, &key, seed.refresh_token_prefix.as_deref())?);
            made.push((user, key));
        }
        if !batches.is_empty() {
            self.store.write_blocking(batches)?;
        }
        Ok(made)
    }

    /// Everything of a seeded user but the name, which may belong to another shard.
    fn seeded(&self, user: &UserRecord, key: &ApiKey, prefix: Option<&str>) -> Result<Batch, AdminError> {
        let mut batch = Batch::new(self.shard_of(&user.id));
        batch.put(&Key::user(&user.id), encode(user)?.as_bytes());
        let record = key_record(key, &everything("load"), user.created_ms);
        batch.put(&Key::api_key(&user.id, &record.id), encode(&record)?.as_bytes());
        self.author.tell(&mut batch, Act::UserCreate, Object::User(&user.id), user.created_ms);
        self.author.tell(&mut batch, Act::KeyCreate, Object::Key(&user.id, &record.id), user.created_ms);
        if let Some(prefix) = prefix {
            let data_key = self.vault.key_for_new_user(&user.id, &mut batch)?;
            let place = Place::refresh_token(&user.id, Provider::Google);
            let token = data_key.seal(&place, &format!("{prefix}{}", user.name))?;
            let connection = ConnectionRecord::given(user.id, &user.email, token, "", user.created_ms);
            batch.put_record(place.key(), &connection)?;
            let object = Object::Connection(&user.id, Provider::Google);
            self.author.tell(&mut batch, Act::ConnectionCreate, object, user.created_ms);
        }
        Ok(batch)
    }

    /// Connects a user with a Google account, by a refresh token that was given for it. An account of this address that the user
    /// has is connected anew where it is; else this one replaces the default one. Of what was there the cores use nothing any
    /// more when this is done.
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`], [`AdminError::Field`], [`AdminError::Vault`], [`AdminError::Read`],
    /// [`AdminError::Commit`].
    pub fn connect_google(
        &self,
        user: &UserId,
        refresh_token: &str,
        email: &str,
        scope: &str,
    ) -> Result<(), AdminError> {
        check_email(email)?;
        if refresh_token.is_empty() {
            let allowed = "give the refresh token that Google gave";
            return Err(AdminError::Field { field: "refresh token", found: String::new(), allowed });
        }
        let _guard = self.lock();
        self.require(user)?;
        {
            // From the look at what is there: the user may just be making another account the default one. In the order in
            // which that holds them as well.
            let held = (0..CONNECTIONS_PER_USER_MAX).map(|slot| {
                let place = Place::refresh_token_at(user, Provider::Google, slot);
                let hold = self.vault.hold_blocking(place.key())?;
                Ok::<_, AdminError>((slot, place, hold))
            });
            let held = held.collect::<Result<Vec<_>, _>>()?;
            let there = |place: &Place| {
                let found = self.store.load_blocking::<ConnectionRecord>(self.shard_of(user), place.key());
                // One that is damaged is none.
                found.ok().flatten().map(|found| found.to_record())
            };
            let is_same = |record: &ConnectionRecord| record.email.eq_ignore_ascii_case(email);
            let known = held.iter().find(|(_, place, _)| there(place).is_some_and(|record| is_same(&record)));
            let (slot, place, _) = known.unwrap_or(&held[0]);
            let token = self.vault.seal_blocking(place, refresh_token)?;
            let mut record = ConnectionRecord::given(*user, email, token, scope, now_ms());
            if let Some(before) = there(place) {
                // Tasks keep to an account by its id: the same account keeps its own, and another does not take it over.
                record.id = match is_same(&before) {
                    true => before.id,
                    false => ConnectionId::from_bytes(random()?),
                };
                // Whether it works is seen when it is used; until then it is remembered that the one before did not.
                if before.state == ConnectionState::NeedsReauth {
                    record.reason = before.reason;
                }
            }
            let mut batch = put(self.shard_of(user), place.key(), &record)?;
            batch.delete(&Key::revocation(user, Provider::Google.number(), *slot));
            let object = Object::Connection(user, Provider::Google);
            self.author.tell(&mut batch, Act::ConnectionCreate, object, record.updated_ms);
            self.store.write_blocking(vec![batch])?;
        }
        self.forget_accounts(user);
        Ok(())
    }

    /// Has the cores forget which account a user was served with, and what was read from it.
    fn forget_accounts(&self, user: &UserId) {
        if !self.memories.forget_blocking(user, forget::What::Accounts) {
            tracing::warn!(%user, "a core may go on with the account that a user had, for an hour at most");
        }
    }

    /// The store, for reading what stands in it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        // The lock guards no data: a thread that died holding it has left nothing half done.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_of(&self, user: &UserId) -> ShardId {
        ShardId::of(user, self.store.shard_count())
    }

    /// A user who may be changed: one who is there and is not being erased.
    fn require(&self, user: &UserId) -> Result<UserRecord, AdminError> {
        let record = self.user(user)?.ok_or(AdminError::NoSuchUser { user: *user })?;
        match self.store.get_blocking(self.shard_of(user), &Key::erasure(user))? {
            Some(_) => Err(AdminError::Erasing { user: *user }),
            None => Ok(record),
        }
    }
}

/// All that a user may do, for ever.
fn everything(label: &str) -> KeySpec {
    KeySpec { label: label.to_owned(), scopes: Scopes::USER, expires_ms: None }
}

fn put<R: Record>(shard: ShardId, key: &Key, record: &R) -> Result<Batch, RecordError> {
    let mut batch = Batch::new(shard);
    batch.put(key, encode(record)?.as_bytes());
    Ok(batch)
}

fn random<const N: usize>() -> Result<[u8; N], AdminError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(AdminError::Random)?;
    Ok(bytes)
}

fn now_ms() -> u64 {
    Clock::system().unix_ms()
}

fn check_email(email: &str) -> Result<(), AdminError> {
    let allowed = "an e-mail address such as anna@example.com";
    let wrong = |_| AdminError::Field { field: "e-mail address", found: email.to_owned(), allowed };
    email.parse::<EmailAddress>().map(drop).map_err(wrong)
}

fn check_zone(name: &str) -> Result<(), AdminError> {
    let allowed = "the name of an IANA time zone this host knows, such as Europe/Berlin";
    let wrong = |_| AdminError::Field { field: "time zone", found: name.to_owned(), allowed };
    jiff::tz::TimeZone::get(name).map(drop).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use sluice_protocols::api::{Identity, KeyEdit};
    use sluice_protocols::ids::ShardCount;
    use sluice_store::StoreConfig;
    use sluice_store::key::name_shard;
    use sluice_store::record::{KeyRecord, NameRecord};
    use sluice_store::vault::Keyring;

    use crate::audit::Actor;
    use crate::auth::{key_id, secret_hash};

    use super::*;

    fn admin() -> (tempfile::TempDir, Admin) {
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig::new(directory.path().join("data"), ShardCount::new(8).unwrap());
        let store = Store::open(config).unwrap();
        let vault = Vault::open(&store, Keyring::generate().unwrap()).unwrap();
        (directory, Admin::new(store, vault))
    }

    #[test]
    fn a_name_is_taken_whatever_its_case() {
        let (_directory, admin) = admin();
        let anna = admin.create_user(" Anna ", "anna@example.com", "Europe/Berlin").unwrap();
        assert_eq!(anna.name, "Anna");
        let error = admin.create_user("ANNA", "other@example.com", "UTC").unwrap_err();
        assert!(matches!(error, AdminError::NameTaken { user, .. } if user == anna.id), "{error}");
        assert_eq!(admin.find_user("anna").unwrap(), Some(anna));
        assert_eq!(admin.find_user("bert").unwrap(), None);
    }

    #[test]
    fn a_name_without_its_user_is_free() {
        let (_directory, admin) = admin();
        let shards = admin.store.shard_count();
        let orphan = NameRecord { user: UserId::from_bytes([9; 16]), created_ms: 1 };
        let batch = put(name_shard("anna", shards), &Key::name("anna").unwrap(), &orphan).unwrap();
        admin.store.write_blocking(vec![batch]).unwrap();
        assert_eq!(admin.find_user("anna").unwrap(), None);
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap();
        assert_eq!(admin.find_user("anna").unwrap(), Some(anna));
    }

    #[test]
    fn users_of_all_shards_are_listed_up_to_the_limit() {
        let (_directory, admin) = admin();
        let mut ids: Vec<_> = (0..30)
            .map(|n| admin.create_user(&format!("user {n}"), &format!("x{n}@example.com"), "UTC").unwrap().id)
            .collect();
        let mut listed: Vec<_> = admin.list_users(1_000).unwrap().into_iter().map(|user| user.id).collect();
        ids.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, ids);
        assert_eq!(admin.list_users(7).unwrap().len(), 7);
        assert_eq!(admin.list_users(0).unwrap().len(), 0);
    }

    #[test]
    fn the_secret_of_a_key_is_not_stored() {
        let (_directory, admin) = admin();
        let user = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        let key = admin.create_key(&user, "laptop").unwrap();
        let hash = secret_hash(&key);
        let value = admin.store.get_blocking(admin.shard_of(&user), &Key::api_key(&user, &key_id(&hash)));
        let bytes = value.unwrap().unwrap().as_bytes().to_vec();
        assert!(bytes.windows(32).any(|window| window == hash));
        assert!(!bytes.windows(32).any(|window| window == key.secret()));
    }

    #[test]
    fn seeded_users_are_as_others_and_all_or_none() {
        let (_directory, admin) = admin();
        let seed = Seed {
            name_prefix: "load-".into(),
            first: 3,
            count: 40,
            refresh_token_prefix: Some("sim-refresh-".into()),
        };
        let made = admin.seed_users(&seed).unwrap();
        assert_eq!((made.len(), made[0].0.name.as_str()), (40, "load-0000003"));
        let (user, key) = &made[39];
        assert_eq!(admin.find_user("load-0000042").unwrap().as_ref(), Some(user));
        assert_eq!(key.user(), user.id);
        let hash = secret_hash(key);
        let record = admin
            .store
            .load_blocking::<KeyRecord>(admin.shard_of(&user.id), &Key::api_key(&user.id, &key_id(&hash)));
        assert_eq!(record.unwrap().unwrap().to_record().hash, hash);
        let connection = admin.store.load_blocking::<ConnectionRecord>(
            admin.shard_of(&user.id),
            &Key::connection(&user.id, Provider::Google.number()),
        );
        let stored = connection.unwrap().unwrap().to_record().refresh_token;
        assert!(stored.is_sealed());
        let place = Place::refresh_token(&user.id, Provider::Google);
        let token = admin.vault.open_blocking(&place, &stored).unwrap();
        assert_eq!(token.expose(), "sim-refresh-load-0000042");
        let overlapping = Seed { first: 42, count: 2, ..seed.clone() };
        assert!(matches!(admin.seed_users(&overlapping), Err(AdminError::NameTaken { .. })));
        assert_eq!(admin.find_user("load-0000043").unwrap(), None);
        assert!(admin.seed_users(&Seed { count: SEEDED_AT_ONCE_MAX + 1, ..seed }).is_err());
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let (_directory, admin) = admin();
        let field = |result: Result<UserRecord, AdminError>| match result.unwrap_err() {
            AdminError::Field { field, .. } => field,
            other => panic!("{other}"),
        };
        assert_eq!(field(admin.create_user("anna", "anna", "UTC")), "e-mail address");
        assert_eq!(field(admin.create_user("anna", "anna@example.com", "Mars/Base")), "time zone");
        assert!(matches!(admin.create_user(" ", "anna@example.com", "UTC"), Err(AdminError::Name(_))));
        let nobody = UserId::from_bytes([1; 16]);
        assert!(matches!(admin.create_key(&nobody, ""), Err(AdminError::NoSuchUser { .. })));
        assert!(matches!(
            admin.connect_google(&nobody, "token", "anna@example.com", ""),
            Err(AdminError::NoSuchUser { .. })
        ));
    }

    #[test]
    fn every_act_is_told_in_the_chain_of_its_shard_without_its_secrets() {
        let (_directory, admin) = admin();
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        let key = admin.create_key(&anna, "label").unwrap().expose();
        admin.connect_google(&anna, "refresh-secret", "anna@example.com", "").unwrap();
        admin.set_disabled(&anna, true).unwrap();
        admin.set_disabled(&anna, false).unwrap();
        let shard = admin.shard_of(&anna);
        let page = sluice_store::audit::page(&admin.store, shard, 0).unwrap();
        let acts: Vec<_> = page.entries.iter().map(|entry| &*entry.event.act).collect();
        let expected = ["user.create", "key.create", "connection.create", "user.disable", "user.enable"];
        assert_eq!(acts, expected);
        for entry in &page.entries {
            let event = &entry.event;
            assert_eq!((&*event.actor, &*event.outcome), ("operator", "done"));
            assert!(event.object.starts_with(&anna.to_string()), "{event:?}");
            let text = format!("{event:?}");
            assert!(
                !text.contains("refresh-secret") && !text.contains(&key) && !text.contains("example.com")
            );
        }
        let proof = sluice_store::audit::verify(&admin.store, shard, &[]).unwrap();
        assert_eq!((proof.head.sequence, proof.fault), (5, None));
        // What changed nothing is not told; the same goes for what was refused.
        admin.set_disabled(&anna, false).unwrap();
        admin.create_user("anna", "anna@example.com", "UTC").unwrap_err();
        assert_eq!(sluice_store::audit::verify(&admin.store, shard, &[]).unwrap().head.sequence, 5);
    }

    #[test]
    fn an_account_keeps_its_id_and_another_does_not_take_it_over() {
        let (_directory, admin) = admin();
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        let connected = |email: &str| {
            admin.connect_google(&anna, "token", email, "").unwrap();
            let key = Key::connection(&anna, Provider::Google.number());
            let loaded = admin.store.load_blocking::<ConnectionRecord>(admin.shard_of(&anna), &key);
            loaded.unwrap().unwrap().to_record().id
        };
        let first = connected("anna@example.com");
        assert_eq!(connected("Anna@Example.com"), first);
        let second = connected("anna@example.org");
        assert_ne!(second, first);
        assert_eq!(connected("anna@example.org"), second);
        assert_ne!(connected("anna@example.com"), first, "it was another's meanwhile");
    }

    #[test]
    fn an_account_that_is_moved_away_meanwhile_does_not_lend_its_id() {
        let (_directory, admin) = admin();
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        admin.connect_google(&anna, "token", "anna@example.com", "").unwrap();
        let (shard, key) = (admin.shard_of(&anna), Key::connection(&anna, Provider::Google.number()));
        let stored =
            || admin.store.load_blocking::<ConnectionRecord>(shard, &key).unwrap().unwrap().to_record();
        let moved = stored();
        std::thread::scope(|scope| {
            let hold = admin.vault().hold_blocking(&key).unwrap();
            let connecting = scope.spawn(|| admin.connect_google(&anna, "new", "anna@example.com", ""));
            // Long enough for it to come to where it waits; it is right as well if it does not.
            std::thread::sleep(Duration::from_millis(100));
            let other = ConnectionRecord {
                id: ConnectionId::from_bytes([9; 16]),
                email: "b@x".to_owned(),
                ..stored()
            };
            admin.store.write_blocking(vec![put(shard, &key, &other).unwrap()]).unwrap();
            drop(hold);
            connecting.join().unwrap().unwrap();
        });
        assert_ne!(stored().id, moved.id, "that account has another place now, and its id with it");
    }

    #[test]
    fn an_account_that_is_moved_away_meanwhile_is_connected_where_it_is_and_the_other_is_kept() {
        let (_directory, admin) = admin();
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        admin.connect_google(&anna, "token", "anna@example.com", "").unwrap();
        let (shard, provider) = (admin.shard_of(&anna), Provider::Google.number());
        let keys = [0, 1].map(|slot| Key::connection_at(&anna, provider, slot));
        let stored = |key: &Key| {
            let loaded = admin.store.load_blocking::<ConnectionRecord>(shard, key).unwrap();
            loaded.map(|loaded| loaded.to_record())
        };
        let first = stored(&keys[0]).unwrap();
        let second = ConnectionRecord {
            id: ConnectionId::from_bytes([9; 16]),
            email: "second@example.com".to_owned(),
            ..first.clone()
        };
        admin.store.write_blocking(vec![put(shard, &keys[1], &second).unwrap()]).unwrap();
        std::thread::scope(|scope| {
            let hold = admin.vault().hold_blocking(&keys[0]).unwrap();
            let connecting = scope.spawn(|| admin.connect_google(&anna, "new", "Anna@example.com", ""));
            // Long enough for it to come to where it waits; it is right as well if it does not.
            std::thread::sleep(Duration::from_millis(100));
            let mut batch = put(shard, &keys[0], &second).unwrap();
            batch.put_record(&keys[1], &first).unwrap();
            admin.store.write_blocking(vec![batch]).unwrap();
            drop(hold);
            connecting.join().unwrap().unwrap();
        });
        let [default, moved] = keys.each_ref().map(|key| stored(key).unwrap());
        assert_eq!((default.id, &*default.email), (second.id, "second@example.com"));
        assert_eq!((moved.id, &*moved.email), (first.id, "Anna@example.com"));
        let opened = admin
            .vault
            .open_blocking(&Place::refresh_token_at(&anna, Provider::Google, 1), &moved.refresh_token);
        assert_eq!(opened.unwrap().expose(), "new");
        let third = stored(&Key::connection_at(&anna, provider, 2));
        assert!(third.is_none(), "each stands once: {third:?}");
    }

    #[test]
    fn what_is_changed_of_users_and_keys_is_told_on_the_word_of_whoever_asked() {
        let (_directory, admin) = admin();
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        let olga = UserId::from_bytes([7; 16]);
        let address = "192.0.2.7".parse().unwrap();
        let asked = admin.on_word_of(Author::of_request(Actor::User(olga), address, "req-1"));
        let identity = Identity { issuer: "https://id.example.com".to_owned(), subject: "a-1".to_owned() };
        let edit = UserEdit {
            email: Some("anna@example.org".to_owned()),
            time_zone: Some("Europe/Berlin".to_owned()),
            role: Some(Role::Operator),
            disabled: Some(true),
            tokens_since: Some(Some(jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9))),
            identity: Some(identity),
        };
        asked.edit_user(&anna, &edit).unwrap();
        let (_, key) = asked.make_key(&anna, &everything("phone"), &KeyLimit::NONE).unwrap();
        let rename = KeyEdit { name: Some("laptop".to_owned()), ..KeyEdit::default() };
        asked.edit_key(&anna, &key.id, &rename, &KeyLimit::NONE).unwrap();
        asked.revoke_key(&anna, &key.id).unwrap();
        asked.revoke_key(&anna, &key.id).unwrap_err();
        asked.set_limit(&anna, &LimitRecord { per_minute: Some(5), ..LimitRecord::default() }).unwrap();
        let page = sluice_store::audit::page(&admin.store, admin.shard_of(&anna), 0).unwrap();
        let told: Vec<_> = page.entries.iter().skip(1).map(|entry| &entry.event).collect();
        let acts: Vec<_> = told.iter().map(|event| &*event.act).collect();
        let of_user =
            ["user.change", "user.role", "user.disable", "user.sign-out", "identity.link"].as_slice();
        let rest = ["key.create", "key.change", "key.revoke", "setting.change"].as_slice();
        assert_eq!(acts, [of_user, rest].concat());
        assert_eq!(told[1].object, format!("{anna} operator"));
        assert_eq!(told[7].object, format!("{anna} {}", key.id));
        for event in told {
            let from = (&*event.actor, &*event.address, &*event.request);
            assert_eq!(from, (&*olga.to_string(), "192.0.2.7", "req-1"));
            assert!(!format!("{event:?}").contains("example."), "{event:?}");
        }
    }

    #[test]
    fn writers_on_several_threads_add_to_one_chain() {
        let (_directory, admin) = admin();
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        let shard = admin.shard_of(&anna);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // Each has a lock of its own, as a core that writes by another way has none at all.
                let admin = Admin::new(admin.store.clone(), admin.vault().clone());
                scope.spawn(move || {
                    for _ in 0..15 {
                        admin.create_key(&anna, "").unwrap();
                    }
                });
            }
        });
        let proof = sluice_store::audit::verify(&admin.store, shard, &[]).unwrap();
        assert_eq!((proof.head.sequence, proof.fault), (61, None));
    }

    #[test]
    fn an_anchor_holds_a_chain_to_what_it_was() {
        use sluice_store::{AuditFault, AuditHead};
        let (_directory, admin) = admin();
        let anna = admin.create_user("anna", "anna@example.com", "UTC").unwrap().id;
        let shard = admin.shard_of(&anna);
        let anchor = sluice_store::audit::verify(&admin.store, shard, &[]).unwrap().head;
        admin.create_key(&anna, "").unwrap();
        let fault = |anchor| sluice_store::audit::verify(&admin.store, shard, &[anchor]).unwrap().fault;
        assert_eq!(fault(anchor), None);
        let other = AuditHead { hash: [1; 32], ..anchor };
        assert_eq!(fault(other), Some(AuditFault::Anchor { sequence: 1 }));
        let later = AuditHead { sequence: 3, ..anchor };
        assert_eq!(fault(later), Some(AuditFault::Truncated { found: 2, expected: 3 }));
    }
}
