//! Where commits become durable.
//!
//! A backend keeps records and answers for them: what it acknowledged it gives back at the next load, or it says what is
//! damaged. It does not know who reads, and no value reaches readers but through the writer.

mod acknowledged;
mod embedded;
mod frame;
mod picture;

pub use embedded::Embedded;

use crate::{Entry, Error, Key, Snapshot};

/// One change of a commit: a new value, or none for a delete.
#[derive(Debug, Clone)]
pub struct Change {
    /// The key.
    pub key: Key,
    /// The new value.
    pub entry: Option<Entry>,
}

/// A place that keeps commits.
pub trait Backend: Send + 'static {
    /// Hands all that was kept to `visit`, changes in their order, and returns the last revision that was committed.
    ///
    /// # Errors
    /// What the medium said, and `Damaged` where something that was committed is missing or is not what was committed.
    fn load(&mut self, visit: &mut dyn FnMut(Key, Option<Entry>)) -> Result<u64, Error>;

    /// Makes all changes durable, or none. `picture` is what is stored after them.
    ///
    /// # Errors
    /// What the medium said; then no commit is taken until [`Backend::recover`] has succeeded.
    fn commit(&mut self, picture: &Snapshot, changes: &[Change]) -> Result<(), Error>;

    /// Takes back what a failed commit may have left, so that commits are taken again.
    ///
    /// # Errors
    /// What the medium said; it may be asked again later.
    fn recover(&mut self) -> Result<(), Error>;
}

/// Keeps nothing: for tests and for measuring.
#[derive(Debug, Default)]
pub struct Memory;

impl Backend for Memory {
    fn load(&mut self, _visit: &mut dyn FnMut(Key, Option<Entry>)) -> Result<u64, Error> {
        Ok(0)
    }

    fn commit(&mut self, _picture: &Snapshot, _changes: &[Change]) -> Result<(), Error> {
        Ok(())
    }

    fn recover(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
