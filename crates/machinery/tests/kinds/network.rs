use dray_machinery::Subresource::Status;
use serde_json::json;

use super::case;

#[test]
fn ingresses() {
    let ingress = case(
        "networking.k8s.io/v1 Ingress",
        "spec: {rules: [{host: a.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}",
    );
    let path = |path: &str| format!("spec: {{rules: [{{http: {{paths: [{path}]}}}}]}}");
    let backend = "backend: {service: {name: web, port: {number: 80}}}";
    ingress.refuses(&[
        ("spec: {rules: null}", &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]),
        ("spec: {defaultBackend: {service: {name: web, port: {name: http}}}, rules: null}", &[]),
        (&path(&format!("{{{backend}}}")), &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]),
        (
            &path(&format!("{{pathType: Exact, path: x, {backend}}}")),
            &["spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path"],
        ),
        (
            &path(&format!("{{pathType: Prefix, path: /a//b/.., {backend}}}")),
            &[
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/..\": must not contain '//'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/..\": cannot end with '/..'",
            ],
        ),
        (
            &path(&format!("{{pathType: Some, path: /, {backend}}}")),
            &["spec.rules[0].http.paths[0].pathType: Unsupported value: \"Some\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""],
        ),
        (
            &path("{pathType: Exact, path: /, backend: {service: {name: 1, port: {name: a, number: 1}}}}").replace("name: 1", "name: '1'"),
            &[
                "spec.rules[0].http.paths[0].backend.service.name: Invalid value: \"1\": a DNS-1035 label…",
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both port name & port number",
            ],
        ),
        (
            &path("{pathType: Exact, path: /, backend: {}}"),
            &["spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required"],
        ),
        (
            "spec: {rules: [{host: 1.2.3.4}, {host: '*.example'}, {host: 'a*.example'}, {http: {paths: []}}]}",
            &[
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "spec.rules[2].host: Invalid value: \"a*.example\": a wildcard DNS-1123 subdomain must start with '*.'…",
                "spec.rules[3].http.paths: Required value",
            ],
        ),
        ("spec: {tls: [{hosts: [A], secretName: B}]}", &["spec.tls[0].hosts[0]: Invalid value…", "spec.tls[0].secretName: Invalid value…"]),
        (
            "{metadata: {annotations: {kubernetes.io/ingress.class: a}}, spec: {ingressClassName: b}}",
            &["annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified"],
        ),
    ]);
    ingress.refuses_parts(
        Status,
        "{}",
        &[(
            "status: {loadBalancer: {ingress: [{ip: x}, {hostname: 1.2.3.4}]}}",
            &[
                "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ],
        )],
    );
    ingress.shows(
        "{spec: {tls: [{}], ingressClassName: c}, status: {loadBalancer: {ingress: [{ip: 10.0.0.2}, {hostname: h}]}}}",
        json!(["test", "c", "a.example", "10.0.0.2,h", "80, 443", "100s"]),
    );
    ingress.shows(
        "spec: {rules: [{host: a}, {host: b}, {host: c}, {host: d}]}",
        json!(["test", "<none>", "a,b,c + 1 more...", "", "80", "100s"]),
    );
}

#[test]
fn ingress_classes() {
    let class = case("networking.k8s.io/v1 IngressClass", "spec: {controller: example.com/ingress}");
    class.defaults("spec: {parameters: {kind: K, name: n}}", "spec: {parameters: {scope: Cluster}}");
    class.refuses(&[
        ("spec: {controller: x}", &["spec.controller: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")"]),
        (
            "spec: {parameters: {scope: Namespace}}",
            &[
                "spec.parameters.kind: Required value: kind is required",
                "spec.parameters.name: Required value: name is required",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ],
        ),
        (
            "spec: {parameters: {kind: K, name: n, namespace: x}}",
            &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
        ),
    ]);
    class.refuses_updates(&[(
        "spec: {controller: example.com/other}",
        &["spec.controller: Invalid value: \"example.com/other\": field is immutable"],
    )]);
    class.shows(
        "spec: {parameters: {apiGroup: g, kind: K, name: n}}",
        json!(["test", "example.com/ingress", "K.g/n", "100s"]),
    );
}

#[test]
fn network_policies() {
    let policy = case("networking.k8s.io/v1 NetworkPolicy", "spec: {podSelector: {matchLabels: {a: b}}}");
    policy.defaults("{}", "spec: {policyTypes: [Ingress]}");
    policy.defaults(
        "spec: {egress: [{ports: [{port: 53}]}]}",
        "spec: {policyTypes: [Ingress, Egress], egress: [{ports: [{port: 53, protocol: TCP}]}]}",
    );
    policy.refuses(&[
        (
            "spec: {ingress: [{from: [{}, {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
            &[
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
            ],
        ),
        (
            "spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 11.0.0.0/16, 10.0.0.0/8]}}]}]}",
            &[
                "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ],
        ),
        (
            "spec: {egress: [{ports: [{protocol: ICMP, port: 0}, {endPort: 3}, {port: 5, endPort: 4}, {port: http, endPort: 4}]}]}",
            &[
                "spec.egress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                "spec.egress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.egress[0].ports[1].endPort: Invalid value: 3: may not be specified when `port` is not specified",
                "spec.egress[0].ports[2].endPort: Invalid value: 5: must be greater than or equal to `port`",
                "spec.egress[0].ports[3].endPort: Invalid value: 4: may not be specified when `port` is non-numeric",
            ],
        ),
        (
            "spec: {policyTypes: [Ingress, Out]}",
            &["spec.policyTypes[1]: Unsupported value: \"Out\": supported values: \"Ingress\", \"Egress\""],
        ),
    ]);
    policy.shows("{}", json!(["test", "a=b", "100s"]));
}

#[test]
fn addresses_and_ranges() {
    let address = case(
        "networking.k8s.io/v1 IPAddress",
        "spec: {parentRef: {resource: services, name: web, namespace: default}}",
    );
    address.refuses(&[
        (
            "metadata: {name: '2001:DB8::1'}",
            &["metadata.name: Invalid value: \"2001:DB8::1\": must be in canonical form (\"2001:db8::1\")"],
        ),
        ("metadata: {name: x}", &["metadata.name: Invalid value: \"x\": must be a valid IP address…"]),
        ("spec: {parentRef: null}", &["spec.parentRef: Required value"]),
        (
            "spec: {parentRef: {resource: null, name: null}}",
            &["spec.parentRef.resource: Required value", "spec.parentRef.name: Required value"],
        ),
    ]);
    address.refuses_updates(&[("spec: {parentRef: {name: other}}", &["spec.parentRef: Invalid value…"])]);
    address.shows("{}", json!(["10.0.0.1", "services/default/web", "100s"]));
    let range = case("networking.k8s.io/v1 ServiceCIDR", "spec: {cidrs: [10.0.0.0/16]}");
    range.refuses(&[
        ("spec: {cidrs: ['10.0.0.0/16', '2001:db8::/64']}", &[]),
        ("spec: {cidrs: []}", &["spec.cidrs: Required value: at least one CIDR required"]),
        ("spec: {cidrs: [10.0.0.0/16, 10.1.0.0/16]}", &["spec.cidrs: Invalid value: {\"cidrs\":[\"10.0.0.0/16\",\"10.1.0.0/16\"]}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"]),
        ("spec: {cidrs: [10.0.0.1/16]}", &["spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must be in canonical form (\"10.0.0.0/16\")"]),
        ("spec: {cidrs: [x]}", &["spec.cidrs[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]),
    ]);
    range.refuses_updates(&[(
        "spec: {cidrs: [10.1.0.0/16]}",
        &["spec.cidrs: Invalid value: [\"10.1.0.0/16\"]: field is immutable"],
    )]);
    range.shows("{}", json!(["test", "10.0.0.0/16", "100s"]));
}

#[test]
fn endpoints_and_slices() {
    let endpoints = case("v1 Endpoints", "subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]");
    endpoints.defaults("{}", "subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80, protocol: TCP}]}]");
    endpoints.refuses(&[
        ("subsets: [{}]", &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
        (
            "subsets: [{addresses: [{ip: 127.0.0.1}, {ip: x}], ports: [{port: 80}, {port: 0, name: a}]}]",
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].addresses[1].ip: Invalid value: \"x\": must be a valid IP address…",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
    ]);
    let slice = case(
        "discovery.k8s.io/v1 EndpointSlice",
        "{addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]}",
    );
    slice.defaults("{}", "ports: [{port: 80, name: '', protocol: TCP}]");
    slice.refuses(&[
        ("addressType: ''", &["addressType: Required value"]),
        (
            "addressType: IPX",
            &["addressType: Unsupported value: \"IPX\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
        ),
        (
            "endpoints: [{addresses: []}]",
            &["endpoints[0].addresses: Required value: must contain at least 1 address"],
        ),
        (
            "endpoints: [{addresses: ['::1']}]",
            &["endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address"],
        ),
        ("ports: [{port: 1}, {port: 2}]", &["ports[1].name: Duplicate value: \"\""]),
    ]);
    slice.refuses_updates(&[(
        "{addressType: IPv6, endpoints: []}",
        &["addressType: Invalid value: \"IPv6\": field is immutable"],
    )]);
    slice.shows("{}", json!(["test", "IPv4", "80", "10.0.0.1", "100s"]));
}
