//! Where commits become durable.
//!
//! A backend keeps records and answers for them: what it acknowledged it gives back at the next load, or it says what is
//! damaged. It does not know who reads, and no value reaches readers but through the writer.

mod acknowledged;
pub mod backup;
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

/// What a load found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loaded {
    /// The last revision that was committed.
    pub revision: u64,
    /// Whether some of it would be written in another way now, so that all of it should be.
    pub rewrite: bool,
}

/// Is told how something ended that goes on beside the commits.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// A place that keeps commits.
pub trait Backend: Send + 'static {
    /// Hands all that was kept to `visit`, changes in their order.
    ///
    /// # Errors
    /// What the medium said, and `Damaged` where something that was committed is missing or is not what was committed.
    fn load(&mut self, visit: &mut dyn FnMut(Key, Option<Entry>)) -> Result<Loaded, Error>;

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

    /// Writes everything that is stored anew, beside later commits, and gives up what lay there before: nothing is
    /// left of values that are gone or that were written in another way. `done` is told the end of it.
    fn rewrite(&mut self, picture: &Snapshot, done: Done);
}

/// Keeps nothing: for tests and for measuring.
#[derive(Debug, Default)]
pub struct Memory;

impl Backend for Memory {
    fn load(&mut self, _visit: &mut dyn FnMut(Key, Option<Entry>)) -> Result<Loaded, Error> {
        Ok(Loaded::default())
    }

    fn commit(&mut self, _picture: &Snapshot, _changes: &[Change]) -> Result<(), Error> {
        Ok(())
    }

    fn recover(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn rewrite(&mut self, _picture: &Snapshot, done: Done) {
        done(Ok(()));
    }
}
