//! A record that was validated, read in place from then on.
//!
//! Invariant: the bytes of a [`Loaded<R>`] hold a valid archive of `R` at `R::SCHEMA` before their last byte, and
//! never change. `Loaded::new_or_back` and `Loaded::of` are the only ways in; the field is private to this module.

#![allow(unsafe_code, reason = "reading validated bytes in place; the one place that does")]

use std::marker::PhantomData;

use rkyv::rancor;
use rkyv::util::AlignedVec;

use super::{Record, RecordError, Value, encode};

/// A validated record in the bytes it is stored as.
pub struct Loaded<R> {
    bytes: AlignedVec,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Loaded<R> {
    /// Validates a value. A value of an older schema is read by [`Record::upgrade`] and written anew, in memory.
    ///
    /// # Errors
    /// [`RecordError::Damaged`] or [`RecordError::Newer`].
    pub fn new(value: Value) -> Result<Self, RecordError> {
        Self::new_or_back(value).map_err(|refused| refused.0)
    }

    /// As [`Self::new`], but a value that is refused comes back, to be kept aside.
    pub(crate) fn new_or_back(value: Value) -> Result<Self, Box<(RecordError, Value)>> {
        match Self::check(value.as_bytes()) {
            Ok(None) => Ok(Self { bytes: value.into_aligned(), record: PhantomData }),
            Ok(Some(upgraded)) => Ok(upgraded),
            Err(error) => Err(Box::new((error, value))),
        }
    }

    /// Validates the bytes of a [`Value`], which are aligned. Gives a record anew when theirs is of an older schema.
    fn check(bytes: &[u8]) -> Result<Option<Self>, RecordError> {
        let damaged = |reason: String| RecordError::Damaged { record: R::NAME, reason };
        let Some((&schema, archive)) = bytes.split_last() else {
            return Err(damaged("no bytes".to_owned()));
        };
        if schema > R::SCHEMA {
            return Err(RecordError::Newer { record: R::NAME, found: schema, known: R::SCHEMA });
        }
        if schema == R::SCHEMA {
            rkyv::access::<R::Archived, rancor::Error>(archive)
                .map_err(|error| damaged(error.to_string()))?;
            return Ok(None);
        }
        match R::upgrade(schema, archive) {
            Some(Ok(record)) => super::archive(&record).map(|value| Some(Self::trusted(value))),
            Some(Err(error)) => Err(damaged(error.to_string())),
            None => Err(damaged(format!("there never was a schema {schema}"))),
        }
    }

    /// The record as it would come back from the store.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn of(record: &R) -> Result<Self, RecordError> {
        encode(record).map(Self::trusted)
    }

    /// What the serializer of `R` has just made.
    fn trusted(value: Value) -> Self {
        let loaded = Self { bytes: value.into_aligned(), record: PhantomData };
        debug_assert!(rkyv::access::<R::Archived, rancor::Error>(loaded.archive()).is_ok());
        loaded
    }

    fn archive(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - 1]
    }

    /// The record in place. Costs nothing.
    pub fn get(&self) -> &R::Archived {
        // SAFETY: the archive is valid for `R::Archived`: `new_or_back` checked it with `rkyv::access`, `trusted` got it from the
        // serializer of `R`, and nothing writes to `bytes` afterwards (private, never lent out mutably). It is
        // aligned, for an `AlignedVec` is and the archive begins where it does; moving the `Loaded` does not move
        // the heap bytes. The checked `access` would walk the whole record on every read, which is why it is not
        // used here.
        unsafe { rkyv::access_unchecked::<R::Archived>(self.archive()) }
    }

    /// The record, owned: copies every field.
    pub fn to_record(&self) -> R {
        rkyv::deserialize::<R, rancor::Error>(self.get())
            .expect("deserialising what was validated fails on shared pointers alone, which no record has")
    }

    /// The bytes as they are stored, schema and all.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl<R> Clone for Loaded<R> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), record: PhantomData }
    }
}

impl<R: Record> std::fmt::Debug for Loaded<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loaded({}, {} bytes)", R::NAME, self.bytes.len())
    }
}
