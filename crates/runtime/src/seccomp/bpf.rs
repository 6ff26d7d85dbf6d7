//! Classic BPF as seccomp runs it: blocks that are put together back to front of their jumps.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator as Operator};

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where the search for a number ends.
#[derive(Clone, PartialEq)]
pub(super) enum Leaf {
    /// One answer.
    Return(u32),
    /// Answers that depend on arguments, then the answer otherwise.
    Check(Vec<(Vec<LinuxSeccompArg>, u32)>, u32),
}

/// A block of instructions without jumps out of it.
#[derive(Clone, Default)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    pub(super) fn into_instructions(self) -> Vec<Instruction> {
        self.instructions
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.instructions.push(Instruction { code, jt, jf, k });
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.instructions.extend_from_slice(&other.instructions);
    }

    fn len(&self) -> u32 {
        self.instructions.len() as u32
    }

    pub(super) fn load_architecture(&mut self) {
        self.push(LOAD_WORD, 0, 0, 4);
    }

    pub(super) fn load_number(&mut self) {
        self.push(LOAD_WORD, 0, 0, 0);
    }

    pub(super) fn clear_bits(&mut self, bits: u32) {
        self.push(AND, 0, 0, !bits);
    }

    pub(super) fn return_value(&mut self, value: u32) {
        self.push(RETURN, 0, 0, value);
    }

    /// Runs `block` when the accumulator equals `k`; the block returns in every case.
    pub(super) fn unless_equal_skip(&mut self, k: u32, block: &Self) {
        self.push(JUMP_EQUAL, 1, 0, k);
        self.push(JUMP, 0, 0, block.len());
        self.append(block);
    }

    /// Runs `block` when the accumulator is at least `k`; the block returns in every case.
    pub(super) fn if_at_least(&mut self, k: u32, block: &Self) {
        self.push(JUMP_AT_LEAST, 1, 0, k);
        self.push(JUMP, 0, 0, block.len());
        self.append(block);
    }

    /// Finds the accumulator's range by halving.
    pub(super) fn search(&mut self, leaves: &[(u32, Leaf)], default: u32) {
        match leaves {
            [] => self.return_value(default),
            [(_, Leaf::Return(value))] => self.return_value(*value),
            [(_, Leaf::Check(rules, otherwise))] => self.check(rules, *otherwise),
            _ => {
                let (left, right) = leaves.split_at(leaves.len() / 2);
                let (mut low, mut high) = (Self::default(), Self::default());
                low.search(left, default);
                high.search(right, default);
                match u8::try_from(low.len()) {
                    Ok(length) => self.push(JUMP_AT_LEAST, length, 0, right[0].0),
                    Err(_) => {
                        self.push(JUMP_AT_LEAST, 0, 1, right[0].0);
                        self.push(JUMP, 0, 0, low.len());
                    }
                }
                self.append(&low);
                self.append(&high);
            }
        }
    }

    fn check(&mut self, rules: &[(Vec<LinuxSeccompArg>, u32)], otherwise: u32) {
        for (arguments, action) in rules {
            // Built from the back: each comparison falls through when it holds and skips the rest when not.
            let mut rule = Self::default();
            rule.return_value(*action);
            for argument in arguments.iter().rev() {
                let mut front = Self::default();
                front.compare(argument, rule.len() as u8);
                front.append(&rule);
                rule = front;
            }
            self.append(&rule);
        }
        self.return_value(otherwise);
    }

    /// Falls through when the comparison holds; jumps `rest` instructions further when not.
    fn compare(&mut self, argument: &LinuxSeccompArg, rest: u8) {
        let low_at = 16 + 8 * argument.index() as u32 + if cfg!(target_endian = "little") { 0 } else { 4 };
        let high_at = 16 + 8 * argument.index() as u32 + if cfg!(target_endian = "little") { 4 } else { 0 };
        let (high, low) = ((argument.value() >> 32) as u32, argument.value() as u32);
        match argument.op() {
            Operator::ScmpCmpEq => {
                self.push(LOAD_WORD, 0, 0, high_at);
                self.push(JUMP_EQUAL, 0, rest + 2, high);
                self.push(LOAD_WORD, 0, 0, low_at);
                self.push(JUMP_EQUAL, 0, rest, low);
            }
            Operator::ScmpCmpNe => {
                self.push(LOAD_WORD, 0, 0, high_at);
                self.push(JUMP_EQUAL, 0, 2, high);
                self.push(LOAD_WORD, 0, 0, low_at);
                self.push(JUMP_EQUAL, rest, 0, low);
            }
            Operator::ScmpCmpMaskedEq => {
                let wanted = argument.value_two().unwrap_or(0);
                self.push(LOAD_WORD, 0, 0, high_at);
                self.push(AND, 0, 0, high);
                self.push(JUMP_EQUAL, 0, rest + 3, (wanted >> 32) as u32);
                self.push(LOAD_WORD, 0, 0, low_at);
                self.push(AND, 0, 0, low);
                self.push(JUMP_EQUAL, 0, rest, wanted as u32);
            }
            Operator::ScmpCmpGt => self.ordered(high_at, low_at, high, low, JUMP_GREATER, false, rest),
            Operator::ScmpCmpGe => self.ordered(high_at, low_at, high, low, JUMP_AT_LEAST, false, rest),
            Operator::ScmpCmpLe => self.ordered(high_at, low_at, high, low, JUMP_GREATER, true, rest),
            Operator::ScmpCmpLt => self.ordered(high_at, low_at, high, low, JUMP_AT_LEAST, true, rest),
        }
    }

    /// `negated` false holds when value OP argument, true when not.
    #[allow(clippy::too_many_arguments)]
    fn ordered(
        &mut self,
        high_at: u32,
        low_at: u32,
        high: u32,
        low: u32,
        code: u16,
        negated: bool,
        rest: u8,
    ) {
        let (greater, not_greater) = if negated { (rest, 0) } else { (0, rest) };
        self.push(LOAD_WORD, 0, 0, high_at);
        // High word greater decides; equal goes on with the low word; less decides the other way.
        self.push(JUMP_GREATER, greater + 3, 0, high);
        self.push(JUMP_EQUAL, 0, not_greater + 2, high);
        self.push(LOAD_WORD, 0, 0, low_at);
        self.push(code, greater, not_greater, low);
    }
}
