//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for a signer, and
//! that nobody asks the cluster's own signer to make him its master.

use base64::Engine as _;
use dray_access::{Attributes, MASTERS};
use dray_machinery::{Status, Subresource, object};
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::{Admission, Operation};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Whether the user may use a verb on the signer of a request: on that one, or on all of its domain.
fn may_use(admission: &Admission<'_>, verb: &str, signer: &str) -> Result<bool, Status> {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer, &format!("{domain}/*")] {
        let asked = Attributes { verb, group: GROUP, resource: "signers", name, ..Attributes::default() };
        if admission.may(&asked)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn signer(request: &Value) -> &str {
    object::text(request, &["spec", "signerName"])
}

pub(super) fn check_approval(admission: &Admission<'_>, _new: &Value) -> Result<(), Status> {
    if !admission.is_part(GROUP, REQUESTS, Some(Subresource::Approval)) {
        return Ok(());
    }
    let signer = signer(admission.old);
    if may_use(admission, "approve", signer)? {
        return Ok(());
    }
    Err(admission.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
}

pub(super) fn check_signing(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    if !admission.is_part(GROUP, REQUESTS, Some(Subresource::Status)) {
        return Ok(());
    }
    let old = admission.old;
    // Only a certificate, or word that there will be none, is a signature.
    if old["status"]["certificate"] == new["status"]["certificate"]
        && old["status"]["conditions"] == new["status"]["conditions"]
    {
        return Ok(());
    }
    let signer = signer(old);
    if may_use(admission, "sign", signer)? {
        return Ok(());
    }
    Err(admission.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
}

pub(super) fn check_subject(admission: &Admission<'_>, new: &Value) -> Result<(), Status> {
    if admission.operation != Operation::Create || !admission.is(GROUP, REQUESTS) || signer(new) != CLIENT {
        return Ok(());
    }
    let text = base64::engine::general_purpose::STANDARD.decode(object::text(new, &["spec", "request"]));
    let der = text
        .ok()
        .and_then(|text| rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(&text).ok());
    let Some(der) = der else { return Ok(()) };
    let Ok((_, request)) = X509CertificationRequest::from_der(der.as_ref()) else { return Ok(()) };
    let subject = &request.certification_request_info.subject;
    if subject.iter_organization().any(|group| group.as_str() == Ok(MASTERS)) {
        return Err(
            admission.forbidden(format!("use of {CLIENT} signer with {MASTERS} group is not allowed"))
        );
    }
    Ok(())
}
