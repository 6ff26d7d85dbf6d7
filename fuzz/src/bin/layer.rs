//! Archives as layers and contexts come: nothing outside of the directory is touched, whatever the headers say.
#![no_main]

use std::sync::LazyLock;

use dray_fuzz::Cage;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{Mode, OFlags, open};
use std::os::fd::AsFd as _;

static CAGE: LazyLock<Cage> = LazyLock::new(Cage::close);

fuzz_target!(init: { LazyLock::force(&CAGE); }, |bytes: &[u8]| {
    let path = CAGE.fresh();
    let directory = open(&path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
    let _ = dray_image::extract_archive(bytes, directory.as_fd());
    drop(directory);
    CAGE.check();
});
