//! One atomic change of a table.

use super::expression::{encode_value, encode_verdict};
use super::key::{DataType, Element, ElementData};
use super::{Expression, Family, SUBSYSTEM, header, kind};
use crate::netlink::{Batch, Body};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFTA_LIST_ELEM: u16 = 1;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_SET_CONCAT: u32 = 0x80;
/// So that the attribute that holds them stays below 64 KiB with the longest keys and chain names.
const ELEMENTS_A_MESSAGE: usize = 256;
const CREATE: u16 = libc::NLM_F_CREATE as u16;

/// Where in its way a packet meets a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// On arrival.
    Prerouting,
    /// On its way to a process of the host.
    Input,
    /// On its way through the host.
    Forward,
    /// On its way from a process of the host.
    Output,
    /// On departure.
    Postrouting,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept and drop.
    Filter,
    /// Translate the first packet of a connection.
    Nat,
}

/// How a chain is hooked in; it accepts what no rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// What it may do.
    pub kind: ChainKind,
    /// Where.
    pub hook: Hook,
    /// Lower comes first; destination translation is at -100, filters at 0, source translation at 100.
    pub priority: i32,
}

/// A set, or a map if it has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name in the table.
    pub name: String,
    /// The fields of its keys.
    pub key: Vec<DataType>,
    /// The fields of its data.
    pub data: Vec<DataType>,
    /// Elements are ranges.
    pub interval: bool,
    /// Rules add elements, which die after this many milliseconds; at most so many.
    pub dynamic: Option<(u64, u32)>,
}

impl Set {
    /// A set of keys.
    pub fn new(name: &str, key: &[DataType]) -> Self {
        Self { name: name.to_owned(), key: key.to_vec(), data: Vec::new(), interval: false, dynamic: None }
    }

    /// A map of keys to data.
    pub fn map(name: &str, key: &[DataType], data: &[DataType]) -> Self {
        Self { data: data.to_vec(), ..Self::new(name, key) }
    }

    /// A set of ranges of keys.
    pub fn interval(name: &str, key: &[DataType]) -> Self {
        Self { interval: true, ..Self::new(name, key) }
    }
}

/// Steps that are done all or not at all, in order.
#[derive(Debug)]
pub struct Transaction {
    family: Family,
    table: String,
    batch: Batch,
    labels: Vec<String>,
}

impl Transaction {
    /// A change of one table.
    pub fn new(family: Family, table: &str) -> Self {
        let mut batch = Batch::new();
        batch.message(NFNL_MSG_BATCH_BEGIN, 0, &boundary(), |_| {});
        Self { family, table: table.to_owned(), batch, labels: Vec::new() }
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Makes the table if it is not there.
    pub fn add_table(&mut self) {
        let label = format!("add table {}", self.table);
        self.step(NFT_MSG_NEWTABLE, CREATE, label, |_| {});
    }

    /// Deletes the table with all it holds.
    pub fn delete_table(&mut self) {
        let label = format!("delete table {}", self.table);
        self.step(NFT_MSG_DELTABLE, 0, label, |_| {});
    }

    /// Deletes the table of the same name in another family, if there is one.
    pub fn delete_table_of(&mut self, family: Family) {
        let own = std::mem::replace(&mut self.family, family);
        self.add_table();
        self.delete_table();
        self.family = own;
    }

    /// Makes a chain that rules jump to, if it is not there.
    pub fn add_chain(&mut self, chain: &str) {
        let label = format!("add chain {} {chain}", self.table);
        self.step(NFT_MSG_NEWCHAIN, CREATE, label, |body| body.text(3, chain));
    }

    /// Makes a chain that packets meet.
    pub fn add_base_chain(&mut self, chain: &str, base: BaseChain) {
        let label = format!("add chain {} {chain}", self.table);
        self.step(NFT_MSG_NEWCHAIN, CREATE, label, |body| {
            body.text(3, chain);
            body.nest(4, |hook| {
                hook.be_u32(
                    1,
                    match base.hook {
                        Hook::Prerouting => 0,
                        Hook::Input => 1,
                        Hook::Forward => 2,
                        Hook::Output => 3,
                        Hook::Postrouting => 4,
                    },
                );
                hook.be_u32(2, base.priority as u32);
            });
            body.be_u32(5, libc::NF_ACCEPT as u32);
            body.text(
                7,
                match base.kind {
                    ChainKind::Filter => "filter",
                    ChainKind::Nat => "nat",
                },
            );
        });
    }

    /// Removes the rules of a chain.
    pub fn flush_chain(&mut self, chain: &str) {
        let label = format!("flush chain {} {chain}", self.table);
        self.step(NFT_MSG_DELRULE, 0, label, |body| body.text(2, chain));
    }

    /// Deletes a chain that no rule or element leads to any more.
    pub fn delete_chain(&mut self, chain: &str) {
        let label = format!("delete chain {} {chain}", self.table);
        self.step(NFT_MSG_DELCHAIN, 0, label, |body| body.text(3, chain));
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expression]) {
        let label = format!("add a rule to chain {} {chain}", self.table);
        self.step(NFT_MSG_NEWRULE, CREATE | libc::NLM_F_APPEND as u16, label, |body| {
            body.text(2, chain);
            body.nest(4, |list| {
                for expression in expressions {
                    expression.encode(list);
                }
            });
        });
    }

    /// Makes a set or a map, if it is not there.
    pub fn add_set(&mut self, set: &Set) {
        let label = format!("add set {} {}", self.table, set.name);
        // The number is how later messages of the batch could name the set; ours name it by name.
        let number = self.batch.len() as u32;
        self.step(NFT_MSG_NEWSET, CREATE, label, |body| encode_set(body, set, number));
    }

    /// Deletes a set that no rule uses any more.
    pub fn delete_set(&mut self, set: &str) {
        let label = format!("delete set {} {set}", self.table);
        self.step(NFT_MSG_DELSET, 0, label, |body| body.text(2, set));
    }

    /// Removes every element of a set.
    pub fn flush_set(&mut self, set: &str) {
        let label = format!("flush set {} {set}", self.table);
        self.step(NFT_MSG_DELSETELEM, 0, label, |body| body.text(2, set));
    }

    /// Adds elements; one that is there with the same data is passed over.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NFT_MSG_NEWSETELEM, CREATE, "add elements to", set, elements);
    }

    /// Deletes elements that must be there.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NFT_MSG_DELSETELEM, 0, "delete elements of", set, elements);
    }

    fn elements(&mut self, message: u16, flags: u16, verb: &str, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_A_MESSAGE) {
            let label = format!("{verb} {} {set}", self.table);
            self.step(message, flags, label, |body| {
                body.text(2, set);
                body.nest(3, |list| {
                    for element in chunk {
                        list.nest(NFTA_LIST_ELEM, |body| encode_element(body, element));
                    }
                });
            });
        }
    }

    /// Every message begins with the table's name.
    fn step(&mut self, message: u16, flags: u16, label: String, body: impl FnOnce(&mut Body<'_>)) {
        let table = &self.table;
        self.batch.message(kind(message), flags, &header(self.family), |attributes| {
            attributes.text(1, table);
            body(attributes);
        });
        self.labels.push(label);
    }

    pub(super) fn finish(mut self) -> (Batch, Vec<String>) {
        // One acknowledgement at the end; refusals are told without being asked for.
        self.batch.flag_last(libc::NLM_F_ACK as u16);
        self.batch.message(NFNL_MSG_BATCH_END, 0, &boundary(), |_| {});
        (self.batch, self.labels)
    }
}

/// struct nfgenmsg of a batch's ends: the subsystem in network byte order.
fn boundary() -> [u8; 4] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [0, 0, high, low]
}

fn encode_set(body: &mut Body<'_>, set: &Set, number: u32) {
    let mut flags = 0;
    if set.interval {
        flags |= NFT_SET_INTERVAL;
    }
    if !set.data.is_empty() {
        flags |= NFT_SET_MAP;
    }
    if set.dynamic.is_some() {
        flags |= NFT_SET_TIMEOUT | NFT_SET_EVAL;
    }
    if set.key.len() > 1 {
        flags |= NFT_SET_CONCAT;
    }
    body.text(2, &set.name);
    body.be_u32(3, flags);
    body.be_u32(4, type_of(&set.key));
    body.be_u32(5, length_of(&set.key));
    if !set.data.is_empty() {
        body.be_u32(6, type_of(&set.data));
        body.be_u32(7, length_of(&set.data));
    }
    body.nest(9, |description| {
        if let Some((_, size)) = set.dynamic {
            description.be_u32(1, size);
        }
        if set.key.len() > 1 {
            description.nest(2, |fields| {
                for field in &set.key {
                    fields.nest(NFTA_LIST_ELEM, |inner| inner.be_u32(1, field.length()));
                }
            });
        }
    });
    body.be_u32(10, number);
    if let Some((timeout, _)) = set.dynamic {
        body.be_u64(11, timeout);
    }
}

fn encode_element(body: &mut Body<'_>, element: &Element) {
    encode_value(body, 1, element.key.as_bytes());
    match &element.data {
        Some(ElementData::Value(value)) => encode_value(body, 2, value.as_bytes()),
        Some(ElementData::Verdict(verdict)) => body.nest(2, |data| encode_verdict(data, verdict)),
        None => {}
    }
    if element.interval_end {
        body.be_u32(3, 1);
    }
}

/// Fields in a row are shown by their numbers, six bits each.
fn type_of(fields: &[DataType]) -> u32 {
    fields.iter().fold(0, |number, field| number << 6 | field.number())
}

fn length_of(fields: &[DataType]) -> u32 {
    match fields {
        [single] => single.length(),
        fields => fields.iter().map(|field| field.length().next_multiple_of(4)).sum(),
    }
}
