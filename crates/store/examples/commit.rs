//! Measures the embedded store alone: durable creates a second, bytes written, time to open, and the bare sync beside it.
//!
//! `cargo run --release -p dray-store --example commit -- DIRECTORY [OBJECTS [WRITERS]]`
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::{error::Error, fs::File, io::Write as _, path::PathBuf, time::Instant};

use dray_store::{Draft, Key, Limits, Store};

/// Bytes of a value, as those of a small pod.
const VALUE: usize = 2048;

fn draft() -> Result<Draft, dray_store::Error> {
    let head = "{\"metadata\":{\"resourceVersion\":\"";
    Draft::new(format!("{head}\"}},\"x\":\"{}\"}}", "v".repeat(VALUE)).into_bytes(), head.len())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("name a directory that does not exist")?);
    let objects: usize = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let writers: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let store = Store::open(&directory, Limits::default())?;
    let started = Instant::now();
    runtime.block_on(async {
        let tasks = (0..writers).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in (writer..objects).step_by(writers) {
                    store.create(Key::new("core/pods", format!("default/{number}")), draft()?).await?;
                }
                Ok::<_, dray_store::Error>(())
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await??;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    let rate = objects as f64 / started.elapsed().as_secs_f64();
    println!("{objects} creates of {VALUE} bytes by {writers} writers: {rate:.0}/s");
    store.close();
    let written = std::fs::read_to_string("/proc/self/io")?;
    let written = written.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap_or("?");
    println!("bytes written to the disk: {written}");
    let started = Instant::now();
    let store = Store::open(&directory, Limits::default())?;
    println!("opened again in {:?} at revision {}", started.elapsed(), store.snapshot().revision());
    store.close();
    let mut file = File::create(directory.join("bare"))?;
    let started = Instant::now();
    for _ in 0..200 {
        file.write_all(&[1; VALUE])?;
        file.sync_data()?;
    }
    println!("a bare write and sync: {:?}", started.elapsed() / 200);
    Ok(())
}
