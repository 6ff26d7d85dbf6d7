//! Compiles a seccomp profile of the OCI runtime specification to a BPF program.
//!
//! The program searches the system call's number in a balanced tree, so that its length costs a container
//! nothing per call. It knows nothing of profiles: see [`crate::defaults`] for Docker's.

mod bpf;
mod profile;
mod table;

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag};

use crate::{Error, Result};
use bpf::{Leaf, Program};

pub(crate) use bpf::Instruction;
pub use profile::{PROFILE_LIMIT, Profile};

/// A compiled filter and the flags it is loaded with.
pub(crate) struct Filter {
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) flags: u32,
    /// Some calls are answered by a listener.
    pub(crate) notifies: bool,
}

/// One architecture of the kernel's audit numbering with its column in the table.
struct Architecture {
    audit: u32,
    column: usize,
    /// System calls carry bit 30 (x32).
    x32: bool,
}

const X32_BIT: u32 = 0x4000_0000;
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;

/// Conditional outcomes in order, then what holds otherwise.
#[derive(Clone, Default, PartialEq)]
struct Outcome {
    conditional: Vec<(Vec<LinuxSeccompArg>, u32)>,
    otherwise: Option<u32>,
}

/// Compiles a profile.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let architectures = architectures(profile.architectures().as_deref().unwrap_or_default())?;
    let mut program = Program::default();
    // The filter of each architecture is one block behind a comparison of seccomp_data.arch.
    let mut blocks: Vec<(u32, Program)> = Vec::new();
    for audit in [AUDIT_X86_64, AUDIT_I386, AUDIT_AARCH64, AUDIT_ARM] {
        let of_audit: Vec<&Architecture> = architectures.iter().filter(|a| a.audit == audit).collect();
        if of_audit.is_empty() {
            continue;
        }
        let outcomes = outcomes(profile, of_audit[0].column)?;
        let plain = of_audit.iter().any(|a| !a.x32);
        let x32 = of_audit.iter().any(|a| a.x32);
        blocks.push((audit, architecture_block(&outcomes, default, audit == AUDIT_X86_64, plain, x32)));
    }
    program.load_architecture();
    for (audit, block) in blocks {
        program.unless_equal_skip(audit, &block);
    }
    program.return_value(libc::SECCOMP_RET_KILL_PROCESS);
    let instructions = program.into_instructions();
    if instructions.len() > 4096 {
        return Err(Error::Invalid {
            field: "linux.seccomp",
            reason: "the filter needs more than 4096 instructions".into(),
        });
    }
    let notifies = notifies(profile)?;
    let mut flags = flags(profile);
    if notifies {
        flags |= crate::sys::NEW_LISTENER;
    }
    Ok(Filter { instructions, flags, notifies })
}

/// Whether some call is answered by a listener. The call that hands the listener over cannot be: nobody would hear.
fn notifies(profile: &LinuxSeccomp) -> Result<bool> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    let mut rules = profile.syscalls().iter().flatten().filter(|rule| rule.action() == notify).peekable();
    let some = rules.peek().is_some();
    if profile.default_action() == notify || rules.any(|rule| rule.names().iter().any(|n| n == "sendmsg")) {
        return Err(Error::Invalid {
            field: "linux.seccomp",
            reason: "SCMP_ACT_NOTIFY cannot be the default or the action for sendmsg".into(),
        });
    }
    if some && profile.listener_path().is_none() {
        return Err(Error::Invalid {
            field: "linux.seccomp.listenerPath",
            reason: "SCMP_ACT_NOTIFY needs it".into(),
        });
    }
    Ok(some)
}

fn architecture_block(
    outcomes: &BTreeMap<u32, Outcome>,
    default: u32,
    has_x32: bool,
    plain: bool,
    x32: bool,
) -> Program {
    let mut tree = Program::default();
    tree.search(&leaves(outcomes, default), default);
    let mut block = Program::default();
    block.load_number();
    if has_x32 {
        let mut x32_part = Program::default();
        if x32 {
            x32_part.clear_bits(X32_BIT);
            x32_part.append(&tree);
        } else {
            x32_part.return_value(libc::SECCOMP_RET_KILL_PROCESS);
        }
        block.if_at_least(X32_BIT, &x32_part);
    }
    if plain {
        block.append(&tree);
    } else {
        block.return_value(libc::SECCOMP_RET_KILL_PROCESS);
    }
    block
}

/// Ranges of numbers with the same outcome, ascending and without a gap.
fn leaves(outcomes: &BTreeMap<u32, Outcome>, default: u32) -> Vec<(u32, Leaf)> {
    let errno_default = default & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO;
    let mut leaves: Vec<(u32, Leaf)> = Vec::new();
    let mut next = 0;
    let mut push = |start: u32, leaf: Leaf| {
        if leaves.last().is_none_or(|(_, last)| *last != leaf) {
            leaves.push((start, leaf));
        }
    };
    for (&number, outcome) in outcomes {
        if number > next {
            push(next, Leaf::Return(default));
        }
        let otherwise = outcome.otherwise.unwrap_or(default);
        push(
            number,
            if outcome.conditional.is_empty() {
                Leaf::Return(otherwise)
            } else {
                Leaf::Check(outcome.conditional.clone(), otherwise)
            },
        );
        next = number + 1;
    }
    // Calls that are newer than this table do not exist as far as the program is concerned: a C library falls
    // back on ENOSYS but not on EPERM (as runc does).
    let newest = table::SYSCALLS
        .iter()
        .flat_map(|(_, numbers)| numbers)
        .copied()
        .filter(|&number| number < 0xf_0000)
        .max()
        .unwrap_or(0)
        + 1;
    if errno_default && newest > next {
        push(next, Leaf::Return(default));
        push(newest, Leaf::Return(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    } else {
        push(next, Leaf::Return(default));
    }
    leaves
}

fn outcomes(profile: &LinuxSeccomp, column: usize) -> Result<BTreeMap<u32, Outcome>> {
    let mut outcomes: BTreeMap<u32, Outcome> = BTreeMap::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        let arguments = rule.args().clone().unwrap_or_default();
        if let Some(argument) = arguments.iter().find(|argument| argument.index() > 5) {
            return Err(Error::Invalid {
                field: "linux.seccomp.syscalls.args.index",
                reason: format!("{} is more than 5", argument.index()),
            });
        }
        for name in rule.names() {
            // Unknown names are calls of other architectures or newer kernels.
            let Some(number) = number(name, column) else { continue };
            let outcome = outcomes.entry(number).or_default();
            if arguments.is_empty() {
                outcome.otherwise.get_or_insert(action);
            } else {
                outcome.conditional.push((arguments.clone(), action));
            }
        }
    }
    Ok(outcomes)
}

fn number(name: &str, column: usize) -> Option<u32> {
    let index = table::SYSCALLS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(table::SYSCALLS[index].1[column]).filter(|&number| number != u32::MAX)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    Ok(action.as_u32(errno.map(|errno| errno & 0xffff)))
}

fn flags(profile: &LinuxSeccomp) -> u32 {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 1 << 5,
            // One thread only: nothing to synchronise.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        };
    }
    // The kernel knows a killable wait with a listener only.
    if notifies(profile).unwrap_or(false) { flags } else { flags & !(1 << 5) }
}

fn architectures(asked: &[Arch]) -> Result<Vec<Architecture>> {
    let native = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
    let mut all = vec![native];
    all.extend(asked.iter().copied().filter(|&arch| arch != Arch::ScmpArchNative && arch != native));
    let mut found = Vec::new();
    for arch in all {
        let (audit, column, x32) = match arch {
            Arch::ScmpArchX86_64 => (AUDIT_X86_64, 0, false),
            Arch::ScmpArchX32 => (AUDIT_X86_64, 0, true),
            Arch::ScmpArchX86 => (AUDIT_I386, 1, false),
            Arch::ScmpArchAarch64 => (AUDIT_AARCH64, 2, false),
            Arch::ScmpArchArm => (AUDIT_ARM, 3, false),
            // Architectures of other machines change nothing here.
            _ => continue,
        };
        found.push(Architecture { audit, column, x32 });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    /// What the kernel's interpreter would return for a call.
    fn run(filter: &Filter, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        for argument in arguments {
            data.extend(argument.to_ne_bytes());
        }
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let instruction = filter.instructions[at];
            at += 1;
            let k = instruction.k;
            let mut jump = |taken: bool| {
                at += usize::from(if taken { instruction.jt } else { instruction.jf });
            };
            match instruction.code {
                0x20 => {
                    let at = k as usize;
                    accumulator = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
                }
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => jump(accumulator == k),
                0x25 => jump(accumulator > k),
                0x35 => jump(accumulator >= k),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    #[test]
    fn every_call_of_the_default_profile_has_its_outcome() {
        let profile = defaults::seccomp(&[]);
        let filter = compile(&profile).unwrap();
        let allowed: std::collections::BTreeSet<&str> = profile
            .syscalls()
            .iter()
            .flatten()
            .filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow && rule.args().is_none())
            .flat_map(|rule| rule.names().iter().map(String::as_str))
            .collect();
        let special = ["clone", "clone3", "socket", "personality"];
        let native: &[(u32, usize, u32)] = if cfg!(target_arch = "aarch64") {
            &[(AUDIT_AARCH64, 2, 0), (AUDIT_ARM, 3, 0)]
        } else {
            &[(AUDIT_X86_64, 0, 0), (AUDIT_X86_64, 0, X32_BIT), (AUDIT_I386, 1, 0)]
        };
        for &(arch, column, bit) in native {
            for (name, numbers) in table::SYSCALLS {
                if numbers[column] == u32::MAX || special.contains(name) {
                    continue;
                }
                // Names that share a number on an architecture are the same call.
                let any = table::SYSCALLS
                    .iter()
                    .any(|(other, n)| n[column] == numbers[column] && allowed.contains(other));
                let expected = if any { ALLOW } else { EPERM };
                assert_eq!(
                    run(&filter, arch, numbers[column] | bit, [0; 6]),
                    expected,
                    "{name} on {arch:#x}"
                );
            }
            assert_eq!(run(&filter, arch, 5000 | bit, [0; 6]), ENOSYS);
        }
        assert_eq!(run(&filter, 0x1234, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn arguments_decide_where_the_profile_says_so() {
        let filter = compile(&defaults::seccomp(&[])).unwrap();
        let call = |name: &str, arguments| run(&filter, AUDIT_X86_64, number(name, 0).unwrap(), arguments);
        assert_eq!(call("clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call("clone", [0x1000_0000, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(call("clone3", [0; 6]), ENOSYS);
        assert_eq!(call("personality", [0xffff_ffff, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call("personality", [0x1_ffff_ffff, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(call("personality", [1, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(call("socket", [2, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call("socket", [40, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(call("unshare", [0; 6]), EPERM);
        let filter = compile(&defaults::seccomp(&[oci_spec::runtime::Capability::SysAdmin])).unwrap();
        assert_eq!(run(&filter, AUDIT_X86_64, number("unshare", 0).unwrap(), [0; 6]), ALLOW);
        assert_eq!(run(&filter, AUDIT_X86_64, number("clone3", 0).unwrap(), [0; 6]), ALLOW);
    }

    #[test]
    fn comparisons_are_of_64_bits() {
        use oci_spec::runtime::LinuxSeccompOperator as Operator;
        let values = [0u64, 1, 41, 42, 43, 1 << 32, (1 << 32) + 42, 42 << 32, u64::MAX];
        for operator in [
            Operator::ScmpCmpNe,
            Operator::ScmpCmpLt,
            Operator::ScmpCmpLe,
            Operator::ScmpCmpEq,
            Operator::ScmpCmpGe,
            Operator::ScmpCmpGt,
            Operator::ScmpCmpMaskedEq,
        ] {
            for against in [0u64, 42, (1 << 32) + 42, u64::MAX] {
                let argument = oci_spec::runtime::LinuxSeccompArgBuilder::default()
                    .index(1usize)
                    .value(against)
                    .value_two(against & 42)
                    .op(operator)
                    .build()
                    .unwrap();
                let mut rule = oci_spec::runtime::LinuxSyscall::default();
                rule.set_names(vec!["read".into()])
                    .set_action(LinuxSeccompAction::ScmpActErrno)
                    .set_errno_ret(Some(7))
                    .set_args(Some(vec![argument]));
                let mut profile = LinuxSeccomp::default();
                profile.set_default_action(LinuxSeccompAction::ScmpActAllow).set_syscalls(Some(vec![rule]));
                let filter = compile(&profile).unwrap();
                let native =
                    if cfg!(target_arch = "aarch64") { (AUDIT_AARCH64, 2) } else { (AUDIT_X86_64, 0) };
                for value in values {
                    let expected = match operator {
                        Operator::ScmpCmpNe => value != against,
                        Operator::ScmpCmpLt => value < against,
                        Operator::ScmpCmpLe => value <= against,
                        Operator::ScmpCmpEq => value == against,
                        Operator::ScmpCmpGe => value >= against,
                        Operator::ScmpCmpGt => value > against,
                        Operator::ScmpCmpMaskedEq => value & against == against & 42,
                    };
                    let number = number("read", native.1).unwrap();
                    let got = run(&filter, native.0, number, [0, value, 0, 0, 0, 0]);
                    assert_eq!(
                        got == (libc::SECCOMP_RET_ERRNO | 7),
                        expected,
                        "{value:#x} {operator} {against:#x}"
                    );
                }
            }
        }
    }
}
