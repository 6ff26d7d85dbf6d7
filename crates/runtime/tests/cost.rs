//! What a container costs. The bounds are loose, as tests share the machine; the numbers are printed.

mod common;

use std::time::{Duration, Instant};

use common::place;

#[test]
fn a_shim_keeps_little_memory_and_starts_fast() {
    let place = place();
    for grouped in [true, false] {
        let mut times = Vec::new();
        for _ in 0..30 {
            let mut plan = place.plan(&["true"]);
            if !grouped {
                plan.cgroup = None;
            }
            let begin = Instant::now();
            let running = place.launch(plan).unwrap();
            let created = begin.elapsed();
            running.client.start().unwrap();
            times.push((begin.elapsed(), created));
            let ended = || running.launch.exit_file.exists().then_some(());
            dray_testkit::eventually("the exit", common::DEADLINE, ended);
        }
        times.sort();
        let fastest = times[0].0;
        let (started, created) = times[times.len() / 2];
        eprintln!(
            "control group {grouped}: median created {created:?}, started {started:?}, fastest {fastest:?}"
        );
        assert!(started < Duration::from_millis(250));
    }

    let running = place.launch(place.plan(&["sleep", "1000"])).unwrap();
    running.client.start().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.process.pid)).unwrap();
    let shim = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    // Pages of the binary itself are shared with the daemon and every other shim; here only one process maps them.
    let private: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Private_Dirty"))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum();
    eprintln!("private memory of a shim: {private} KiB");
    assert!(private < 512, "{private} KiB");
    running.kill();
}
