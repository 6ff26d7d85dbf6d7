//! The system calls that no safe crate wraps. It must not know what they are for.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// getsockopt(2); the libc crate has no name for it.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Asks for the kernel's own words on errors, and for acknowledgements without a copy of the request.
pub(crate) fn set_netlink_options(socket: BorrowedFd<'_>) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open for the call, and the option's value is a live c_int of the size given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Which tables there are of programs in the kernel.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum MapKind {
    /// BPF_MAP_TYPE_HASH.
    Hash = 1,
    /// BPF_MAP_TYPE_LRU_HASH.
    Recent = 9,
}

/// Where a program of a control group is called.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Hook {
    /// BPF_CGROUP_INET4_CONNECT.
    Connect = 10,
    /// BPF_CGROUP_INET4_GETPEERNAME.
    PeerName = 29,
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROGRAM_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
/// BPF_PROG_TYPE_CGROUP_SOCK_ADDR.
const SOCKET_ADDRESS: u32 = 18;

/// The beginning of `union bpf_attr` of each command; the kernel takes what follows as nought.
#[repr(C)]
struct NewMap {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
}

#[repr(C)]
struct MapEntry {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct NewProgram {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    hook: u32,
}

#[repr(C)]
struct NewLink {
    program: u32,
    target: u32,
    hook: u32,
    flags: u32,
}

/// bpf(2).
///
/// # Safety
/// What the attribute points to must live for the call, and be as long as the kernel takes it to be.
unsafe fn bpf<T>(command: libc::c_long, attribute: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute lives for the call and has the size that is given; the caller vouches for its pointers.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// Makes a table with keys and values of so many bytes.
pub(crate) fn create_map(kind: MapKind, (key, value): (u32, u32), entries: u32) -> io::Result<OwnedFd> {
    let new = NewMap { kind: kind as u32, key, value, entries };
    // SAFETY: the attribute has no pointers.
    unsafe { bpf(MAP_CREATE, &new) }.and_then(owned)
}

/// Puts a value into a table of such keys and values.
pub(crate) fn map_insert(map: BorrowedFd<'_>, key: [u8; 4], value: [u8; 8]) -> io::Result<()> {
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    let entry = MapEntry { map: number(map), _pad: 0, key, value, flags: 0 };
    // SAFETY: key and value live for the call; the caller's table has such sizes.
    unsafe { bpf(MAP_UPDATE, &entry) }.map(drop)
}

/// Takes a key out of a table; one that is not there is success.
pub(crate) fn map_remove(map: BorrowedFd<'_>, key: [u8; 4]) -> io::Result<()> {
    let entry = MapEntry { map: number(map), _pad: 0, key: key.as_ptr() as u64, value: 0, flags: 0 };
    // SAFETY: the key lives for the call; the caller's table has keys of that size.
    match unsafe { bpf(MAP_DELETE, &entry) } {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

/// Has the kernel check and take a program on addresses of sockets.
pub(crate) fn load_program(code: &[u64], hook: Hook) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..4].copy_from_slice(b"dray");
    let program = NewProgram {
        kind: SOCKET_ADDRESS,
        length: u32::try_from(code.len()).map_err(io::Error::other)?,
        instructions: code.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name,
        interface: 0,
        hook: hook as u32,
    };
    // SAFETY: the instructions live for the call and are as many as is said; the license is a C string.
    unsafe { bpf(PROGRAM_LOAD, &program) }.and_then(owned)
}

/// Ties a program to a control group for as long as the result is open.
pub(crate) fn link_program(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
    hook: Hook,
) -> io::Result<OwnedFd> {
    let link = NewLink { program: number(program), target: number(group), hook: hook as u32, flags: 0 };
    // SAFETY: the attribute has no pointers.
    unsafe { bpf(LINK_CREATE, &link) }.and_then(owned)
}

/// The number by which programs know the caller's network namespace.
pub(crate) fn namespace_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value is a live u64 of the size given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
