//! Whether the priority level that a flow schema names is there, which its status says.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, FlowSchemaCondition, PriorityLevelConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::error::{Error, Result};
use crate::informer::Informer;
use crate::key::ObjectKey;
use crate::queue::{Again, Queue};

const DANGLING: &str = "Dangling";
/// So many schemas are looked at at the same time.
const WIDTH: usize = 4;

/// The controller of the conditions of flow schemas.
pub(crate) struct Flows {
    client: Client,
    schemas: Arc<Informer<FlowSchema>>,
    levels: Arc<Informer<PriorityLevelConfiguration>>,
    queue: Arc<Queue<ObjectKey>>,
}

impl Flows {
    /// Subscribes to the informers, which must not run yet.
    pub(crate) fn new(
        client: Client,
        schemas: Arc<Informer<FlowSchema>>,
        levels: Arc<Informer<PriorityLevelConfiguration>>,
    ) -> Flows {
        let queue = Queue::new("flow schemas");
        schemas.on_change({
            let queue = queue.clone();
            move |change| queue.add(ObjectKey::of(&**change.object()))
        });
        levels.on_change({
            let (queue, schemas) = (queue.clone(), schemas.clone());
            // Levels come and go seldom.
            move |change| {
                if change.old().is_none() {
                    schemas.list_all().iter().for_each(|schema| queue.add(ObjectKey::of(&**schema)));
                }
            }
        });
        Flows { client, schemas, levels, queue }
    }

    pub(crate) async fn run(self) -> Result<()> {
        self.schemas.wait_complete().await;
        self.levels.wait_complete().await;
        self.queue.run(WIDTH, |key| self.sync(key)).await
    }

    async fn sync(&self, key: ObjectKey) -> Result<Again> {
        let Some(schema) = self.schemas.get(&key) else { return Ok(None) };
        let named = schema.spec.as_ref().map(|spec| spec.priority_level_configuration.name.as_str());
        let named = named.unwrap_or_default();
        let is_there = self.levels.get(&ObjectKey::new("", named)).is_some();
        let (status, reason, end) = if is_there {
            ("False", "Found", "and it exists")
        } else {
            ("True", "NotFound", "but there is no such object")
        };
        let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let known = conditions.find(|condition| condition.type_.as_deref() == Some(DANGLING));
        if known.is_some_and(|known| known.status.as_deref() == Some(status)) {
            return Ok(None);
        }
        let condition = FlowSchemaCondition {
            type_: Some(DANGLING.to_owned()),
            status: Some(status.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(format!(
                "This FlowSchema references the PriorityLevelConfiguration object named {named:?} {end}"
            )),
            last_transition_time: Some(Time(Timestamp::now())),
        };
        let patch = json!({ "status": { "conditions": [condition] } });
        let api = Api::<FlowSchema>::all(self.client.clone());
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match written.map_err(Error::request("write the status of", "FlowSchema", &key)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}
