//! Users and passwords: a file as `htpasswd -B` writes it, read again when it changes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dray_image::Digest;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{Error, Result};

/// Bytes of the largest file that is read.
const FILE_LIMIT: u64 = 8 << 20;
/// Right passwords that are remembered: to check one costs a noticeable part of a second.
const REMEMBERED: usize = 1024;
/// Passwords that are checked at once.
const AT_ONCE: usize = 2;
/// The most expensive hash that is checked.
const COST_LIMIT: u32 = 16;
/// Checked when there is no such user, so that the answer takes as long.
const NOBODY: &str = "$2y$10$abcdefghijklmnopqrstuuGCNq.iB1hS5UcMWxDfDq5vLrWcVxVqe";

/// The users of a registry.
pub(crate) struct Passwords {
    path: PathBuf,
    state: Mutex<State>,
    /// Told from others only by us, so that what is remembered is worth nothing to who sees it.
    salt: u128,
    turns: Semaphore,
}

struct State {
    modified: Option<SystemTime>,
    users: Arc<HashMap<String, String>>,
    right: Vec<Digest>,
}

fn read(path: &Path) -> Result<HashMap<String, String>> {
    let wrong = |why: String| Error::Setting { setting: path.display().to_string(), why };
    let size = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > FILE_LIMIT {
        return Err(wrong(format!("it is larger than {FILE_LIMIT} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let mut users = HashMap::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (user, hash) =
            line.split_once(':').ok_or_else(|| wrong(format!("line {number} has no colon")))?;
        let cost = ["$2y$", "$2a$", "$2b$"]
            .iter()
            .find_map(|prefix| hash.strip_prefix(prefix))
            .and_then(|rest| rest.get(..2));
        match cost.and_then(|cost| cost.parse::<u32>().ok()) {
            Some(cost) if cost <= COST_LIMIT => users.insert(user.to_owned(), hash.to_owned()),
            Some(cost) => return Err(wrong(format!("line {number}: a cost of {cost} takes too long"))),
            None => return Err(wrong(format!("line {number} is not bcrypt: write it with htpasswd -B"))),
        };
    }
    Ok(users)
}

impl Passwords {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let users = Arc::new(read(path)?);
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State { modified, users, right: Vec::new() }),
            salt: rand::random(),
            turns: Semaphore::new(AT_ONCE),
        })
    }

    fn users(&self) -> Arc<HashMap<String, String>> {
        let modified = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        let mut state = self.state.lock();
        if modified != state.modified {
            match read(&self.path) {
                Ok(users) => {
                    state.users = Arc::new(users);
                    state.right.clear();
                    state.modified = modified;
                }
                // The ones that were known last still hold: half a file lets nobody in, and nobody out.
                Err(error) => tracing::warn!(error = error.chain(), "cannot read the registry's users again"),
            }
        }
        Arc::clone(&state.users)
    }

    /// Whether this is the user's password.
    pub(crate) async fn check(self: &Arc<Self>, user: &str, password: &str) -> bool {
        let users = self.users();
        let known = Digest::of(format!("{}:{}:{user}:{password}", self.salt, user.len()).as_bytes());
        if self.state.lock().right.contains(&known) {
            return true;
        }
        let Ok(_turn) = self.turns.acquire().await else { return false };
        let hash = users.get(user).cloned();
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || match hash {
            Some(hash) => bcrypt::verify(password.as_bytes(), &hash).unwrap_or(false),
            None => {
                let _ = bcrypt::verify(password.as_bytes(), NOBODY);
                false
            }
        });
        let is_right = checked.await.unwrap_or(false);
        if is_right {
            let mut state = self.state.lock();
            if state.right.len() >= REMEMBERED {
                state.right.remove(0);
            }
            state.right.push(known);
        }
        is_right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bcrypt_of_a_bearable_cost_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for (text, good) in [
            ("# none\n\nu:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n", true),
            ("u:{SHA}x\n", false),
            ("u:$apr1$x\n", false),
            ("u\n", false),
            ("u:$2y$31$x\n", false),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn the_hash_of_nobody_can_be_checked() {
        assert!(matches!(bcrypt::verify(b"x", NOBODY), Ok(false)), "{:?}", bcrypt::verify(b"x", NOBODY));
    }
}
