//! Images made of containers and of archives: `docker commit` and `docker import`.

use std::io::Read;
use std::sync::Arc;

use dray_image::{ContainerDefaults, History, Image, ImageConfig, ImageStore, Layer, NewImage, Reference};

use crate::container::ContainerHandle;
use crate::failpoint::failpoint;
use crate::record::ContainerRecord;
use crate::{Engine, Error, Id, Result};

/// How an image is to be described that is made of a container or an archive.
#[derive(Clone, Debug, Default)]
pub struct CommitSpec {
    /// Whether the container stands still meanwhile.
    pub pause: bool,
    /// How containers of the image start.
    pub config: ContainerDefaults,
    /// Who made it.
    pub author: Option<String>,
    /// A remark for the history.
    pub comment: Option<String>,
    /// Its name; without one it has only its id.
    pub reference: Option<Reference>,
}

impl Engine {
    /// How containers of an image start that is made of this one, unless the caller wants it otherwise: as this one
    /// does.
    #[must_use]
    pub fn commit_defaults(&self, record: &ContainerRecord) -> ContainerDefaults {
        let image = self.inner.images.resolve(record.image.as_str()).ok();
        let mut config = image.map(|image| image.config.config).unwrap_or_default();
        let spec = &record.spec;
        // Triggers are for builds from the image itself.
        config.other.remove("OnBuild");
        config.user.clone_from(&record.user);
        config.env.clone_from(&record.env);
        if record.working_dir != "/" || !config.working_dir.is_empty() {
            config.working_dir.clone_from(&record.working_dir);
        }
        if let Some(entrypoint) = &spec.entrypoint {
            config.entrypoint = Some(entrypoint.clone()).filter(|words| words.iter().any(|w| !w.is_empty()));
            config.cmd = None;
        }
        if let Some(cmd) = spec.cmd.as_ref().filter(|cmd| !cmd.is_empty()) {
            config.cmd = Some(cmd.clone());
        }
        config.labels.extend(spec.labels.clone());
        config.stop_signal = spec.stop_signal.clone().or(config.stop_signal);
        config
    }

    /// Makes an image of a container as it is now, whether it runs or not. Volumes are not part of it.
    ///
    /// # Errors
    /// When its files cannot be read or the image cannot be written.
    pub async fn commit(&self, container: &Arc<ContainerHandle>, spec: CommitSpec) -> Result<Image> {
        let (engine, container) = (self.clone(), Arc::clone(container));
        Self::to_the_end(async move {
            let running = container.is_running() && !container.record().state.paused;
            // One that ends meanwhile stands still as well.
            let paused = spec.pause && running && {
                container.update(|record| record.state.paused_for_commit = true);
                engine.pause(&container).await.is_ok()
            };
            let record = container.record();
            let image = engine.blocking(move |engine| engine.commit_blocking(&record, spec)).await;
            container.update(|record| record.state.paused_for_commit = false);
            if paused
                && let Err(error) = engine.unpause(&container).await
                && container.is_running()
            {
                tracing::warn!(error = %error.chain(), "cannot let a container go on after its commit");
            }
            image
        })
        .await
    }

    fn commit_blocking(&self, record: &ContainerRecord, spec: CommitSpec) -> Result<Image> {
        let images = &self.inner.images;
        let changes = self.changes_of(record)?;
        let base = images.resolve(record.image.as_str()).map(|image| image.config);
        let mut config = base.unwrap_or_else(|_| ImageConfig::scratch());
        config.other.insert("parent".to_owned(), record.image.as_str().into());
        let created_by = record.args.join(" ");
        let upper = self.container_dir(&record.id).join("upper");
        let parent = record.layers.last().map(|layer| &layer.chain_id);
        let owner = lease_owner();
        let layer = if changes.is_empty() {
            Ok(None)
        } else {
            // What only a start needed is no change.
            let wanted = |path: &std::path::Path| changes.contains_key(path);
            images.commit_copy(parent, &upper, &wanted, &owner).map(Some)
        };
        failpoint("commit.layer-made");
        let image = layer.map_err(Error::from).and_then(|layer| {
            let image = self.describe(config, record.layers.clone(), layer, &created_by, &spec)?;
            let reference = spec.reference.map(|reference| reference.familiar()).unwrap_or_default();
            let comment = spec.comment.unwrap_or_default();
            let more = [("comment", comment), ("imageID", image.id.to_string()), ("imageRef", reference)];
            self.publish(record, "commit", &more);
            Ok(image)
        });
        failpoint("commit.written");
        images.release(&owner)?;
        image
    }

    /// Makes an image with one layer of an archive, which may be compressed.
    ///
    /// # Errors
    /// When the archive is damaged or the image cannot be written.
    pub async fn import(&self, archive: impl Read + Send + 'static, spec: CommitSpec) -> Result<Image> {
        self.blocking(move |engine| {
            let images = &engine.inner.images;
            let owner = lease_owner();
            let image = images.import_layer(archive, &owner).map_err(Error::from).and_then(|layer| {
                let image = engine.describe(ImageConfig::scratch(), Vec::new(), Some(layer), "", &spec)?;
                let name = spec.reference.map_or_else(|| image.id.to_string(), |name| name.familiar());
                engine.image_event("import", &image.id, &name);
                Ok(image)
            });
            images.release(&owner)?;
            image
        })
        .await
    }

    /// Writes the image's record with one more step of its history, and names it.
    fn describe(
        &self,
        mut config: ImageConfig,
        mut layers: Vec<Layer>,
        layer: Option<Layer>,
        created_by: &str,
        spec: &CommitSpec,
    ) -> Result<Image> {
        let now = jiff::Timestamp::now().to_string();
        config.created = Some(now.clone());
        config.author = spec.author.clone().or(config.author);
        config.config = spec.config.clone();
        config.history.push(History {
            created: Some(now),
            created_by: Some(created_by.to_owned()).filter(|text| !text.is_empty()),
            author: spec.author.clone(),
            comment: spec.comment.clone(),
            empty_layer: layer.is_none(),
        });
        layers.extend(layer);
        let images = &self.inner.images;
        let image = images.create(NewImage { config, layers })?;
        if let Some(reference) = &spec.reference {
            images.tag(&image.id, reference)?;
            self.image_event("tag", &image.id, &reference.familiar());
        }
        Ok(image)
    }
}

const LEASE: &str = "commit-";

/// Who keeps a layer until the image that it is for is there.
fn lease_owner() -> String {
    format!("{LEASE}{}", Id::random().short())
}

/// Ends what a crash left of commits.
pub(crate) fn clear_leases(images: &ImageStore) -> Result<()> {
    for owner in images.lease_owners().iter().filter(|owner| owner.starts_with(LEASE)) {
        images.release(owner)?;
    }
    Ok(())
}
