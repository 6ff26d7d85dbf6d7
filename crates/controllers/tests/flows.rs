//! Flow schemas say whether their level is there.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use support::when;

fn dangling(schema: &FlowSchema) -> Option<&str> {
    let conditions = schema.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_.as_deref() == Some("Dangling"))?.status.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_dangles_without_its_level() {
    let cluster = support::cluster().await;
    let schemas = Api::<FlowSchema>::all(cluster.client.clone());
    when(&schemas, "global-default", "its level", |schema| dangling(schema) == Some("False")).await;
    let schema =
        json!({ "metadata": { "name": "s" }, "spec": { "priorityLevelConfiguration": { "name": "l" } } });
    schemas.create(&PostParams::default(), &serde_json::from_value(schema).unwrap()).await.unwrap();
    when(&schemas, "s", "no level", |schema| dangling(schema) == Some("True")).await;
    let levels = Api::<PriorityLevelConfiguration>::all(cluster.client.clone());
    let limited = json!({ "limitResponse": { "type": "Reject" } });
    let level = json!({ "metadata": { "name": "l" }, "spec": { "type": "Limited", "limited": limited } });
    levels.create(&PostParams::default(), &serde_json::from_value(level).unwrap()).await.unwrap();
    when(&schemas, "s", "its level", |schema| dangling(schema) == Some("False")).await;
    levels.delete("l", &DeleteParams::default()).await.unwrap();
    when(&schemas, "s", "no level any more", |schema| dangling(schema) == Some("True")).await;
}
