//! A bounded map that forgets what was not used lately.
//!
//! Entries live in two generations. New and used ones are in the young; when that is half of the maximum, it
//! becomes the old one and the old one is dropped. So an entry that is used at least once a generation stays, a
//! look-up costs at most two probes, and nothing walks the map.
//!
//! Invariant: at most `max` entries, no two of them equal.

use hashbrown::HashTable;

/// See the module. The caller hashes and compares, so that it can compare in constant time.
pub(crate) struct Generations<T> {
    young: HashTable<Hashed<T>>,
    old: HashTable<Hashed<T>>,
    half_max: usize,
}

struct Hashed<T> {
    hash: u64,
    value: T,
}

impl<T> Generations<T> {
    /// Holds at most `max` entries (rounded down to even, at least 2).
    pub(crate) fn new(max: usize) -> Self {
        Self { young: HashTable::new(), old: HashTable::new(), half_max: (max / 2).max(1) }
    }

    /// The entry that `is_it` recognises among those of this hash.
    pub(crate) fn find(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        if self.young.find(hash, |entry| is_it(&entry.value)).is_none() {
            let found = self.old.find_entry(hash, |entry| is_it(&entry.value)).ok()?;
            let (entry, _) = found.remove();
            self.push(entry);
        }
        self.young.find_mut(hash, |entry| is_it(&entry.value)).map(|entry| &mut entry.value)
    }

    /// Puts an entry in, over the one that `is_it` recognises.
    pub(crate) fn insert(&mut self, hash: u64, value: T, is_it: impl Fn(&T) -> bool) {
        self.remove(hash, is_it);
        self.push(Hashed { hash, value });
    }

    /// Drops the entry that `is_it` recognises; says whether there was one.
    pub(crate) fn remove(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> bool {
        let mut removed = false;
        for table in [&mut self.young, &mut self.old] {
            if let Ok(found) = table.find_entry(hash, |entry| is_it(&entry.value)) {
                found.remove();
                removed = true;
            }
        }
        removed
    }

    /// Drops the entries that `is_kept` does not want. Walks the map: for what is rare.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&T) -> bool) {
        for table in [&mut self.young, &mut self.old] {
            table.retain(|entry| is_kept(&entry.value));
        }
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn push(&mut self, entry: Hashed<T>) {
        if self.young.len() >= self.half_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert_unique(entry.hash, entry, |entry| entry.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(key: u16) -> u64 {
        // Few distinct hashes, so that entries must be told apart by comparing.
        u64::from(key % 7)
    }

    fn get(map: &mut Generations<(u16, u32)>, key: u16) -> Option<u32> {
        map.find(hash(key), |entry| entry.0 == key).map(|entry| entry.1)
    }

    fn put(map: &mut Generations<(u16, u32)>, key: u16, value: u32) {
        map.insert(hash(key), (key, value), |entry| entry.0 == key);
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut map = Generations::new(8);
        put(&mut map, 999, 1);
        for key in 0..100 {
            put(&mut map, key, 0);
            assert_eq!(get(&mut map, 999), Some(1), "after {key}");
        }
        assert_eq!(get(&mut map, 0), None);
    }

    proptest! {
        #[test]
        fn holds_the_last_value_or_nothing(steps in proptest::collection::vec((0u16..30, any::<u32>(), 0u8..3), 1..300), max in 2usize..80) {
            let mut map = Generations::new(max);
            let mut model = std::collections::HashMap::new();
            for (key, value, step) in steps {
                match step {
                    0 => { put(&mut map, key, value); model.insert(key, value); }
                    1 => { map.remove(hash(key), |entry| entry.0 == key); model.remove(&key); }
                    _ => {
                        let found = get(&mut map, key);
                        prop_assert!(found.is_none() || found == model.get(&key).copied());
                        if max >= 62 { prop_assert_eq!(found, model.get(&key).copied()); }
                    }
                }
                prop_assert!(map.len() <= max.max(2));
            }
        }
    }
}
