//! Images of several platforms under one name: taken in, given out, named, removed and collected.
//!
//! Needs root, as unpacking does.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::path::Path;

use common::{layer, store};
use dray_image::{
    Deletion, Digest, Error, Image, ImageConfig, ImageStore, LoadOptions, MemberKind, Platform, Reference,
    User,
};
use dray_testkit::LayoutArchive;
use serde_json::json;
use tar::EntryType;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const NAME: &str = "many:1";

fn host() -> &'static str {
    ImageConfig::host_architecture()
}

/// An index for this machine and two that it is not, with statements about the first.
fn archive() -> Vec<u8> {
    let mut layout = LayoutArchive::new();
    let others = ["s390x", "riscv64"].map(|architecture| layout.image(architecture));
    let own = layout.image(host());
    let statements = layout.statements(&own);
    let [first, second] = others;
    let top = layout.index(&[first, own, second, statements]);
    layout.finish(top, NAME)
}

fn platform(architecture: &str) -> Platform {
    Platform::parse(&format!("linux/{architecture}")).unwrap()
}

fn content(store: &ImageStore, image: &Image) -> String {
    let lower = store.lower_directories(&image.layers).unwrap();
    std::fs::read_to_string(lower[0].join("platform")).unwrap()
}

fn nobody(_: &Digest) -> Vec<User> {
    Vec::new()
}

fn children(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn save(store: &ImageStore, platforms: &[&str]) -> Vec<u8> {
    let platforms: Vec<Platform> = platforms.iter().map(|architecture| platform(architecture)).collect();
    let mut saved = Vec::new();
    store.save(&[NAME.to_owned()], &platforms, &mut saved).unwrap();
    saved
}

#[test]
fn a_name_leads_to_the_image_of_each_platform() {
    let (directory, store) = store();
    let loaded = store.load(archive().as_slice()).unwrap();
    assert_eq!((loaded.len(), loaded[0].others.len()), (1, 2));
    let image = store.resolve(NAME).unwrap();
    assert_eq!((content(&store, &image).as_str(), &image.id), (host(), &loaded[0].id));
    for architecture in ["s390x", "riscv64", host()] {
        let image = store.resolve_for(NAME, Some(&platform(architecture))).unwrap();
        assert_eq!(content(&store, &image), architecture);
    }
    let other = store.resolve_for(NAME, Some(&platform("ppc64le")));
    assert!(matches!(other, Err(Error::OtherPlatform { .. })), "{other:?}");
    let index = store.index_of(&name(NAME)).unwrap();
    let kinds: Vec<MemberKind> = index.members.iter().map(|member| member.kind).collect();
    assert_eq!(kinds, [MemberKind::Image, MemberKind::Image, MemberKind::Image, MemberKind::Statements]);
    assert!(index.members.iter().all(|member| store.is_whole(member)));
    // By the digests of the index and of a manifest too.
    assert_eq!(store.resolve(index.digest.as_str()).unwrap().id, image.id);
    let foreign = store.resolve(index.members[0].digest.as_str()).unwrap();
    assert_eq!(content(&store, &foreign), "s390x");
    assert_eq!(store.inner_images().len(), 2, "what has no name itself is no image of a list");

    // What a sweep leaves and what a start finds is all of it.
    store.sweep().unwrap();
    drop(store);
    let store = ImageStore::open(directory.path().join("image")).unwrap();
    assert_eq!(store.index_of(&name(NAME)).unwrap(), index);
    assert!(index.members.iter().all(|member| store.is_whole(member)));
    assert_eq!(store.inner_images().len(), 2);
}

#[test]
fn names_are_given_and_taken_with_all_platforms() {
    let (directory, store) = store();
    let foreign = {
        store.load(archive().as_slice()).unwrap();
        store.tag_as(NAME, &name("other:2")).unwrap();
        store.resolve_for("other:2", Some(&platform("s390x"))).unwrap()
    };
    let deleted = store.remove(NAME, false, nobody).unwrap();
    assert_eq!(deleted, [Deletion::Untagged(NAME.to_owned())]);
    assert_eq!(store.list().unwrap().len(), 3);

    // Whoever uses the image of one platform keeps the name.
    let user = |id: &Digest| match *id == foreign.id {
        true => vec![User { id: "c".to_owned(), running: false }],
        false => Vec::new(),
    };
    assert!(matches!(store.remove("other:2", false, user), Err(Error::Conflict { .. })));

    // One platform goes alone by its id.
    let deleted = store.remove(foreign.id.as_str(), false, nobody).unwrap();
    assert_eq!(deleted, [Deletion::Deleted(foreign.id.clone())]);
    let gone = store.resolve_for("other:2", Some(&platform("s390x")));
    assert!(matches!(gone, Err(Error::OtherPlatform { .. })));
    store.resolve_for("other:2", Some(&platform("riscv64"))).unwrap();
    // And so does the one that stands for all: another one does then.
    let own = store.resolve("other:2").unwrap();
    let mut deleted = store.remove("other:2", false, nobody).unwrap();
    assert_eq!(deleted.remove(0), Deletion::Untagged("other:2".to_owned()));
    assert_eq!(deleted[0], Deletion::Deleted(own.id));
    assert_eq!(deleted.len(), 2);
    for place in ["layers", "blobs/sha256", "images"] {
        assert_eq!(children(&directory.path().join("image").join(place)), 0, "{place}");
    }
}

#[test]
fn a_name_that_is_given_to_another_image_lets_the_index_go() {
    let (_directory, store) = store();
    store.load(archive().as_slice()).unwrap();
    let foreign = store.resolve_for(NAME, Some(&platform("riscv64"))).unwrap();
    store.tag(&foreign.id, &name(NAME)).unwrap();
    assert!(store.index_of(&name(NAME)).is_none());
    assert_eq!(content(&store, &store.resolve(NAME).unwrap()), "riscv64");
    // The others are images without a name now, as any that lost its name.
    assert!(store.inner_images().is_empty());
    assert_eq!(store.list().unwrap().len(), 3);
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    let (directory, store) = store();
    store.load(archive().as_slice()).unwrap();
    let index = store.index_of(&name(NAME)).unwrap();
    let into = |place: &str, bytes: &[u8]| {
        let other = ImageStore::open(directory.path().join(place)).unwrap();
        let loaded = other.load(bytes).unwrap();
        (other, loaded)
    };
    let (whole, loaded) = into("whole", &save(&store, &[]));
    assert_eq!((loaded[0].references.clone(), loaded[0].others.len()), (vec![name(NAME)], 2));
    assert_eq!(whole.index_of(&name(NAME)).unwrap(), index);

    // Two of three platforms: the index stays what it is, and one image of it is not here.
    let (two, _) = into("two", &save(&store, &[host(), "s390x"]));
    let found = two.index_of(&name(NAME)).unwrap();
    assert_eq!((found.digest.clone(), found.images().count()), (index.digest.clone(), 2));
    assert!(two.resolve_for(NAME, Some(&platform("riscv64"))).is_err());
    let own = found.members.iter().find(|member| member.kind == MemberKind::Statements).unwrap();
    assert!(two.is_whole(own), "what is stated about an image goes with it");

    let (one, _) = into("one", &save(&store, &["s390x"]));
    assert_eq!(content(&one, &one.resolve(NAME).unwrap()), "s390x");
    assert!(one.index_of(&name(NAME)).is_none());
    let mut sink = Vec::new();
    let missing = store.save(&[NAME.to_owned()], &[platform("mips64le")], &mut sink);
    assert!(matches!(missing, Err(Error::OtherPlatform { .. })) && sink.is_empty());
}

#[test]
fn one_platform_of_many_is_loaded_alone() {
    let (directory, store) = store();
    let options = LoadOptions { platforms: vec![platform("s390x")], ..LoadOptions::default() };
    store.load_with(archive().as_slice(), &options).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(content(&store, &store.resolve(NAME).unwrap()), "s390x");
    let blobs = children(&directory.path().join("image/blobs/sha256"));
    assert_eq!(blobs, 4, "an index, a manifest, a configuration and a layer");
    // What comes later joins it, and stands for all from then on.
    store.load(archive().as_slice()).unwrap();
    assert_eq!(content(&store, &store.resolve(NAME).unwrap()), host());
    assert_eq!(store.list().unwrap().len(), 3);
    let none = LoadOptions { platforms: vec![platform("mips64le")], ..LoadOptions::default() };
    assert!(matches!(store.load_with(archive().as_slice(), &none), Err(Error::OtherPlatform { .. })));
    let options = LoadOptions { nameless: true, ..LoadOptions::default() };
    let (_directory, other) = common::store();
    other.load_with(archive().as_slice(), &options).unwrap();
    assert!(other.resolve(NAME).is_err() && other.list().unwrap().len() == 3);
}

#[test]
fn indexes_that_mean_harm_are_refused() {
    let (directory, store) = store();
    let nested = {
        let mut layout = LayoutArchive::new();
        let mut top = layout.image(host());
        for _ in 0..6 {
            top = layout.index(&[top]);
        }
        layout.finish(top, NAME)
    };
    let both = {
        let mut layout = LayoutArchive::new();
        let image = layout.image(host());
        let manifest = json!({ "schemaVersion": 2, "manifests": [image], "config": image, "layers": [] });
        let top = layout.document(INDEX, &manifest);
        layout.finish(top, NAME)
    };
    for bytes in [nested, both] {
        let result = store.load(bytes.as_slice());
        assert!(matches!(result, Err(Error::InvalidArchive { .. })), "{result:?}");
        assert!(store.list().unwrap().is_empty());
        assert_eq!(children(&directory.path().join("image/blobs/sha256")), 0);
    }
    // Statements about nothing, and an index of which nothing is here.
    let mut layout = LayoutArchive::new();
    let absent = json!({ "mediaType": MANIFEST, "digest": Digest::of(b"absent").as_str(), "size": 6 });
    let statements = layout.statements(&absent);
    let top = layout.index(&[absent, statements]);
    assert!(store.load(layout.finish(top, NAME).as_slice()).unwrap().is_empty());
    assert!(store.resolve(NAME).is_err());
}

#[test]
fn another_version_may_have_given_the_name_away() {
    let (directory, store) = store();
    store.load(archive().as_slice()).unwrap();
    let own = layer(&[(EntryType::Regular, "platform", "", b"plain")]);
    let id = {
        let lease = store.import_layer(own.as_slice(), "test").unwrap();
        let config = ImageConfig { os: "linux".to_owned(), ..ImageConfig::default() };
        store.create(dray_image::NewImage { config, layers: vec![lease] }).unwrap().id
    };
    drop(store);
    let root = directory.path().join("image");
    let names = json!({ format!("docker.io/library/{NAME}"): id.as_str() });
    std::fs::write(root.join("references.json"), names.to_string()).unwrap();
    let store = ImageStore::open(&root).unwrap();
    assert!(store.index_of(&name(NAME)).is_none());
    assert_eq!(store.resolve(NAME).unwrap().id, id);
}
