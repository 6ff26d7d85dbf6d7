//! Pods on a real node: real API server, real engine, real kernel, real kubectl.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on must stop here, and tells how long things took"
)]

mod cases;
mod world;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use world::World;

/// A test: a world of its own, and what happens in it.
fn trial<F, T>(name: &'static str, test: T) -> Trial
where
    F: Future<Output = World>,
    T: FnOnce(World) -> F + Send + 'static,
{
    Trial::test(name, move || {
        dray_testkit::isolate();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let world = World::new().await;
                test(world).await.close().await;
            });
        }));
        world::sweep();
        ran.map_or_else(|panic| resume_unwind(panic), |()| Ok(()))
    })
}

fn main() -> ExitCode {
    // This binary is the containers' shim as well.
    dray_runtime::shim::main_if_requested();
    if std::env::var_os("DRAY_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("DRAY_LOG"))
            .with_writer(std::io::stderr)
            .init();
    }
    libtest_mimic::run(&Arguments::from_args(), cases::all()).exit_code()
}
