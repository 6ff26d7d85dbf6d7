//! What contexts and archives leave out and unpack: `.dockerignore` of named directories, and every compression.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use dray_build::{BuildRequest, ContextSource, Error, LocalDirectory, NamedContext};
use world::{World, of, run};

#[test]
fn a_named_directory_comes_without_what_it_ignores() {
    run(|| async {
        let world = World::new().await;
        let context = world.files("c", &[("a", "a"), (".dockerignore", "a\n")]);
        let named = [("a", "a"), ("b.md", "b"), ("kept.md", "kept"), ("out/deep/x", "x"), ("in/y", "y")];
        let more = world.files("more", &named);
        fs::write(more.join(".dockerignore"), "*.md\n!kept.md\nout\n").unwrap();
        let request = |dockerfile: &str| BuildRequest {
            named_contexts: BTreeMap::from([(
                "more".to_owned(),
                NamedContext::Directory(LocalDirectory::new(&more, ())),
            )]),
            ..of(&context, dockerfile)
        };
        let built = world.build(request("FROM scratch\nCOPY --from=more . /all/\n")).await.unwrap();
        for (path, is_there) in [
            ("all/a", true),
            ("all/b.md", false),
            ("all/kept.md", true),
            ("all/out", false),
            ("all/in/y", true),
        ] {
            assert_eq!(world.exists(&built, path), is_there, "{path}");
        }
        let left_out = world.build(request("FROM scratch\nCOPY --from=more b.md /\n")).await.unwrap_err();
        assert!(matches!(left_out.inner(), Error::NoSource { .. }), "{left_out:?}");
        assert!(more.join("out/deep/x").exists(), "the caller's own directory stays as it is");
        fs::write(more.join(".dockerignore"), "a[\n").unwrap();
        let wrong = world.build(request("FROM scratch\nCOPY --from=more . /all/\n")).await.unwrap_err();
        assert!(wrong.chain().contains("syntax error in pattern \"a[\""), "{wrong:?}");
        drop(built);
        world.assert_nothing_left();
        world.engine.close().await;
    });
}

/// Compresses a file, which stays, with a program of the host's.
fn compressed(program: &str, file: &Path) -> Vec<u8> {
    let output = Command::new(program).arg("-c").arg(file).output();
    let output = output.unwrap_or_else(|_| panic!("no {program}: install it"));
    assert!(output.status.success());
    output.stdout
}

#[test]
fn archives_of_every_compression_are_unpacked() {
    run(|| async {
        let world = World::new().await;
        let files =
            world.files("files", &[("Dockerfile", "FROM scratch\nCOPY big /\n"), ("inner/f", "inner")]);
        fs::write(files.join("big"), "line of a large file\n".repeat(40_000)).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", &files).unwrap();
        let plain = world.directory.path().join("plain.tar");
        fs::write(&plain, archive.into_inner().unwrap()).unwrap();
        let context = world.files("c", &[("nothing", "")]);
        for program in ["gzip", "bzip2", "xz"] {
            let bytes = compressed(program, &plain);
            fs::write(context.join("archive"), &bytes).unwrap();
            let dockerfile = "FROM scratch\nADD archive /un/\nADD --unpack=false archive /kept\n";
            let built = world.build_in(&context, dockerfile).await.unwrap();
            assert_eq!(world.read(&built, "un/inner/f"), "inner", "{program}");
            assert_eq!(world.read(&built, "un/big").len(), 21 * 40_000, "{program}");
            assert!(world.exists(&built, "kept"), "{program}");

            // As a context, whole and cut short.
            let request = |bytes: Vec<u8>| BuildRequest {
                context: ContextSource::archive(std::io::Cursor::new(bytes)),
                ..BuildRequest::default()
            };
            let built = world.build(request(bytes.clone())).await.unwrap();
            assert_eq!(world.read(&built, "big").len(), 21 * 40_000, "{program}");
            let cut = world.build(request(bytes[..bytes.len() / 2].to_vec())).await.unwrap_err();
            assert!(matches!(cut.inner(), Error::Context { .. }), "{program}: {cut:?}");
            // What only looks compressed is a file like others.
            fs::write(context.join("archive"), &bytes[..6]).unwrap();
            let built = world.build_in(&context, "FROM scratch\nADD archive /file\n").await.unwrap();
            assert!(world.exists(&built, "file"), "{program}");
        }
        world.assert_nothing_left();
        world.engine.close().await;
    });
}
