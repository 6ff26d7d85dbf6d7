//! How a call has ended.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderValue};
use prost::Message as _;

use crate::proto::google;

/// gRPC's status codes, of which there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    fn of(number: i32) -> Self {
        use Code::*;
        const ALL: [Code; 17] = [
            Ok,
            Cancelled,
            Unknown,
            InvalidArgument,
            DeadlineExceeded,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            ResourceExhausted,
            FailedPrecondition,
            Aborted,
            OutOfRange,
            Unimplemented,
            Internal,
            Unavailable,
            DataLoss,
            Unauthenticated,
        ];
        usize::try_from(number).ok().and_then(|index| ALL.get(index)).copied().unwrap_or(Unknown)
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// More for programs, each in a form of its own.
    pub(crate) details: Vec<google::Any>,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";
/// Trailers are headers, and clients bound those: longer texts are cut.
const LONGEST_TRAILER: usize = 256 << 10;

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(Code::Cancelled, "the call was cancelled")
    }

    /// The status as a message, as it is passed on in bodies.
    pub(crate) fn to_proto(&self) -> google::Status {
        google::Status {
            code: self.code as i32,
            message: self.message.clone(),
            details: self.details.clone(),
        }
    }

    /// A status that came as a message.
    pub(crate) fn from_proto(status: google::Status) -> Self {
        Self { code: Code::of(status.code), message: status.message, details: status.details }
    }

    /// What ends an answer; no status means success.
    pub(crate) fn trailers(status: Option<&Self>) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let Some(status) = status else {
            trailers.insert(STATUS, HeaderValue::from_static("0"));
            return trailers;
        };
        trailers.insert(STATUS, HeaderValue::from(status.code as i32));
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&status.message)) {
            trailers.insert(MESSAGE, message);
        }
        if !status.details.is_empty() {
            let encoded = STANDARD_NO_PAD.encode(status.to_proto().encode_to_vec());
            if encoded.len() <= LONGEST_TRAILER
                && let Ok(details) = HeaderValue::try_from(encoded)
            {
                trailers.insert(DETAILS, details);
            }
        }
        trailers
    }

    /// The status that trailers, or headers without a body, tell of. Success is `Ok`.
    pub(crate) fn of_trailers(trailers: &HeaderMap) -> Result<(), Self> {
        let text = |name| trailers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let code = match text(STATUS).map(str::parse) {
            Some(Ok(0)) => return Ok(()),
            Some(Ok(number)) => Code::of(number),
            _ => return Err(Self::new(Code::Internal, "the answer ended without a status")),
        };
        let message = text(MESSAGE).map(percent_decoded).unwrap_or_default();
        let details = text(DETAILS)
            .and_then(|text| STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok())
            .and_then(|bytes| google::Status::decode(&bytes[..]).ok())
            .map(|status| status.details);
        Err(Self { code, message, details: details.unwrap_or_default() })
    }
}

/// The message as a header may carry it: all but plain ASCII as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if encoded.len() > LONGEST_TRAILER {
            break;
        }
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                use std::fmt::Write as _;
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.map(|pair| u8::from_str_radix(pair, 16)) {
            Some(Ok(byte)) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_its_trailers() {
        for message in ["plain", "100% größer\n\tnext", "%zz %4", ""] {
            let details = vec![google::Any { type_url: "a/b".to_owned(), value: vec![0, 255] }];
            let status = Status { code: Code::NotFound, message: message.to_owned(), details };
            assert_eq!(Status::of_trailers(&Status::trailers(Some(&status))), Err(status));
        }
        assert_eq!(Status::of_trailers(&Status::trailers(None)), Ok(()));
        assert_eq!(Status::of_trailers(&HeaderMap::new()).unwrap_err().code, Code::Internal);
    }
}
