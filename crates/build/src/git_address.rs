//! Addresses of git repositories as builds have them: `https://host/x.git#ref:directory`, `git://…`, `git@host:path`.
//!
//! Nothing of an address becomes an option or a path of this machine (CVE-2019-13139, CVE-2026-33748): a reference is
//! only compared with those that the repository has, and a directory is looked up in its files.

/// Where a repository is, and what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GitAddress {
    /// Without what is behind `#`.
    pub(crate) remote: String,
    pub(crate) transport: Transport,
    /// A branch, a tag, a full name or a commit; none is what the repository has as its own.
    pub(crate) reference: Option<String>,
    /// A directory in it.
    pub(crate) directory: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Http,
    Git,
    Ssh,
}

impl GitAddress {
    /// None when a source is no repository but a file.
    pub(crate) fn parse(source: &str) -> Option<Self> {
        let (remote, fragment) = match source.split_once('#') {
            Some((remote, fragment)) => (remote, Some(fragment)),
            None => (source, None),
        };
        let (remote, query) = match remote.split_once('?') {
            Some((remote, query)) if !remote.starts_with("git@") => (remote, Some(query)),
            _ => (remote, None),
        };
        let (transport, remote) = if remote.starts_with("https://") || remote.starts_with("http://") {
            if !remote.trim_end_matches('/').ends_with(".git") {
                return None;
            }
            (Transport::Http, remote.to_owned())
        } else if remote.starts_with("git://") {
            (Transport::Git, remote.to_owned())
        } else if remote.starts_with("ssh://") || is_scp(remote) {
            (Transport::Ssh, remote.to_owned())
        } else if remote.starts_with("github.com/") {
            (Transport::Http, format!("https://{remote}"))
        } else {
            return None;
        };
        let (mut reference, mut directory) = (None, None);
        if let Some(fragment) = fragment {
            let (before, behind) = fragment.split_once(':').unwrap_or((fragment, ""));
            reference = Some(before.to_owned()).filter(|text| !text.is_empty());
            directory = Some(behind.to_owned()).filter(|text| !text.is_empty());
        }
        for (name, value) in query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "ref" | "branch" | "tag" | "commit" => reference = Some(value.to_owned()),
                "subdir" => directory = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(Self { remote, transport, reference, directory })
    }

    /// The last part of its path, without `.git`.
    pub(crate) fn name(&self) -> String {
        let path = self.remote.trim_end_matches('/');
        let name = path.rsplit(['/', ':']).next().unwrap_or_default();
        name.strip_suffix(".git").unwrap_or(name).to_owned()
    }
}

/// `user@host:path`.
fn is_scp(remote: &str) -> bool {
    let Some((login, path)) = remote.split_once(':') else { return false };
    let Some((user, host)) = login.split_once('@') else { return false };
    let plain = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    plain(user) && plain(host) && !path.is_empty() && !path.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_reference_and_a_directory() {
        let parse = |text: &str| GitAddress::parse(text).map(|a| (a.remote, a.reference, a.directory));
        let some = |text: &str| Some(text.to_owned());
        for (text, remote, reference, directory) in [
            ("https://h/x.git", "https://h/x.git", None, None),
            ("https://h/x.git#v1", "https://h/x.git", some("v1"), None),
            ("https://h/x.git#v1:a/b", "https://h/x.git", some("v1"), some("a/b")),
            ("https://h/x.git#:a", "https://h/x.git", None, some("a")),
            ("git://h/x", "git://h/x", None, None),
            ("git@h:x/y.git#main", "git@h:x/y.git", some("main"), None),
            ("github.com/a/b", "https://github.com/a/b", None, None),
            ("https://h/x.git?ref=v2&subdir=d", "https://h/x.git", some("v2"), some("d")),
        ] {
            assert_eq!(parse(text), Some((remote.to_owned(), reference, directory)), "{text}");
        }
        for text in ["https://h/x", "x.git", "a b", "/x", "@:x", "-o@h:x", "x", "--upload-pack=x"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(GitAddress::parse("git@h:a/b.git").unwrap().name(), "b");
    }
}
