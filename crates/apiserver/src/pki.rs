//! Certificates: the cluster's authority, made once and kept; the server's, made at every start; the
//! administrator's. All keys are ECDSA P-256.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use base64::Engine as _;
use jiff::{Timestamp, ToSpan as _, Zoned, tz::TimeZone};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use dray_access::{MASTERS, User};

use crate::{Error, passage::dial::Identity};

/// The file of the authority by which servers of others know this one.
const FRONT_PROXY: &str = "front-proxy-ca";
/// What this server is called where it tells who asks.
pub(crate) const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// How long the authority's certificate is good for, in years.
const AUTHORITY_YEARS: i64 = 20;
/// How long the others are good for, in years.
const LEAF_YEARS: i64 = 5;

/// So many seconds before it is made a certificate holds, for clocks that are not ours.
const SLACK: i64 = 300;

/// The certificates of a cluster.
pub(crate) struct Pki {
    authority: String,
    /// Who issues certificates in the authority's name.
    issuer: Issuer<'static, KeyPair>,
    admin: Pair,
    server: Pair,
    /// The authority by which servers of others know this one, and who it is to them.
    front_proxy_authority: String,
    front_proxy: Identity,
}

#[derive(Clone)]
struct Pair {
    certificate: String,
    key: String,
}

impl Pki {
    /// Reads what is kept in `directory` and makes what is missing. `names` are those of the server.
    pub(crate) fn open(directory: &Path, names: &[String]) -> Result<Pki, Error> {
        let at = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        if !directory.is_dir() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(at("make", directory))?;
        }
        let authority = match read_pair(directory, "ca")? {
            Some(pair) => pair,
            None => write_pair(directory, "ca", make_authority("dray-ca")?)?,
        };
        let issuer = issuer_of(directory, "ca", &authority)?;
        let admin = match read_pair(directory, "admin")?.filter(|pair| is_fresh(&pair.certificate)) {
            Some(pair) => pair,
            None => {
                let pair =
                    issue(&issuer, "dray:admin", MASTERS, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?;
                write_pair(directory, "admin", pair)?
            }
        };
        let names = names.to_vec();
        let server = issue(&issuer, "kube-apiserver", "", names, ExtendedKeyUsagePurpose::ServerAuth)?;
        // Whoever has a certificate of this authority is believed who asks: it is for nothing else.
        let trusted = match read_pair(directory, FRONT_PROXY)? {
            Some(pair) => pair,
            None => write_pair(directory, FRONT_PROXY, make_authority(FRONT_PROXY)?)?,
        };
        let for_front_proxy = issuer_of(directory, FRONT_PROXY, &trusted)?;
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let front_proxy = identity(&issue(&for_front_proxy, FRONT_PROXY_CLIENT, "", Vec::new(), usage)?)?;
        let front_proxy_authority = trusted.certificate;
        let authority = authority.certificate;
        Ok(Pki { authority, issuer, admin, server, front_proxy_authority, front_proxy })
    }

    /// Signs what somebody asks for, for so many seconds from now; answers with the certificate, as PEM.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub(crate) fn sign(
        &self,
        mut request: CertificateSigningRequestParams,
        seconds: i64,
    ) -> Result<String, rcgen::Error> {
        let now = Timestamp::now().as_second();
        let at = |seconds: i64| {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.max(0).unsigned_abs())
        };
        request.params.not_before = at(now - SLACK);
        request.params.not_after = at(now + seconds);
        request.params.use_authority_key_identifier_extension = true;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// The certificate, as PEM, of the authority by which servers of others know this one.
    pub(crate) fn front_proxy_authority(&self) -> &str {
        &self.front_proxy_authority
    }

    /// Who this server is to servers of others.
    pub(crate) fn front_proxy(&self) -> &Identity {
        &self.front_proxy
    }

    /// The certificate of the authority, as PEM.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// A kubeconfig by which the administrator reaches the server at a URL.
    pub(crate) fn kubeconfig(&self, url: &str) -> String {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: dray\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {}\n    \
             client-key-data: {}\ncontexts:\n- name: dray\n  context:\n    cluster: dray\n    user: admin\n\
             current-context: dray\npreferences: {{}}\n",
            encode(&self.authority),
            encode(&self.admin.certificate),
            encode(&self.admin.key),
        )
    }

    /// TLS for the server: HTTP/2 and HTTP/1.1, client certificates of this authority accepted, none needed.
    pub(crate) fn server_config(&self) -> Result<ServerConfig, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes()).map_err(unusable)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(Error::Tls)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?;
        let Identity { mut chain, key } = identity(&self.server)?;
        chain.push(authority);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(Error::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn unusable(_: rustls::pki_types::pem::Error) -> Error {
    Error::Tls(rustls::Error::General("a certificate just made cannot be read".into()))
}

fn identity(pair: &Pair) -> Result<Identity, Error> {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(unusable)?];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(unusable)?;
    Ok(Identity { chain, key })
}

/// Who issues certificates in the name of a kept authority.
fn issuer_of(directory: &Path, name: &str, authority: &Pair) -> Result<Issuer<'static, KeyPair>, Error> {
    let bad = |end: &str| Error::BadCertificate { path: directory.join(format!("{name}.{end}")) };
    let key = KeyPair::from_pem(&authority.key).map_err(|_| bad("key"))?;
    Issuer::from_ca_cert_pem(&authority.certificate, key).map_err(|_| bad("crt"))
}

/// Whom a client certificate, verified already, speaks for: its common name and its organisations.
pub(crate) fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok().map(ToOwned::to_owned));
    Some(User::authenticated(name, groups))
}

fn validity(params: &mut CertificateParams, years: i64) {
    let date = |at: Zoned| {
        let date = at.date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    // A day of slack for clocks that are not ours.
    params.not_before = date(now.checked_sub(1.day()).unwrap_or_else(|_| now.clone()));
    params.not_after = date(now.checked_add(years.years()).unwrap_or(now));
}

fn make_authority(name: &str) -> Result<Pair, Error> {
    let failed = |source| Error::Certificate { subject: name.to_owned(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, AUTHORITY_YEARS);
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(pair(&certificate, &key))
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    group: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<Pair, Error> {
    let failed = |source| Error::Certificate { subject: name.to_owned(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_YEARS);
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    Ok(pair(&certificate, &key))
}

fn pair(certificate: &Certificate, key: &KeyPair) -> Pair {
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn is_fresh(pem: &str) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else { return false };
    // Renewed in its last half year.
    let left = parsed.validity().not_after.timestamp() - Timestamp::now().as_second();
    left > 180 * 86_400
}

fn read_pair(directory: &Path, name: &str) -> Result<Option<Pair>, Error> {
    let read = |suffix: &str| {
        let path = directory.join(format!("{name}.{suffix}"));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { action: "read", path, source }),
        }
    };
    Ok(read("crt")?.zip(read("key")?).map(|(certificate, key)| Pair { certificate, key }))
}

fn write_pair(directory: &Path, name: &str, pair: Pair) -> Result<Pair, Error> {
    // The key first: a certificate without its key would be found and trusted at the next start.
    write_private(&directory.join(format!("{name}.key")), &pair.key)?;
    write_private(&directory.join(format!("{name}.crt")), &pair.certificate)?;
    Ok(pair)
}

/// Writes a file that only its owner may read, as a whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::File { action: "write", path: path.to_owned(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

/// The names that the server's certificate is for.
pub(crate) fn server_names(service: IpAddr, listen: IpAddr, more: &[String]) -> Vec<String> {
    let mut names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    names.push(service.to_string());
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    names.extend(more.iter().filter(|name| !name.is_empty()).cloned());
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn certificates_are_kept_private_and_the_authority_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki");
        let names = server_names("10.43.0.1".parse().unwrap(), "127.0.0.1".parse().unwrap(), &[]);
        let first = Pki::open(&path, &names).unwrap();
        let second = Pki::open(&path, &names).unwrap();
        assert_eq!(first.authority(), second.authority());
        assert_eq!(first.front_proxy_authority(), second.front_proxy_authority());
        assert_ne!(first.authority(), first.front_proxy_authority());
        assert_eq!(user(&first.front_proxy().chain[0]).unwrap().name, FRONT_PROXY_CLIENT);
        assert_eq!(first.admin.certificate, second.admin.certificate);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
        let der = CertificateDer::from_pem_slice(second.admin.certificate.as_bytes()).unwrap();
        let user = user(&der).unwrap();
        assert_eq!(user.name, "dray:admin");
        assert!(user.is_in(MASTERS));
        second.server_config().unwrap();
    }
}
