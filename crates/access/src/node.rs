//! What a node agent may do: read what the pods on its node need, and write what is about its node and its pods
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).

use std::collections::HashMap;

use serde_json::Value;

use crate::{Attributes, NODES, Rule, User};

const USER: &str = "system:node:";
const LEASES: &str = "kube-node-lease";

/// The node that a user is the agent of: one who is called so and is in the group of agents.
pub fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(USER).filter(|node| !node.is_empty() && user.is_in(NODES))
}

/// Something that pods refer to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    resource: &'static str,
    namespace: String,
    name: String,
}

impl Target {
    fn new(resource: &'static str, namespace: &str, name: &str) -> Target {
        Target { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What is on which node, by what it refers to.
#[derive(Debug, Default)]
pub struct NodeGraph {
    /// By pod ("NAMESPACE/NAME"): its node and what it refers to.
    pods: HashMap<String, (String, Vec<Target>)>,
    /// By what pods refer to: how many pods of each node do.
    users: HashMap<Target, HashMap<String, usize>>,
    /// By volume: the claim that has it, and the secrets that mounting it needs.
    volumes: HashMap<String, (Target, Vec<Target>)>,
    /// By attachment: its node.
    attachments: HashMap<String, String>,
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    let found = path.iter().fold(value, |value, field| &value[*field]);
    found.as_str().unwrap_or_default()
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

/// The sources of volumes that name a secret: the field, and where in it the name is.
const VOLUME_SECRETS: &[(&str, &[&str])] = &[
    ("secret", &["secretName"]),
    ("cephfs", &["secretRef", "name"]),
    ("cinder", &["secretRef", "name"]),
    ("csi", &["nodePublishSecretRef", "name"]),
    ("flexVolume", &["secretRef", "name"]),
    ("iscsi", &["secretRef", "name"]),
    ("rbd", &["secretRef", "name"]),
    ("scaleIO", &["secretRef", "name"]),
    ("storageos", &["secretRef", "name"]),
    ("azureFile", &["secretName"]),
];

/// The secrets of a CSI volume that nodes need.
const CSI_SECRETS: &[&str] = &["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"];

/// What a pod refers to.
fn targets(namespace: &str, pod: &Value) -> Vec<Target> {
    let mut found = Vec::new();
    let mut add = |resource, name: &str| {
        if !name.is_empty() {
            found.push(Target::new(resource, namespace, name));
        }
    };
    let spec = &pod["spec"];
    add("pods", text(pod, &["metadata", "name"]));
    add("serviceaccounts", text(spec, &["serviceAccountName"]));
    items(spec, "imagePullSecrets").for_each(|secret| add("secrets", text(secret, &["name"])));
    for container in
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|of| items(spec, of))
    {
        for variable in items(container, "env") {
            add("secrets", text(variable, &["valueFrom", "secretKeyRef", "name"]));
            add("configmaps", text(variable, &["valueFrom", "configMapKeyRef", "name"]));
        }
        for source in items(container, "envFrom") {
            add("secrets", text(source, &["secretRef", "name"]));
            add("configmaps", text(source, &["configMapRef", "name"]));
        }
    }
    for volume in items(spec, "volumes") {
        add("configmaps", text(volume, &["configMap", "name"]));
        add("persistentvolumeclaims", text(volume, &["persistentVolumeClaim", "claimName"]));
        if volume["ephemeral"].is_object() {
            let claim = format!("{}-{}", text(pod, &["metadata", "name"]), text(volume, &["name"]));
            add("persistentvolumeclaims", &claim);
        }
        for (source, at) in VOLUME_SECRETS {
            add("secrets", text(&volume[*source], at));
        }
        for source in items(&volume["projected"], "sources") {
            add("secrets", text(source, &["secret", "name"]));
            add("configmaps", text(source, &["configMap", "name"]));
        }
    }
    for claim in items(spec, "resourceClaims") {
        add("resourceclaims", text(claim, &["resourceClaimName"]));
    }
    for claim in items(&pod["status"], "resourceClaimStatuses") {
        add("resourceclaims", text(claim, &["resourceClaimName"]));
    }
    found
}

impl NodeGraph {
    /// Takes in a pod, in the place of the one of its name.
    pub fn set_pod(&mut self, namespace: &str, name: &str, pod: &Value) {
        let node = text(pod, &["spec", "nodeName"]);
        self.remove_pod(namespace, name);
        if node.is_empty() {
            return;
        }
        let targets = targets(namespace, pod);
        for target in &targets {
            *self.users.entry(target.clone()).or_default().entry(node.to_owned()).or_default() += 1;
        }
        self.pods.insert(format!("{namespace}/{name}"), (node.to_owned(), targets));
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some((node, targets)) = self.pods.remove(&format!("{namespace}/{name}")) else { return };
        for target in targets {
            let Some(nodes) = self.users.get_mut(&target) else { continue };
            if let Some(count) = nodes.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.users.remove(&target);
            }
        }
    }

    /// Takes in a persistent volume.
    pub fn set_volume(&mut self, name: &str, volume: &Value) {
        let claim = &volume["spec"]["claimRef"];
        let namespace = text(claim, &["namespace"]);
        let claim = Target::new("persistentvolumeclaims", namespace, text(claim, &["name"]));
        let spec = &volume["spec"];
        let csi = CSI_SECRETS.iter().map(|secret| &spec["csi"][*secret]);
        let others = VOLUME_SECRETS.iter().filter(|(source, _)| *source != "csi");
        let others = others.map(|(source, _)| &spec[*source]["secretRef"]);
        let secrets = csi.chain(others).filter_map(|secret| {
            let (given, name) = (text(secret, &["namespace"]), text(secret, &["name"]));
            let namespace = if given.is_empty() { namespace } else { given };
            (!name.is_empty()).then(|| Target::new("secrets", namespace, name))
        });
        self.volumes.insert(name.to_owned(), (claim, secrets.collect()));
    }

    /// Forgets a persistent volume.
    pub fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
    }

    /// Takes in a volume's attachment.
    pub fn set_attachment(&mut self, name: &str, attachment: &Value) {
        self.attachments.insert(name.to_owned(), text(attachment, &["spec", "nodeName"]).to_owned());
    }

    /// Forgets a volume's attachment.
    pub fn remove_attachment(&mut self, name: &str) {
        self.attachments.remove(name);
    }

    fn uses(&self, node: &str, target: &Target) -> bool {
        self.users.get(target).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn is_related(&self, node: &str, resource: &'static str, asked: &Attributes<'_>) -> bool {
        let target = Target::new(resource, asked.namespace, asked.name);
        match resource {
            "persistentvolumes" => {
                self.volumes.get(asked.name).is_some_and(|(claim, _)| self.uses(node, claim))
            }
            "volumeattachments" => self.attachments.get(asked.name).is_some_and(|of| of == node),
            "secrets" => {
                let of_volumes = || {
                    self.volumes.values().any(|(claim, all)| all.contains(&target) && self.uses(node, claim))
                };
                self.uses(node, &target) || of_volumes()
            }
            _ => self.uses(node, &target),
        }
    }

    /// Whether the agent of a node may do what it asks for, `rules` being those of the role `system:node`. The error
    /// says why not.
    ///
    /// # Errors
    /// A sentence for the agent.
    pub fn decide(&self, node: &str, rules: &[Rule], asked: &Attributes<'_>) -> Result<(), String> {
        let related = |resource: &'static str, verbs: &[&str]| {
            if !verbs.contains(&asked.verb) {
                return Err(format!("can only {} resources of this type", verbs.join("/")));
            }
            if asked.name.is_empty() {
                return Err("no object name found".to_owned());
            }
            if self.is_related(node, resource, asked) {
                Ok(())
            } else {
                Err(format!("no relationship found between node '{node}' and this object"))
            }
        };
        let own = |verbs: &[&str]| {
            if !verbs.contains(&asked.verb) {
                return Err(format!("can only {} an object with node's name", verbs.join("/")));
            }
            // The name of a new object is in its body, where admission looks.
            if asked.name == node || (asked.verb == "create" && asked.name.is_empty()) {
                Ok(())
            } else {
                Err(format!("can only access object with the same name as the requesting node '{node}'"))
            }
        };
        let listed = |field: &str| {
            let narrow = asked.fields.split(',').any(|one| one.split_once('=') == Some((field, node)));
            if narrow {
                Ok(())
            } else {
                Err(format!("can only list/watch with the field selector {field}={node}"))
            }
        };
        let of_pods = &["get", "list", "watch"][..];
        match (asked.group, asked.resource, asked.subresource) {
            ("", "secrets", "") => related("secrets", of_pods),
            ("", "configmaps", "") => related("configmaps", of_pods),
            ("", "persistentvolumeclaims", "") => related("persistentvolumeclaims", &["get"]),
            ("", "persistentvolumeclaims", "status") => {
                related("persistentvolumeclaims", &["get", "update", "patch"])
            }
            ("", "persistentvolumes", "") => related("persistentvolumes", &["get"]),
            ("storage.k8s.io", "volumeattachments", "") => related("volumeattachments", &["get"]),
            ("resource.k8s.io", "resourceclaims", "") => related("resourceclaims", &["get"]),
            ("", "serviceaccounts", "token") => related("serviceaccounts", &["create"]),
            ("", "serviceaccounts", "") => related("serviceaccounts", &["get"]),
            ("", "nodes", "") if asked.verb == "get" => own(&["get"]),
            ("", "nodes", "") if matches!(asked.verb, "list" | "watch") => listed("metadata.name"),
            ("", "pods", "") if asked.verb == "get" => related("pods", &["get"]),
            ("", "pods", "") if matches!(asked.verb, "list" | "watch") => listed("spec.nodeName"),
            ("coordination.k8s.io", "leases", "") if asked.namespace != LEASES => {
                Err(format!("can only access leases in the {LEASES:?} system namespace"))
            }
            ("coordination.k8s.io", "leases", "") => own(&["get", "create", "update", "patch", "delete"]),
            ("storage.k8s.io", "csinodes", "") => own(&["get", "create", "update", "patch", "delete"]),
            _ if rules.iter().any(|rule| rule.grants(asked)) => Ok(()),
            _ => Err(String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap_objects;
    use serde_json::json;

    fn check(graph: &NodeGraph, text: &str, expected: bool) {
        let role =
            bootstrap_objects().into_iter().find(|role| role["metadata"]["name"] == "system:node").unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        let word = |at| words.get(at).copied().filter(|word| *word != "-").unwrap_or_default();
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        let asked = Attributes {
            verb: words[0],
            group: if words[1] == "core" { "" } else { words[1] },
            resource,
            subresource,
            namespace: word(3),
            name: word(4),
            fields: word(5),
            path: "",
        };
        let decided = graph.decide("n1", &Rule::all_of(&role), &asked);
        assert_eq!(decided.is_ok(), expected, "{text}: {decided:?}");
    }

    #[test]
    fn agents_are_users_of_their_group() {
        let agent = User::authenticated("system:node:n1", [NODES.to_owned()]);
        assert_eq!(node_of(&agent), Some("n1"));
        assert_eq!(node_of(&User::authenticated("system:node:n1", [])), None);
        assert_eq!(node_of(&User::authenticated("system:node:", [NODES.to_owned()])), None);
        assert_eq!(node_of(&User::authenticated("n1", [NODES.to_owned()])), None);
    }

    #[test]
    fn an_agent_reads_what_its_pods_need() {
        let mut graph = NodeGraph::default();
        let pod = json!({
            "metadata": { "name": "p" },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "sa", "imagePullSecrets": [{ "name": "pull" }],
                "containers": [{
                    "env": [{ "valueFrom": { "secretKeyRef": { "name": "env" } } }],
                    "envFrom": [{ "configMapRef": { "name": "from" } }],
                }],
                "volumes": [
                    { "name": "e", "ephemeral": {} },
                    { "persistentVolumeClaim": { "claimName": "claim" } },
                    { "projected": { "sources": [{ "secret": { "name": "projected" } }] } },
                ],
            },
        });
        graph.set_pod("a", "p", &pod);
        let volume = json!({
            "spec": {
                "claimRef": { "namespace": "a", "name": "claim" },
                "csi": { "nodeStageSecretRef": { "namespace": "s", "name": "stage" } },
            },
        });
        graph.set_volume("v", &volume);
        graph.set_attachment("attached", &json!({ "spec": { "nodeName": "n1" } }));
        for text in [
            "get core secrets a pull",
            "watch core secrets a env",
            "get core secrets a projected",
            "get core secrets s stage",
            "list core configmaps a from",
            "get core persistentvolumeclaims a claim",
            "get core persistentvolumeclaims a p-e",
            "patch core persistentvolumeclaims/status a claim",
            "get core persistentvolumes - v",
            "get storage.k8s.io volumeattachments - attached",
            "create core serviceaccounts/token a sa",
            "get core pods a p",
            "list core pods - - spec.nodeName=n1",
            "get core nodes - n1",
            "update core nodes/status - n1",
            "create coordination.k8s.io leases kube-node-lease",
            "update coordination.k8s.io leases kube-node-lease n1",
            "create core events a",
            "list core services",
        ] {
            check(&graph, text, true);
        }
        for text in [
            "list core secrets a",
            "get core secrets b pull",
            "get core secrets a other",
            "update core secrets a pull",
            "create core serviceaccounts/token a other",
            "get core pods a other",
            "list core pods",
            "list core pods - - spec.nodeName=n2",
            "get core nodes - n2",
            "list core nodes",
            "update coordination.k8s.io leases kube-node-lease n2",
            "update coordination.k8s.io leases a n1",
            "delete core nodes - n1",
            "create core secrets a",
            "get apps deployments a d",
        ] {
            check(&graph, text, false);
        }
        graph.remove_pod("a", "p");
        check(&graph, "get core secrets a pull", false);
        check(&graph, "get core persistentvolumes - v", false);
        assert!(graph.users.is_empty());
    }
}
