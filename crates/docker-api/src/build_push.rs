//! Images that builds make for a registry: pushed by the client for registries, as whoever started the build.

use dray_build::BoxFuture;
use dray_buildkit::{Push, Pusher};
use dray_image::Digest;
use dray_registry::{Client, Credentials, Event, Events, PushRequest, Step};
use tokio::sync::mpsc;

/// Events that a push may be ahead of who is told.
const AHEAD: usize = 64;
/// The user name by which clients say that the password is a token.
const TOKEN: &str = "<token>";

/// Pushes what builds make.
pub(crate) struct RegistryPushes {
    pub(crate) registries: Client,
}

impl RegistryPushes {
    async fn push_for(&self, push: Push<'_>) -> Result<Digest, String> {
        let login = push.client.credentials(push.name.registry()).await;
        let credentials =
            login.map_err(|error| error.to_string())?.map(|login| match login.username.as_str() {
                TOKEN => Credentials { identity_token: login.password, ..Credentials::default() },
                _ => Credentials {
                    username: login.username,
                    password: login.password,
                    ..Credentials::default()
                },
            });
        let request = PushRequest { reference: push.name.clone(), platform: None, credentials };
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let pushing = async {
            let events = Events::to(sender);
            self.registries.push(&request, &events).await
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
