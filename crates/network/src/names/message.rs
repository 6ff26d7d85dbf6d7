//! Between the bytes of the protocol and our questions and answers. Bytes from a client are hostile.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};

use super::{Question, Record, RecordData, RecordKind};

/// What we say we take over UDP, as the DNS flag day of 2020 has it.
const UDP_LIMIT: u16 = 1232;
/// What every client takes over UDP.
const UDP_MINIMUM: u16 = 512;
/// How long a negative answer may be kept, in seconds.
const NEGATIVE_TTL: u32 = 5;

/// A query that can be answered.
pub(super) struct Query {
    message: Message,
    pub(super) question: Question,
}

/// Reads a query. An error is the answer to send, if one can be sent at all.
pub(super) fn read(bytes: &[u8], client: SocketAddr) -> Result<Query, Option<Vec<u8>>> {
    let Ok(message) = Message::from_vec(bytes) else {
        // Without even an identifier, or as an answer, it is not answered: two servers could play forever.
        let identifier = bytes.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]]));
        let is_query = bytes.get(2).is_some_and(|flags| flags & 0x80 == 0);
        return Err(identifier
            .filter(|_| is_query && bytes.len() >= 12)
            .and_then(|id| Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()));
    };
    if message.metadata.message_type != MessageType::Query {
        return Err(None);
    }
    let refuse = |code| {
        let mut answer = Message::error_msg(message.metadata.id, message.metadata.op_code, code);
        answer.add_queries(message.queries.iter().cloned());
        Err(answer.to_vec().ok())
    };
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    if query.query_class() != DNSClass::IN && query.query_class() != DNSClass::ANY {
        return refuse(ResponseCode::Refused);
    }
    let name = query.name().to_lowercase().to_ascii();
    let kind = match query.query_type() {
        RecordType::A => RecordKind::A,
        RecordType::AAAA => RecordKind::Aaaa,
        RecordType::PTR => RecordKind::Ptr,
        RecordType::CNAME => RecordKind::Cname,
        RecordType::SRV => RecordKind::Srv,
        RecordType::TXT => RecordKind::Txt,
        RecordType::ANY => RecordKind::Any,
        _ => RecordKind::Unknown,
    };
    let question = Question { name: name.trim_end_matches('.').to_owned(), kind, client };
    Ok(Query { message, question })
}

impl Query {
    /// An answer with these records, or `code` and none.
    pub(super) fn answer(
        &self,
        code: ResponseCode,
        answers: &[Record],
        additional: &[Record],
        apex: Option<String>,
    ) -> Message {
        let mut answer = self.empty(code);
        answer.metadata.authoritative = true;
        // The client finds its own spelling of the name again.
        let asked = self.message.queries.first().map(|query| query.name().clone());
        let wire = |record: &Record| {
            let mut wire = to_wire(record)?;
            if let Some(asked) = &asked
                && wire.name.eq_ignore_root(asked)
            {
                wire.name = asked.clone();
            }
            Some(wire)
        };
        answer.add_answers(answers.iter().filter_map(wire));
        answer.add_additionals(additional.iter().filter_map(wire));
        if answers.is_empty()
            && let Some(record) = apex.and_then(|apex| authority(&apex))
        {
            answer.add_authority(record);
        }
        answer
    }

    /// An answer without records.
    pub(super) fn empty(&self, code: ResponseCode) -> Message {
        let mut answer = Message::error_msg(self.message.metadata.id, OpCode::Query, code);
        answer.metadata = Metadata::response_from_request(&self.message.metadata);
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = code;
        answer.add_queries(self.message.queries.iter().cloned());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_LIMIT);
            answer.set_edns(edns);
        }
        answer
    }

    /// A query for another name of the same kind, to follow an alias.
    pub(super) fn follow(&self, name: &str) -> Option<(Vec<u8>, Question)> {
        let mut query = self.message.queries.first()?.clone();
        query.set_name(wire_name(name)?);
        let mut message = Message::new(self.message.metadata.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(query);
        let question = Question { name: name.to_ascii_lowercase(), ..self.question.clone() };
        Some((message.to_vec().ok()?, question))
    }

    /// The answer's bytes; over UDP cut short, and said to be, if the client would not take them.
    pub(super) fn encode(&self, answer: &Message, udp: bool) -> Option<Vec<u8>> {
        let bytes = answer.to_vec().ok()?;
        let limit = match (&self.message.edns, udp) {
            (_, false) => u16::MAX,
            (Some(edns), true) => edns.max_payload().clamp(UDP_MINIMUM, UDP_LIMIT),
            (None, true) => UDP_MINIMUM,
        };
        if bytes.len() <= usize::from(limit) { Some(bytes) } else { answer.truncate().to_vec().ok() }
    }
}

/// Appends the answers of another server's message.
pub(super) fn append_answers(answer: &mut Message, other: &[u8]) {
    if let Ok(other) = Message::from_vec(other) {
        answer.add_answers(other.answers);
    }
}

/// Appends records of ours.
pub(super) fn append_records(answer: &mut Message, records: &[Record]) {
    answer.add_answers(records.iter().filter_map(to_wire));
}

/// The address a name below `in-addr.arpa` or `ip6.arpa` stands for.
pub(super) fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = reversed.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then_some(IpAddr::from(octets));
    }
    let mut octets = [0u8; 16];
    let mut parts = name.strip_suffix(".ip6.arpa")?.split('.');
    for octet in octets.iter_mut().rev() {
        for shift in [0, 4] {
            let digit = parts.next().filter(|part| part.len() == 1)?;
            *octet |= u8::from_str_radix(digit, 16).ok()? << shift;
        }
    }
    parts.next().is_none().then_some(IpAddr::from(octets))
}

fn to_wire(record: &Record) -> Option<WireRecord> {
    let data = match &record.data {
        RecordData::Address(IpAddr::V4(address)) => RData::A(A(*address)),
        RecordData::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
        RecordData::Pointer(name) => RData::PTR(PTR(wire_name(name)?)),
        RecordData::Alias(name) => RData::CNAME(CNAME(wire_name(name)?)),
        RecordData::Service { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, wire_name(target)?))
        }
        RecordData::Text(text) => RData::TXT(TXT::new(vec![text.chars().take(255).collect()])),
    };
    let seconds = u32::try_from(record.time_to_live.as_secs()).unwrap_or(u32::MAX);
    Some(WireRecord::from_rdata(wire_name(&record.name)?, seconds, data))
}

/// A name that the protocol cannot carry makes no record.
fn wire_name(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn authority(apex: &str) -> Option<WireRecord> {
    let name = wire_name(apex)?;
    let server = name.prepend_label("ns.dns").or_else(|_| name.prepend_label("ns")).ok()?;
    let mailbox = name.prepend_label("hostmaster").ok()?;
    let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, NEGATIVE_TTL);
    Some(WireRecord::from_rdata(name, NEGATIVE_TTL, RData::SOA(soa)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reverse_names_are_read() {
        assert_eq!(reverse_address("4.3.2.1.in-addr.arpa"), Some([1, 2, 3, 4].into()));
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.8.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(reverse_address(six), "fd00:88::1".parse().ok());
        for bad in
            ["3.2.1.in-addr.arpa", "5.4.3.2.1.in-addr.arpa", "256.3.2.1.in-addr.arpa", "x.ip6.arpa", ""]
        {
            assert_eq!(reverse_address(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let client = SocketAddr::from(([127, 0, 0, 1], 1));
            if let Ok(query) = read(&bytes, client) {
                let answer = query.empty(ResponseCode::NXDomain);
                let _ = query.encode(&answer, true);
            }
        }
    }
}
