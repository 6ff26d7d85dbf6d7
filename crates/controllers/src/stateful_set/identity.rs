//! What makes a pod of a StatefulSet itself: its name, labels, host name and claims.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt as _;

use crate::owner;
use crate::revisions::OF_POD;

const NAME: &str = "statefulset.kubernetes.io/pod-name";
const INDEX: &str = "apps.kubernetes.io/pod-index";

/// The pod of a number, of a template and the name of its revision.
pub(super) fn pod(set: &StatefulSet, template: PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = format!("{}-{ordinal}", set.name_any());
    let given = template.metadata.unwrap_or_default();
    let mut labels = given.labels.unwrap_or_default();
    labels.extend([
        (NAME.to_owned(), name.clone()),
        (INDEX.to_owned(), ordinal.to_string()),
        (OF_POD.to_owned(), revision.to_owned()),
    ]);
    let mut spec = template.spec.unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let templates = claim_templates(set);
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|volume| !templates.iter().any(|claim| claim.name_any() == volume.name));
    volumes.extend(templates.iter().map(|template| Volume {
        name: template.name_any(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: Some(false),
        }),
        ..Volume::default()
    }));
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![owner::reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

pub(super) fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

/// The claims of a number.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels: BTreeMap<_, _> = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(selected.clone());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.namespace(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: go(set, Going::WhenDeleted).then(|| vec![owner_of_claim(set)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    claim_templates(set).iter().map(claim).collect()
}

/// What claims may go with.
#[derive(Clone, Copy)]
pub(super) enum Going {
    WhenDeleted,
    WhenScaled,
}

/// Whether the claims go with the set, or with a pod that is one too many.
pub(super) fn go(set: &StatefulSet, what: Going) -> bool {
    let policy = set.spec.as_ref();
    let policy = policy.and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let word = policy.and_then(|policy| match what {
        Going::WhenDeleted => policy.when_deleted.as_deref(),
        Going::WhenScaled => policy.when_scaled.as_deref(),
    });
    word == Some("Delete")
}

/// A claim goes with its owner, which need not wait for it.
pub(super) fn owner_of_claim<O: kube::Resource<DynamicType = ()>>(of: &O) -> OwnerReference {
    OwnerReference { controller: None, block_owner_deletion: None, ..owner::reference(of) }
}
