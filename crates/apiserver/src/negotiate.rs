//! What form of an answer a client accepts.

use dray_machinery::Status;
use http::{HeaderMap, header};

/// What is shown of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects.
    Full,
    /// Rows for printing.
    Table,
    /// Only the metadata.
    Partial,
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
}

/// One alternative of an `Accept` header.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MediaRange<'a> {
    pub(crate) media: &'a str,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> MediaRange<'a> {
    pub(crate) fn parameter(&self, key: &str) -> &'a str {
        self.parameters.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
    }
}

/// The alternatives, best first.
pub(crate) fn ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<MediaRange<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let media = pieces.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = pieces
                .filter_map(|piece| piece.split_once('='))
                .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
                .collect();
            let quality = parameters
                .iter()
                .find(|(key, _)| *key == "q")
                .and_then(|(_, value)| value.parse().ok())
                .unwrap_or(1.0);
            MediaRange { media, parameters, quality }
        })
        .filter(|range| !range.media.is_empty() && range.quality > 0.0)
        .collect();
    ranges.sort_by(|left, right| right.quality.total_cmp(&left.quality));
    ranges
}

const OFFERED: &[&str] = &["application/json", "application/yaml"];

/// Chooses the form of an answer about objects.
pub(crate) fn accept(headers: &HeaderMap) -> Result<Accept, Status> {
    choose(headers, true)
}

/// Chooses the form of an answer that is never a table, nor a part of an object: that to a question.
pub(crate) fn accept_whole(headers: &HeaderMap) -> Result<Accept, Status> {
    choose(headers, false)
}

fn choose(headers: &HeaderMap, shapes: bool) -> Result<Accept, Status> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(Accept { shape: Shape::Full, encoding: Encoding::Json });
    }
    for range in &ranges {
        let encoding = match range.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let ours = shapes && range.parameter("g") == "meta.k8s.io" && range.parameter("v") == "v1";
        let shape = match range.parameter("as") {
            "" => Shape::Full,
            "Table" if ours => Shape::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" if ours => Shape::Partial,
            _ => continue,
        };
        return Ok(Accept { shape, encoding });
    }
    Err(Status::not_acceptable(OFFERED))
}

/// Whether a client takes answers that are compressed.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|text| text.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let weight = |part: &str| part.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        parts.next() == Some("gzip") && parts.find_map(weight).is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(Shape, Encoding)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        let found = accept(&headers).ok().map(|accept| (accept.shape, accept.encoding));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn chooses_what_is_asked_for_first() {
        check("application/json", Some((Shape::Full, Encoding::Json)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Shape::Table, Encoding::Json)),
        );
        check("application/vnd.kubernetes.protobuf,application/json", Some((Shape::Full, Encoding::Json)));
        check("application/json;q=0.5, application/yaml", Some((Shape::Full, Encoding::Yaml)));
        check("application/vnd.kubernetes.protobuf", None);
        check("*/*", Some((Shape::Full, Encoding::Json)));
    }

    #[test]
    fn a_question_has_no_table() {
        let whole = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, text.parse().unwrap());
            accept_whole(&headers).map(|accept| accept.shape).map_err(|status| status.code)
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(whole(table), Err(406));
        assert_eq!(whole(&format!("{table}, application/json")), Ok(Shape::Full));
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (text, expected) in [
            ("gzip", true),
            ("br, gzip;q=0.5", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("xgzip", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, text.parse().unwrap());
            assert_eq!(takes_gzip(&headers), expected, "{text}");
        }
    }
}
