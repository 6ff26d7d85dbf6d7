//! The programs, in the kernel's instruction set (RFC 9669). Their context is `struct bpf_sock_addr`.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Bytes of a key and of a value of the table of ports: the port in network order; address and port of the target.
pub(super) const TARGETS: (u32, u32) = (4, 8);
/// Of the table of connections: the socket's cookie; what was meant, and where it was led.
pub(super) const MEANT: (u32, u32) = (8, 16);

/// Fields of the context.
const ADDRESS: i16 = 4;
const PORT: i16 = 24;
const PROTOCOL: i16 = 36;
const SOCKET: i16 = 64;
/// A field of `struct bpf_sock`.
const SOURCE: i16 = 24;

const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const SOCKET_COOKIE: i32 = 46;
const NAMESPACE_COOKIE: i32 = 122;

const WORD: u8 = 0x61;
const DOUBLE: u8 = 0x79;
const STORE_WORD: u8 = 0x63;
const STORE_DOUBLE: u8 = 0x7b;
const UNLESS_EQUAL: u8 = 0x55;
const UNLESS_SAME: u8 = 0x5d;
const IF_EQUAL: u8 = 0x15;
/// The register of the stack's end.
const STACK: u8 = 10;

/// The key of a port.
pub(super) fn key(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The value of a target.
pub(super) fn target(target: SocketAddrV4) -> [u8; 8] {
    let [a, b, c, d] = target.ip().octets();
    let [high, low] = target.port().to_be_bytes();
    [a, b, c, d, high, low, 0, 0]
}

/// A program that is being written. All its jumps lead to its end.
#[derive(Default)]
struct Program {
    code: Vec<u64>,
    jumps: Vec<usize>,
}

impl Program {
    fn add(&mut self, operation: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        self.code.push(u64::from_le_bytes([operation, from << 4 | to, low, high, a, b, c, d]));
    }

    fn load(&mut self, size: u8, to: u8, from: u8, offset: i16) {
        self.add(size, to, from, offset, 0);
    }

    fn store(&mut self, size: u8, to: u8, offset: i16, from: u8) {
        self.add(size, to, from, offset, 0);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.add(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.add(0xb7, to, 0, 0, value);
    }

    /// A constant of 64 bits; with `kind` 1 the table of a descriptor.
    fn set_long(&mut self, to: u8, kind: u8, value: u64) {
        let [low, high] = [value as u32, (value >> 32) as u32].map(u32::cast_signed);
        self.add(0x18, to, kind, 0, low);
        self.add(0, 0, 0, 0, high);
    }

    fn table(&mut self, to: u8, table: BorrowedFd<'_>) {
        self.set_long(to, 1, u64::from(table.as_raw_fd().cast_unsigned()));
    }

    /// The address of a place on the stack.
    fn place(&mut self, to: u8, offset: i32) {
        self.copy(to, STACK);
        self.add(0x07, to, 0, 0, offset);
    }

    fn call(&mut self, function: i32) {
        self.add(0x85, 0, 0, 0, function);
    }

    fn end_if(&mut self, how: u8, register: u8, other: u8, value: i32) {
        self.jumps.push(self.code.len());
        self.add(how, register, other, 0, value);
    }

    /// Everything is let pass.
    fn end(mut self) -> Vec<u64> {
        for at in &self.jumps {
            let distance = (self.code.len() - at - 1) as u64;
            self.code[*at] |= distance << 16;
        }
        self.set(0, 1);
        self.add(0x95, 0, 0, 0, 0);
        self.code
    }
}

/// Leads a TCP connection to 127.0.0.1 and a published port to where that leads.
pub(super) fn connect(namespace: u64, targets: BorrowedFd<'_>, meant: BorrowedFd<'_>) -> Vec<u64> {
    let mut program = Program::default();
    program.copy(6, 1);
    program.load(WORD, 2, 6, ADDRESS);
    program.end_if(UNLESS_EQUAL, 2, 0, i32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()));
    program.load(WORD, 2, 6, PROTOCOL);
    program.end_if(UNLESS_EQUAL, 2, 0, libc::IPPROTO_TCP);
    // A socket that has an address of its own would send from it.
    program.load(DOUBLE, 2, 6, SOCKET);
    program.end_if(IF_EQUAL, 2, 0, 0);
    program.load(WORD, 3, 2, SOURCE);
    program.end_if(UNLESS_EQUAL, 3, 0, 0);
    program.copy(1, 6);
    program.call(NAMESPACE_COOKIE);
    program.set_long(1, 0, namespace);
    program.end_if(UNLESS_SAME, 0, 1, 0);
    program.load(WORD, 2, 6, PORT);
    program.store(STORE_WORD, STACK, -4, 2);
    program.table(1, targets);
    program.place(2, -4);
    program.call(MAP_LOOKUP);
    program.end_if(IF_EQUAL, 0, 0, 0);
    program.copy(7, 0);
    // What was meant, and where it is led.
    program.copy(1, 6);
    program.call(SOCKET_COOKIE);
    program.store(STORE_DOUBLE, STACK, -16, 0);
    for (offset, from, field) in [(-32, 6, ADDRESS), (-28, 6, PORT), (-24, 7, 0), (-20, 7, 4)] {
        program.load(WORD, 2, from, field);
        program.store(STORE_WORD, STACK, offset, 2);
    }
    program.table(1, meant);
    program.place(2, -16);
    program.place(3, -32);
    program.set(4, 0);
    program.call(MAP_UPDATE);
    for (field, of) in [(ADDRESS, 0), (PORT, 4)] {
        program.load(WORD, 2, 7, of);
        program.store(STORE_WORD, 6, field, 2);
    }
    program.end()
}

/// Names as a connection's peer whom it was meant for, as long as it is where it was led.
pub(super) fn peer_name(meant: BorrowedFd<'_>) -> Vec<u64> {
    let mut program = Program::default();
    program.copy(6, 1);
    program.call(SOCKET_COOKIE);
    program.store(STORE_DOUBLE, STACK, -8, 0);
    program.table(1, meant);
    program.place(2, -8);
    program.call(MAP_LOOKUP);
    program.end_if(IF_EQUAL, 0, 0, 0);
    for (field, led) in [(ADDRESS, 8), (PORT, 12)] {
        program.load(WORD, 2, 6, field);
        program.load(WORD, 3, 0, led);
        program.end_if(UNLESS_SAME, 2, 3, 0);
    }
    for (field, meant) in [(ADDRESS, 0), (PORT, 4)] {
        program.load(WORD, 2, 0, meant);
        program.store(STORE_WORD, 6, field, 2);
    }
    program.end()
}
