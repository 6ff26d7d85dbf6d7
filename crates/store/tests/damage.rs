//! Files of the embedded store that were torn, cut or changed: it opens with everything that was acknowledged, or it says
//! what is damaged. It never opens with anything else.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use common::{PODS, draft, key, scratch, text};
use dray_store::{Error, Limits, Store};

/// The files of a store, without the zeros at their ends.
type Image = BTreeMap<PathBuf, (Vec<u8>, u64)>;

fn limits() -> Limits {
    Limits { log_bytes: 20_000, ..Limits::default() }
}

/// A closed store with a picture and a log, and what it holds.
fn stored(directory: &Path) -> BTreeMap<String, (u64, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Store::open(directory, limits()).unwrap();
    runtime.block_on(async {
        for number in 0..12 {
            store.create(key(&format!("a/{number}")), draft(&"x".repeat(2000))).await.unwrap();
        }
    });
    store.close();
    let store = Store::open(directory, limits()).unwrap();
    runtime.block_on(async {
        for number in 0..12 {
            let name = format!("a/{number}");
            let revision = store.get(&key(&name)).unwrap().revision();
            store.update(key(&name), draft(&"y".repeat(number * 50)), revision).await.unwrap();
            store.create(key(&format!("b/{number}")), draft("z")).await.unwrap();
        }
        for number in 0..4 {
            store.delete(key(&format!("b/{number}")), None, None).await.unwrap();
        }
    });
    let values = values(&store);
    store.close();
    let kinds = |extension| {
        image(directory).keys().any(|path| path.extension().is_some_and(|found| found == extension))
    };
    assert!(kinds("log") && kinds("picture"));
    values
}

fn values(store: &Store) -> BTreeMap<String, (u64, String)> {
    let snapshot = store.snapshot();
    let values = snapshot.range(PODS, "", None);
    values.map(|(name, entry)| (name.to_string(), (entry.revision(), text(entry)))).collect()
}

fn image(root: &Path) -> Image {
    let mut image = Image::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for file in fs::read_dir(directory).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let mut content = fs::read(&path).unwrap();
            let length = content.len() as u64;
            content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            image.insert(path.strip_prefix(root).unwrap().to_path_buf(), (content, length));
        }
    }
    image
}

fn write(image: &Image, root: &Path) {
    for (path, (content, length)) in image {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(*length).unwrap();
    }
}

/// Opens what a change made of a store: twice, because the first time may mend or tear.
fn check(image: &Image, expected: &BTreeMap<String, (u64, String)>, what: &str) -> bool {
    let directory = scratch();
    write(image, directory.path());
    let mut opened = true;
    for _ in 0..2 {
        match Store::open(directory.path(), limits()) {
            Ok(store) => {
                assert!(values(&store) == *expected, "{what}: the store opens with other values");
                store.close();
            }
            Err(error) => {
                let place = directory.path().display().to_string();
                assert!(error.to_string().contains(&place), "{what}: {error} does not say where");
                opened = false;
            }
        }
    }
    opened
}

/// Positions in a file: all its ends, and some between.
fn positions(length: usize) -> Vec<usize> {
    let step = (length / 24).max(1);
    let mut positions: Vec<_> = (0..length.min(24)).chain((0..length).step_by(step)).collect();
    positions.extend(length.saturating_sub(24)..length);
    positions.sort_unstable();
    positions.dedup();
    positions
}

#[test]
fn a_flipped_bit_is_found_or_does_not_matter() {
    let directory = scratch();
    let expected = stored(directory.path());
    let image = image(directory.path());
    let (mut cases, mut found) = (0, 0);
    for (path, (content, _)) in &image {
        for position in positions(content.len()) {
            let mut changed = image.clone();
            changed.get_mut(path).unwrap().0[position] ^= 1 << (position % 8);
            let what = format!("{}, byte {position}", path.display());
            found += u32::from(!check(&changed, &expected, &what));
            cases += 1;
        }
    }
    assert!(cases > 150 && found * 10 > cases * 8, "{found} of {cases} flipped bits were found");
}

#[test]
fn a_cut_file_is_found_or_does_not_matter() {
    let directory = scratch();
    let expected = stored(directory.path());
    let image = image(directory.path());
    let mut found = 0;
    for (path, (content, _)) in &image {
        for length in positions(content.len()).into_iter().step_by(4) {
            let mut changed = image.clone();
            changed.insert(path.clone(), (content[..length].to_vec(), length as u64));
            let what = format!("{}, cut to {length} bytes", path.display());
            found += u32::from(!check(&changed, &expected, &what));
        }
        let mut changed = image.clone();
        changed.remove(path);
        found += u32::from(!check(&changed, &expected, &format!("{} is gone", path.display())));
    }
    assert!(found > 15, "{found} cuts were found");
}

/// What a crash in the middle of a commit leaves behind the last acknowledged batch is no damage.
#[test]
fn a_torn_end_of_the_journal_is_cut_off() {
    let directory = scratch();
    let expected = stored(directory.path());
    let whole = image(directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Store::open(directory.path(), limits()).unwrap();
    runtime.block_on(store.create(key("a/new"), draft("new"))).unwrap();
    store.close();
    let later = image(directory.path());
    let journal =
        later.keys().find(|path| path.extension().is_some_and(|extension| extension == "log")).unwrap();
    let with_its_end = |image: &Image| {
        let (mut content, length) = image[journal].clone();
        content.resize(usize::try_from(length).unwrap(), 0);
        content
    };
    let (before, after) = (with_its_end(&whole), with_its_end(&later));
    assert!(after.starts_with(&before), "the journal is written behind its end");
    for (length, zeros) in (before.len()..after.len()).flat_map(|length| [(length, 0), (length, 4096)]) {
        let mut torn = whole.clone();
        torn.insert(journal.clone(), (after[..length].to_vec(), zeros + length as u64));
        assert!(
            check(&torn, &expected, &format!("torn at {length}")),
            "torn at {length} is taken for damage"
        );
    }
    // The same journal, and the batch was acknowledged.
    let mut lost = later.clone();
    lost.insert(journal.clone(), whole[journal].clone());
    let directory = scratch();
    write(&lost, directory.path());
    let error = Store::open(directory.path(), limits()).err().unwrap();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("dray restore"), "{error}");
}
