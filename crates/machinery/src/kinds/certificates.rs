//! Requests for certificates. Who asks is written by the server; who decides, through the subresource `approval`; who
//! signs, through `status`.

use base64::Engine as _;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest, parse_x509_certificate, parse_x509_pem};

use super::{Subresource, carry_status, field::Field};
use crate::{FieldErrors, names, object};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// What is decided about a request, and stays.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];

/// The specification is what was asked for, and does not change.
pub(super) fn prepare_update(request: &mut Value, old: &Value) {
    carry_status(request, old);
    object::copy_field(old, request, "spec");
}

fn decode(field: &Field<'_>) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(field.text()).unwrap_or_default()
}

pub(super) fn validate(request: &Value, errors: &mut FieldErrors) {
    let spec = Field::root(request).get("spec");
    let text = spec.get("request");
    match parse_x509_pem(&decode(&text)) {
        Ok((_, block)) if block.label == "CERTIFICATE REQUEST" => {
            if X509CertificationRequest::from_der(&block.contents).is_err() {
                text.invalid("asn1: structure error: not a certificate request", errors);
            }
        }
        _ => text.invalid("PEM block type must be CERTIFICATE REQUEST", errors),
    }
    let usages = spec.get("usages");
    usages.needed(errors);
    for usage in usages.items() {
        usage.one_of(USAGES, errors);
    }
    usages.unique("", errors);
    signer(&spec.get("signerName"), errors);
    let seconds = spec.get("expirationSeconds");
    if seconds.number().is_some_and(|seconds| seconds < 600) {
        seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)", errors);
    }
}

/// "domain.example/path": a domain of two labels at least, and what is below it.
fn signer(name: &Field<'_>, errors: &mut FieldErrors) {
    if name.text() == "kubernetes.io/legacy-unknown" {
        return name.invalid("the legacy signerName is not allowed via this API version", errors);
    }
    if name.is_empty() {
        return name.required("", errors);
    }
    let parts: Vec<&str> = name.text().split('/').collect();
    let [domain, path] = parts[..] else {
        return name.invalid(
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            errors,
        );
    };
    for part in domain.split('.') {
        for wrong in names::label(part) {
            name.invalid(format!("validating label {part:?}: {wrong}"), errors);
        }
    }
    if domain.split('.').count() < 2 {
        name.invalid("should be a domain with at least two segments separated by dots", errors);
    }
    for part in path.split('.') {
        for wrong in names::subdomain(part) {
            name.invalid(format!("validating label {part:?}: {wrong}"), errors);
        }
    }
    if name.text().len() > 571 {
        errors.too_long(name.path(), 571);
    }
}

fn of_type(request: &Value, kind: &str) -> Vec<Value> {
    let conditions = object::at(request, &["status", "conditions"]).as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().filter(|condition| condition["type"] == kind).cloned().collect()
}

pub(super) fn validate_update(request: &Value, old: &Value, errors: &mut FieldErrors) {
    changes(request, old, false, false, errors);
}

pub(super) fn validate_part(part: Subresource, request: &Value, old: &Value, errors: &mut FieldErrors) {
    let conditions = Field::root(request).at(&["status", "conditions"]);
    let mut decided = "";
    for condition in conditions.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        kind.needed(errors);
        if DECISIONS.contains(&kind.text()) {
            status.needs_one_of(&["True"], errors);
        } else {
            status.needs_one_of(&["False", "True", "Unknown"], errors);
        }
        if matches!(kind.text(), "Approved" | "Denied") {
            if !decided.is_empty() && decided != kind.text() {
                errors.invalid(
                    conditions.path(),
                    kind.text(),
                    "Approved and Denied conditions are mutually exclusive",
                );
            }
            decided = kind.text();
        }
    }
    conditions.unique("type", errors);
    changes(request, old, part == Subresource::Approval, part == Subresource::Status, errors);
}

fn changes(request: &Value, old: &Value, decides: bool, signs: bool, errors: &mut FieldErrors) {
    for kind in DECISIONS {
        let (new, was) = (of_type(request, kind), of_type(old, kind));
        let verb = if new.len() < was.len() {
            "remove"
        } else if decides || kind == "Failed" || new == was {
            continue;
        } else if new.len() > was.len() {
            "add"
        } else {
            "modify"
        };
        errors.forbidden("status.conditions", format!("updates may not {verb} a condition of type {kind:?}"));
    }
    let path = ["status", "certificate"];
    let (new, was) = (Field::root(request).at(&path), Field::root(old).at(&path));
    if new.value() == was.value() {
        return;
    }
    if !signs {
        new.forbidden("updates may not set certificate content", errors);
    } else if !was.is_empty() {
        new.forbidden("updates may not modify existing certificate content", errors);
    }
    if let Err(wrong) = certificates(&decode(&new)) {
        errors.invalid(new.path(), "<certificate data>", wrong);
    }
}

/// Blocks of certificates and nothing else.
fn certificates(mut text: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    while let Ok((rest, block)) = parse_x509_pem(text) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        parse_x509_certificate(&block.contents).map_err(|wrong| format!("x509: {wrong}"))?;
        blocks += 1;
        text = rest;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".into()) } else { Ok(()) }
}
