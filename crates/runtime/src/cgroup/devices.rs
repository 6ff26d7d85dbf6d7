//! Which device nodes a group may use: rules of version 1, or a BPF program on version 2.

use std::os::fd::AsFd as _;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::Cgroup;
use super::limits::write;
use crate::{Error, Result};

/// Reads a rule as `docker run --device-cgroup-rule` and the kernel write it: `TYPE MAJOR:MINOR ACCESS`, where the
/// type is `a`, `b` or `c`, a number may be `*` and access is made of `r`, `w` and `m`. It allows.
pub fn parse_device_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let invalid = || Error::Invalid {
        field: "device cgroup rule",
        reason: format!("invalid device cgroup format '{text}'"),
    };
    let mut parts = text.split(' ');
    let (kind, numbers, access) = (parts.next(), parts.next(), parts.next());
    let (Some(kind), Some(numbers), Some(access), None) = (kind, numbers, access, parts.next()) else {
        return Err(invalid());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(invalid()),
    };
    let number = |text: &str| match text {
        "*" => Ok(-1),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<u32>().map(i64::from).map_err(|_| invalid())
        }
        _ => Err(invalid()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let known = (1..=3).contains(&access.len()) && access.bytes().all(|byte| b"rwm".contains(&byte));
    if !known {
        return Err(invalid());
    }
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(kind))
        .set_major(Some(number(major)?))
        .set_minor(Some(number(minor)?))
        .set_access(Some(access.into()));
    Ok(rule)
}

/// Writes rules in order to `devices.allow` and `devices.deny`.
pub(super) fn write_rules(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    for rule in rules {
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        write(directory, file, &text(rule)?)?;
    }
    Ok(())
}

fn text(rule: &LinuxDeviceCgroup) -> Result<String> {
    let number = |value: Option<i64>| match value {
        None | Some(-1) => "*".to_owned(),
        Some(value) => value.to_string(),
    };
    let access = access(rule)?;
    Ok(match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => "a".into(),
        LinuxDeviceType::B => format!("b {}:{} {access}", number(rule.major()), number(rule.minor())),
        LinuxDeviceType::C | LinuxDeviceType::U => {
            format!("c {}:{} {access}", number(rule.major()), number(rule.minor()))
        }
        LinuxDeviceType::P => {
            return Err(Error::Invalid {
                field: "linux.resources.devices.type",
                reason: "a pipe is not a device".into(),
            });
        }
    })
}

fn access(rule: &LinuxDeviceCgroup) -> Result<&str> {
    let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    if access.len() <= 3 && access.bytes().all(|byte| b"rwm".contains(&byte)) {
        Ok(access)
    } else {
        Err(Error::Invalid {
            field: "linux.resources.devices.access",
            reason: format!("{access:?} is not made of r, w and m"),
        })
    }
}

/// Loads and attaches the program that decides as the rules do.
pub(super) fn attach(group: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let Some(directory) = group.descriptor()? else { return Ok(()) };
    let program = compile(rules)?;
    let failed = |source| Error::System { operation: "load the device program", source };
    let program = crate::sys::load_device_program(&program).map_err(failed)?;
    crate::sys::attach_device_program(directory.as_fd(), program.as_fd())
        .map_err(|source| Error::System { operation: "attach the device program", source })
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | (destination as u64 & 15) << 8
        | (source as u64 & 15) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// The kernel's context: access and type in one word, then major and minor (struct bpf_cgroup_dev_ctx).
///
/// Rules are tried from the last to the first, the first that fits decides, as later rules override earlier ones
/// on version 1.
fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<u64>> {
    const LOAD: u8 = 0x61;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER_32: u8 = 0xbc;
    const AND_32: u8 = 0x54;
    const SHIFT_RIGHT_32: u8 = 0x74;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    let mut program = vec![
        // r2 = type, r3 = access, r4 = major, r5 = minor.
        instruction(LOAD, 2, 1, 0, 0),
        instruction(AND_32, 2, 0, 0, 0xffff),
        instruction(LOAD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT_32, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    let mut default = 0;
    for rule in rules.iter().rev() {
        let verdict = i32::from(rule.allow());
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => {
                default = verdict;
                break;
            }
            LinuxDeviceType::B => 1,
            LinuxDeviceType::C | LinuxDeviceType::U => 2,
            LinuxDeviceType::P => {
                return Err(Error::Invalid {
                    field: "linux.resources.devices.type",
                    reason: "a pipe is not a device".into(),
                });
            }
        };
        let mask: i32 = access(rule)?
            .bytes()
            .map(|letter| match letter {
                b'm' => 1,
                b'r' => 2,
                _ => 4,
            })
            .sum();
        let mut checks = vec![(2u8, kind)];
        for (register, number) in [(4, rule.major()), (5, rule.minor())] {
            if let Some(number) = number.filter(|&number| number != -1) {
                let number = i32::try_from(number).map_err(|_| Error::Invalid {
                    field: "linux.resources.devices",
                    reason: format!("{number} is not a device number"),
                })?;
                checks.push((register, number));
            }
        }
        // Instructions of the rule after its number checks: access check (3 or 0) and verdict (2).
        let partial = mask != 7;
        let mut left = checks.len() as i16 + if partial { 3 } else { 0 } + 2;
        for (register, value) in checks {
            left -= 1;
            program.push(instruction(JUMP_NOT_EQUAL, register, 0, left, value));
        }
        if partial {
            // An allowing rule must cover all that is asked; a denying one hits when any of it is asked.
            program.push(instruction(MOVE_REGISTER_32, 1, 3, 0, 0));
            program.push(instruction(AND_32, 1, 0, 0, mask));
            program.push(if rule.allow() {
                instruction(JUMP_NOT_EQUAL_REGISTER, 1, 3, 2, 0)
            } else {
                instruction(0x15, 1, 0, 2, 0)
            });
        }
        program.push(instruction(MOVE, 0, 0, 0, verdict));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(MOVE, 0, 0, 0, default));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, typ: LinuxDeviceType, major: Option<i64>, access: &str) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(Some(typ))
            .set_major(major)
            .set_minor(None)
            .set_access(Some(access.into()));
        rule
    }

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        assert_eq!(text(&rule(false, LinuxDeviceType::A, None, "rwm")).unwrap(), "a");
        assert_eq!(text(&rule(true, LinuxDeviceType::C, Some(1), "r")).unwrap(), "c 1:* r");
        assert!(text(&rule(true, LinuxDeviceType::C, Some(1), "x")).is_err());
    }

    #[test]
    fn rules_are_read_as_docker_writes_them() {
        let rule = parse_device_rule("c 1:3 rwm").unwrap();
        assert_eq!(text(&rule).unwrap(), "c 1:3 rwm");
        assert_eq!(text(&parse_device_rule("b 8:* r").unwrap()).unwrap(), "b 8:* r");
        for wrong in ["", "c", "c 1:3", "d 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rwmr", "c -1:3 r", "c 1:3 r r"]
        {
            assert!(parse_device_rule(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        let rules = [
            rule(false, LinuxDeviceType::A, None, "rwm"),
            rule(true, LinuxDeviceType::C, None, "m"),
            rule(true, LinuxDeviceType::C, Some(136), "rwm"),
            rule(false, LinuxDeviceType::B, Some(8), "w"),
        ];
        crate::sys::load_device_program(&compile(&rules).unwrap()).unwrap();
    }
}
