//! Control groups with the real kernel. Needs root and busybox-static.

mod common;

use common::place;
use dray_runtime::cgroup::{Cgroup, Controller};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

fn limits(memory: i64) -> LinuxResources {
    let mut limit = LinuxMemory::default();
    limit.set_limit(Some(memory)).set_swap(Some(memory));
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(Some(50_000)).set_period(Some(100_000)).set_shares(Some(512));
    cpu.set_cpus(Some("0".into()));
    let mut pids = LinuxPids::default();
    pids.set_limit(50);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(limit)).set_cpu(Some(cpu)).set_pids(Some(pids));
    resources
}

#[test]
fn limits_are_read_back_changed_and_gone_afterwards() {
    let place = place();
    let mut plan = place.shell("echo ready; sleep 1000");
    let resources = plan.spec.linux_mut().as_mut().unwrap().resources_mut().as_mut().unwrap();
    let devices = resources.devices().clone();
    *resources = limits(64 << 20);
    resources.set_devices(devices);
    let running = place.launch(plan).unwrap();
    running.client.start().unwrap();
    running.await_log("ready");
    let cgroup = running.cgroup();
    let statistics = cgroup.statistics();
    assert_eq!(statistics.memory.limit, Some(64 << 20));
    assert_eq!(statistics.pids.limit, Some(50));
    assert!(statistics.pids.current >= 1 && statistics.memory.usage > 0);
    assert!(statistics.cpu.usage.as_nanos() > 0);
    assert!(cgroup.pids().unwrap().contains(&running.process.pid));
    cgroup.update(&limits(32 << 20)).unwrap();
    assert_eq!(cgroup.statistics().memory.limit, Some(32 << 20));
    cgroup.freeze().unwrap();
    cgroup.thaw().unwrap();
    let directories: Vec<_> = [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Cpuset]
        .into_iter()
        .filter_map(|controller| cgroup.directory(controller))
        .collect();
    assert!(directories.iter().all(|directory| directory.exists()));
    running.kill();
    assert!(directories.iter().all(|directory| !directory.exists()));
}

#[test]
fn a_container_that_wants_too_much_memory_is_ended_and_says_so() {
    let place = place();
    let mut plan = place.shell("exec tail -c 200m /dev/zero");
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(16 << 20)).set_swap(Some(16 << 20));
    plan.spec.linux_mut().as_mut().unwrap().resources_mut().as_mut().unwrap().set_memory(Some(memory));
    let (exit, log) = place.run(plan);
    assert_eq!((exit.code, exit.oom_killed), (137, true), "{log}");
}

#[test]
fn devices_beyond_the_rules_cannot_be_used() {
    let place = place();
    let output = place.output(
        "mknod /kmsg c 1 11; cat /kmsg >/dev/null 2>&1 || echo refused; \
         mknod /null c 1 3; echo x > /null && echo fine",
    );
    assert_eq!(output, "refused\nfine\n");
}

#[test]
fn paths_that_leave_the_root_are_refused() {
    for path in ["../x", "/x", "a/../b", ""] {
        assert!(Cgroup::new(path.as_ref()).is_err(), "{path}");
    }
}

#[test]
fn nested_groups_are_killed_and_removed_together() {
    let place = place();
    let parent = format!("dray-test-{}/pod", std::process::id());
    let mut plan = place.shell("echo ready; sleep 1000");
    plan.cgroup = Some(format!("{parent}/inner").into());
    let running = place.launch(plan).unwrap();
    running.client.start().unwrap();
    running.await_log("ready");
    let pod = Cgroup::new(parent.as_ref()).unwrap();
    assert!(pod.pids().unwrap().contains(&running.process.pid));
    let wait = common::RequestWait::request_wait(&running.client);
    pod.kill_all().unwrap();
    assert_eq!(wait.finish().code, 137);
    pod.delete().unwrap();
    assert!(!pod.exists());
}
