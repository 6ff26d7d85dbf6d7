//! The rows of what provides volumes.

use super::STATUS;
use crate::kinds::{Kind, carry_status, columns, drop_status, storage};

pub(super) const ROWS: &[Kind] = &[
    Kind {
        group: "storage.k8s.io",
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        namespaced: false,
        schema: "io.k8s.api.storage.v1.CSIDriver",
        unconditional_update: false,
        defaults: storage::default_driver,
        validate: storage::validate_driver,
        validate_update: storage::validate_driver_update,
        columns: columns::CSI_DRIVER,
        cells: columns::csi_driver,
        ..Kind::BASE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        namespaced: false,
        schema: "io.k8s.api.storage.v1.CSINode",
        unconditional_update: false,
        validate: storage::validate_node,
        validate_update: storage::validate_node_update,
        columns: columns::CSI_NODE,
        cells: columns::csi_node,
        ..Kind::BASE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        schema: "io.k8s.api.storage.v1.CSIStorageCapacity",
        unconditional_update: false,
        validate: storage::validate_capacity,
        validate_update: storage::validate_capacity_update,
        columns: columns::CSI_STORAGE_CAPACITY,
        cells: columns::csi_storage_capacity,
        ..Kind::BASE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        namespaced: false,
        schema: "io.k8s.api.storage.v1.StorageClass",
        defaults: storage::default_class,
        validate: storage::validate_class,
        validate_update: storage::validate_class_update,
        columns: columns::STORAGE_CLASS,
        cells: columns::storage_class,
        ..Kind::BASE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        namespaced: false,
        schema: "io.k8s.api.storage.v1.VolumeAttachment",
        unconditional_update: false,
        subresources: STATUS,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: storage::validate_attachment,
        validate_update: storage::validate_attachment_update,
        validate_part: storage::validate_attachment_part,
        columns: columns::VOLUME_ATTACHMENT,
        cells: columns::volume_attachment,
        ..Kind::BASE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short_names: &["vac"],
        namespaced: false,
        schema: "io.k8s.api.storage.v1.VolumeAttributesClass",
        validate: storage::validate_attributes_class,
        validate_update: storage::validate_attributes_class_update,
        columns: columns::VOLUME_ATTRIBUTES_CLASS,
        cells: columns::volume_attributes_class,
        ..Kind::BASE
    },
];
