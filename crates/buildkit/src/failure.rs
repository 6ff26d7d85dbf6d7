//! Why a build failed, in the words and forms that clients of BuildKit know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dray_build::Error;
use serde_json::json;

use crate::grpc::{Code, Status};
use crate::proto::google::Any;

/// What the form of a place in a file is called.
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";

/// A Dockerfile: its path and its bytes.
pub(crate) type Dockerfile = (String, Vec<u8>);

/// The status that a failed build ends with. With the Dockerfile at hand it tells the lines that are meant.
pub(crate) fn status(error: &Error, dockerfile: Option<Dockerfile>) -> Status {
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
    let place = error.line().zip(dockerfile).map(|(line, dockerfile)| place(line, &dockerfile));
    Status { code, message, details: place.into_iter().collect() }
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

/// The lines of the instruction that begins at one, as clients print them.
fn place(line: usize, (path, bytes): &Dockerfile) -> Any {
    let source = json!({
        "info": { "filename": path, "data": STANDARD.encode(bytes), "language": "Dockerfile" },
        "ranges": [{ "start": { "line": line }, "end": { "line": last_line(line, bytes) } }],
    });
    Any { type_url: SOURCE.to_owned(), value: source.to_string().into_bytes() }
}

/// The last line of an instruction: the one before the next, without what is empty or a comment between the two.
fn last_line(line: usize, bytes: &[u8]) -> usize {
    let Ok(file) = dray_build::parse(bytes) else { return line };
    let starts =
        file.arguments.iter().map(|instruction| instruction.line).chain(file.stages.iter().flat_map(
            |stage| std::iter::once(stage.line).chain(stage.instructions.iter().map(|of| of.line)),
        ));
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let mut last = starts.filter(|start| *start > line).min().map_or(lines.len(), |next| next - 1);
    while last > line {
        let content = lines.get(last - 1).map_or("", |line| line.trim());
        if !content.is_empty() && !content.starts_with('#') {
            break;
        }
        last -= 1;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_ends_before_the_next() {
        let file = b"FROM a\n\nRUN one \\\n  two\n# about three\n\nRUN three\n\n";
        for (line, last) in [(1, 1), (3, 4), (7, 7), (99, 99)] {
            assert_eq!(last_line(line, file), last, "{line}");
        }
        assert_eq!(last_line(2, b"\xff\nnonsense\n"), 2);
    }
}
