//! Why a build failed, in the words and forms that clients of BuildKit know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dray_build::{Error, Place};
use serde_json::json;

use crate::grpc::{Code, Status};
use crate::proto::google::Any;

/// What the form of a place in a file is called.
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";
/// What the form of a step is called.
const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";

/// The status that a failed build ends with, with the lines of the Dockerfile that are meant.
pub(crate) fn status(error: &Error) -> Status {
    let message = match error.inner() {
        Error::Run { command, code } => {
            format!("process \"{command}\" did not complete successfully: exit code: {code}")
        }
        Error::NoSource { path, .. } => {
            let path = path.trim_start_matches("./").trim_start_matches('/');
            format!("failed to compute cache key: \"/{path}\": not found")
        }
        Error::NoDockerfile { path } => {
            format!("failed to read dockerfile: open {path}: no such file or directory")
        }
        Error::Parse(error) => error.to_string(),
        other => other.chain(),
    };
    let code = if matches!(error.inner(), Error::Cancelled) { Code::Cancelled } else { Code::Unknown };
    let details = error.place().into_iter().flat_map(details).collect();
    Status { code, message, details }
}

/// A failure that was told in the classic builder's words, in BuildKit's.
pub(crate) fn words(text: String) -> String {
    let parts =
        text.strip_prefix("The command '").and_then(|rest| rest.rsplit_once("' returned a non-zero code: "));
    match parts {
        Some((command, code)) => {
            format!("process \"{command}\" did not complete successfully: exit code: {code}")
        }
        None => text,
    }
}

/// A failure as users are to read it: clients put the names of all other codes before the words.
pub(crate) fn plain(status: Status) -> Status {
    let code = if status.code == Code::Cancelled { Code::Cancelled } else { Code::Unknown };
    Status { code, ..status }
}

/// The place of an error as clients print it, and the step that it was in.
fn details(place: &Place) -> Vec<Any> {
    let position =
        |line: usize, column: usize| json!({ "line": line, "character": column.saturating_sub(1) });
    let range = place.range;
    let source = json!({
        "info": { "filename": place.file, "data": STANDARD.encode(&place.source), "language": "Dockerfile" },
        "ranges": [{
            "start": position(range.start_line, range.start_column),
            "end": position(range.end_line, range.end_column),
        }],
    });
    let mut details = Vec::new();
    if let Some(vertex) = &place.vertex {
        let value = json!({ "digest": vertex.as_str() }).to_string().into_bytes();
        details.push(Any { type_url: VERTEX.to_owned(), value });
    }
    details.push(Any { type_url: SOURCE.to_owned(), value: source.to_string().into_bytes() });
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_words_for_a_failed_command_become_buildkits() {
        let told = "The command '/bin/sh -c echo 'a' && false' returned a non-zero code: 1";
        let expected = "process \"/bin/sh -c echo 'a' && false\" did not complete successfully: exit code: 1";
        assert_eq!(words(told.to_owned()), expected);
        assert_eq!(words("COPY failed".to_owned()), "COPY failed");
    }

    #[test]
    fn a_place_is_told_in_the_forms_of_clients() {
        let range = dray_build::SourceRange { start_line: 3, end_line: 4, ..Default::default() };
        let place =
            Place { file: "Dockerfile".to_owned(), source: b"FROM a".as_slice().into(), range, vertex: None };
        let details = details(&place);
        let value: serde_json::Value = serde_json::from_slice(&details[0].value).unwrap();
        assert_eq!(value["info"]["data"], "RlJPTSBh");
        assert_eq!(value["ranges"][0]["start"]["line"], 3);
        assert_eq!(value["ranges"][0]["end"]["line"], 4);
    }
}
