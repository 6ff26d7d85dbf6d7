//! Graphs that clients send: those that name a single source are understood, others are refused.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use dray_image::Digest;
use prost::Message as _;

use crate::grpc::{Code, Status};
use crate::proto::ops::{Definition, Input, Op, OpMetadata, SourceOp};

/// How a result of ours is called in a graph.
const RESULT: &str = "dray-result://";
/// Operations of one graph.
const MOST: usize = 10_000;

/// What a graph that is a single source names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A result of ours, by its reference.
    Result(String),
    /// `docker-image://…`, without the scheme.
    Image(String),
    /// `local://…`, without the scheme.
    Local(String),
    /// Something by its address.
    Remote(String),
    /// Nothing: an empty file system.
    Scratch,
}

/// A graph that names a result.
pub(crate) fn of_result(reference: &str) -> Definition {
    let source = SourceOp { identifier: format!("{RESULT}{reference}"), attrs: BTreeMap::new() };
    let op: Bytes = Op { source: Some(source), ..Op::default() }.encode_to_vec().into();
    let digest = Digest::of(&op).to_string();
    let input = Input { digest: digest.clone(), index: 0 };
    let last: Bytes = Op { inputs: vec![input], ..Op::default() }.encode_to_vec().into();
    let metadata = [digest, Digest::of(&last).to_string()];
    Definition {
        def: vec![op, last],
        metadata: metadata.map(|digest| (digest, OpMetadata::default())).into(),
    }
}

/// What a graph names.
///
/// # Errors
/// When it is damaged, or does work that only BuildKit's own solver knows.
pub(crate) fn source(definition: &Definition) -> Result<Source, Status> {
    let Some(last) = definition.def.last() else { return Ok(Source::Scratch) };
    if definition.def.len() > MOST {
        return Err(Status::invalid(format!("the graph has more than {MOST} operations")));
    }
    let damaged = |why: &str| Status::invalid(format!("the graph is damaged: {why}"));
    let decode = |bytes: &Bytes| Op::decode(bytes.clone()).map_err(|error| damaged(&error.to_string()));
    let last = decode(last)?;
    let Some(input) = last.inputs.first() else { return Ok(Source::Scratch) };
    let ops: HashMap<String, &Bytes> =
        definition.def.iter().map(|bytes| (Digest::of(bytes).to_string(), bytes)).collect();
    let op = ops.get(&input.digest).ok_or_else(|| damaged("its result is not in it"))?;
    let op = decode(op)?;
    let Some(source) = op.source else {
        let kind = match op {
            Op { exec: Some(_), .. } => "exec",
            Op { file: Some(_), .. } => "file",
            Op { build: Some(_), .. } => "build",
            Op { merge: Some(_), .. } => "merge",
            Op { diff: Some(_), .. } => "diff",
            _ => "unknown",
        };
        return Err(Status::new(
            Code::Unimplemented,
            format!(
                "this daemon builds Dockerfiles: LLB with operations of kind {kind} is not supported; use a Dockerfile, or \
                 a builder of its own: docker buildx create --use"
            ),
        ));
    };
    let identifier = source.identifier;
    for (scheme, make) in [
        (RESULT, Source::Result as fn(String) -> Source),
        ("docker-image://", Source::Image),
        ("local://", Source::Local),
    ] {
        if let Some(rest) = identifier.strip_prefix(scheme) {
            return Ok(make(rest.to_owned()));
        }
    }
    if let Some(rest) = identifier.strip_prefix("git://") {
        // The address as it was given, where the client tells it.
        let address = source.attrs.get("git.fullurl").cloned();
        let (plain, fragment) =
            rest.split_once('#').map_or((rest, ""), |(plain, fragment)| (plain, fragment));
        let address = address.unwrap_or_else(|| format!("https://{plain}"));
        let fragment = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
        return Ok(Source::Remote(address + &fragment));
    }
    Ok(Source::Remote(identifier))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_result_is_found_again() {
        assert_eq!(source(&of_result("abc")).unwrap(), Source::Result("abc".to_owned()));
        assert_eq!(source(&Definition::default()).unwrap(), Source::Scratch);
    }

    #[test]
    fn work_is_refused_with_a_way_out() {
        let op: Bytes = vec![0x12, 0].into();
        let input = Input { digest: Digest::of(&op).to_string(), index: 0 };
        let last: Bytes = Op { inputs: vec![input], ..Op::default() }.encode_to_vec().into();
        let definition = Definition { def: vec![op, last], ..Definition::default() };
        let refused = source(&definition).unwrap_err();
        assert_eq!(refused.code, Code::Unimplemented);
        assert!(refused.message.contains("kind exec") && refused.message.contains("buildx create"));
    }

    proptest! {
        #[test]
        fn hostile_graphs_are_answered(def in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..5)) {
            let def = def.into_iter().map(Bytes::from).collect();
            let _ = source(&Definition { def, ..Definition::default() });
        }

        #[test]
        fn hostile_packets_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = crate::proto::fsutil::Packet::decode(&bytes[..]);
            let _ = crate::proto::control::SolveRequest::decode(&bytes[..]);
            let _ = crate::proto::gateway::ReturnRequest::decode(&bytes[..]);
        }
    }
}
