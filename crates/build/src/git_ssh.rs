//! Git over ssh: the machine's own `ssh` carries what is said, with the keys of the client's agent and no others.
//!
//! Nothing of this machine's user takes part: no configuration, no key, no agent. The agent's socket is in a directory of
//! this connection alone. Of an address only checked words become arguments (CVE-2017-1000117).

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;

use dray_engine::{Engine, Scratch};
use tokio::io::{AsyncReadExt as _, copy_bidirectional, join};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::builder::blocking;
use crate::client::{Client, ClientError, Duplex};
use crate::error::IoContext;
use crate::{Error, Result};

/// The client's agent that repositories are fetched with.
const AGENT: &str = "default";
/// The secret that holds the keys of hosts, in the form of `known_hosts`.
const KNOWN_HOSTS: &str = "GIT_KNOWN_HOSTS";
/// Bytes of what `ssh` says that are told on.
const LAST_WORDS: u64 = 4096;
/// Where `ssh` is looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    user: String,
    host: String,
    port: Option<u16>,
    path: String,
}

impl Place {
    /// Reads `ssh://[user@]host[:port]/path` and `user@host:path`.
    fn parse(remote: &str) -> Option<Self> {
        let (login, port, path) = match remote.strip_prefix("ssh://") {
            Some(rest) => {
                let (login, path) = rest.split_once('/')?;
                // Behind the bracket of an address of IPv6, or behind the only colon.
                let (login, port) = match login.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
                    Some((login, port)) => (login, Some(port.parse().ok()?)),
                    None => (login, None),
                };
                // What begins with a tilde is in a home directory and has no slash before it.
                let path = if path.starts_with('~') { path.to_owned() } else { format!("/{path}") };
                (login, port, path)
            }
            None => {
                let (login, path) = remote.split_once(':')?;
                (login, None, path.to_owned())
            }
        };
        let (user, host) = login.split_once('@').unwrap_or(("git", login));
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_plain = |text: &str, more: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let is_path = !path.is_empty() && !path.starts_with('-') && !path.contains(char::is_control);
        (is_plain(user, "-_.") && is_plain(host, "-_.:") && is_path).then(|| Self {
            user: user.to_owned(),
            host: host.to_owned(),
            port,
            path,
        })
    }

    /// What the host is told to run: its shell takes the path as one word.
    fn command(&self) -> String {
        format!("git-upload-pack '{}'", self.path.replace('\'', r"'\''"))
    }
}

/// The program while the connection is used; dropped, it is ended.
pub(crate) struct Ssh {
    child: Child,
    words: JoinHandle<String>,
    agent: JoinHandle<()>,
    _scratch: Scratch,
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.agent.abort();
        self.words.abort();
    }
}

impl Ssh {
    /// What `ssh` said when it gave up.
    pub(crate) async fn last_words(mut self) -> String {
        let words = (&mut self.words).await.unwrap_or_default();
        let status =
            self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        if words.is_empty() { format!("ssh ended with {status}") } else { words }
    }
}

/// Has `ssh` start `git-upload-pack` where the repository is.
pub(crate) async fn connect(
    engine: &Engine,
    client: &Arc<dyn Client>,
    remote: &str,
) -> Result<(Box<dyn Duplex>, Ssh)> {
    let fail = |why: String| Error::Fetch { address: remote.to_owned(), why };
    let place = Place::parse(remote).ok_or_else(|| {
        fail("it is no address of ssh: write it as git@HOST:PATH or ssh://HOST/PATH".to_owned())
    })?;
    // Asked for once now, so that the answer names what is missing.
    client.ssh(AGENT).await.map_err(|error| match error {
        ClientError::Missing { .. } => {
            fail("the client forwards no key agent: build with --ssh default".to_owned())
        }
        error => fail(error.to_string()),
    })?;
    let known_hosts = known_hosts(client, &place.host).await;
    let made = engine.clone();
    let scratch = blocking(move || {
        let scratch = made.scratch()?;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(scratch.path(), private).io("protect", scratch.path())?;
        let hosts = scratch.path().join("known_hosts");
        std::fs::write(&hosts, known_hosts.as_deref().unwrap_or_default()).io("write", &hosts)?;
        Ok((scratch, known_hosts.is_some()))
    });
    let (scratch, is_known) = scratch.await?;
    let socket = scratch.path().join("agent");
    let listener = UnixListener::bind(&socket).io("listen at", &socket)?;
    let agent = tokio::spawn(forward(listener, Arc::clone(client)));
    // A host that nobody told of is taken at its word, as BuildKit's clients take it; one that this machine knows by
    // another key is not.
    let checking = if is_known { "yes" } else { "accept-new" };
    let mut command = Command::new("ssh");
    command.env_clear().env("PATH", PATH).env("HOME", scratch.path());
    command.env("SSH_AUTH_SOCK", &socket).env("GIT_PROTOCOL", "version=2");
    command.args(["-F", "none", "-a", "-x", "-T"]);
    for option in [
        "BatchMode=yes",
        "IdentityFile=none",
        "PreferredAuthentications=publickey",
        "ConnectTimeout=30",
        "ServerAliveInterval=30",
        "SendEnv=GIT_PROTOCOL",
        "LogLevel=ERROR",
        &format!("StrictHostKeyChecking={checking}"),
        &format!("UserKnownHostsFile={}", scratch.path().join("known_hosts").display()),
    ] {
        command.args(["-o", option]);
    }
    if let Some(port) = place.port {
        command.args(["-p", &port.to_string()]);
    }
    command.arg("--").arg(format!("{}@{}", place.user, place.host)).arg(place.command());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => fail(
            "the daemon's machine has no ssh: install its openssh-client, or use the https address"
                .to_owned(),
        ),
        _ => fail(format!("cannot start ssh: {error}")),
    })?;
    let (Some(input), Some(output), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(fail("cannot speak to ssh".to_owned()));
    };
    let words = tokio::spawn(async move {
        let mut said = Vec::new();
        let mut errors = errors;
        let _ = (&mut errors).take(LAST_WORDS).read_to_end(&mut said).await;
        // The rest is read all the same, so that nothing waits to say it.
        let _ = tokio::io::copy(&mut errors, &mut tokio::io::sink()).await;
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    Ok((Box::new(join(output, input)), Ssh { child, words, agent, _scratch: scratch }))
}

/// The keys of hosts that the client gives: for this host, or for all.
async fn known_hosts(client: &Arc<dyn Client>, host: &str) -> Option<Vec<u8>> {
    for id in [format!("{KNOWN_HOSTS}.{host}"), KNOWN_HOSTS.to_owned()] {
        if let Ok(known) = client.secret(&id).await {
            return Some(known);
        }
    }
    None
}

/// Lets whoever connects speak to the client's agent, one after the other.
async fn forward(listener: UnixListener, client: Arc<dyn Client>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        if let Ok(mut agent) = client.ssh(AGENT).await {
            let _ = copy_bidirectional(&mut stream, &mut agent).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(user: &str, host: &str, port: Option<u16>, path: &str) -> Option<Place> {
        Some(Place { user: user.to_owned(), host: host.to_owned(), port, path: path.to_owned() })
    }

    #[test]
    fn addresses_name_a_user_a_host_a_port_and_a_path() {
        for (text, expected) in [
            ("git@h:a/b.git", place("git", "h", None, "a/b.git")),
            ("ssh://h/a/b.git", place("git", "h", None, "/a/b.git")),
            ("ssh://me@h.example:2222/a", place("me", "h.example", Some(2222), "/a")),
            ("ssh://me@[::1]:22/a", place("me", "::1", Some(22), "/a")),
            ("ssh://me@[::1]/a", place("me", "::1", None, "/a")),
            ("ssh://h/~me/a", place("git", "h", None, "~me/a")),
        ] {
            assert_eq!(Place::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn cve_2017_1000117_no_part_of_an_address_is_an_option() {
        for text in [
            "ssh://-oProxyCommand=touch/x",
            "ssh://-oProxyCommand@h/x",
            "ssh://a@-h/x",
            "ssh://h:port/x",
            "ssh://h$(x)/x",
            "git@h:-x",
            "git@h:a\nb",
            "ssh://h",
            "ssh:///x",
        ] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
        let quoted = Place::parse("git@h:a'; touch /x; '").unwrap().command();
        assert_eq!(quoted, r"git-upload-pack 'a'\''; touch /x; '\'''");
    }
}
