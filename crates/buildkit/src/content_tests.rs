//! Layouts over a real session, with a store in memory on the other side.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::grpc::Call;
use crate::session::Sessions;
use crate::session::tests::open;

type Store = Arc<Mutex<HashMap<String, Vec<u8>>>>;

fn put(store: &Store, bytes: &[u8]) -> String {
    let digest = Digest::of(bytes).to_string();
    store.lock().insert(digest.clone(), bytes.to_vec());
    digest
}

async fn answer(store: Store, mut call: Call) -> Result<(), Status> {
    assert_eq!(call.text("buildkit-attachable-store-id"), Some("local:x"));
    if call.method == READ_CONTENT {
        let request: ReadContentRequest = call.request().await?;
        let found = store.lock().get(&request.digest).cloned();
        let bytes = found.ok_or_else(|| Status::new(Code::NotFound, "no such blob"))?;
        for piece in bytes.chunks(7) {
            let data = Bytes::copy_from_slice(piece);
            call.answer(&ReadContentResponse { offset: 0, data }).await?;
        }
        return Ok(());
    }
    let mut written = Vec::new();
    while let Some(request) = call.next::<WriteContentRequest>().await? {
        if store.lock().contains_key(&request.expected) {
            return Err(Status::new(Code::AlreadyExists, "there"));
        }
        written.extend_from_slice(&request.data);
        let offset = i64::try_from(written.len()).unwrap();
        call.answer(&WriteContentResponse { action: request.action, offset }).await?;
        if request.action == WriteAction::Commit as i32 {
            assert_eq!(Digest::of(&written).to_string(), request.expected);
            store.lock().insert(request.expected, written);
            return Ok(());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_comes_and_goes() {
    let store = Store::default();
    let layer = put(&store, &[9; 3000]);
    let config = put(&store, b"{}");
    let manifest = json!({ "config": { "digest": config }, "layers": [{ "digest": layer }] }).to_string();
    let manifest = put(&store, manifest.as_bytes());
    let other = Digest::of(b"for another machine").to_string();
    let index = json!({ "manifests": [{ "digest": manifest }, { "digest": other }] }).to_string();
    let index = put(&store, index.as_bytes());

    let sessions = Sessions::new();
    let shared = Arc::clone(&store);
    let handler = move |call: Call| answer(Arc::clone(&shared), call);
    let (session, _client) = open(&sessions, "s", &[READ_CONTENT, WRITE_CONTENT], handler).await;
    let layout = tempfile::tempdir().unwrap();
    fetch(&session, "local:x", &index, layout.path()).await.unwrap();
    let names = fs::read_dir(layout.path().join("blobs/sha256")).unwrap().count();
    assert_eq!(names, 4);
    let written: Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(written["manifests"][0]["digest"], index);

    store.lock().clear();
    give(&session, "local:x", layout.path(), |_| {}).await.unwrap();
    assert_eq!(store.lock().len(), 4);
    give(&session, "local:x", layout.path(), |_| {}).await.unwrap();

    store.lock().insert(index.clone(), b"something else".to_vec());
    let refused = fetch(&session, "local:x", &index, layout.path()).await.unwrap_err();
    assert!(refused.message.contains("something else"), "{refused}");
    assert!(fetch(&session, "local:x", "sha256:../../x", layout.path()).await.is_err());
    assert!(fetch(&session, "local:x", &Digest::of(b"absent").to_string(), layout.path()).await.is_err());
}
