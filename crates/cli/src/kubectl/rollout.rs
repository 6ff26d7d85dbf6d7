//! `rollout`: a Deployment's revisions, followed and changed.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::Session;
use super::client::JSON;
use super::get::{Events, watch_path};
use super::output::say;
use super::resources::{Resource, text};
use super::targets;
use crate::{Error, Result};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";
const HASH: &str = "pod-template-hash";
const MERGE: &str = "application/merge-patch+json";
const PATCH: &str = "application/json-patch+json";

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum RolloutVerb {
    /// Follow until it has rolled.
    Status(RolloutOptions),
    /// Go back to an earlier revision.
    Undo {
        /// The revision; 0 for the one before.
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
        #[command(flatten)]
        #[allow(missing_docs, reason = "a doc comment here would become the help of the command")]
        options: RolloutOptions,
    },
    /// Roll all pods anew.
    Restart(RolloutOptions),
    /// List the revisions.
    History(RolloutOptions),
    /// Let changes wait.
    Pause(RolloutOptions),
    /// Let changes roll again.
    Resume(RolloutOptions),
}

/// Which Deployment.
#[derive(Clone, Debug, Args)]
pub struct RolloutOptions {
    /// deployment/NAME.
    #[arg(required = true)]
    target: Vec<String>,
}

struct Rollout<'a> {
    session: &'a Session,
    resource: &'a Resource,
    name: String,
    path: String,
}

pub(super) async fn run(session: &Session, verb: &RolloutVerb) -> Result<u8> {
    let (RolloutVerb::Status(options)
    | RolloutVerb::Undo { options, .. }
    | RolloutVerb::Restart(options)
    | RolloutVerb::History(options)
    | RolloutVerb::Pause(options)
    | RolloutVerb::Resume(options)) = verb;
    let (resource, name) = targets::one(session, &options.target, "deployments")?;
    if resource.kind != "Deployment" {
        let message =
            format!("error: no rollout for {}/{name}: only Deployments roll here", resource.label());
        return Err(Error::Failed { message });
    }
    let path = resource.object(&session.namespace, &name);
    let rollout = Rollout { session, resource, name, path };
    match verb {
        RolloutVerb::Status(_) => rollout.status().await,
        RolloutVerb::Undo { to_revision, .. } => rollout.undo(*to_revision).await,
        RolloutVerb::Restart(_) => rollout.restart().await,
        RolloutVerb::History(_) => rollout.history().await,
        RolloutVerb::Pause(_) => rollout.pause(true).await,
        RolloutVerb::Resume(_) => rollout.pause(false).await,
    }
}

/// How far a Deployment has rolled: the words for it, and whether it is done.
fn progress(name: &str, deployment: &Value) -> Result<(String, bool)> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let number = |value: &Value, field: &str| value[field].as_i64().unwrap_or(0);
    if number(status, "observedGeneration") < number(&deployment["metadata"], "generation") {
        return Ok(("Waiting for deployment spec update to be observed...\n".to_owned(), false));
    }
    let late = status["conditions"].as_array().into_iter().flatten().any(|condition| {
        text(condition, "type") == "Progressing" && text(condition, "reason") == "ProgressDeadlineExceeded"
    });
    if late {
        let message = format!("error: deployment {name:?} exceeded its progress deadline");
        return Err(Error::Failed { message });
    }
    let wanted = number(spec, "replicas");
    let (replicas, updated, available) =
        (number(status, "replicas"), number(status, "updatedReplicas"), number(status, "availableReplicas"));
    let waiting = format!("Waiting for deployment {name:?} rollout to finish: ");
    Ok(if updated < wanted {
        (format!("{waiting}{updated} out of {wanted} new replicas have been updated...\n"), false)
    } else if replicas > updated {
        let old = replicas - updated;
        (format!("{waiting}{old} old replicas are pending termination...\n"), false)
    } else if available < updated {
        (format!("{waiting}{available} of {updated} updated replicas are available...\n"), false)
    } else {
        (format!("deployment {name:?} successfully rolled out\n"), true)
    })
}

fn revision(object: &Value) -> i64 {
    text(&object["metadata"]["annotations"], REVISION).parse().unwrap_or(0)
}

impl Rollout<'_> {
    async fn patch(&self, content_type: &'static str, body: &Value) -> Result<Value> {
        let path = format!("{}?fieldManager=dray-kubectl", self.path);
        Ok(self.session.client.send(Method::PATCH, &path, JSON, content_type, body.to_string()).await?.1)
    }

    fn done(&self, what: &str) -> Result<u8> {
        say(&format!("{}/{} {what}\n", self.resource.label(), self.name))?;
        Ok(0)
    }

    async fn status(&self) -> Result<u8> {
        let deployment = self.session.client.get(&self.path).await?;
        let (mut said, done) = progress(&self.name, &deployment)?;
        say(&said)?;
        if done {
            return Ok(0);
        }
        let version = text(&deployment["metadata"], "resourceVersion");
        let fields = format!("metadata.name={}", self.name);
        let path = watch_path(self.resource, Some(&self.session.namespace), "", &fields, version);
        let mut events = Events::new(self.session.client.stream(&path, JSON).await?);
        while let Some(event) = events.next().await? {
            match text(&event, "type") {
                "BOOKMARK" => continue,
                "DELETED" => {
                    return Err(Error::Failed { message: "error: object has been deleted".to_owned() });
                }
                _ => {}
            }
            let (text, done) = progress(&self.name, &event["object"])?;
            if text != said {
                say(&text)?;
                said = text;
            }
            if done {
                return Ok(0);
            }
        }
        Err(Error::Failed { message: "error: the server ended the watch".to_owned() })
    }

    /// The ReplicaSets of the Deployment, oldest revision first.
    async fn revisions(&self) -> Result<Vec<Value>> {
        let deployment = self.session.client.get(&self.path).await?;
        let uid = text(&deployment["metadata"], "uid");
        let sets = self.session.resources.find("replicasets.apps")?;
        let list = self.session.client.get(&sets.collection(Some(&self.session.namespace))).await?;
        let owned = |set: &&Value| {
            let owners = set["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            owners.into_iter().any(|owner| text(owner, "uid") == uid)
        };
        let mut owned: Vec<Value> =
            list["items"].as_array().into_iter().flatten().filter(owned).cloned().collect();
        owned.sort_by_key(revision);
        Ok(owned)
    }

    async fn undo(&self, to: i64) -> Result<u8> {
        let sets = self.revisions().await?;
        let wanted =
            if to == 0 { sets.iter().rev().nth(1) } else { sets.iter().find(|set| revision(set) == to) };
        let Some(set) = wanted else {
            let message = if to == 0 {
                format!("error: no rollout history found for deployment {:?}", self.name)
            } else {
                format!("error: unable to find specified revision {to} in history")
            };
            return Err(Error::Failed { message });
        };
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove(HASH);
        }
        let body = json!([{ "op": "replace", "path": "/spec/template", "value": template }]);
        self.patch(PATCH, &body).await?;
        self.done("rolled back")
    }

    async fn restart(&self) -> Result<u8> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let stamp = jiff::Timestamp::from_second(i64::try_from(now.as_secs()).unwrap_or_default())
            .map(|stamp| stamp.to_string())
            .unwrap_or_default();
        let body = json!({ "spec": { "template": { "metadata": { "annotations": { RESTARTED: stamp } } } } });
        self.patch(MERGE, &body).await?;
        self.done("restarted")
    }

    async fn pause(&self, paused: bool) -> Result<u8> {
        self.patch(MERGE, &json!({ "spec": { "paused": paused } })).await?;
        self.done(if paused { "paused" } else { "resumed" })
    }

    async fn history(&self) -> Result<u8> {
        let mut out = format!("{}/{}\nREVISION  CHANGE-CAUSE\n", self.resource.label(), self.name);
        for set in self.revisions().await? {
            let cause = match text(&set["metadata"]["annotations"], CHANGE_CAUSE) {
                "" => "<none>",
                cause => cause,
            };
            out.push_str(&format!("{:<9} {cause}\n", revision(&set)));
        }
        say(&out)?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_passes_its_stages() {
        let deployment = |status: Value| json!({ "metadata": { "generation": 2 }, "spec": { "replicas": 3 }, "status": status });
        let said = |status| progress("web", &deployment(status)).unwrap();
        assert!(said(json!({ "observedGeneration": 1 })).0.contains("spec update"));
        assert!(said(json!({ "observedGeneration": 2, "updatedReplicas": 1 })).0.contains("1 out of 3 new"));
        let old = json!({ "observedGeneration": 2, "updatedReplicas": 3, "replicas": 4 });
        assert!(said(old).0.contains("1 old replicas are pending"));
        let done =
            json!({ "observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3 });
        assert_eq!(said(done), ("deployment \"web\" successfully rolled out\n".to_owned(), true));
        let late = json!({ "observedGeneration": 2, "conditions": [
            { "type": "Progressing", "reason": "ProgressDeadlineExceeded" }] });
        assert!(progress("web", &deployment(late)).is_err());
    }
}
