//! The system calls that no safe wrapper offers. Every unsafe block of the crate is here.
//!
//! It knows no policy: each function is one call.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::seccomp::Instruction;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// clone3(2): start the child in the given cgroup. Wider than libc's constant.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone3`] returned.
pub(crate) enum Fork {
    /// In the new process.
    Child,
    /// In the old process.
    Parent {
        /// The child in the caller's pid namespace.
        pid: i32,
    },
}

/// clone3(2) without shared memory: a fork into new namespaces and, where given, a cgroup v2 directory.
///
/// The caller must have one thread only, which every shim has.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    // SAFETY: clone_args is plain numbers, all zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    // A sibling (CLONE_PARENT) has the signal of its maker.
    if flags & libc::CLONE_PARENT as u64 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(directory) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with stack 0 the child runs on a copy of this very stack, as after fork. The
    // process has one thread, so no lock (the allocator's included) is held by a thread that the child lacks.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match check(result)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent { pid: pid as i32 }),
    }
}

/// fork(2) by the old call, which filters of system calls let through where clone3 is refused.
///
/// The caller must have one thread only.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so no lock is held by a thread that the child lacks.
    match check(libc::c_long::from(unsafe { libc::fork() }))? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent { pid: pid as i32 }),
    }
}

/// _exit(2): ends the process without running anything of the copied program.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// pidfd_send_signal(2) with any signal number, zero and real-time ones included.
pub(crate) fn pidfd_send_signal(pidfd: &impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is valid, the siginfo pointer may be null.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// kill(2) with any signal number.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// setns(2) with a namespace descriptor or a pidfd and the kinds to join.
pub(crate) fn setns(descriptor: BorrowedFd<'_>, kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: plain numbers; the descriptor is valid.
    check(libc::c_long::from(unsafe { libc::setns(descriptor.as_raw_fd(), kinds) })).map(drop)
}

/// mount_setattr(2) on the mount of an open directory or file.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: user_namespace.map_or(0, |descriptor| descriptor.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure lives for the call, its size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// close_range(2): closes or, with `cloexec`, marks every descriptor from `first` on.
pub(crate) fn close_range(first: u32, cloexec: bool) -> io::Result<()> {
    let flags: libc::c_uint = if cloexec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: with CLOEXEC nothing is closed. Without it the callers run before any descriptor of the process is
    // owned by a Rust value (top of main), or never use nor drop an owner again (the init process of a container,
    // which ends in exit_now), so no dead number is used.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) }).map(drop)
}

/// Takes ownership of a descriptor that was inherited under an agreed number.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the descriptor exists.
    check(libc::c_long::from(unsafe { libc::fcntl(number, libc::F_GETFD) }))?;
    // SAFETY: it exists, and the caller (top of the shim's main) takes each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// dup3(2): what a descriptor stood for is closed, and it stands for what another does.
pub(crate) fn replace(descriptor: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are valid; the number stays owned by whoever owns it, and still is an open descriptor.
    check(libc::c_long::from(unsafe {
        libc::dup3(with.as_raw_fd(), descriptor.as_raw_fd(), libc::O_CLOEXEC)
    }))
    .map(drop)
}

/// dup3(2) onto one of the standard numbers 0, 1, 2, which no Rust value owns.
pub(crate) fn onto_standard(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    debug_assert!((0..=2).contains(&number));
    // SAFETY: plain numbers; the standard descriptors have no owner that closes them.
    check(libc::c_long::from(unsafe { libc::dup2(descriptor.as_raw_fd(), number) })).map(drop)
}

/// SECCOMP_FILTER_FLAG_NEW_LISTENER (linux/seccomp.h).
pub(crate) const NEW_LISTENER: u32 = 1 << 3;

/// seccomp(SECCOMP_SET_MODE_FILTER). With [`NEW_LISTENER`] the result is the descriptor that hears of calls.
pub(crate) fn load_filter(instructions: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let program = libc::sock_fprog {
        len: instructions.len() as libc::c_ushort,
        filter: instructions.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // SAFETY: Instruction is repr(C) with the layout of sock_filter, the kernel copies `len` of them and writes
    // nothing.
    let result = check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel made this descriptor for the call and nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }))
}

/// personality(2).
pub(crate) fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: a plain number.
    check(libc::c_long::from(unsafe { libc::personality(persona as libc::c_ulong) })).map(drop)
}

/// ioprio_set(2) of the calling process.
pub(crate) fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << 13 | level) })
        .map(drop)
}

/// The kernel's `struct sched_attr` of version 0 (linux/sched/types.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedulingAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// sched_setattr(2) of the calling process.
pub(crate) fn set_scheduling(mut attributes: SchedulingAttributes) -> io::Result<()> {
    attributes.size = size_of::<SchedulingAttributes>() as u32;
    // SAFETY: the structure lives for the call and holds its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// setfsuid(2) and setfsgid(2): who owns what the calling thread makes in file systems.
pub(crate) fn set_file_system_identity(uid: u32, gid: u32) {
    // SAFETY: plain numbers. The results are the previous identities: neither call can be refused to root.
    unsafe {
        libc::setfsuid(uid);
        libc::setfsgid(gid);
    }
}

/// Capability sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapabilityBits {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// capset(2) of the calling thread.
pub(crate) fn set_capabilities(sets: CapabilityBits) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let word =
        |shift: u32| [sets.effective, sets.permitted, sets.inheritable].map(|bits| (bits >> shift) as u32);
    let data = [word(0), word(32)];
    // SAFETY: version 3 reads two structures of three words from `data`.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// capget(2) of the calling thread.
pub(crate) fn capabilities() -> io::Result<CapabilityBits> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 writes two structures of three words to `data`.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let join = |index: usize| u64::from(data[0][index]) | u64::from(data[1][index]) << 32;
    Ok(CapabilityBits { effective: join(0), permitted: join(1), inheritable: join(2) })
}

/// prctl(2) with numbers only.
pub(crate) fn prctl(option: libc::c_int, first: u64, second: u64) -> io::Result<libc::c_int> {
    // SAFETY: the options used here (capability, keepcaps, no-new-privileges, dumpable and death-signal ones)
    // take numbers, no pointers.
    check(libc::c_long::from(unsafe { libc::prctl(option, first, second, 0u64, 0u64) }))
        .map(|value| value as libc::c_int)
}

/// keyctl(KEYCTL_JOIN_SESSION_KEYRING): a session keyring of the container's own.
pub(crate) fn join_session_keyring(name: &CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is a C string that the kernel copies.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// TIOCSCTTY: makes a terminal the controlling one of the calling session leader.
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes a number.
    check(libc::c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// setdomainname(2).
pub(crate) fn set_domain_name(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe one slice, the kernel copies it.
    check(libc::c_long::from(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })).map(drop)
}

/// Gives freed memory back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only touches the allocator's own free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the threads that come share so many of the allocator's arenas.
pub(crate) fn share_arenas(arenas: libc::c_int) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only changes the allocator's tunables.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
    }
}

/// One allocator arena and no thresholds that grow: a shim's heap stays as small as what lives in it.
pub(crate) fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only changes the allocator's tunables.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}

/// Ignores signals that would end a process which has to go on.
pub(crate) fn ignore_signals(signals: &[libc::c_int]) {
    for &signal in signals {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Every signal back to its default and none blocked, as a new program expects.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours; numbers that cannot be changed fail harmlessly.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// A signalfd(2) for these signals, which are blocked from now on.
pub(crate) fn signal_descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is used, all pointers live for the calls.
    let descriptor = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        check(libc::c_long::from(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())))?;
        check(libc::c_long::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))?
    };
    // SAFETY: the kernel made this descriptor for the call and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// bpf(BPF_PROG_LOAD) of a cgroup device program; instructions are eight bytes each.
pub(crate) fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let load = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the attribute holds pointers to a slice and a C string that live for the call, and its own size.
    let descriptor =
        check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) })?;
    // SAFETY: the kernel made this descriptor for the call and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// bpf(BPF_PROG_ATTACH) of a device program to a cgroup v2 directory.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        attach_type: u32,
        flags: u32,
        replace: u32,
    }
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        // One program a directory; a further attach replaces it.
        flags: 0,
        replace: 0,
    };
    // SAFETY: the attribute is plain numbers and its size is passed.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) })
        .map(drop)
}
