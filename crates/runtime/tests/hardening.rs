//! Attacks that container runtimes have lost to, tried with malicious images and specifications. Needs root and
//! busybox-static. More of them are in `exec.rs` and `isolation.rs`, beside what they are about.

mod common;

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Place, Plan, place, refusal};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    mount("bind", source, destination, options)
}

fn mount(kind: &str, source: &Path, destination: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_destination(destination.into())
        .set_options(Some(options.iter().map(|&one| one.into()).collect()));
    mount
}

fn add(plan: &mut Plan, mount: Mount) {
    plan.spec.mounts_mut().get_or_insert_with(Vec::new).push(mount);
}

fn layer(place: &Place) -> std::path::PathBuf {
    place.directory.path().join("layer")
}

fn set_sysctl(plan: &mut Plan, name: &str, value: &str) {
    if let Some(linux) = plan.spec.linux_mut() {
        linux.set_sysctl(Some(HashMap::from([(name.to_owned(), value.to_owned())])));
    }
}

fn core_pattern() -> String {
    std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default()
}

/// A link in place of `/proc` whose target is a volume: masks and labels would land on the volume.
#[test]
fn cve_2023_27561_a_link_to_a_volume_is_no_proc() {
    let place = place();
    let volume = place.directory.path().join("volume");
    std::fs::create_dir_all(volume.join("self/attr")).expect("a volume");
    std::fs::remove_dir(layer(&place).join("proc")).expect("the layer has it");
    symlink("/volume", layer(&place).join("proc")).expect("a link");
    let mut plan = place.shell("cat /proc/self/status");
    if let Some(mounts) = plan.spec.mounts_mut() {
        mounts.insert(0, bind(&volume, "/volume", &["rbind"]));
    }
    let message = refusal(place.launch(plan));
    assert!(message.contains("/proc"), "{message}");
    assert_eq!(std::fs::read_dir(volume.join("self/attr")).expect("it is there").count(), 0);
}

/// The same with links that lead to nothing yet, and for `/sys`.
#[test]
fn cve_2023_28642_dangling_links_in_place_of_kernel_directories_are_refused() {
    for name in ["proc", "sys"] {
        let place = place();
        std::fs::remove_dir(layer(&place).join(name)).expect("the layer has it");
        symlink("/not-there", layer(&place).join(name)).expect("a link");
        let message = refusal(place.launch(place.shell("true")));
        assert!(message.contains(&format!("/{name}")), "{message}");
        assert!(!Path::new("/not-there").exists());
    }
}

/// Somebody who shares a volume exchanges a directory of it for a link to the host, over and over, while containers
/// with a mount below it start.
#[test]
fn cve_2024_45310_an_exchanged_directory_creates_nothing_on_the_host() {
    let place = place();
    let (volume, host) = (place.directory.path().join("volume"), place.directory.path().join("host"));
    std::fs::create_dir_all(volume.join("one")).expect("a volume");
    std::fs::create_dir(&host).expect("a directory of the host");
    symlink(&host, volume.join("two")).expect("a link");
    let file = place.directory.path().join("file");
    std::fs::write(&file, "mounted").expect("a file");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, two) = (volume.join("one"), volume.join("two"));
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &two, flags)
                    .expect("both exist");
            }
        });
        for round in 0..25 {
            let mut plan = place.shell("true");
            add(&mut plan, bind(&volume, "/volume", &["rbind"]));
            add(&mut plan, bind(&file, &format!("/volume/one/below/{round}"), &["rbind"]));
            // Either is fine: a start, or a refusal because something vanished under it.
            if let Ok(running) = place.launch(plan) {
                running.start_and_wait();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(&host).expect("it is there").count(), 0);
}

/// Fields longer than 64 KiB were truncated on their way into the container; here they arrive whole or are refused.
#[test]
fn cve_2021_43784_long_fields_are_never_truncated() {
    let place = place();
    let long = "x".repeat(70_000);
    let mut plan = place.shell("printf %s \"$LONG\" | wc -c");
    if let Some(process) = plan.spec.process_mut() {
        process.set_env(Some(vec!["PATH=/bin".into(), format!("LONG={long}")]));
    }
    let (_, log) = place.run(plan);
    assert_eq!(log.trim(), "70000");
    let mut plan = place.shell("true");
    plan.spec.set_hostname(Some(long.clone()));
    refusal(place.launch(plan));
    let mut plan = place.shell("true");
    if let Some(process) = plan.spec.process_mut() {
        process.set_cwd(format!("/{long}").into());
    }
    refusal(place.launch(plan));
    let mut plan = place.shell("true");
    add(&mut plan, bind(Path::new("/tmp"), &format!("/{long}"), &["rbind"]));
    refusal(place.launch(plan));
    // More mappings than the kernel takes: none of them is in force.
    let mut plan = place.shell("true");
    let mappings: Vec<serde_json::Value> = (0..4000)
        .map(|id| serde_json::json!({ "containerID": id, "hostID": 100_000 + id, "size": 1 }))
        .collect();
    if let Some(linux) = plan.spec.linux_mut() {
        let mappings = serde_json::from_value(mappings.into()).ok();
        linux.set_uid_mappings(mappings.clone()).set_gid_mappings(mappings);
        let user = serde_json::from_value(serde_json::json!({ "type": "user" })).expect("a namespace");
        linux.namespaces_mut().get_or_insert_with(Vec::new).push(user);
    }
    refusal(place.launch(plan));
}

/// Without a cgroup namespace the host's groups were writable for whoever is root in a user namespace.
#[test]
fn cve_2023_25809_control_groups_are_not_writable_without_a_namespace() {
    let place = place();
    let mut plan = place.shell(
        "mkdir /sys/fs/cgroup/pids/x 2>/dev/null && echo made; mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; \
         echo 1 2>/dev/null > /sys/fs/cgroup/memory/memory.limit_in_bytes && echo written; ls /sys/fs/cgroup | wc -l",
    );
    if let Some(linux) = plan.spec.linux_mut() {
        let mapping = serde_json::json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        let mappings = serde_json::from_value(mapping).ok();
        linux.set_uid_mappings(mappings.clone()).set_gid_mappings(mappings);
        let namespaces = linux.namespaces_mut().get_or_insert_with(Vec::new);
        namespaces.retain(|one| one.typ() != LinuxNamespaceType::Cgroup);
        namespaces.push(serde_json::from_value(serde_json::json!({ "type": "user" })).expect("a namespace"));
    }
    let (exit, log) = place.run(plan);
    assert_eq!(exit.code, 0, "{log}");
    assert!(!log.contains("made") && !log.contains("written"), "{log}");
}

/// The image's `/dev/null` is a link to a setting of the kernel: what hides paths must be the real device.
#[test]
fn cve_2025_31133_masks_are_the_real_null_device() {
    let place = place();
    symlink("/proc/sys/kernel/core_pattern", layer(&place).join("dev/null")).expect("a link");
    let before = core_pattern();
    let mut plan = place.shell("stat -c %t:%T /proc/interrupts; echo evil > /proc/interrupts");
    if let Some(mounts) = plan.spec.mounts_mut() {
        // The image's own /dev shows.
        mounts.retain(|mount| !mount.destination().starts_with("/dev"));
    }
    let (_, log) = place.run(plan);
    assert_eq!(log, "1:3\n");
    assert_eq!(core_pattern(), before);
}

/// What is written for the container must reach the kernel's file and no other.
#[test]
fn cve_2025_52881_settings_reach_the_kernels_own_files() {
    let place = place();
    // A tmpfs where settings and labels are written, also behind a link of the image.
    symlink("/proc", layer(&place).join("link")).expect("a link");
    for destination in ["/proc/sys", "/proc/sys/net", "/proc/self/attr", "/link/sys"] {
        let mut plan = place.shell("true");
        set_sysctl(&mut plan, "net.ipv4.ip_forward", "1");
        add(&mut plan, mount("tmpfs", Path::new("tmpfs"), destination, &[]));
        let message = refusal(place.launch(plan));
        assert!(message.contains("inside /proc"), "{destination}: {message}");
    }
    let mut plan = place.shell("cat /proc/sys/net/ipv4/ip_forward");
    set_sysctl(&mut plan, "net.ipv4.ip_forward", "1");
    assert_eq!(place.run(plan).1, "1\n");
}

/// An image whose `/dev` is a link: nodes and terminals would be made where it leads.
#[test]
fn cve_2026_41579_a_link_in_place_of_dev_is_refused() {
    let place = place();
    std::fs::remove_dir(layer(&place).join("dev")).expect("the layer has it");
    symlink("/etc", layer(&place).join("dev")).expect("a link");
    let plan = place.shell("true");
    let upper = place.upper(&plan.name);
    let message = refusal(place.launch(plan));
    assert!(message.contains("/dev"), "{message}");
    assert!(!upper.join("etc/null").exists());
}

/// A socket without a path can be reached by every container of the host's network.
#[test]
fn cve_2020_15257_no_socket_is_in_the_abstract_namespace() {
    let place = place();
    let running = place.launch(place.shell("sleep 1000")).unwrap_or_else(|error| panic!("{}", error.chain()));
    running.client.start().unwrap_or_else(|error| panic!("{}", error.chain()));
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").expect("the kernel tells");
    let names: Vec<&str> =
        sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7)).collect();
    assert!(names.iter().any(|name| name.ends_with("/socket")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with('@')), "{names:?}");
    running.kill();
}

/// Settings of the host, by value or by name.
#[test]
fn cve_2022_0811_a_setting_is_one_setting_of_the_containers_own() {
    let place = place();
    let before = core_pattern();
    let evil = "1+kernel.core_pattern=|/bin/evil #";
    for (name, value) in [
        ("kernel.shm_rmid_forced", evil),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/bin/evil"),
        ("kernel.core_pattern", "|/bin/evil"),
        ("kernel/core_pattern", "|/bin/evil"),
        ("net/../kernel/core_pattern", "|/bin/evil"),
        ("fs.suid_dumpable", "2"),
        ("vm.panic_on_oom", "0"),
    ] {
        let mut plan = place.shell("true");
        set_sysctl(&mut plan, name, value);
        refusal(place.launch(plan));
        assert_eq!(core_pattern(), before, "{name}");
    }
}

/// Groups are those of the specification, no more and no fewer.
#[test]
fn cve_2022_36109_groups_are_exact() {
    let place = place();
    let groups = |groups: Option<Vec<u32>>| {
        let mut plan = place.shell("grep Groups /proc/self/status");
        if let Some(process) = plan.spec.process_mut() {
            process.user_mut().set_uid(1000).set_gid(1000).set_additional_gids(groups);
        }
        place.run(plan).1.trim_end().to_owned()
    };
    // Neither the daemon's groups nor those of the image's files.
    assert_eq!(groups(None), "Groups:");
    assert_eq!(groups(Some(vec![1000, 7])), "Groups:\t7 1000");
}
