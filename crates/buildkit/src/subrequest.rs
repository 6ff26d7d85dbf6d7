//! What a Dockerfile says without building it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use crate::frontend::Attributes;
use crate::grpc::{Code, Status};
use crate::jobs::Job;
use crate::kit::Connection;
use crate::proto::google::Any;

/// What a result says beside its files.
type Metadata = BTreeMap<String, Vec<u8>>;

/// Answers a question about a Dockerfile, once in JSON and once in words.
pub(crate) async fn answer(
    _connection: &Arc<Connection>,
    _job: &Job,
    what: &str,
    _attributes: &Attributes,
) -> Result<Metadata, Status> {
    match what {
        "frontend.subrequests.describe" => {
            let known = [("frontend.subrequests.describe", "List available subrequest types")];
            let list: Vec<_> = known
                .iter()
                .map(|(name, description)| {
                    json!({ "name": name, "version": "1.0.0", "type": "rpc", "description": description })
                })
                .collect();
            let words = known.iter().map(|(name, description)| format!("{name}\t1.0.0\t{description}\n")).collect::<String>();
            Ok([
                ("result.json".to_owned(), json!(list).to_string().into_bytes()),
                ("result.txt".to_owned(), words.into_bytes()),
                ("version".to_owned(), b"1.0.0".to_vec()),
            ]
            .into())
        }
        other => {
            let detail = Any {
                type_url: "github.com/moby/buildkit/errdefs.Subrequest+json".to_owned(),
                value: json!({ "name": other }).to_string().into_bytes(),
            };
            let message = format!("unsupported request {other}");
            Err(Status { code: Code::Unimplemented, message, details: vec![detail] })
        }
    }
}
