//! spec: a configuration to begin with.

use dray_runtime::defaults;
use oci_spec::runtime::{Capability, LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};
use serde_json::json;

use crate::arguments::SpecOptions;
use crate::error::{Error, OnFile as _, Result};
use crate::inspect::pretty;

pub(crate) fn spec(options: &SpecOptions) -> Result<u8> {
    let path = options.bundle.join("config.json");
    if path.exists() {
        return Err(Error::Invalid {
            field: "--bundle",
            reason: "file config.json exists. Remove it first".into(),
        });
    }
    let mut text = pretty(&sample(options.rootless));
    text.push('\n');
    std::fs::write(&path, text).on("write", &path)?;
    Ok(0)
}

/// A shell with few rights on a terminal, as other runtimes write it.
fn sample(rootless: bool) -> Spec {
    let mut spec = defaults::spec();
    let capabilities =
        defaults::capabilities(&[Capability::AuditWrite, Capability::Kill, Capability::NetBindService]);
    if let Some(process) = spec.process_mut() {
        process
            .set_terminal(Some(true))
            .set_args(Some(vec!["sh".into()]))
            .set_env(Some(vec![defaults::PATH.into(), "TERM=xterm".into()]))
            .set_capabilities(Some(capabilities))
            .set_no_new_privileges(Some(true));
        let limits = json!([{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }]);
        process.set_rlimits(serde_json::from_value(limits).ok());
    }
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(true));
    }
    spec.set_hostname(Some("dray".into()));
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None);
        if rootless {
            let id = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
            let uid = id(rustix::process::geteuid().as_raw());
            let gid = id(rustix::process::getegid().as_raw());
            linux
                .set_uid_mappings(serde_json::from_value(uid).ok())
                .set_gid_mappings(serde_json::from_value(gid).ok())
                .set_resources(None::<LinuxResources>);
            let namespaces = linux.namespaces_mut().get_or_insert_with(Vec::new);
            namespaces.retain(|one| one.typ() != LinuxNamespaceType::Network);
            let mut user = LinuxNamespace::default();
            user.set_typ(LinuxNamespaceType::User);
            namespaces.push(user);
        }
    }
    if rootless {
        // Without a network namespace there is no right to a sysfs, and one mapped group leaves none for terminals.
        for mount in spec.mounts_mut().iter_mut().flatten() {
            if mount.typ().as_deref() == Some("sysfs") {
                let options = ["rbind", "nosuid", "noexec", "nodev", "ro"].map(String::from).into();
                mount.set_typ(Some("bind".into())).set_source(Some("/sys".into())).set_options(Some(options));
            } else if let Some(options) = mount.options_mut() {
                options.retain(|option| !option.starts_with("gid="));
            }
        }
    }
    spec
}
