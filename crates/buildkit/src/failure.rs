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
    let code = if matches!(error, Error::Cancelled) { Code::Cancelled } else { Code::Unknown };
    Status::new(code, message)
}

/// A failure as users are to read it: clients put the names of all other codes before the words.
pub(crate) fn plain(status: Status) -> Status {
    let code = if status.code == Code::Cancelled { Code::Cancelled } else { Code::Unknown };
    Status { code, ..status }
}
