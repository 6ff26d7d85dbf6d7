//! What a hostile client may send, and what an honest one does, without a wire.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

fn file(path: &str, size: i64) -> Stat {
    Stat { path: path.to_owned(), mode: 0o644, size, modified: 1_600_000_000_123_456_789, ..Stat::default() }
}

fn directory(path: &str) -> Stat {
    Stat { mode: 1 << 31 | 0o755, ..file(path, 0) }
}

fn link(path: &str, target: &str) -> Stat {
    Stat { mode: 1 << 27 | 0o777, link: target.to_owned(), ..file(path, 0) }
}

/// Sends entries, and for each whose content is asked for its path as content.
fn send(top: &Path, entries: &[Stat]) -> Result<Vec<String>, Status> {
    let mut tree = Tree::open(top)?;
    let mut asked = Vec::new();
    for stat in entries {
        if let Some(number) = tree.entry(stat.clone())? {
            asked.push((number, stat.path.clone()));
        }
    }
    tree.told()?;
    for (number, path) in &asked {
        tree.data(*number, path.as_bytes())?;
        tree.data(*number, b"")?;
    }
    assert!(tree.is_complete());
    tree.finish()?;
    Ok(asked.into_iter().map(|(_, path)| path).collect())
}

#[test]
fn only_what_differs_is_asked_for_and_what_is_gone_goes() {
    let top = tempfile::tempdir().unwrap();
    let path = |name: &str| top.path().join(name);
    let hard = Stat { link: "d/x".to_owned(), ..file("hard", 3) };
    let first =
        [file("a", 1), directory("d"), file("d/x", 3), link("d/y", "/etc/passwd"), file("d.e", 3), hard];
    assert_eq!(send(top.path(), &first).unwrap(), ["a", "d/x", "d.e"]);
    assert_eq!(fs::read_to_string(path("d/x")).unwrap(), "d/x");
    assert_eq!(fs::metadata(path("hard")).unwrap().ino(), fs::metadata(path("d/x")).unwrap().ino());
    assert_eq!(fs::read_link(path("d/y")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(path("d")).unwrap().mtime_nsec(), 123_456_789);
    assert_eq!(send(top.path(), &first).unwrap(), [""; 0], "nothing has changed");

    let later = Stat { modified: 1, ..file("d.e", 3) };
    let second = [file("a", 1), directory("d"), file("d/z", 3), later];
    assert_eq!(send(top.path(), &second).unwrap(), ["d/z", "d.e"]);
    assert!(!path("hard").exists() && !path("d/x").exists() && path("d/y").symlink_metadata().is_err());

    // Kinds change, and a directory that is full goes whole.
    let third = [directory("a"), file("a/b", 3), file("d", 1)];
    assert_eq!(send(top.path(), &third).unwrap(), ["a/b", "d"]);
    let mode = Stat { mode: 0o755, ..file("d", 1) };
    assert_eq!(send(top.path(), &[mode]).unwrap(), ["d"]);
    assert_eq!(fs::metadata(path("d")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
    assert_eq!(send(top.path(), &[]).unwrap(), [""; 0]);
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
fn hostile_entries_are_refused_and_touch_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "whole").unwrap();
    let target = outside.path().to_str().unwrap();
    let hard = |target: &str| Stat { link: target.to_owned(), ..file("z", 1) };
    let attacks: Vec<Vec<Stat>> = vec![
        vec![file("../x", 1)],
        vec![file("/x", 1)],
        vec![file("a/../../x", 1)],
        vec![file("", 1)],
        vec![file("missing/x", 1)],
        // Through a link that was sent before.
        vec![link("a", target), file("a/victim", 1)],
        vec![link("a", target), directory("a/made")],
        // The same name twice, once as a link.
        vec![directory("a"), link("a", target), file("a/victim", 1)],
        vec![file("b", 1), file("a", 1)],
        vec![file("a", 1), file("a/x", 1)],
        vec![hard("../victim")],
        vec![hard(&format!("{target}/victim"))],
        vec![hard("zz")],
        vec![link("a", target), hard("a/victim")],
        vec![hard("missing")],
        vec![link("a", "")],
        vec![link("a", &"x".repeat(5000))],
        vec![Stat { uid: u32::MAX, ..directory("a") }],
    ];
    for attack in attacks {
        let top = tempfile::tempdir().unwrap();
        assert!(send(top.path(), &attack).is_err(), "{attack:?}");
        assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "whole", "{attack:?}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{attack:?}");
    }
}

#[test]
fn a_link_that_was_there_before_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "whole").unwrap();
    let top = tempfile::tempdir().unwrap();
    symlink(outside.path(), top.path().join("d")).unwrap();
    symlink(outside.path().join("victim"), top.path().join("f")).unwrap();
    assert_eq!(
        send(top.path(), &[directory("d"), file("d/victim", 8), file("f", 1)]).unwrap(),
        ["d/victim", "f"]
    );
    assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "whole");
    assert!(top.path().join("d").symlink_metadata().unwrap().is_dir());
}

#[test]
fn content_that_nobody_asked_for_is_refused() {
    let top = tempfile::tempdir().unwrap();
    let mut tree = Tree::open(top.path()).unwrap();
    assert!(tree.data(0, b"x").is_err());
    assert_eq!(tree.entry(directory("d")).unwrap(), None);
    assert!(tree.data(0, b"x").is_err());
    assert_eq!(tree.entry(file("e", 1)).unwrap(), Some(1));
    tree.data(1, b"x").unwrap();
    tree.data(1, b"").unwrap();
    assert!(tree.data(1, b"x").is_err());
    tree.told().unwrap();
    assert!(tree.entry(file("f", 1)).is_err());
}

#[test]
fn devices_and_pipes_are_left_out() {
    let top = tempfile::tempdir().unwrap();
    let device = Stat { mode: 1 << 26 | 1 << 21 | 0o666, major: 1, minor: 3, ..file("null", 0) };
    let pipe = Stat { mode: 1 << 25 | 0o666, ..file("pipe", 0) };
    assert_eq!(send(top.path(), &[device, pipe]).unwrap(), [""; 0]);
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_stat() -> impl Strategy<Value = Stat> {
        let name = prop_oneof!["[ab]", "[ab]/[ab]", "[ab]/[ab]/c", "\\.\\./x", ".*"];
        let mode = prop_oneof![Just(0_u32), Just(1 << 31), Just(1 << 27), any::<u32>()];
        (name, mode, prop_oneof![Just(String::new()), Just("../../x".to_owned()), "[ab]"], any::<i64>())
            .prop_map(|(path, mode, link, number)| Stat {
                path,
                mode,
                link,
                size: number,
                modified: number,
                ..Stat::default()
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_that_comes_leaves_the_tree(stats in proptest::collection::vec(any_stat(), 0..12)) {
            let around = tempfile::tempdir().unwrap();
            let top = around.path().join("deep/tree");
            fs::create_dir_all(&top).unwrap();
            let _ = send(&top, &stats);
            prop_assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1);
            prop_assert_eq!(fs::read_dir(around.path().join("deep")).unwrap().count(), 1);
        }
    }
}
