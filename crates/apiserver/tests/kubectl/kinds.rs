//! One object of every kind that is stored: made, shown, changed and deleted.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::cluster;

const OBJECTS: &str = include_str!("kinds.yaml");

/// An object, and the lines of the table that shows it.
struct Walk {
    text: String,
    kind: &'static dray_machinery::Kind,
    name: String,
    shown: Vec<String>,
}

fn walks() -> Vec<Walk> {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let objects = OBJECTS.replace("OF_A_NEW_KEY", &STANDARD.encode(request));
    objects.split("---\n").skip(1).map(walk).collect()
}

fn walk(text: &str) -> Walk {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let version = value("apiVersion: ");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = dray_machinery::kinds::find_version(group, version, value("kind: ")).unwrap();
    let name = value("metadata: {name: ").split([',', '}']).next().unwrap();
    let shown = text.lines().filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect();
    Walk { text: text.to_owned(), kind, name: name.to_owned(), shown }
}

/// The lines of a table, with bars between cells.
fn lines(table: &str) -> Vec<String> {
    let heading = table.lines().next().unwrap_or_default().as_bytes();
    let begins = |at: &usize| heading[*at] != b' ' && heading[..*at].ends_with(b"  ");
    let starts: Vec<usize> = (0..heading.len()).filter(begins).collect();
    let ends = starts.iter().copied().chain([usize::MAX]);
    let columns: Vec<(usize, usize)> = [0].into_iter().chain(starts.iter().copied()).zip(ends).collect();
    let line = |line: &str| {
        let cell = |(start, end): &(usize, usize)| {
            let rest = line.get(*start..).unwrap_or_default();
            lasting(rest.get(..end - start).unwrap_or(rest).trim())
        };
        columns.iter().map(cell).collect::<Vec<_>>().join(" | ")
    };
    table.lines().map(|text| line(text).trim_end().to_owned()).collect()
}

/// A cell without what is another in each run.
fn lasting(cell: &str) -> String {
    let is_age = cell.starts_with(|letter: char| letter.is_ascii_digit())
        && cell.ends_with(['y', 'd', 's'])
        && cell.chars().all(|letter| letter.is_ascii_digit() || "ydhms".contains(letter));
    match cell.rsplit_once('=') {
        Some((label, uid)) if uid.parse::<uuid::Uuid>().is_ok() => format!("{label}=UID"),
        _ if is_age => "AGE".to_owned(),
        _ if cell.parse::<jiff::Timestamp>().is_ok() => "TIME".to_owned(),
        _ => cell.to_owned(),
    }
}

#[test]
fn every_kind_is_made_shown_changed_and_deleted() {
    let cluster = cluster();
    let walks = walks();
    for kind in dray_machinery::kinds::all().iter().filter(|kind| !kind.question && !kind.read_only) {
        assert!(walks.iter().any(|walk| std::ptr::eq(walk.kind, kind)), "no object of {}", kind.kind);
    }
    let all: String = walks.iter().map(|walk| format!("---\n{}", walk.text)).collect();
    let name = |walk: &Walk| {
        let group = if walk.kind.group.is_empty() { String::new() } else { format!(".{}", walk.kind.group) };
        format!("{}{group}/{}", walk.kind.singular, walk.name)
    };
    let names = |verb: &str| walks.iter().map(|walk| format!("{}{verb}\n", name(walk))).collect::<String>();
    assert_eq!(cluster.ok(&["create", "-f", "-"], &all), names(" created"));

    let mut wrong = String::new();
    for walk in &walks {
        let resource = format!("{}.{}.{}", walk.kind.plural, walk.kind.version, walk.kind.group);
        let table = cluster.ok(&["get", &resource, &walk.name, "-o", "wide"], "");
        let shown = lines(&table);
        if shown != walk.shown {
            wrong += &format!("{}\n# {}\n", name(walk), shown.join("\n# "));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");

    let patch = r#"{"metadata": {"labels": {"walked": "far"}}}"#;
    assert_eq!(cluster.ok(&["patch", "-f", "-", "--type=merge", "-p", patch], &all), names(" patched"));
    let labels = "jsonpath={range .items[*]}{.metadata.labels.walked}{end}";
    assert_eq!(cluster.ok(&["get", "-f", "-", "-o", labels], &all), "far".repeat(walks.len()));

    // A namespace goes when what is in it has gone, and volumes when nobody uses them, which controllers see to.
    let deleted = cluster.ok(&["delete", "-f", "-", "--wait=false", "--now"], &all);
    assert_eq!(deleted.matches(" deleted").count(), walks.len(), "{deleted}");
    let left = cluster.ok(&["get", "-f", "-", "--ignore-not-found", "-o", "name"], &all);
    assert_eq!(left, "namespace/walk\npersistentvolumeclaim/walk\npersistentvolume/walk\n");
}

#[test]
fn components_are_asked_for_and_requests_are_approved() {
    let cluster = cluster();
    let request = walks().into_iter().find(|walk| walk.kind.kind == "CertificateSigningRequest").unwrap();
    cluster.ok(&["create", "-f", "-"], &request.text);
    cluster.ok(&["certificate", "approve", "walk"], "");
    assert!(cluster.ok(&["get", "csr", "walk"], "").contains("Approved"));
    let denied = cluster.refused(&["certificate", "deny", "walk"], "");
    assert!(denied.contains("certificate signing request"), "{denied}");
    assert_eq!(cluster.ok(&["get", "componentstatuses"], ""), "");
    let question = "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {token: x}\n";
    let answer = cluster.ok(&["create", "-f", "-", "-o", "jsonpath={.status}"], question);
    assert!(!answer.contains("\"authenticated\":true"), "{answer}");
}
