//! Encryption at rest: which values lie on the disk how.
//!
//! Values are readable in memory and sealed on their way to the disk, by the first key of the first rule that names their
//! resource; any key of the rule opens them. It does not know what a value means.

mod cipher;
mod config;

use std::{borrow::Cow, fs::File, io::Read as _, path::Path, sync::Arc};

use cipher::Cipher;
use parking_lot::RwLock;

use crate::{Entry, Error, Key as StoreKey};

/// What a record begins with.
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

struct Key {
    /// As the reference has it, "k8s:enc:PROVIDER:v1:NAME:"; empty without encryption.
    prefix: String,
    cipher: Option<Cipher>,
}

struct Rule {
    /// Groups and plurals; "*" is any.
    patterns: Vec<(String, String)>,
    keys: Vec<Key>,
}

#[derive(Default)]
struct Providers {
    rules: Vec<Rule>,
}

impl Providers {
    fn rule(&self, resource: &str) -> Option<&Rule> {
        let (group, plural) = resource.split_once('/').unwrap_or((resource, ""));
        let matches = |(of_group, of_plural): &(String, String)| {
            (of_group == "*" || of_group == group) && (of_plural == "*" || of_plural == plural)
        };
        self.rules.iter().find(|rule| rule.patterns.iter().any(matches))
    }
}

/// The keys by which values are kept. Cheap to clone; all clones are exchanged together.
#[derive(Clone, Default)]
pub struct Encryption {
    providers: Arc<RwLock<Arc<Providers>>>,
}

impl Encryption {
    /// Reads a file of kind `EncryptionConfiguration`.
    ///
    /// # Errors
    /// `Io`, `Encryption`.
    pub fn read(path: &Path) -> Result<Encryption, Error> {
        let encryption = Encryption::default();
        encryption.reload(path)?;
        Ok(encryption)
    }

    /// Reads the file again; what is written from now on is sealed by what it says. When it cannot be read, everything stays
    /// as it was.
    ///
    /// # Errors
    /// `Io`, `Encryption`.
    pub fn reload(&self, path: &Path) -> Result<(), Error> {
        let failed = Error::io("read", path);
        let file = File::open(path).map_err(&failed)?;
        let mut text = String::new();
        file.take(config::LONGEST + 1).read_to_string(&mut text).map_err(&failed)?;
        let wrong = |why| Error::Encryption { path: path.to_path_buf(), why };
        if text.len() as u64 > config::LONGEST {
            return Err(wrong(format!("it has more than {} bytes", config::LONGEST)));
        }
        let providers = config::parse(&text).map_err(wrong)?;
        *self.providers.write() = Arc::new(providers);
        Ok(())
    }

    /// Whether something may be a record, as far as that can be said without keys.
    pub(crate) fn is_record(record: &[u8]) -> bool {
        match record.split_first() {
            Some((&PLAIN, rest)) => Entry::decode(rest).is_some(),
            Some((&SEALED, rest)) => rest.starts_with(b"k8s:enc:"),
            _ => false,
        }
    }

    /// Whether a rule names the resource of a key.
    pub(crate) fn is_about(&self, key: &StoreKey) -> bool {
        self.providers.read().rule(key.resource()).is_some()
    }

    /// The record of a text that is stored under a key, as it lies on the disk.
    pub(crate) fn seal(&self, key: &StoreKey, text: &[u8]) -> Result<Vec<u8>, Error> {
        let providers = self.providers.read().clone();
        let first = providers.rule(key.resource()).and_then(|rule| rule.keys.first());
        let Some((prefix, cipher)) = first.and_then(|key| Some((&key.prefix, key.cipher.as_ref()?))) else {
            return Ok([&[PLAIN], text].concat());
        };
        let sealed = cipher.seal(key.encode().as_bytes(), text);
        let sealed = sealed.map_err(|cipher::Failed| Error::Seal { key: key.to_string() })?;
        Ok([&[SEALED], prefix.as_bytes(), &sealed].concat())
    }

    /// The text of a record, and whether it would be written in another way now.
    pub(crate) fn open<'a>(&self, key: &StoreKey, record: &'a [u8]) -> Result<(Cow<'a, [u8]>, bool), Error> {
        let providers = self.providers.read().clone();
        let keys = providers.rule(key.resource()).map_or(&[][..], |rule| &rule.keys);
        let closed = |why: String| Error::Sealed { key: key.to_string(), why };
        let (kind, rest) = record.split_first().ok_or_else(|| closed("it is empty".into()))?;
        if *kind == PLAIN {
            let first_is_plain = keys.first().is_none_or(|key| key.cipher.is_none());
            if !first_is_plain && keys.iter().all(|key| key.cipher.is_some()) {
                return Err(closed("it is not encrypted, and identity is not among its providers".into()));
            }
            return Ok((rest.into(), !first_is_plain));
        }
        // A rule that is gone leaves values behind that another may still have the key of.
        let others = providers.rules.iter().flat_map(|rule| &rule.keys).map(|key| (false, key));
        let mut known = keys.iter().enumerate().map(|(index, key)| (index == 0, key)).chain(others);
        let found = known.find_map(|(first, key)| {
            let sealed = rest.strip_prefix(key.prefix.as_bytes())?;
            Some((first, key.cipher.as_ref()?, sealed))
        });
        let (first, cipher, sealed) = found.ok_or_else(|| {
            // "k8s:enc:PROVIDER:v1:NAME:"
            let prefix = rest.splitn(6, |byte| *byte == b':').take(5).collect::<Vec<_>>().join(&b':');
            let prefix = String::from_utf8_lossy(&prefix[..prefix.len().min(256)]).into_owned();
            closed(format!("no provider has the key {prefix}"))
        })?;
        let text = cipher.open(key.encode().as_bytes(), sealed);
        let text = text.map_err(|cipher::Failed| closed("the key does not open it".into()))?;
        Ok((text.into(), !first))
    }
}

#[cfg(test)]
mod tests {
    use super::Encryption;
    use crate::{Error, Key};

    const GOOD: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    fn encryption(rules: &str) -> Encryption {
        let file = tempfile::NamedTempFile::new().unwrap();
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: ";
        std::fs::write(file.path(), format!("{head}{rules}")).unwrap();
        Encryption::read(file.path()).unwrap()
    }

    fn aes(name: &str) -> String {
        format!("{{aesgcm: {{keys: [{{name: {name}, secret: {GOOD}}}]}}}}")
    }

    #[test]
    fn the_first_rule_writes_and_every_key_of_it_reads() {
        let text = b"what is hidden";
        let secret = Key::new("core/secrets", "a/b");
        let old = encryption(&format!("[{{resources: [secrets], providers: [{}]}}]", aes("old")));
        let new =
            encryption(&format!("[{{resources: [secrets], providers: [{}, {}]}}]", aes("new"), aes("old")));
        let plain_first =
            encryption(&format!("[{{resources: ['*.'], providers: [{{identity: {{}}}}, {}]}}]", aes("old")));
        let sealed = old.seal(&secret, text).unwrap();
        assert!(sealed.starts_with(b"\x01k8s:enc:aesgcm:v1:old:"));
        assert!(!sealed.windows(6).any(|window| window == b"hidden"));
        assert_eq!(old.open(&secret, &sealed).unwrap(), (text[..].into(), false));
        assert_eq!(new.open(&secret, &sealed).unwrap(), (text[..].into(), true));
        assert_eq!(plain_first.open(&secret, &sealed).unwrap(), (text[..].into(), true));
        // Another place, no key, no encryption.
        assert!(matches!(old.open(&Key::new("core/secrets", "a/c"), &sealed), Err(Error::Sealed { .. })));
        let error = old.open(&secret, &new.seal(&secret, text).unwrap()).unwrap_err().to_string();
        assert!(error.contains("no provider has the key k8s:enc:aesgcm:v1:new"), "{error}");
        let plain = Encryption::default().seal(&secret, text).unwrap();
        let error = old.open(&secret, &plain).unwrap_err().to_string();
        assert!(error.contains("it is not encrypted"), "{error}");
        assert_eq!(plain_first.open(&secret, &plain).unwrap(), (text[..].into(), false));
        // What no rule names.
        let pod = Key::new("core/pods", "a/b");
        assert_eq!(old.seal(&pod, text).unwrap(), Encryption::default().seal(&pod, text).unwrap());
        let of_apps = encryption(&format!("[{{resources: ['*.apps', 'a.b.c'], providers: [{}]}}]", aes("k")));
        for (resource, sealed) in [("apps/deployments", true), ("core/secrets", false), ("b.c/a", true)] {
            let record = of_apps.seal(&Key::new(resource, "a/b"), text).unwrap();
            assert_eq!(record[0] == 1, sealed, "{resource}");
        }
    }
}
