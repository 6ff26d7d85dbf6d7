//! Why a build failed, in the words and forms that clients of BuildKit know.

use dray_build::Error;

use crate::grpc::{Code, Status};

/// The status that a failed build ends with.
pub(crate) fn status(error: &Error) -> Status {
    let message = match error {
        Error::Run { command, code } => {
            format!("process {command:?} did not complete successfully: exit code: {code}")
        }
        Error::Parse(error) => error.to_string(),
        other => other.chain(),
    };
    let code = match error {
        Error::Cancelled => Code::Cancelled,
        Error::Parse(_) | Error::Invalid { .. } => Code::InvalidArgument,
        Error::NoImage { .. } | Error::NoDockerfile { .. } => Code::NotFound,
        _ => Code::Unknown,
    };
    Status::new(code, message)
}
