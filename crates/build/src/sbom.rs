//! What is in an image, as an SPDX 2.3 document: the packages that the databases of dpkg and apk, and Python's and
//! Node's own records, tell of.
//!
//! All of these files come from the image, so they are bounded, and only text is taken out of them.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use dray_engine::{Engine, Root};
use dray_image::Layer;
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::{Value, json};

use crate::{Result, tree};

/// Largest database that is read, in bytes.
const LONGEST: u64 = 64 << 20;
/// Largest record of one package, in bytes.
const LONGEST_RECORD: u64 = 1 << 20;
/// Most packages of one image.
const MOST: usize = 50_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    /// The kind in package addresses: `deb`, `apk`, `pypi`, `npm`.
    kind: &'static str,
    name: String,
    version: String,
    license: String,
    architecture: String,
}

/// The document for an image of these layers.
pub(crate) fn document(engine: &Engine, layers: &[Layer], name: &str, created: &str) -> Result<Value> {
    let packages = if layers.is_empty() { Vec::new() } else { packages(&engine.open_layers(layers)?) };
    let listed: Vec<Value> = packages
        .iter()
        .enumerate()
        .map(|(index, package)| {
            let mut address = format!("pkg:{}/{}@{}", package.kind, package.name, package.version);
            if !package.architecture.is_empty() {
                address.push_str(&format!("?arch={}", package.architecture));
            }
            let license = if package.license.is_empty() { "NOASSERTION" } else { package.license.as_str() };
            json!({
                "SPDXID": format!("SPDXRef-Package-{index}"),
                "name": package.name,
                "versionInfo": package.version,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": false,
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": "NOASSERTION",
                "licenseComments": license,
                "copyrightText": "NOASSERTION",
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": address,
                }],
            })
        })
        .collect();
    let relations: Vec<Value> = (0..packages.len())
        .map(|index| {
            json!({
                "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                "relatedSpdxElement": format!("SPDXRef-Package-{index}"),
            })
        })
        .collect();
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("https://dray.dev/spdx/{name}"),
        "creationInfo": { "created": created, "creators": [concat!("Tool: dray-", env!("CARGO_PKG_VERSION"))] },
        "packages": listed,
        "relationships": relations,
    }))
}

fn packages(root: &Root) -> Vec<Package> {
    let mut found = Vec::new();
    let text = |path: &Path| {
        let bytes = root.read(path, LONGEST).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    if let Some(status) = text(Path::new("var/lib/dpkg/status")) {
        found.extend(of_dpkg(&status));
    }
    // Images without a package manager have a file a package.
    for path in files_in(root, Path::new("var/lib/dpkg/status.d")) {
        if let Some(status) = text(&path) {
            found.extend(of_dpkg(&status));
        }
    }
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        if let Some(installed) = text(Path::new(path)) {
            found.extend(of_apk(&installed));
        }
    }
    for top in [
        "usr/lib",
        "usr/local/lib",
        "usr/lib/node_modules",
        "usr/local/lib/node_modules",
        "app",
        "srv",
        "opt",
    ] {
        walk(root, Path::new(top), 0, &mut found);
    }
    found.sort();
    found.dedup();
    found.truncate(MOST);
    found
}

fn files_in(root: &Root, path: &Path) -> Vec<PathBuf> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let Ok(directory) = root.open_at(path, flags, Mode::empty()) else { return Vec::new() };
    let names = tree::names(directory.as_fd(), path).unwrap_or_default();
    names.into_iter().take(MOST).map(|name| path.join(name)).collect()
}

/// Records of Python's and Node's packages below a directory. Links are not followed.
fn walk(root: &Root, path: &Path, depth: usize, found: &mut Vec<Package>) {
    /// Deeper packages are not found.
    const DEEPEST: usize = 8;
    if depth > DEEPEST || found.len() > MOST {
        return;
    }
    for inner in files_in(root, path) {
        let Ok(stat) = root.lstat(&inner) else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            continue;
        }
        let name = inner.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let read = |file: &str| {
            let bytes = root.read(inner.join(file), LONGEST_RECORD).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        if name.ends_with(".dist-info") || name.ends_with(".egg-info") {
            let record = read("METADATA").or_else(|| read("PKG-INFO"));
            found.extend(record.and_then(|text| of_python(&text)));
            continue;
        }
        let in_modules = path.file_name().is_some_and(|name| name == "node_modules")
            || path.parent().and_then(Path::file_name).is_some_and(|name| name == "node_modules");
        if in_modules {
            found.extend(read("package.json").and_then(|text| of_node(&text)));
        }
        walk(root, &inner, depth + 1, found);
    }
}

fn of_dpkg(status: &str) -> Vec<Package> {
    let paragraphs = status.split("\n\n").filter_map(|paragraph| {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let is_installed = field("Status").is_none_or(|status| status.ends_with(" installed"));
        let package = Package {
            kind: "deb",
            name: field("Package")?,
            version: field("Version")?,
            license: String::new(),
            architecture: field("Architecture").unwrap_or_default(),
        };
        is_installed.then_some(package)
    });
    paragraphs.take(MOST).collect()
}

fn of_apk(installed: &str) -> Vec<Package> {
    let paragraphs = installed.split("\n\n").filter_map(|paragraph| {
        let field =
            |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        Some(Package {
            kind: "apk",
            name: field("P:")?,
            version: field("V:")?,
            license: field("L:").unwrap_or_default(),
            architecture: field("A:").unwrap_or_default(),
        })
    });
    paragraphs.take(MOST).collect()
}

fn of_python(record: &str) -> Option<Package> {
    let field = |name: &str| {
        record.lines().take(200).find_map(|line| line.strip_prefix(name).map(|v| v.trim().to_owned()))
    };
    Some(Package {
        kind: "pypi",
        name: field("Name:")?.to_lowercase().replace('_', "-"),
        version: field("Version:")?,
        license: field("License:").unwrap_or_default(),
        architecture: String::new(),
    })
}

fn of_node(record: &str) -> Option<Package> {
    let value: Value = serde_json::from_str(record).ok()?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Some(Package {
        kind: "npm",
        name: text("name")?.replace('@', "%40"),
        version: text("version")?,
        license: text("license").unwrap_or_default(),
        architecture: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_tell_of_packages() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 2\n\nnothing\n";
        let found = of_dpkg(status);
        assert_eq!((found.len(), found[0].name.as_str(), found[0].architecture.as_str()), (1, "a", "amd64"));
        let found = of_apk("P:musl\nV:1.2\nA:x86_64\nL:MIT\n\nC:x\n");
        assert_eq!((found.len(), found[0].license.as_str()), (1, "MIT"));
        assert_eq!(of_python("Name: My_Package\nVersion: 3\n").unwrap().name, "my-package");
        assert_eq!(of_node("{\"name\":\"@a/b\",\"version\":\"1\"}").unwrap().name, "%40a/b");
        assert_eq!((of_node("{"), of_python("")), (None, None));
    }
}
