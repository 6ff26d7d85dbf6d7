//! The tests, by what they are about.

mod configuration;
mod lifecycle;
mod streams;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [lifecycle::all(), configuration::all(), streams::all()].into_iter().flatten().collect()
}
