//! Modes as chmod(1) takes them: `755`, `u=rwX,go-w`.

/// A change of permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chmod {
    /// These bits.
    Absolute(u32),
    /// Up to eight changes, one after another.
    Symbolic { clauses: [Option<Clause>; MOST] },
}

const MOST: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Bits of those whom it is about: `0o4700` for the user.
    who: u32,
    operation: Operation,
    /// Permissions, for everybody.
    bits: u32,
    /// `X`: execution for directories and what can be executed by someone.
    conditional: bool,
    /// `g=u`: the bits that these have.
    copied: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Remove,
    Set,
}

impl Chmod {
    /// None when it is no mode, or one with too many clauses.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)?;
            return Some(Self::Absolute(mode));
        }
        let mut clauses = [None; MOST];
        let mut count = 0;
        for part in text.split(',') {
            let at = part.find(['+', '-', '='])?;
            let (mut who, mut rest) = (0, &part[at..]);
            for c in part[..at].chars() {
                who |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return None,
                };
            }
            if who == 0 {
                who = 0o7777;
            }
            while !rest.is_empty() {
                let operation = match rest.as_bytes()[0] {
                    b'+' => Operation::Add,
                    b'-' => Operation::Remove,
                    b'=' => Operation::Set,
                    _ => return None,
                };
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
                let (mut bits, mut conditional, mut copied) = (0, false, None);
                for c in rest[1..end].chars() {
                    match c {
                        'r' => bits |= 0o444,
                        'w' => bits |= 0o222,
                        'x' => bits |= 0o111,
                        'X' => conditional = true,
                        's' => bits |= 0o6000,
                        't' => bits |= 0o1000,
                        'u' => copied = Some(6),
                        'g' => copied = Some(3),
                        'o' => copied = Some(0),
                        _ => return None,
                    }
                }
                *clauses.get_mut(count)? = Some(Clause { who, operation, bits, conditional, copied });
                count += 1;
                rest = &rest[end..];
            }
        }
        Some(Self::Symbolic { clauses })
    }

    /// What a mode becomes.
    pub(crate) fn apply(self, mode: u32, is_directory: bool) -> u32 {
        let clauses = match self {
            Self::Absolute(mode) => return mode,
            Self::Symbolic { clauses } => clauses,
        };
        clauses.into_iter().flatten().fold(mode, |mode, clause| {
            let mut bits = clause.bits;
            if clause.conditional && (is_directory || mode & 0o111 != 0) {
                bits |= 0o111;
            }
            if let Some(shift) = clause.copied {
                bits |= ((mode >> shift) & 7) * 0o111;
            }
            let bits = bits & clause.who;
            match clause.operation {
                Operation::Add => mode | bits,
                Operation::Remove => mode & !bits,
                Operation::Set => (mode & !(clause.who & 0o777)) & !(clause.who & 0o7000) | bits,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_chmod() {
        for (text, mode, expected) in [
            ("755", 0o600, 0o755),
            ("0", 0o600, 0),
            ("u+x", 0o600, 0o700),
            ("+x", 0o644, 0o755),
            ("go-rwx", 0o777, 0o700),
            ("u=rwX,go=rX", 0o600, 0o644),
            ("u=rwX,go=rX", 0o711, 0o755),
            ("a=r", 0o777, 0o444),
            ("g=u", 0o740, 0o770),
            ("u+s", 0o755, 0o4755),
            ("u=rw+x", 0o000, 0o700),
            ("o=t", 0o755, 0o1750),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(mode, false), expected, "{text} on {mode:o}");
        }
        assert_eq!(Chmod::parse("a+X").unwrap().apply(0o600, true), 0o711);
        for text in ["", "9", "10000", "u", "u+q", "z=r", "+x,+x,+x,+x,+x,+x,+x,+x,+x"] {
            assert_eq!(Chmod::parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ugoa+=,rwxXst0-7-]*", mode in 0_u32..0o10000) {
            if let Some(chmod) = Chmod::parse(&text) {
                assert!(chmod.apply(mode, mode & 1 == 1) <= 0o7777);
            }
        }
    }
}
