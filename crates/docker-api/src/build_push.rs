//! Images that builds make for a registry: pushed by the client for registries, as whoever started the build.

use dray_build::BoxFuture;
use dray_buildkit::{Push, Pusher};
use dray_image::Digest;
use dray_registry::{Client, Event, Events, PushRequest, Step};
use tokio::sync::mpsc;

use crate::build_images::login;

/// Events that a push may be ahead of who is told.
const AHEAD: usize = 64;

/// Pushes what builds make.
pub(crate) struct RegistryPushes {
    pub(crate) registries: Client,
}

impl RegistryPushes {
    async fn push_for(&self, push: Push<'_>) -> Result<Digest, String> {
        let credentials = login(push.client, push.name).await?;
        let request = PushRequest { reference: push.name.clone(), platform: None, credentials };
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let pushing = async {
            let events = Events::to(sender);
            match push.manifest {
                Some(manifest) => {
                    let credentials = request.credentials.as_ref();
                    self.registries.push_artifact(push.name, manifest, credentials, &events).await
                }
                None => self.registries.push(&request, &events).await,
            }
        };
        let telling = async {
            while let Some(event) = receiver.recv().await {
                if let Event::Layer { id, step: Step::Pushing(done, total) } = event {
                    (push.progress)(&format!("pushing layer {id}"), done, total);
                }
            }
        };
        let (pushed, ()) = tokio::join!(pushing, telling);
        pushed.map(|pushed| pushed.digest).map_err(|error| error.chain())
    }
}

impl Pusher for RegistryPushes {
    fn push<'a>(&'a self, push: Push<'a>) -> BoxFuture<'a, Result<Digest, String>> {
        Box::pin(self.push_for(push))
    }
}
