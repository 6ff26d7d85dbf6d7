//! What the host offers and what it lacks: one table of checks, all of them for `dray doctor`, and those that only
//! read a file before every `dray up`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use dray_network::firewall::{Firewall, FirewallState};
use dray_network::link::{Attachment, Bridge, MacAddress, Netlink};
use dray_network::namespace;
use dray_runtime::cgroup::{Controller, Hierarchy};

/// The oldest kernel with everything that the runtime calls: `mount_setattr` came with 5.12.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// What is good about it, or what is wrong and what helps.
type Outcome = Result<String, String>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing works without it.
    Always,
    /// What uses it is missing without it.
    Sometimes,
}

struct Check {
    name: &'static str,
    need: Need,
    /// Reads files only.
    quick: bool,
    run: fn() -> Outcome,
}

const CHECKS: [Check; 14] = [
    Check { name: "root", need: Need::Always, quick: true, run: root },
    Check { name: "root directory", need: Need::Always, quick: true, run: root_directory },
    Check { name: "kernel", need: Need::Always, quick: true, run: kernel },
    Check { name: "namespaces", need: Need::Always, quick: true, run: namespaces },
    Check { name: "overlayfs", need: Need::Always, quick: true, run: || filesystem("overlay") },
    Check { name: "control groups", need: Need::Always, quick: true, run: control_groups },
    Check { name: "limits", need: Need::Sometimes, quick: true, run: controllers },
    Check { name: "seccomp", need: Need::Always, quick: true, run: seccomp },
    Check { name: "bridges and veth", need: Need::Always, quick: false, run: || in_namespace(links) },
    Check { name: "nftables", need: Need::Always, quick: false, run: || in_namespace(packet_rules) },
    Check { name: "forwarding", need: Need::Sometimes, quick: true, run: forwarding },
    Check { name: "user namespaces", need: Need::Sometimes, quick: true, run: user_namespaces },
    Check { name: "AppArmor", need: Need::Sometimes, quick: true, run: apparmor },
    Check { name: "tmpfs", need: Need::Always, quick: true, run: || filesystem("tmpfs") },
];

/// The first thing that is always needed and missing, without touching anything.
pub(crate) fn missing() -> Option<String> {
    let needed = CHECKS.iter().filter(|check| check.quick && check.need == Need::Always);
    needed.filter_map(|check| (check.run)().err().map(|why| format!("{}: {why}", check.name))).next()
}

/// Prints the table; a failure when something is missing that is always needed.
#[allow(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) fn run() -> ExitCode {
    let mut fit = true;
    for check in &CHECKS {
        let (word, text) = match (check.run)() {
            Ok(text) => ("ok", text),
            Err(text) if check.need == Need::Always => {
                fit = false;
                ("MISSING", text)
            }
            Err(text) => ("absent", text),
        };
        println!("{word:<8} {:<17} {text}", check.name);
    }
    println!("{}", if fit { "dray can run here" } else { "dray cannot run here" });
    if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn root() -> Outcome {
    if rustix::process::geteuid().is_root() {
        Ok("user 0".to_owned())
    } else {
        Err("dray must run as root; try sudo".to_owned())
    }
}

fn root_directory() -> Outcome {
    match dray_runtime::namespaces::root_is_whole() {
        Ok(true) => Ok("that of the mount namespace".to_owned()),
        Ok(false) => {
            Err("this is a chroot, which could not confine containers; use pivot_root(8)".to_owned())
        }
        Err(error) => Err(chain(&error)),
    }
}

fn kernel() -> Outcome {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST_KERNEL {
        Ok(format!("Linux {release}"))
    } else {
        let (major, minor) = OLDEST_KERNEL;
        Err(format!("Linux {release} is too old; {major}.{minor} or newer is needed"))
    }
}

fn namespaces() -> Outcome {
    let kinds = ["mnt", "pid", "ipc", "uts", "net", "cgroup"];
    let lacking: Vec<_> =
        kinds.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if lacking.is_empty() {
        Ok(kinds.join(", "))
    } else {
        Err(format!("the kernel has no namespaces of kind {}", lacking.join(", ")))
    }
}

fn filesystem(name: &str) -> Outcome {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = known.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    // A module that is not loaded yet is not listed; what it needs to be loaded is there.
    let loadable = || {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let index = Path::new("/lib/modules").join(release).join("modules.dep");
        let module = format!("/{name}.ko");
        let index = fs::read_to_string(index).unwrap_or_default();
        index.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&module)))
    };
    if known {
        Ok("in the kernel".to_owned())
    } else if loadable() {
        Ok("as a module".to_owned())
    } else {
        Err(format!("the kernel does not know the file system {name}; try: modprobe {name}"))
    }
}

fn control_groups() -> Outcome {
    let hierarchy = Hierarchy::detect().map_err(|error| error.to_string())?;
    Ok(format!("{:?}", hierarchy.version()))
}

fn controllers() -> Outcome {
    let hierarchy = Hierarchy::detect().map_err(|error| error.to_string())?;
    let wanted = [
        ("cpu", Controller::Cpu),
        ("cpuset", Controller::Cpuset),
        ("memory", Controller::Memory),
        ("pids", Controller::Pids),
        ("blkio", Controller::Io),
    ];
    let (there, lacking): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|(_, controller)| hierarchy.root(*controller).is_some());
    let names =
        |list: Vec<(&str, Controller)>| list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if lacking.is_empty() {
        Ok(names(there))
    } else {
        Err(format!("no controller for {}: such limits are refused", names(lacking)))
    }
}

fn seccomp() -> Outcome {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "errno") {
        Ok(actions.trim().to_owned())
    } else {
        Err("the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)".to_owned())
    }
}

fn forwarding() -> Outcome {
    match dray_network::sysctl::get("ipv4/ip_forward").as_deref() {
        Some("1") => Ok("on".to_owned()),
        Some(_) => Ok("off; the daemon turns it on".to_owned()),
        None => Err("/proc/sys/net/ipv4/ip_forward cannot be read".to_owned()),
    }
}

fn user_namespaces() -> Outcome {
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces");
    match most.ok().and_then(|most| most.trim().parse::<u64>().ok()) {
        Some(0) => Err("off; turn them on with: sysctl user.max_user_namespaces=10000".to_owned()),
        Some(most) => Ok(format!("up to {most}")),
        None => Err("the kernel has none".to_owned()),
    }
}

fn apparmor() -> Outcome {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if enabled.trim() == "Y" { Ok("on".to_owned()) } else { Err("off; profiles are not applied".to_owned()) }
}

/// Runs a check in network namespaces of its own, so that the host is not touched.
fn in_namespace(check: fn(&Path, &Path) -> dray_network::Result<()>) -> Outcome {
    let directory = std::env::temp_dir().join(format!("dray-doctor-{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let (one, other) = (directory.join("one"), directory.join("other"));
    let outcome = namespace::create(&one)
        .and_then(|()| namespace::create(&other))
        .and_then(|()| check(&one, &other))
        .map(|()| "tried".to_owned())
        .map_err(|error| chain(&error));
    for path in [&one, &other] {
        // What could not be made need not be removed.
        let _ = namespace::remove(path);
    }
    let _ = fs::remove_dir(&directory);
    outcome
}

fn links(one: &Path, other: &Path) -> dray_network::Result<()> {
    let bridge =
        Bridge { name: "doctor0".to_owned(), mtu: 1500, addresses: Vec::new(), alias: String::new() };
    let attachment = Attachment {
        alias: String::new(),
        bridge: bridge.name.clone(),
        host_name: "doctor1".to_owned(),
        namespace: other.to_owned(),
        name: "eth0".to_owned(),
        mac: MacAddress::from_ipv4(std::net::Ipv4Addr::LOCALHOST),
        addresses: Vec::new(),
        gateways: Vec::new(),
        mtu: 1500,
        hairpin: true,
        isolated: false,
    };
    namespace::within(one, || {
        let netlink = Netlink::open()?;
        netlink.create_bridge(&bridge)?;
        netlink.attach(&attachment)
    })
}

fn packet_rules(one: &Path, _: &Path) -> dray_network::Result<()> {
    namespace::within(one, || Firewall::open("dray-doctor")?.sync(&FirewallState::default()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
