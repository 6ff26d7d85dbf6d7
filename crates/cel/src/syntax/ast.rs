//! The tree of an expression, in one vector: whatever its depth, dropping it needs no stack.
//!
//! Children come before their parents, so that a walk over the vector is a walk from the leaves to the root.

use std::sync::Arc;

use crate::source::Offset;

/// The deepest tree. The reference refuses more than 250 levels of one rule of the grammar.
pub(crate) const DEEPEST: u16 = 300;
/// The most nodes of a tree, macros expanded.
const MOST_NODES: usize = 200_000;

/// The number of a node.
pub(crate) type Id = u32;

/// A value that stands in the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// One key and value of a map literal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) key: Id,
    pub(crate) value: Id,
    pub(crate) optional: bool,
}

/// One field of an object literal.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Arc<str>,
    pub(crate) value: Id,
    pub(crate) optional: bool,
    pub(crate) at: Offset,
}

/// A comprehension: what the macros become.
#[derive(Debug, Clone)]
pub(crate) struct Fold {
    pub(crate) range: Id,
    pub(crate) variable: Arc<str>,
    pub(crate) second: Option<Arc<str>>,
    pub(crate) accumulator: Arc<str>,
    pub(crate) init: Id,
    pub(crate) condition: Id,
    pub(crate) step: Id,
    pub(crate) result: Id,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    Literal(Literal),
    Ident(Arc<str>),
    Select { operand: Id, field: Arc<str>, test: bool },
    Call { function: Arc<str>, target: Option<Id>, arguments: Vec<Id> },
    List(Vec<(Id, bool)>),
    Map(Vec<Entry>),
    Struct { name: Arc<str>, fields: Vec<Field> },
    Fold(Box<Fold>),
}

impl Node {
    /// The nodes directly below.
    pub(crate) fn children(&self) -> Vec<Id> {
        match self {
            Node::Literal(_) | Node::Ident(_) => Vec::new(),
            Node::Select { operand, .. } => vec![*operand],
            Node::Call { target, arguments, .. } => target.iter().chain(arguments).copied().collect(),
            Node::List(elements) => elements.iter().map(|(element, _)| *element).collect(),
            Node::Map(entries) => entries.iter().flat_map(|entry| [entry.key, entry.value]).collect(),
            Node::Struct { fields, .. } => fields.iter().map(|field| field.value).collect(),
            Node::Fold(fold) => vec![fold.range, fold.init, fold.condition, fold.step, fold.result],
        }
    }
}

/// A tree is too deep or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// The tree of an expression.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ast {
    nodes: Vec<Node>,
    offsets: Vec<Offset>,
    depths: Vec<u16>,
    pub(crate) root: Id,
}

impl Ast {
    pub(crate) fn add(&mut self, node: Node, at: Offset) -> Result<Id, TooLarge> {
        let below = node.children().iter().map(|&child| self.depths[child as usize]).max().unwrap_or(0);
        if below >= DEEPEST || self.nodes.len() >= MOST_NODES {
            return Err(TooLarge);
        }
        self.nodes.push(node);
        self.offsets.push(at);
        self.depths.push(below + 1);
        Ok((self.nodes.len() - 1) as Id)
    }

    /// Copies what hangs below a node, which stands where the original does.
    pub(crate) fn copy(&mut self, id: Id) -> Result<Id, TooLarge> {
        let mut node = self.node(id).clone();
        match &mut node {
            Node::Literal(_) | Node::Ident(_) => {}
            Node::Select { operand, .. } => *operand = self.copy(*operand)?,
            Node::Call { target, arguments, .. } => {
                for child in target.iter_mut().chain(arguments) {
                    *child = self.copy(*child)?;
                }
            }
            Node::List(elements) => {
                for (element, _) in elements {
                    *element = self.copy(*element)?;
                }
            }
            Node::Map(entries) => {
                for entry in entries {
                    (entry.key, entry.value) = (self.copy(entry.key)?, self.copy(entry.value)?);
                }
            }
            Node::Struct { fields, .. } => {
                for field in fields {
                    field.value = self.copy(field.value)?;
                }
            }
            Node::Fold(fold) => {
                let parts =
                    [&mut fold.range, &mut fold.init, &mut fold.condition, &mut fold.step, &mut fold.result];
                for part in parts {
                    *part = self.copy(*part)?;
                }
            }
        }
        self.add(node, self.offsets[id as usize])
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn at(&self, id: Id) -> Offset {
        self.offsets[id as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn replace(&mut self, id: Id, node: Node) {
        self.nodes[id as usize] = node;
    }
}
