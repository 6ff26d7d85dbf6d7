//! The graph of one platform: stages that wait for each other only where one reads the other.

use std::sync::Arc;

use dray_image::Digest;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::client::BoxFuture;
use crate::plan::{self, From, Plan};
use crate::platform::Platform;
use crate::session::Session;
use crate::sources::Tree;
use crate::stage::StageRun;
use crate::state::{Arguments, State};
use crate::transcript::Transcript;
use crate::{Error, Result};

/// What a stage has become.
pub(crate) struct Finished {
    pub(crate) state: State,
    pub(crate) arguments: Arguments,
    /// Its last vertex.
    pub(crate) vertex: Option<Digest>,
    /// Names of arguments that its `ARG`s declared.
    pub(crate) used: Vec<String>,
}

pub(crate) struct Graph {
    pub(crate) session: Arc<Session>,
    pub(crate) plan: Plan,
    /// Said before the names of vertices, when there are several platforms.
    pub(crate) prefix: String,
    pub(crate) transcript: Transcript,
    /// Begun once each, by who needs it first; none when it failed.
    cells: Vec<OnceCell<Option<Arc<Finished>>>>,
    failure: Mutex<Option<(usize, Error)>>,
}

impl Graph {
    pub(crate) fn new(session: Arc<Session>, plan: Plan, prefix: String) -> Self {
        let count = plan.stages.len();
        Self {
            transcript: Transcript::new(session.output.clone(), count),
            session,
            plan,
            prefix,
            cells: (0..count).map(|_| OnceCell::new()).collect(),
            failure: Mutex::new(None),
        }
    }

    /// Builds all that the target needs, and answers what the target has become.
    pub(crate) async fn run(self: Arc<Self>) -> Result<Arc<Finished>> {
        let mut tasks = JoinSet::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            if stage.needed {
                let graph = Arc::clone(&self);
                tasks.spawn(async move { graph.stage(index).await.map(drop) });
            } else {
                self.transcript.finish(index).await?;
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if !matches!(ended, Ok(Ok(()))) {
                // The others end here, and what they run with them.
                tasks.shutdown().await;
                let removals = std::mem::take(&mut *self.session.removals.lock());
                for removal in removals {
                    let _ = removal.await;
                }
                let Some((stage, error)) = self.failure.lock().take() else { return Err(Error::Cancelled) };
                self.transcript.flush(stage).await?;
                return Err(error);
            }
        }
        self.stage(self.plan.target).await
    }

    /// What the stages besides the target have become, as far as they were needed.
    pub(crate) fn others(&self) -> impl Iterator<Item = (Platform, Arc<Finished>)> {
        let stages = self.cells.iter().zip(&self.plan.stages).enumerate();
        stages
            .filter(|(index, _)| *index != self.plan.target)
            .filter_map(|(_, (cell, plan))| Some((plan.platform.clone(), Arc::clone(cell.get()?.as_ref()?))))
    }

    /// What a stage has become; it is begun if nobody has yet.
    pub(crate) fn stage(self: &Arc<Self>, index: usize) -> BoxFuture<'static, Result<Arc<Finished>>> {
        let graph = Arc::clone(self);
        async move {
            let Some(cell) = graph.cells.get(index) else { return Err(Error::NoResult) };
            let finished = cell.get_or_init(|| async {
                match StageRun::run(&graph, index).await {
                    Ok(finished) => Some(Arc::new(finished)),
                    Err(error) => {
                        graph.failure.lock().get_or_insert((index, error));
                        None
                    }
                }
            });
            finished.await.clone().ok_or(Error::Cancelled)
        }
        .boxed()
    }

    /// The files that a name in `--from` means to a stage, and the vertex they come from.
    pub(crate) async fn tree(
        self: &Arc<Self>,
        index: usize,
        name: &str,
        platform: &Platform,
    ) -> Result<(Arc<Tree>, Option<Digest>)> {
        let session = &self.session;
        let invalid = |why: String| Error::invalid(format!("invalid from flag value {name}: {why}"));
        let (layers, vertex) = match plan::from(&session.file, &session.request.named_contexts, index, name) {
            From::Stage(stage) => {
                let finished = self.stage(stage).await?;
                (finished.state.layers.clone(), finished.vertex.clone())
            }
            From::Scratch => (Vec::new(), None),
            From::Named(context) => match session.named_tree(&context).await? {
                Some(tree) => return Ok((tree, None)),
                None => (session.named_image(&context, platform).await?.layers, None),
            },
            From::Image(image) => match session.image(&image, platform).await {
                Ok(image) => (image.layers, None),
                Err(error @ Error::NoImage { .. }) => return Err(invalid(error.chain())),
                Err(error) => return Err(error),
            },
        };
        if layers.is_empty() {
            return Err(invalid("it has no files".to_owned()));
        }
        let engine = session.builder.engine.clone();
        let tree = crate::builder::blocking(move || Ok(Arc::new(Tree::layers(&engine, layers)?))).await?;
        Ok((tree, vertex))
    }
}
