//! Connections: TCP, and TLS where that is spoken. Failures are told in the words that users know from the reference. What is
//! said over a connection is not known here.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::Engine as _;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::server::NodeStream;

/// How long a connection may take to come about, TLS included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Host and port.
pub(crate) type Address = (String, u16);

/// Whose certificates are good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// Those of the authorities in a bundle, which is base64 of PEM; those that this host trusts where it is empty.
    Bundle(&'a str),
    /// All: the connection is hidden from others, and that is all it is.
    Anybody,
}

/// Who this server is to others: a certificate and its key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// How TLS is spoken.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// What the other's certificate has to be for.
    pub(crate) name: String,
    pub(crate) config: Arc<ClientConfig>,
}

/// Connects to the first of some addresses that answers.
pub(crate) async fn connect(addresses: &[Address], tls: Option<&Tls>) -> Result<Box<dyn NodeStream>, String> {
    let work = async {
        let stream = reach(addresses).await?;
        let Some(tls) = tls else { return Ok(Box::new(stream) as Box<dyn NodeStream>) };
        let name = ServerName::try_from(tls.name.clone())
            .map_err(|_| format!("{:?} is no name that a certificate can be for", tls.name))?;
        let stream = TlsConnector::from(tls.config.clone()).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| tls_failure(&error))?) as Box<dyn NodeStream>)
    };
    timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        let (host, port) = addresses.first().map_or(("", 0), |(host, port)| (host.as_str(), *port));
        Err(format!("dial tcp {}: i/o timeout", authority(host, port)))
    })
}

async fn reach(addresses: &[Address]) -> Result<TcpStream, String> {
    let mut failure = String::new();
    for (host, port) in addresses {
        let connected = TcpStream::connect((host.as_str(), *port)).await;
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = dial_failure(host, *port, &error),
        }
    }
    Err(failure)
}

/// "HOST:PORT", as URLs have it.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// How TLS is spoken with those whom we trust, as somebody where an identity is given.
pub(crate) fn config(trust: Trust<'_>, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        Trust::Bundle("") => builder.with_root_certificates(host_roots()),
        Trust::Bundle(bundle) => builder.with_root_certificates(bundled(bundle)?),
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { chain, key }) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| error.to_string())?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The authorities of a bundle.
fn bundled(bundle: &str) -> Result<RootCertStore, String> {
    let text = base64::engine::general_purpose::STANDARD.decode(bundle);
    let text = text.map_err(|error| format!("the caBundle is no base64: {error}"))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    if roots.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    Ok(roots)
}

/// The authorities that this host trusts.
fn host_roots() -> RootCertStore {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    (**roots).clone()
}

/// Takes every certificate whose key the other side holds.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn dial_failure(host: &str, port: u16, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {}: {why}", authority(host, port))
}

fn tls_failure(error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    let why = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(why)) => match why {
            // An authority of the same name with another key is another authority.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "x509: certificate signed by unknown authority".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "x509: certificate has expired or is not yet valid".to_owned()
            }
            other => format!("x509: {other}"),
        },
        _ => return format!("remote error: tls: {error}"),
    };
    format!("tls: failed to verify certificate: {why}")
}
