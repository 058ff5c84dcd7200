//! What the plugins of engines have in common: a process for each request, which
//! asks the daemon.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use crate::api::{
    RUN_DIR, RUN_DIR_VARIABLE,
    client::{Client, ClientError},
};

/// The daemon in this folder or, without one, in that which the environment
/// names.
pub fn client(run_dir: Option<&Path>) -> Client {
    let named = || {
        let named = env::var_os(RUN_DIR_VARIABLE).filter(|named| !named.is_empty());
        named.map(PathBuf::from)
    };
    let run_dir = run_dir.map(Path::to_owned).or_else(named);
    Client::new(&run_dir.unwrap_or_else(|| RUN_DIR.into()))
}

/// Whether there is no daemon to ask.
pub fn is_absent(error: &ClientError) -> bool {
    matches!(error, ClientError::NoDaemon { .. })
}

/// Waits for an answer.
///
/// # Errors
/// No event loop can be started.
pub fn wait<T>(request: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(request))
}
