//! User and time namespaces, mapped mounts, and what the kernel's schedulers are told. Needs root and busybox-static.

#![allow(clippy::unwrap_used, reason = "a test that cannot prepare fails")]

mod common;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;

use common::{Plan, place};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxPersonality, LinuxPersonalityDomain,
    LinuxTimeOffset, Mount,
};

const FIRST: u32 = 100_000;

fn mappings() -> Vec<LinuxIdMapping> {
    let json = format!(r#"[{{"containerID":0,"hostID":{FIRST},"size":65536}}]"#);
    serde_json::from_str(&json).unwrap()
}

fn add_namespace(plan: &mut Plan, kind: LinuxNamespaceType) {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    let linux = plan.spec.linux_mut().as_mut().unwrap();
    linux.namespaces_mut().as_mut().unwrap().push(namespace);
}

fn in_user_namespace(plan: &mut Plan) {
    add_namespace(plan, LinuxNamespaceType::User);
    let linux = plan.spec.linux_mut().as_mut().unwrap();
    linux.set_uid_mappings(Some(mappings())).set_gid_mappings(Some(mappings()));
}

fn mount(kind: &str, source: &std::path::Path, destination: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_destination(destination.into())
        .set_options(Some(options.iter().map(|&one| one.into()).collect()));
    mount
}

#[test]
fn a_user_namespace_maps_everybody_and_layers_keep_their_owners() {
    let place = place();
    let mut plan = place.shell(
        "cat /proc/self/uid_map; id -u; stat -c %u /bin/busybox; echo new > /root/new; rm /bin/tail; \
         mknod /tmp/disk b 8 0 || echo refused; echo x > /dev/stdout; echo $$; sleep 1000",
    );
    in_user_namespace(&mut plan);
    let name = plan.name.clone();
    let running = place.launch(plan).unwrap_or_else(|error| panic!("{}", error.chain()));
    running.client.start().unwrap();
    running.await_log("refused\nx\n1\n");
    let log = running.log();
    assert!(log.contains("100000      65536\n0\n0\n"), "{log}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.process.pid)).unwrap();
    assert!(status.contains("Uid:\t100000\t100000\t100000\t100000"), "{status}");
    // What it wrote has the numbers of the image, as a commit wants them, and a removed file leaves a whiteout.
    let upper = place.upper(&name);
    assert_eq!(std::fs::metadata(upper.join("root/new")).unwrap().uid(), 0);
    assert_eq!(std::fs::symlink_metadata(upper.join("bin/tail")).unwrap().rdev(), 0);
    let process = common::process(&["sh", "-c", "id -u; cat /root/new; touch /home/exec"]);
    let exec = place.exec(&running, Default::default(), process).unwrap();
    assert_eq!(exec.start_and_wait().code, 0, "{}", exec.log());
    assert_eq!(exec.log(), "0\nnew\n");
    running.kill();
}

#[test]
fn a_mapped_mount_shows_other_owners() {
    let place = place();
    let volume = place.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "x").unwrap();
    let mut plan = place.shell("stat -c %u /plain/file /mapped/file; touch /mapped/new || exit 3");
    in_user_namespace(&mut plan);
    let mounts = plan.spec.mounts_mut().as_mut().unwrap();
    mounts.push(mount("bind", &volume, "/plain", &["rbind"]));
    mounts.push(mount("bind", &volume, "/mapped", &["rbind", "idmap"]));
    let (exit, log) = place.run(plan);
    assert_eq!((exit.code, log.as_str()), (0, "65534\n0\n"));
    assert_eq!(std::fs::metadata(volume.join("new")).unwrap().uid(), 0);
}

#[test]
fn a_time_namespace_has_its_own_clock() {
    let place = place();
    let mut plan = place.shell("cut -d. -f1 /proc/uptime 2>/dev/null || head -c 20 /proc/uptime");
    add_namespace(&mut plan, LinuxNamespaceType::Time);
    let mut offset = LinuxTimeOffset::default();
    offset.set_secs(Some(1_000_000_000));
    let linux = plan.spec.linux_mut().as_mut().unwrap();
    linux.set_time_offsets(Some(HashMap::from([("boottime".to_owned(), offset)])));
    let (_, log) = place.run(plan);
    let uptime: f64 = log.split(['.', ' ', '\n']).next().unwrap().parse().unwrap();
    assert!(uptime >= 1e9, "{log}");
}

#[test]
fn schedulers_and_personality_are_told() {
    let place = place();
    let mut plan = place.shell("grep Cpus_allowed_list /proc/self/status; cat /proc/self/personality");
    let process = plan.spec.process_mut().as_mut().unwrap();
    process.set_io_priority(serde_json::from_str(r#"{"class":"IOPRIO_CLASS_IDLE","priority":3}"#).unwrap());
    process.set_exec_cpu_affinity(serde_json::from_str(r#"{"initial":"0","final":"0"}"#).unwrap());
    process.set_scheduler(serde_json::from_str(r#"{"policy":"SCHED_BATCH","nice":5}"#).unwrap());
    let mut personality = LinuxPersonality::default();
    personality.set_domain(LinuxPersonalityDomain::PerLinux32);
    plan.spec.linux_mut().as_mut().unwrap().set_personality(Some(personality));
    let (exit, log) = place.run(plan);
    assert_eq!((exit.code, log.as_str()), (0, "Cpus_allowed_list:\t0\n00000008\n"));
}

#[test]
fn a_tmpfs_begins_with_what_it_covers_when_asked() {
    let place = place();
    let mut plan =
        place.shell("ls -l /etc | grep -c passwd; readlink /bin/sh; touch /etc/new && echo writable");
    let options = ["tmpcopyup", "mode=755"];
    plan.spec.mounts_mut().as_mut().unwrap().push(mount("tmpfs", "tmpfs".as_ref(), "/etc", &options));
    let name = plan.name.clone();
    let (exit, log) = place.run(plan);
    assert_eq!((exit.code, log.as_str()), (0, "1\nbusybox\nwritable\n"));
    assert!(!place.upper(&name).join("etc/new").exists());
}

#[test]
fn mounts_below_a_read_only_bind_are_read_only_too_when_asked() {
    let place = place();
    let volume = place.directory.path().join("volume");
    std::fs::create_dir_all(volume.join("below")).unwrap();
    let below = volume.join("below");
    rustix::mount::mount("tmpfs", &below, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let mut plan = place.shell(
        "touch /one/below/x && echo one; touch /two/below/x 2>/dev/null || echo two; touch /two/x 2>/dev/null || echo top",
    );
    let mounts = plan.spec.mounts_mut().as_mut().unwrap();
    mounts.push(mount("bind", &volume, "/one", &["rbind", "ro"]));
    mounts.push(mount("bind", &volume, "/two", &["rbind", "rro"]));
    let (_, log) = place.run(plan);
    // Else the place could not be removed.
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(log, "one\ntwo\ntop\n");
}
