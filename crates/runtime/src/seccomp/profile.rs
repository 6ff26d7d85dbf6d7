//! Docker's format of seccomp profiles (`--security-opt seccomp=FILE`), turned into the specification's.
//!
//! It differs by rules that hold only for some capabilities, architectures and kernels (`includes`, `excludes`) and
//! by `archMap`. It knows the format; what a container may is decided elsewhere.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use crate::{Error, Result};

/// Largest profile that is read, in bytes.
pub const PROFILE_LIMIT: usize = 4 << 20;

/// A profile in Docker's format, checked.
#[derive(Clone, Debug)]
pub struct Profile {
    document: Document,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// The old form of one name a rule.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    /// `MAJOR.MINOR` of the oldest kernel.
    #[serde(default)]
    min_kernel: Option<String>,
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Invalid { field: "seccomp profile", reason: reason.into() }
}

impl Profile {
    /// Reads a profile in Docker's format (the OCI specification's own is a part of it).
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is too large, no such JSON, or contradicts itself as Docker sees it.
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() > PROFILE_LIMIT {
            return Err(invalid(format!("it is larger than {PROFILE_LIMIT} bytes")));
        }
        let mut document: Document =
            serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
        if document.architectures.as_ref().is_some_and(|list| !list.is_empty())
            && document.arch_map.as_ref().is_some_and(|list| !list.is_empty())
        {
            return Err(invalid(
                "both 'architectures' and 'archMap' are specified in the seccomp profile, use either \
                 'architectures' or 'archMap'",
            ));
        }
        for rule in document.syscalls.iter_mut().flatten() {
            match (rule.name.take().filter(|name| !name.is_empty()), &mut rule.names) {
                (Some(_), Some(names)) if !names.is_empty() => {
                    return Err(invalid(
                        "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or \
                         'names'",
                    ));
                }
                (Some(name), names) => *names = Some(vec![name]),
                (None, _) => {}
            }
        }
        let profile = Self { document };
        // What cannot be compiled is found now, for the fewest and for all rules.
        for capabilities in [&[][..], &crate::defaults::ALL_CAPABILITIES[..]] {
            super::compile(&profile.resolve(capabilities))?;
        }
        Ok(profile)
    }

    /// The filter for a container with these capabilities in its bounding set, on this machine and kernel.
    pub fn resolve(&self, capabilities: &[Capability]) -> LinuxSeccomp {
        let document = &self.document;
        let mut architectures = document.architectures.clone().unwrap_or_default();
        let native = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
        for map in document.arch_map.iter().flatten().filter(|map| map.architecture == native) {
            architectures.push(map.architecture);
            architectures.extend(map.sub_architectures.iter().flatten());
        }
        let held: BTreeMap<String, ()> =
            capabilities.iter().map(|capability| (format!("CAP_{capability}"), ())).collect();
        let rules = document.syscalls.iter().flatten().filter(|rule| rule.holds(&held)).map(|rule| {
            let mut syscall = LinuxSyscall::default();
            syscall
                .set_names(rule.names.clone().unwrap_or_default())
                .set_action(rule.action)
                .set_errno_ret(rule.errno_ret)
                .set_args(rule.args.clone().filter(|arguments| !arguments.is_empty()));
            syscall
        });
        let mut filter = LinuxSeccomp::default();
        filter
            .set_default_action(document.default_action)
            .set_default_errno_ret(document.default_errno_ret)
            .set_architectures(Some(architectures))
            .set_flags(document.flags.clone())
            .set_syscalls(Some(rules.collect()));
        filter
    }
}

impl Rule {
    fn holds(&self, held: &BTreeMap<String, ()>) -> bool {
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let here = |arches: &Vec<String>| arches.iter().any(|arch| arch == machine);
        if let Some(excludes) = &self.excludes {
            let capability = excludes.caps.iter().flatten().any(|name| held.contains_key(name));
            let kernel = excludes.min_kernel.as_deref().is_some_and(kernel_is_at_least);
            if capability || kernel || excludes.arches.as_ref().is_some_and(here) {
                return false;
            }
        }
        if let Some(includes) = &self.includes {
            let capabilities = includes.caps.iter().flatten().all(|name| held.contains_key(name));
            let machine = includes.arches.as_ref().is_none_or(|arches| arches.is_empty() || here(arches));
            let kernel = includes.min_kernel.as_deref().is_none_or(kernel_is_at_least);
            return capabilities && machine && kernel;
        }
        true
    }
}

fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn kernel_is_at_least(version: &str) -> bool {
    numbers(&rustix::system::uname().release().to_string_lossy()) >= numbers(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &[u8] = br#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
        ],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"name": "chmod", "action": "SCMP_ACT_ALLOW", "args": null},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["acct"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["s390_pci_mmio_read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}}
        ]
    }"#;

    fn names(filter: &LinuxSeccomp) -> Vec<&str> {
        filter.syscalls().iter().flatten().flat_map(|rule| rule.names()).map(String::as_str).collect()
    }

    #[test]
    fn conditions_decide_which_rules_hold() {
        let profile = Profile::parse(PROFILE).unwrap();
        assert_eq!(names(&profile.resolve(&[])), ["read", "write", "chmod", "clone", "ptrace"]);
        let all = profile.resolve(&[Capability::SysAdmin]);
        assert_eq!(names(&all), ["read", "write", "chmod", "mount", "ptrace"]);
        assert!(all.architectures().as_ref().unwrap().len() >= 2);
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for json in [
            &b"{"[..],
            br#"{"defaultAction": "SCMP_ACT_DANCE"}"#,
            br#"{"architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
            br#"{"syscalls": [{"name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW"}]}"#,
            br#"{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        ] {
            assert!(matches!(Profile::parse(json), Err(Error::Invalid { .. })), "{:?}", json);
        }
        assert!(Profile::parse(&vec![b' '; PROFILE_LIMIT + 1]).is_err());
    }
}
