//! What a container must not see, have or do. Needs root and busybox-static.

mod common;

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use common::{place, refusal};
use dray_runtime::launch::{Rootfs, Stdio, TerminalSize};
use dray_runtime::namespaces::{NamespaceKind, pin, unpin};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    let mut options: Vec<String> = options.iter().map(|&one| one.into()).collect();
    options.push("rbind".into());
    mount
        .set_typ(Some("bind".into()))
        .set_source(Some(source.into()))
        .set_destination(destination.into())
        .set_options(Some(options));
    mount
}

#[test]
fn every_namespace_is_its_own() {
    let place = place();
    let kinds = ["mnt", "net", "uts", "pid", "ipc", "cgroup"];
    let script = kinds.map(|kind| format!("readlink /proc/self/ns/{kind};")).join("");
    let output = place.output(&script);
    for (inside, kind) in output.lines().zip(kinds) {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(Path::new(inside), host, "{kind}");
    }
    assert_eq!(place.output("echo $$; hostname; cat /proc/self/cgroup | grep -v ':/$'; true"), "1\nbox\n");
}

#[test]
fn capabilities_and_filter_are_in_force() {
    let place = place();
    let output = place.output("grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status");
    assert_eq!(
        output,
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
    let (_, log) = place.run(place.shell("unshare -m true; mount -t tmpfs x /tmp; hostname other"));
    assert_eq!(log.matches("not permitted").count() + log.matches("permission denied").count(), 3, "{log}");
    let mut plan = place.shell("grep -E 'CapPrm|CapEff|NoNewPrivs|Groups' /proc/self/status; id -u; umask");
    let process = plan.spec.process_mut().as_mut().unwrap();
    process.user_mut().set_uid(1000).set_gid(1000).set_additional_gids(Some(vec![1000, 2000]));
    process.set_no_new_privileges(Some(true));
    let (_, log) = place.run(plan);
    assert_eq!(
        log,
        "Groups:\t1000 2000 \nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n1000\n0022\n"
    );
}

#[test]
fn masked_and_read_only_paths_hold() {
    let place = place();
    let output = place.output(
        "wc -c < /proc/interrupts; ls /sys/firmware | wc -l; \
         echo 1 2>/dev/null > /proc/sys/kernel/hostname || echo ro; \
         mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro; ls /dev | tr '\\n' ' '; stat -c %a /dev/shm /dev/null",
    );
    let text = output.replace("/proc/sys", "");
    assert!(text.starts_with("0\n0\n"), "{output}");
    assert_eq!(output.matches("ro\n").count(), 2, "{output}");
    for name in
        ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "mqueue", "pts", "shm"]
    {
        assert!(output.contains(name), "{name}: {output}");
    }
    assert!(output.ends_with("1777\n666\n"), "{output}");
}

#[test]
fn a_read_only_root_is_one_and_an_overlay_writes_above() {
    let place = place();
    let mut plan = place.shell("touch /file 2>/dev/null || echo refused; touch /dev/shm/file && echo fine");
    plan.spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
    assert_eq!(place.run(plan).1, "refused\nfine\n");
    let plan = place.shell("echo text > /file; pwd");
    let upper = place.upper(&plan.name);
    assert_eq!(place.run(plan).1, "/\n");
    assert_eq!(std::fs::read_to_string(upper.join("file")).unwrap(), "text\n");
    let mut plan = place.shell("cat /etc/passwd | wc -l");
    plan.rootfs = Rootfs::Path(place.directory.path().join("layer"));
    assert_eq!(place.run(plan).1, "2\n");
}

#[test]
fn nothing_is_mounted_on_the_host() {
    let place = place();
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let running = place.launch(place.shell("sleep 1000")).unwrap();
    running.client.start().unwrap();
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    running.kill();
}

#[test]
fn volumes_are_bound_and_read_only_where_asked() {
    let place = place();
    let volume = place.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "text").unwrap();
    let mut plan =
        place.shell("cat /data/file; touch /ro/x 2>/dev/null || echo ro; echo new > /data/new; cat /one");
    let mounts = plan.spec.mounts_mut().as_mut().unwrap();
    mounts.push(bind(&volume, "/data", &[]));
    mounts.push(bind(&volume, "/ro", &["ro"]));
    mounts.push(bind(&volume.join("file"), "/one", &[]));
    assert_eq!(place.run(plan).1, "textro\ntext");
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "new\n");
}

#[test]
fn pinned_namespaces_are_joined() {
    let place = place();
    let pins = place.directory.path().join("pins");
    std::fs::create_dir(&pins).unwrap();
    let kinds = [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts];
    let paths = pin(&kinds, &pins, Some("pod")).unwrap();
    let mut plan = place.shell("hostname; readlink /proc/self/ns/net");
    plan.spec.set_hostname(None);
    for namespace in plan.spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap() {
        let index = match namespace.typ() {
            LinuxNamespaceType::Network => 0,
            LinuxNamespaceType::Ipc => 1,
            LinuxNamespaceType::Uts => 2,
            _ => continue,
        };
        namespace.set_path(Some(paths[index].clone()));
    }
    let inode = std::fs::metadata(&paths[0]).unwrap().ino();
    assert_eq!(place.run(plan).1, format!("pod\nnet:[{inode}]\n"));
    for path in &paths {
        unpin(path).unwrap();
    }
    assert_eq!(std::fs::read_dir(&pins).unwrap().count(), 0);
}

#[test]
fn cve_2019_5736_the_binary_cannot_be_overwritten() {
    let place = place();
    let binary = Path::new(env!("CARGO_BIN_EXE_dray-shim-test"));
    let before = std::fs::metadata(binary).unwrap();
    // The program that is started is the runtime's own binary, as in the attack.
    let mut plan = place.plan(&["/proc/self/exe"]);
    plan.name.push('x');
    let running = place.launch(plan).unwrap();
    let path = format!("/proc/{}/exe", running.process.pid);
    let error = std::fs::OpenOptions::new().write(true).open(&path).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::EROFS | libc::ETXTBSY)), "{error}");
    running.kill();
    let after = std::fs::metadata(binary).unwrap();
    assert_eq!((before.mtime_nsec(), before.len()), (after.mtime_nsec(), after.len()));
}

#[test]
fn cve_2021_30465_links_on_destinations_stay_inside() {
    let place = place();
    let outside = tempfile::tempdir().unwrap();
    let layer = place.directory.path().join("layer");
    symlink(outside.path(), layer.join("link")).unwrap();
    symlink("../../../../../../../..", layer.join("up")).unwrap();
    let volume = place.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "text").unwrap();
    let mut plan = place.shell("cat /link/made/file; cat /etc/over/file");
    let mounts = plan.spec.mounts_mut().as_mut().unwrap();
    mounts.push(bind(&volume, "/link/made", &[]));
    mounts.push(bind(&volume, "/up/etc/over", &[]));
    assert_eq!(place.run(plan).1, "texttext");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!Path::new("/etc/over").exists());
}

#[test]
fn cve_2019_16884_volumes_over_proc_are_refused() {
    let place = place();
    let volume = place.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    for destination in ["/proc", "/proc/self", "/proc/sys/kernel"] {
        for first in [false, true] {
            let mut plan = place.shell("true");
            let mounts = plan.spec.mounts_mut().as_mut().unwrap();
            let at = if first { 0 } else { mounts.len() };
            mounts.insert(at, bind(&volume, destination, &[]));
            // Put before proc itself, a deeper one is covered by proc and masks land.
            match place.launch(plan) {
                Err(_) => {}
                Ok(running) => {
                    assert!(first && destination != "/proc", "{destination} was mounted");
                    running.kill();
                }
            }
        }
    }
}

#[test]
fn cve_2019_19921_links_in_place_of_kernel_directories_are_refused() {
    for name in ["proc", "sys", "dev"] {
        let place = place();
        let path = place.directory.path().join("layer").join(name);
        std::fs::remove_dir(&path).unwrap();
        symlink("/tmp", &path).unwrap();
        let message = refusal(place.launch(place.shell("true")));
        assert!(message.contains(&format!("at /{name}")), "{message}");
        drop(place);
    }
}

#[test]
fn cve_2025_52565_the_console_is_the_containers_own_terminal() {
    let place = place();
    let mut plan = place.shell("stat -L -c %t:%T /dev/console; stat -L -c %t:%T /dev/pts/0");
    plan.stdio = Stdio { terminal: Some(TerminalSize { width: 80, height: 24 }), ..Stdio::default() };
    let (_, log) = place.run(plan);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines, ["88:0", "88:0"]);
}

#[test]
fn settings_of_the_kernel_reach_the_namespaces() {
    let place = place();
    let mut plan = place.shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    let all = [("net.ipv4.ip_unprivileged_port_start", "7"), ("kernel/msgmax", "9000")];
    let all = all.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    plan.spec.linux_mut().as_mut().unwrap().set_sysctl(Some(all));
    assert_eq!(place.run(plan).1, "7\n9000\n");
    let mut plan = place.shell("true");
    let all = [("net/../../self/comm".to_owned(), "x".to_owned())].into();
    plan.spec.linux_mut().as_mut().unwrap().set_sysctl(Some(all));
    refusal(place.launch(plan));
}
