//! Requests for certificates: who gets one, with the real kubectl.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use base64::Engine as _;
use dray_testkit::eventually;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use support::{Cluster, cluster};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const CREATE: &[&str] = &["create", "-f", "-"];
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const AGENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A request, as an object.
fn request(object: &str, signer: &str, subject: (&str, &str), names: &[&str], usages: &str) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, subject.0);
    params.distinguished_name.push(DnType::CommonName, subject.1);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: {object}}}, \
         spec: {{signerName: {signer}, expirationSeconds: 3600, usages: [{usages}], request: {}}}}}",
        encoded(&pem)
    )
}

fn field(cluster: &Cluster, object: &str, path: &str) -> Option<String> {
    let path = format!("jsonpath={{{path}}}");
    let text = cluster.ok(&["get", "csr", object, "-o", &path], "");
    (!text.is_empty()).then_some(text)
}

fn certificate(cluster: &Cluster, object: &str) -> Vec<u8> {
    let text = eventually("the certificate", Duration::from_secs(20), || {
        field(cluster, object, ".status.certificate")
    });
    let pem = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    CertificateDer::from_pem_slice(&pem).unwrap().to_vec()
}

#[test]
fn what_is_approved_is_signed() {
    let cluster = cluster();
    let usages = "client auth, digital signature";
    cluster.ok(CREATE, &request("jane", CLIENT, ("devs", "jane"), &[], usages));
    cluster.ok(&["certificate", "approve", "jane"], "");
    let der = certificate(&cluster, "jane");
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(parsed.subject().to_string(), "O=devs, CN=jane");
    let validity = parsed.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(seconds, 3600 + 300);
    assert!(!parsed.is_ca());
    let purposes = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth);
    let authority = cluster.ok(
        &["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}"],
        "",
    );
    let authority = base64::engine::general_purpose::STANDARD.decode(authority).unwrap();
    let authority = CertificateDer::from_pem_slice(&authority).unwrap();
    let (_, authority) = X509Certificate::from_der(&authority).unwrap();
    assert_eq!(parsed.issuer(), authority.subject());
    parsed.verify_signature(Some(authority.public_key())).unwrap();

    // What a signer does not sign is said.
    cluster.ok(CREATE, &request("odd", CLIENT, ("devs", "jane"), &[], "server auth"));
    cluster.ok(&["certificate", "approve", "odd"], "");
    let path = ".status.conditions[?(@.type=='Failed')].reason";
    let reason = eventually("its failure", Duration::from_secs(20), || field(&cluster, "odd", path));
    assert_eq!(reason, "SignerValidationFailure");
    // Signers of others are none of ours.
    cluster.ok(CREATE, &request("other", "example.com/x", ("devs", "jane"), &[], usages));
    cluster.ok(&["certificate", "approve", "other"], "");
    cluster.ok(CREATE, &request("last", CLIENT, ("devs", "last"), &[], usages));
    cluster.ok(&["certificate", "approve", "last"], "");
    certificate(&cluster, "last");
    assert_eq!(field(&cluster, "other", ".status.certificate"), None);
}

#[test]
fn agents_of_nodes_get_theirs_by_rules_of_access() {
    let cluster = cluster();
    let usages = "client auth, digital signature, key encipherment";
    let agent = ("system:nodes", "system:node:n1");
    let bind = |name: &str, role: &str| {
        let role = format!("--clusterrole={role}");
        cluster.ok(&["create", "clusterrolebinding", name, &role, "--group=system:bootstrappers"], "");
    };
    bind("ask", "system:node-bootstrapper");
    let as_bootstrapper =
        ["--as=system:bootstrap:abcdef", "--as-group=system:bootstrappers", "create", "-f", "-"];
    cluster.ok(&as_bootstrapper, &request("early", AGENT, agent, &[], usages));
    bind("approve", "system:certificates.k8s.io:certificatesigningrequests:nodeclient");
    cluster.ok(&as_bootstrapper, &request("n1", AGENT, agent, &[], usages));
    let der = certificate(&cluster, "n1");
    assert_eq!(
        X509Certificate::from_der(&der).unwrap().1.subject().to_string(),
        "O=system:nodes, CN=system:node:n1"
    );
    assert_eq!(field(&cluster, "early", ".status.conditions"), None);
    // Not for somebody else, and not with names.
    cluster.ok(&as_bootstrapper, &request("root", AGENT, ("devs", "system:node:n1"), &[], usages));
    cluster.ok(&as_bootstrapper, &request("names", AGENT, agent, &["n1"], usages));
    cluster.ok(&as_bootstrapper, &request("n2", AGENT, ("system:nodes", "system:node:n2"), &[], usages));
    certificate(&cluster, "n2");
    for name in ["root", "names"] {
        assert_eq!(field(&cluster, name, ".status.conditions"), None, "{name}");
    }
    // What agents serve with is approved by people.
    let usages = "server auth, digital signature";
    cluster.ok(CREATE, &request("serving", SERVING, agent, &["n1", "10.0.0.1"], usages));
    cluster.ok(&["certificate", "approve", "serving"], "");
    let der = certificate(&cluster, "serving");
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
}
