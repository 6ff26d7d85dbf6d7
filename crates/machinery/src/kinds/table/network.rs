//! The rows of networks and of where their packets go.

use super::STATUS;
use crate::kinds::{Kind, NameRule, carry_status, columns, discovery, drop_status, network};

pub(super) const NETWORKING: &[Kind] = &[
    Kind {
        group: "networking.k8s.io",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        schema: "io.k8s.api.networking.v1.IngressClass",
        generation: true,
        defaults: network::default_ingress_class,
        validate: network::validate_ingress_class,
        validate_update: network::validate_ingress_class_update,
        columns: columns::INGRESS_CLASS,
        cells: columns::ingress_class,
        ..Kind::BASE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        schema: "io.k8s.api.networking.v1.Ingress",
        generation: true,
        subresources: STATUS,
        prepare_create: network::prepare_ingress,
        prepare_update: carry_status,
        validate: network::validate_ingress,
        validate_create: network::validate_new_ingress,
        validate_part: network::validate_ingress_part,
        columns: columns::INGRESS,
        cells: columns::ingress,
        ..Kind::BASE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        namespaced: false,
        name_rule: NameRule::Address,
        schema: "io.k8s.api.networking.v1.IPAddress",
        create_on_update: true,
        validate: network::validate_address,
        validate_update: network::validate_address_update,
        columns: columns::IP_ADDRESS,
        cells: columns::ip_address,
        ..Kind::BASE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        schema: "io.k8s.api.networking.v1.NetworkPolicy",
        generation: true,
        defaults: network::default_policy,
        validate: network::validate_policy,
        columns: columns::NETWORK_POLICY,
        cells: columns::network_policy,
        ..Kind::BASE
    },
    Kind {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        namespaced: false,
        schema: "io.k8s.api.networking.v1.ServiceCIDR",
        create_on_update: true,
        subresources: STATUS,
        prepare_create: drop_status,
        prepare_update: carry_status,
        validate: network::validate_range,
        validate_update: network::validate_range_update,
        columns: columns::SERVICE_CIDR,
        cells: columns::service_cidr,
        ..Kind::BASE
    },
];

pub(super) const DISCOVERY: &[Kind] = &[Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    generation: true,
    defaults: discovery::default_slice,
    validate: discovery::validate_slice,
    validate_update: discovery::validate_slice_update,
    columns: columns::ENDPOINT_SLICE,
    cells: columns::endpoint_slice,
    ..Kind::BASE
}];
