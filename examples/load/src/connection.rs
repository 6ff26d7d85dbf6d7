//! A connection to an API server: HTTP/1.1 over TLS, kept alive, with as little of our own in between as can be.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Where a server is, and who asks.
#[derive(Clone)]
pub(crate) struct Place {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// The value of a field of a kubeconfig.
fn field<'a>(kubeconfig: &'a str, name: &str) -> Result<&'a str, String> {
    let mut lines = kubeconfig.lines().map(|line| line.trim_start().trim_start_matches("- "));
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.map(|text| text.trim().trim_matches('"')).ok_or_else(|| format!("the kubeconfig has no {name}"))
}

impl Place {
    /// Reads a kubeconfig with one server and one certificate.
    ///
    /// # Errors
    /// When something of that is missing or makes no sense.
    pub(crate) fn read(kubeconfig: &str) -> Result<Place, Box<dyn Error>> {
        let server = field(kubeconfig, "server")?;
        let address = server.strip_prefix("https://").ok_or("the server's address is not https")?.parse()?;
        let pem = |name: &str| -> Result<Vec<u8>, Box<dyn Error>> {
            Ok(base64::engine::general_purpose::STANDARD.decode(field(kubeconfig, name)?)?)
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("certificate-authority-data")?)?)?;
        let certificate = CertificateDer::from_pem_slice(&pem("client-certificate-data")?)?;
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Place { address, config: Arc::new(config) })
    }

    /// Connects.
    ///
    /// # Errors
    /// What the system, or TLS, says.
    pub(crate) fn connect(&self) -> Result<Connection, Box<dyn Error>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.address.ip().to_string())?;
        let tls = ClientConnection::new(Arc::clone(&self.config), name)?;
        Ok(Connection { stream: BufReader::with_capacity(1 << 16, StreamOwned::new(tls, stream)) })
    }
}

/// A connection. One request after the other goes over it.
pub(crate) struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// How long a body is.
enum Length {
    Known(usize),
    /// It comes in pieces.
    Pieces,
}

impl Connection {
    /// Sends a request and reads the answer to its end. Answers the length of the body.
    ///
    /// # Errors
    /// What the connection says, and a status other than the expected one.
    pub(crate) fn ask(&mut self, request: &[u8], expected: u16) -> io::Result<usize> {
        self.send(request)?;
        match self.head(expected)? {
            Length::Known(length) => {
                self.skip(length)?;
                Ok(length)
            }
            Length::Pieces => {
                let mut total = 0;
                while let Some(length) = self.piece()? {
                    self.skip(length + 2)?;
                    total += length;
                }
                Ok(total)
            }
        }
    }

    /// Sends a request for a watch, and reads the head of the answer.
    ///
    /// # Errors
    /// Those of [`Connection::ask`].
    pub(crate) fn watch(&mut self, request: &[u8]) -> io::Result<()> {
        self.send(request)?;
        self.head(200).map(|_| ())
    }

    /// Reads one more piece of a watch; how many lines end in it.
    ///
    /// # Errors
    /// What the connection says, and its end.
    pub(crate) fn events(&mut self) -> io::Result<usize> {
        let length = self.piece()?.ok_or_else(|| wrong("the watch has ended"))?;
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes[..length].iter().filter(|byte| **byte == b'\n').count())
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(request)?;
        self.stream.get_mut().flush()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    fn head(&mut self, expected: u16) -> io::Result<Length> {
        let first = self.line()?;
        let code = first.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        if code != Some(expected) {
            return Err(wrong(format!("the server answers {first:?}")));
        }
        let mut length = Length::Known(0);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                return Ok(length);
            }
            if let Some(number) = line.strip_prefix("content-length:") {
                length = Length::Known(number.trim().parse().map_err(|_| wrong("a length is no number"))?);
            } else if line.starts_with("transfer-encoding:") {
                length = Length::Pieces;
            }
        }
    }

    /// The length of the next piece; none at the end.
    fn piece(&mut self) -> io::Result<Option<usize>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16).map_err(|_| wrong("a length is no number"))?;
        if length == 0 {
            self.line()?;
            return Ok(None);
        }
        Ok(Some(length))
    }

    fn skip(&mut self, mut length: usize) -> io::Result<()> {
        while length > 0 {
            let there = self.stream.fill_buf()?.len().min(length);
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.stream.consume(there);
            length -= there;
        }
        Ok(())
    }
}
