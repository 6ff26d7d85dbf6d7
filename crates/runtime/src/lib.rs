//! The OCI runtime: a launch specification becomes a process, and a small shim stays with it.
//!
//! Synchronous, without threads and without HTTP. It knows Linux and the OCI runtime specification; it does not
//! know images, networks, the engine or any API, and nothing that comes from an image decides anything about
//! the host.
//!
//! One binary is daemon, shim and first process of a container. [`shim::main_if_requested`] is the first
//! statement of `main`; the daemon starts shims with [`shim::spawn`] and talks to them over a unix socket in the
//! words of [`protocol`].

pub mod cgroup;
pub mod defaults;
pub mod direct;

mod error;
mod executable;
pub mod heap;
pub mod hooks;
mod identities;
mod init;
pub mod launch;
pub mod namespaces;
mod process;
mod processes;
pub mod protocol;
pub mod rootfs;
pub mod seccomp;
pub mod security;
pub mod shim;
mod signals;
mod spawn;
mod sys;
mod timestamp;

pub use error::{Error, Result};
pub use executable::Executable;
pub use launch::LaunchSpec;
pub use process::Process;
pub use processes::ProcessEntry;
pub use signals::parse_signal;
pub use timestamp::rfc3339;
