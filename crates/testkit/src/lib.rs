//! What tests stand on: isolation from the host, and images made from nothing. Used by tests only; knows no other
//! crate of ours.
#![forbid(unsafe_code)]

mod group;
mod image;
mod isolate;
mod layout;
mod wait;

pub use group::ControlGroup;
pub use image::busybox_archive;
pub use isolate::isolate;
pub use layout::LayoutArchive;
pub use wait::eventually;
