//! Objects of one version as objects of another: the same under another name, or what a webhook makes of them
//! (`ConversionReview`, apiextensions.k8s.io/v1).

use std::time::Duration;

use dray_machinery::{FieldErrors, Kind, Reason, Status, metadata, object};
use serde_json::{Value, json};

use crate::server::Inner;

/// How long a webhook may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The versions of a review that are spoken.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// How versions become each other.
#[derive(Debug)]
pub(crate) enum Conversion {
    /// Only the name of the version changes.
    Rename,
    /// A webhook is asked.
    Webhook {
        /// Where it is: a `clientConfig`.
        client: Value,
        /// The version of the review; none where it takes none that is spoken.
        review: Option<String>,
    },
}

impl Conversion {
    /// Reads `spec.conversion`.
    pub(crate) fn read(conversion: &Value) -> Conversion {
        if conversion["strategy"] != "Webhook" {
            return Conversion::Rename;
        }
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let review = versions.filter_map(Value::as_str).find(|version| REVIEWS.contains(version));
        Conversion::Webhook { client: webhook["clientConfig"].clone(), review: review.map(str::to_owned) }
    }
}

/// What is told when objects cannot be converted.
fn failed(from: &str, kind: &Kind, what: impl std::fmt::Display) -> Status {
    let message = format!("conversion webhook for {from}, Kind={} {what}", kind.kind);
    Status::new(500, Reason::Unknown, message)
}

impl Inner {
    /// Makes objects of a kind objects of another version of it.
    pub(super) async fn convert(
        &self,
        conversion: &Conversion,
        to: &'static Kind,
        mut objects: Vec<Value>,
    ) -> Result<Vec<Value>, Status> {
        let wanted = to.api_version();
        let (client, review) = match conversion {
            Conversion::Rename => {
                objects.iter_mut().for_each(|object| object["apiVersion"] = json!(wanted));
                return Ok(objects);
            }
            Conversion::Webhook { client, review } => (client, review),
        };
        let others: Vec<usize> =
            (0..objects.len()).filter(|at| objects[*at]["apiVersion"] != wanted).collect();
        let Some(first) = others.first() else { return Ok(objects) };
        let from = object::text(&objects[*first], &["apiVersion"]).to_owned();
        let failed = |what: String| failed(&from, to, what);
        let Some(review) = review else {
            return Err(Status::new(500, Reason::Unknown, "no supported conversion review versions"));
        };
        let sent: Vec<Value> = others.iter().map(|at| objects[*at].clone()).collect();
        let uid = uuid::Uuid::new_v4().to_string();
        let asked = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "request": { "uid": uid, "desiredAPIVersion": wanted, "objects": sent },
        });
        let answer = self.call_webhook(client, asked.to_string().into(), PATIENCE).await;
        let answer = answer.map_err(|why| failed(format!("failed: {why}")))?;
        let made = answered(&answer, &uid, review).map_err(|why| failed(format!("failed: {why}")))?;
        if made.len() != others.len() {
            let what = format!("returned {} objects, expected {}", made.len(), others.len());
            return Err(failed(what));
        }
        for (index, (at, made)) in others.into_iter().zip(made).enumerate() {
            let mended = mend(&objects[at], made, &wanted);
            objects[at] = mended.map_err(|why| {
                failed(format!("returned invalid converted object at index {index}: {why}"))
            })?;
        }
        Ok(objects)
    }
}

/// The objects of an answer that answers this question.
fn answered(answer: &Value, uid: &str, review: &str) -> Result<Vec<Value>, String> {
    let version = format!("apiextensions.k8s.io/{review}");
    let (given, kind) = (object::text(answer, &["apiVersion"]), object::text(answer, &["kind"]));
    if given != version || kind != "ConversionReview" {
        return Err(format!(
            "expected webhook response of {version}, Kind=ConversionReview, got {given}, Kind={kind}"
        ));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    let given = object::text(response, &["uid"]);
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let status = object::text(response, &["result", "status"]);
    if status != "Success" {
        let message = object::text(response, &["result", "message"]);
        return Err(if message.is_empty() {
            format!("response.result.status was '{status}', not 'Success'")
        } else {
            message.to_owned()
        });
    }
    Ok(response["convertedObjects"].as_array().cloned().unwrap_or_default())
}

/// A converted object, held to what a webhook may change: of the metadata only labels and annotations.
fn mend(original: &Value, mut made: Value, wanted: &str) -> Result<Value, String> {
    let given = object::text(&made, &["apiVersion"]);
    if given != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {given})"));
    }
    let (kind, given) = (object::text(original, &["kind"]), object::text(&made, &["kind"]));
    if kind != given {
        return Err(format!("invalid kind (expected {kind}, received {given})"));
    }
    for (field, word) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (was, is) = (object::meta(original, field), object::meta(&made, field));
        if was != is {
            return Err(format!("must have the same {word}: {was} != {is}"));
        }
    }
    let mut kept = original["metadata"].clone();
    let mut errors = FieldErrors::default();
    for field in ["labels", "annotations"] {
        object::remove(&mut kept, field);
        let value = &made["metadata"][field];
        let fine = value.as_object().is_some_and(|map| map.values().all(Value::is_string));
        if !value.is_null() && !fine {
            return Err(format!("metadata.{field} is no map of texts"));
        }
        if fine {
            let check = if field == "labels" { metadata::labels } else { metadata::annotations };
            check(value, &format!("metadata.{field}"), &mut errors);
            kept[field] = value.clone();
        }
    }
    if let Some(error) = errors.as_slice().first() {
        return Err(error.to_string());
    }
    made["metadata"] = kept;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_change_what_they_may() {
        let original = json!({ "apiVersion": "example.com/v1", "kind": "X",
            "metadata": { "name": "a", "uid": "1", "generation": 2, "labels": { "a": "b" } } });
        let made = |change: Value| {
            let mut made = original.clone();
            made["apiVersion"] = json!("example.com/v2");
            dray_machinery::patch::merge(&mut made, &change);
            mend(&original, made, "example.com/v2")
        };
        let fine = made(
            json!({ "spec": 1, "metadata": { "generation": 9, "labels": { "a": null, "c": "d" }, "annotations": { "e": "f" } } }),
        );
        assert_eq!(
            fine.unwrap()["metadata"],
            json!({ "name": "a", "uid": "1", "generation": 2, "labels": { "c": "d" }, "annotations": { "e": "f" } })
        );
        for (change, expected) in [
            (
                json!({ "apiVersion": "example.com/v3" }),
                "invalid groupVersion (expected example.com/v2, received example.com/v3)",
            ),
            (json!({ "kind": "Y" }), "invalid kind (expected X, received Y)"),
            (json!({ "metadata": { "name": "b" } }), "must have the same name: a != b"),
            (json!({ "metadata": { "uid": "2" } }), "must have the same UID: 1 != 2"),
            (json!({ "metadata": { "labels": { "c": 1 } } }), "metadata.labels is no map of texts"),
        ] {
            assert_eq!(made(change).unwrap_err(), expected);
        }
    }

    #[test]
    fn answers_answer_the_question() {
        let version = "apiextensions.k8s.io/v1";
        let answer = |response: Value| json!({ "kind": "ConversionReview", "apiVersion": version, "response": response });
        let fine = json!({ "uid": "1", "result": { "status": "Success" }, "convertedObjects": [{}] });
        assert_eq!(answered(&answer(fine), "1", "v1").unwrap().len(), 1);
        for (response, expected) in [
            (Value::Null, "no response provided"),
            (json!({ "uid": "2" }), "expected response.uid=\"1\", got \"2\""),
            (
                json!({ "uid": "1", "result": { "status": "Failure" } }),
                "response.result.status was 'Failure', not 'Success'",
            ),
            (json!({ "uid": "1", "result": { "status": "Failure", "message": "no" } }), "no"),
        ] {
            assert_eq!(answered(&answer(response), "1", "v1").unwrap_err(), expected);
        }
        let other = json!({ "kind": "X", "apiVersion": "v1" });
        assert!(answered(&other, "1", "v1").unwrap_err().starts_with("expected webhook response of"));
    }
}
