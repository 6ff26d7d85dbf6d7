//! What can go wrong in this crate.

/// The result of every fallible function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure that ends the scheduler; what fails for one pod is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A watch of the API ended, which it never should.
    #[error("the watch of {kind} ended")]
    WatchEnded {
        /// Pods or Nodes.
        kind: &'static str,
    },
    /// What was said about a profile means nothing.
    #[error("the profile {text:?} cannot be read: {reason}")]
    Profile {
        /// What was said.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}
