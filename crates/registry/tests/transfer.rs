//! Stores, clients and registries of ours among each other.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::net::SocketAddr;

use common::{Liar, Sample, client, pull, registry, request, store};
use dray_image::{ImageStore, Reference};
use dray_registry::server::Options;
use dray_registry::{Credentials, Error, Event, Events, PullRequest, PushRequest, Step};

/// `user` with the password `secret`, as `htpasswd -B` writes it.
const USERS: &str = "user:$2y$05$dEN46vIb.yJvmYpjobM4a.jTwjMkkxEPHz5rV2d7wbi5HPaIENVVC\n";

fn named(address: SocketAddr, name: &str) -> Reference {
    Reference::parse(&format!("{address}/{name}")).unwrap()
}

fn user(password: &str) -> Option<Credentials> {
    let (username, password) = ("user".to_owned(), password.to_owned());
    Some(Credentials { username, password, ..Credentials::default() })
}

/// A store with an image that came from a registry, and its id.
async fn with_image() -> (tempfile::TempDir, std::sync::Arc<ImageStore>, dray_image::Digest) {
    let sample = Sample::new(100_000);
    let liar = Liar::start(move |asked| sample.answer(asked));
    let (directory, store) = store();
    let id = pull(&store, &liar).await.unwrap().image.id;
    (directory, store, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_comes_back_under_the_same_digest() {
    let (_first, source, id) = with_image().await;
    let (_second, shelf) = store();
    let address = registry(&shelf, &Options::default()).await;
    let name = named(address, "a/b:1");
    source.tag(&id, &name).unwrap();
    let push = PushRequest { reference: name.clone(), platform: None, credentials: None };
    let pushed = client(&source).push(&push, &Events::ignored()).await.unwrap();

    let (_third, target) = store();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(256);
    let pulled = client(&target).pull(&request(name.clone()), &Events::to(sender)).await.unwrap();
    assert_eq!((pulled.image.id.clone(), pulled.digest.clone()), (id.clone(), pushed.digest.clone()));
    assert!(pulled.is_new);
    let mut steps = Vec::new();
    while let Some(event) = receiver.recv().await {
        if let Event::Layer { step, .. } = event {
            steps.push(step);
        }
    }
    assert_eq!((steps.first(), steps.last()), (Some(&Step::Needed), Some(&Step::Pulled)), "{steps:?}");
    // Asked for again it is there already, and nothing but the digest is asked.
    assert!(!client(&target).pull(&request(name.clone()), &Events::ignored()).await.unwrap().is_new);

    let again = PushRequest { reference: name, platform: None, credentials: None };
    target.tag(&id, &again.reference).unwrap();
    assert_eq!(client(&target).push(&again, &Events::ignored()).await.unwrap(), pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_tokens_are_asked_for() {
    let (directory, source, id) = with_image().await;
    let users = directory.path().join("users");
    std::fs::write(&users, USERS).unwrap();
    for tokens in [false, true] {
        let (_shelf, shelf) = store();
        let options =
            Options { htpasswd: Some(users.clone()), tokens, anonymous_pull: tokens, ..Options::default() };
        let address = registry(&shelf, &options).await;
        let name = named(address, "locked:1");
        source.tag(&id, &name).unwrap();
        let push = |credentials| PushRequest { reference: name.clone(), platform: None, credentials };
        for nobody in [None, user("wrong")] {
            let refused = client(&source).push(&push(nobody), &Events::ignored()).await;
            assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{tokens} {refused:?}");
        }
        client(&source).push(&push(user("secret")), &Events::ignored()).await.unwrap();
        let (_target, target) = store();
        let pull = PullRequest { credentials: user("secret").filter(|_| !tokens), ..request(name.clone()) };
        client(&target).pull(&pull, &Events::ignored()).await.unwrap();
        let login = |password: &str| {
            let credentials = user(password).unwrap();
            let client = client(&target);
            async move { client.login(&address.to_string(), credentials).await }
        };
        login("secret").await.unwrap();
        assert!(matches!(login("wrong").await, Err(Error::Unauthorized { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gives_what_the_other_has_and_what_it_kept() {
    let sample = Sample::new(100_000);
    let liar = Liar::start({
        let gone = std::sync::atomic::AtomicBool::new(false);
        move |asked| {
            if asked.path == "/gone" {
                gone.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            match gone.load(std::sync::atomic::Ordering::SeqCst) {
                true => common::Reply::status(500),
                false => sample.answer(asked),
            }
        }
    });
    let (_shelf, shelf) = store();
    let options = Options { mirror: Some(format!("http://{}", liar.address)), ..Options::default() };
    let address = registry(&shelf, &options).await;
    let pull = || async {
        let (_directory, store) = store();
        client(&store).pull(&request(named(address, "sample:1")), &Events::ignored()).await
    };
    pull().await.unwrap();
    // From now on the other registry is of no use.
    let mut stream = std::net::TcpStream::connect(liar.address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /gone HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    pull().await.unwrap();
    let (_source, source, id) = with_image().await;
    source.tag(&id, &named(address, "new:1")).unwrap();
    let push = PushRequest { reference: named(address, "new:1"), platform: None, credentials: None };
    assert!(client(&source).push(&push, &Events::ignored()).await.is_err(), "a mirror takes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_names_is_swept_and_what_is_linked_stays() {
    let (_first, source, id) = with_image().await;
    let (_second, shelf) = store();
    let address = registry(&shelf, &Options::default()).await;
    let name = named(address, "kept:1");
    source.tag(&id, &name).unwrap();
    let push = PushRequest { reference: name.clone(), platform: None, credentials: None };
    let pushed = client(&source).push(&push, &Events::ignored()).await.unwrap();
    shelf.sweep().unwrap();
    let (_third, target) = store();
    client(&target).pull(&request(name), &Events::ignored()).await.unwrap();
    let digest = dray_image::BlobDigest::Sha256(pushed.digest);
    assert!(shelf.repository("kept").unwrap().remove_manifest(&digest).unwrap());
    let (links, freed) = shelf.collect_repositories(std::time::Duration::ZERO).unwrap();
    assert!(links == 2 && freed > 100_000, "{links} {freed}");
    assert_eq!(shelf.usage().unwrap().blobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_platform_is_told() {
    let (_first, source, id) = with_image().await;
    let (_second, shelf) = store();
    let address = registry(&shelf, &Options::default()).await;
    let name = named(address, "here:1");
    source.tag(&id, &name).unwrap();
    client(&source)
        .push(&PushRequest { reference: name.clone(), platform: None, credentials: None }, &Events::ignored())
        .await
        .unwrap();
    let (_third, target) = store();
    let platform = Some(dray_registry::Platform::parse("linux/s390x").unwrap());
    let request = PullRequest { platform, ..request(name) };
    let refused = client(&target).pull(&request, &Events::ignored()).await;
    assert!(matches!(refused, Err(Error::OtherPlatform { .. })), "{refused:?}");
}

/// A store with an index for this machine and another, with statements about the first, under the name `many:1`.
fn with_index() -> (tempfile::TempDir, std::sync::Arc<ImageStore>) {
    let (directory, store) = store();
    let mut layout = dray_testkit::LayoutArchive::new();
    let own = layout.image(dray_image::ImageConfig::host_architecture());
    let other = layout.image("s390x");
    let statements = layout.statements(&own);
    let top = layout.index(&[own, other, statements]);
    store.load(layout.finish(top, "many:1").as_slice()).unwrap();
    (directory, store)
}

fn push_of(name: &Reference, platform: Option<&str>) -> PushRequest {
    let platform = platform.map(|text| dray_registry::Platform::parse(text).unwrap());
    PushRequest { reference: name.clone(), platform, credentials: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_and_comes_with_its_platforms() {
    let (_first, source) = with_index();
    let (_second, shelf) = store();
    let address = registry(&shelf, &Options::default()).await;
    let name = named(address, "team/many:1");
    source.tag_as("many:1", &name).unwrap();
    let index = source.index_of(&name).unwrap();
    let pushed = client(&source).push(&push_of(&name, None), &Events::ignored()).await.unwrap();
    assert_eq!((&pushed.digest, pushed.size, pushed.instead_of), (&index.digest, index.size, None));
    assert_eq!(source.index_of(&name.at_digest(index.digest.clone())).unwrap(), index);

    // One platform first, then the other joins it, and the name leads to this machine's.
    let (_third, target) = store();
    let foreign = PullRequest {
        platform: Some(dray_registry::Platform::parse("linux/s390x").unwrap()),
        ..request(name.clone())
    };
    let pulled = client(&target).pull(&foreign, &Events::ignored()).await.unwrap();
    assert_eq!((pulled.image.config.architecture.as_str(), &pulled.digest), ("s390x", &index.digest));
    assert_eq!(target.resolve(&name.to_string()).unwrap().id, pulled.image.id);
    assert!(!client(&target).pull(&foreign, &Events::ignored()).await.unwrap().is_new);
    let own = client(&target).pull(&request(name.clone()), &Events::ignored()).await.unwrap();
    assert!(own.is_new);
    assert_eq!(target.resolve(&name.to_string()).unwrap().id, own.image.id);
    assert_eq!(target.resolve_for(&name.to_string(), foreign.platform.as_ref()).unwrap().id, pulled.image.id);
    assert!(!client(&target).pull(&request(name.clone()), &Events::ignored()).await.unwrap().is_new);
    assert_eq!(target.index_of(&name).unwrap().images().count(), 2);

    // Without the statements it is not whole, so it does not go on as the index that it is not.
    let refused = client(&target).push(&push_of(&name, None), &Events::ignored()).await;
    assert!(matches!(refused, Err(Error::Incomplete { .. })), "{refused:?}");
    let elsewhere = named(address, "team/one:1");
    target.tag_as(&name.to_string(), &elsewhere).unwrap();
    let alone =
        client(&target).push(&push_of(&elsewhere, Some("linux/s390x")), &Events::ignored()).await.unwrap();
    assert_eq!(alone.digest, index.members[1].digest, "a manifest goes as it came");
    let absent = client(&target).push(&push_of(&elsewhere, Some("linux/mips64le")), &Events::ignored()).await;
    assert!(matches!(absent, Err(Error::Store(dray_image::Error::OtherPlatform { .. }))), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_with_one_image_here_that_one_is_pushed() {
    let (_first, source) = with_index();
    let (_second, shelf) = store();
    let address = registry(&shelf, &Options::default()).await;
    let name = named(address, "many:1");
    source.tag_as("many:1", &name).unwrap();
    client(&source).push(&push_of(&name, None), &Events::ignored()).await.unwrap();
    let (_third, target) = store();
    client(&target).pull(&request(name.clone()), &Events::ignored()).await.unwrap();
    let copy = named(address, "copy:1");
    target.tag_as(&name.to_string(), &copy).unwrap();
    let pushed = client(&target).push(&push_of(&copy, None), &Events::ignored()).await.unwrap();
    let index = target.index_of(&copy).unwrap();
    assert_eq!(pushed.digest, index.members[0].digest);
    assert_eq!(pushed.instead_of.unwrap().digest, index.digest);
}
