//! Sources of volumes, in pods and in persistent volumes: what each must say.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::fill::{default_text, default_value};
use crate::{
    FieldErrors,
    kinds::{field::Field, volume},
    names, object,
};

/// A source: its field, and the fields of it that must not be empty.
pub(in crate::kinds) type Source = (&'static str, &'static [&'static str]);

/// The sources that pods and persistent volumes both have, in the reference's order.
pub(in crate::kinds) const SHARED: &[Source] = &[
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("quobyte", &["volume"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &["volumeName"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
];

/// The sources that only pods have.
const OF_PODS: &[Source] = &[
    ("emptyDir", &[]),
    ("gitRepo", &["repository"]),
    ("secret", &["secretName"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("downwardAPI", &[]),
    ("configMap", &["name"]),
    ("projected", &[]),
    ("ephemeral", &["volumeClaimTemplate"]),
    ("image", &[]),
];

const HOST_PATHS: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const PARTITION: &str = "partition number must be between 0 and 255, or 0 to mount the volume itself";
const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const DOWNWARD_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fills in what a source may leave out.
pub(in crate::kinds) fn default_source(volume: &mut Value) {
    let Some(fields) = volume.as_object_mut() else { return };
    let mut texts = |source: &str, defaults: &[(&str, &str)]| {
        if let Some(source) = fields.get_mut(source).filter(|source| source.is_object()) {
            for (field, text) in defaults {
                default_text(source, field, text);
            }
        }
    };
    texts("iscsi", &[("iscsiInterface", "default")]);
    texts("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]);
    texts("azureDisk", &[("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")]);
    texts("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]);
    if let Some(disk) = fields.get_mut("azureDisk") {
        default_value(disk, "readOnly", json!(false));
    }
    if let Some(path) = fields.get_mut("hostPath") {
        default_value(path, "type", json!(""));
    }
}

pub(super) fn default_volume(volume: &mut Value) {
    default_source(volume);
    let Some(fields) = volume.as_object_mut() else { return };
    if !fields.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        fields.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = fields.get_mut(source) {
            default_value(source, "defaultMode", json!(0o644));
        }
    }
    if let Some(image) = fields.get_mut("image").filter(|image| image.is_object()) {
        let policy = super::container::pull_policy(object::text(image, &["reference"]));
        default_text(image, "pullPolicy", policy);
    }
    if let Some(template) =
        fields.get_mut("ephemeral").and_then(|source| source.get_mut("volumeClaimTemplate"))
        && let Some(spec) = template.get_mut("spec")
    {
        default_value(spec, "volumeMode", json!("Filesystem"));
    }
    let items = |source: Option<&mut Value>| {
        let items = source.and_then(|source| source.get_mut("items")).and_then(Value::as_array_mut);
        for reference in items.into_iter().flatten().filter_map(|item| item.get_mut("fieldRef")) {
            default_text(reference, "apiVersion", "v1");
        }
    };
    items(fields.get_mut("downwardAPI"));
    let projected = fields.get_mut("projected").and_then(|projected| projected.get_mut("sources"));
    for source in projected.and_then(Value::as_array_mut).into_iter().flatten() {
        items(source.get_mut("downwardAPI"));
        if let Some(token) = source.get_mut("serviceAccountToken") {
            default_value(token, "expirationSeconds", json!(3600));
        }
    }
}

/// Checks that there is one source, and that it says what it must.
pub(in crate::kinds) fn one_source(
    volume: &Field<'_>,
    sources: &[Source],
    check: impl Fn(&str, &Field<'_>, &mut FieldErrors),
    errors: &mut FieldErrors,
) {
    let present: Vec<&Source> = sources.iter().filter(|(name, _)| volume.get(name).is_set()).collect();
    let Some(((name, needed), others)) = present.split_first() else {
        return volume.required("must specify a volume type", errors);
    };
    let source = volume.get(name);
    for field in *needed {
        source.get(field).needed(errors);
    }
    validate_shared(name, &source, errors);
    check(name, &source, errors);
    for (other, _) in others {
        volume.get(other).forbidden(MORE_THAN_ONE, errors);
    }
}

pub(super) fn validate(volume: &Field<'_>, pod_name: &str, errors: &mut FieldErrors) {
    let sources = [SHARED, OF_PODS].concat();
    one_source(
        volume,
        &sources,
        |name, source, errors| match name {
            "emptyDir" => source.get("sizeLimit").quantity_not_negative(errors),
            "gitRepo" => source.get("directory").relative(errors),
            "secret" | "configMap" => {
                source.get("defaultMode").mode(errors);
                for item in source.get("items").items() {
                    key_to_path(&item, errors);
                }
            }
            "downwardAPI" => {
                source.get("defaultMode").mode(errors);
                for item in source.get("items").items() {
                    downward(&item, source, errors);
                }
            }
            "projected" => projected(source, errors),
            "ephemeral" => {
                let template = source.get("volumeClaimTemplate");
                if template.is_set() {
                    volume::validate_claim_template(&template, errors);
                }
                let name = volume.get("name");
                if !pod_name.is_empty() && !name.is_empty() {
                    let claim = format!("{pod_name}-{}", name.text());
                    for wrong in names::subdomain(&claim) {
                        name.invalid(format!("PVC name {claim:?}: {wrong}"), errors);
                    }
                }
            }
            "image" => {
                if !pod_name.is_empty() {
                    source.get("reference").needed(errors);
                }
                source.get("pullPolicy").one_of(PULL_POLICIES, errors);
            }
            _ => {}
        },
        errors,
    );
}

fn iqn(field: &Field<'_>, errors: &mut FieldErrors) {
    let text = field.text();
    let (rest, fine): (&str, fn(char) -> bool) = match text.get(..3) {
        Some("iqn") => (&text[3..], |letter| letter.is_ascii_graphic()),
        Some("eui" | "naa") => (&text[3..], |letter| letter.is_ascii_hexdigit() || letter == '.'),
        _ => return field.invalid("must be valid format starting with iqn, eui, or naa", errors),
    };
    if !rest.starts_with('.') || rest.len() < 2 || !rest.chars().all(fine) {
        field.invalid("must be valid format", errors);
    }
}

/// The rules of single sources beyond what must not be empty.
fn validate_shared(name: &str, source: &Field<'_>, errors: &mut FieldErrors) {
    let get = |field: &str| source.get(field);
    match name {
        "hostPath" => {
            get("path").stays_inside(errors);
            get("type").one_of(HOST_PATHS, errors);
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = get("partition");
            if partition.number().is_some_and(|number| !(0..=255).contains(&number)) {
                partition.invalid(PARTITION, errors);
            }
        }
        "nfs" if !get("path").text().starts_with('/') => {
            errors.invalid(get("path").path(), get("path").text(), "must be an absolute path");
        }
        "iscsi" => {
            for field in ["iqn", "initiatorName"] {
                if !get(field).is_empty() {
                    iqn(&get(field), errors);
                }
            }
            get("lun").between(0, 255, errors);
            if (get("chapAuthDiscovery").is_true() || get("chapAuthSession").is_true())
                && !get("secretRef").is_set()
            {
                get("secretRef").required("", errors);
            }
        }
        "flocker" => {
            let (dataset, uuid) = (get("datasetName"), get("datasetUUID"));
            match (dataset.is_empty(), uuid.is_empty()) {
                (true, true) => source.required("one of datasetName and datasetUUID is required", errors),
                (false, false) => errors.invalid(
                    source.path(),
                    "resource",
                    "datasetName and datasetUUID can not be specified simultaneously",
                ),
                _ => {}
            }
            if dataset.text().contains('/') {
                dataset.invalid("must not contain '/'", errors);
            }
        }
        "quobyte" => {
            const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
            let registry = get("registry");
            if registry.is_empty() {
                registry.required(PAIRS, errors);
            } else if get("tenant").text().len() >= 65 {
                get("tenant").required("must be a UUID and may not exceed a length of 64 characters", errors);
            } else if registry.text().split(',').any(|pair| !pair.contains(':')) {
                registry.invalid(PAIRS, errors);
            }
        }
        "fc" => {
            let (targets, ids, lun) = (get("targetWWNs"), get("wwids"), get("lun"));
            match (targets.is_empty(), ids.is_empty()) {
                (true, true) => {
                    targets.required("must specify either targetWWNs or wwids, but not both", errors);
                }
                (false, false) => {
                    targets.invalid("targetWWNs and wwids can not be specified simultaneously", errors);
                }
                _ => {}
            }
            if !targets.is_empty() && !lun.is_set() {
                lun.required("lun is required if targetWWNs is specified", errors);
            }
            lun.between(0, 255, errors);
        }
        "flexVolume" => {
            for (key, value) in get("options").entries() {
                let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
                if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
                    errors.invalid(value.path(), key, "kubernetes.io and k8s.io namespaces are reserved");
                }
            }
        }
        "azureDisk" => {
            get("cachingMode").one_of(&["None", "ReadOnly", "ReadWrite"], errors);
            get("kind").one_of(&["Dedicated", "Managed", "Shared"], errors);
        }
        "storageos" => {
            get("volumeName").named(names::label, errors);
            get("volumeNamespace").named(names::label, errors);
            if get("secretRef").is_set() {
                get("secretRef").get("name").needed(errors);
            }
        }
        "cinder" if get("secretRef").is_set() => {
            get("secretRef").get("name").needed(errors);
        }
        "csi" => {
            get("driver").named(names::driver, errors);
            let secret = get("nodePublishSecretRef");
            if secret.is_set() {
                secret.get("name").needs_name(names::subdomain, errors);
            }
        }
        _ => {}
    }
}

/// A path below the volume that no update of it hides.
fn local_path(path: &Field<'_>, errors: &mut FieldErrors) {
    path.relative(errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") && path.text() != ".." {
        path.invalid("must not start with '..'", errors);
    }
}

fn key_to_path(item: &Field<'_>, errors: &mut FieldErrors) {
    item.get("key").needed(errors);
    item.get("path").needed(errors);
    local_path(&item.get("path"), errors);
    item.get("mode").mode(errors);
}

/// A file of the pod's own fields. The reference says of all of them that they are where their list is.
fn downward(item: &Field<'_>, list: &Field<'_>, errors: &mut FieldErrors) {
    let item = Field::new(item.value(), list.path());
    item.get("path").needed(errors);
    local_path(&item.get("path"), errors);
    let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
    match (field.is_set(), resource.is_set()) {
        (true, both) => {
            super::environment::field_reference(&field, DOWNWARD_FIELDS, errors);
            if both {
                errors.invalid(
                    item.path(),
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        }
        (false, true) => super::environment::resource_reference(&resource, true, errors),
        (false, false) => item.required("one of fieldRef and resourceFieldRef is required", errors),
    }
    item.get("mode").mode(errors);
}

fn projected(volume: &Field<'_>, errors: &mut FieldErrors) {
    volume.get("defaultMode").mode(errors);
    let mut paths = BTreeSet::new();
    for source in volume.get("sources").items() {
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        let present: Vec<Field<'_>> =
            kinds.iter().map(|kind| source.get(kind)).filter(Field::is_set).collect();
        for kind in ["secret", "configMap"] {
            let part = source.get(kind);
            if part.is_set() {
                part.get("name").needed(errors);
            }
            for item in part.get("items").items() {
                key_to_path(&item, errors);
                taken(&mut paths, &item.get("path"), part.get("name").text(), volume, errors);
            }
        }
        let part = source.get("downwardAPI");
        for item in part.get("items").items() {
            downward(&item, &part, errors);
            taken(&mut paths, &item.get("path"), item.get("path").text(), volume, errors);
        }
        let token = source.get("serviceAccountToken");
        if token.is_set() {
            token_projection(&token, volume, errors);
        }
        let bundle = source.get("clusterTrustBundle");
        if bundle.is_set() {
            trust_bundle(
                &Field::new(bundle.value(), format!("{}.clusterTrustBundlePEM", source.path())),
                errors,
            );
            taken(&mut paths, &bundle.get("path"), bundle.get("path").text(), volume, errors);
        }
        if present.len() > 1 {
            source.forbidden(MORE_THAN_ONE, errors);
        }
    }
}

fn taken<'a>(
    paths: &mut BTreeSet<&'a str>,
    path: &Field<'a>,
    shown: &str,
    volume: &Field<'_>,
    errors: &mut FieldErrors,
) {
    if !path.is_empty() && !paths.insert(path.text()) {
        errors.invalid(volume.path(), shown, "conflicting duplicate paths");
    }
}

fn token_projection(token: &Field<'_>, volume: &Field<'_>, errors: &mut FieldErrors) {
    let seconds = token.get("expirationSeconds");
    match seconds.number() {
        Some(number) if number < 600 => {
            seconds.invalid("may not specify a duration less than 10 minutes", errors);
        }
        Some(number) if number > 1 << 32 => {
            seconds.invalid("may not specify a duration larger than 2^32 seconds", errors);
        }
        _ => {}
    }
    let path = Field::new(token.get("path").value(), format!("{}.path", volume.path()));
    path.needed(errors);
    local_path(&path, errors);
}

fn trust_bundle(bundle: &Field<'_>, errors: &mut FieldErrors) {
    let (name, signer, selector) =
        (bundle.get("name"), bundle.get("signerName"), bundle.get("labelSelector"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => bundle.invalid("only one of name and signerName may be used", errors),
        (false, false) => bundle.required("either name or signerName must be specified", errors),
        (true, false) => {
            if name.is_empty() {
                name.required("must be a valid object name", errors);
            }
            if selector.is_set() {
                selector.invalid("labelSelector must be unset if name is specified", errors);
            }
        }
        (false, true) => {
            if signer.is_empty() {
                signer.required("must be a valid signer name", errors);
            }
            selector.selector(errors);
        }
    }
    bundle.get("path").needed(errors);
    local_path(&bundle.get("path"), errors);
}
