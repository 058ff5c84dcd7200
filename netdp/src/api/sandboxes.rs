//! Answers requests for sandboxes, which may be named as Docker calls its
//! containers.

use axum::extract::{Path, State};

use super::{
    acceleration,
    extract::{Answer, Json, Query, Shared, whole},
    types::{Connect, Ports, Removal, Sandbox},
    view,
};
use crate::{
    accelerate,
    daemon::owner::{Owner, OwnerError},
    docker,
    model::{Refusal, SandboxRequest},
};

pub(super) async fn sandboxes(State(owner): Shared) -> Json<Vec<Sandbox>> {
    let core = owner.lock().await;
    let mut sandboxes = view::sandboxes(&core);
    drop(core);
    if sandboxes.iter().any(acceleration::is_dockers) {
        let called = accelerate::called().await.unwrap_or_default();
        for sandbox in &mut sandboxes {
            acceleration::name(sandbox, &called);
        }
    }
    sandboxes.extend(acceleration::sandboxes(owner.accelerator().shown()));
    Json(sandboxes)
}

pub(super) async fn sandbox(State(owner): Shared, Path(name): Path<String>) -> Answer<Sandbox> {
    if let Some(container) = acceleration::sandbox_called(owner.accelerator().shown(), &name)
        && !is_known(&owner, &name).await
    {
        return Ok(Json(container));
    }
    let name = own_name(&owner, name).await?;
    let mut sandbox = shown(&owner, &name).await?;
    if acceleration::is_dockers(&sandbox) {
        let called = accelerate::called().await.unwrap_or_default();
        acceleration::name(&mut sandbox, &called);
    }
    Ok(Json(sandbox))
}

async fn is_known(owner: &Owner, name: &str) -> bool {
    owner.lock().await.state().sandbox(name).is_ok()
}

/// What netdp calls a sandbox that was named as Docker calls its container.
///
/// # Errors
/// It is Docker's altogether, or may be, and Docker doesn't tell.
async fn own_name(owner: &Owner, name: String) -> Result<String, OwnerError> {
    if is_known(owner, &name).await {
        return Ok(name);
    }
    if acceleration::sandbox_called(owner.accelerator().shown(), &name).is_some() {
        return Err(Refusal::conflict(format!(
            "{name} is a container of Docker's on a network of Docker's, which netdp only \
             carries: use docker's own command"
        ))
        .into());
    }
    let dockers = {
        let core = owner.lock().await;
        let mut sandboxes = core.state().sandboxes.values();
        sandboxes.any(|it| it.owner.as_deref() == Some(docker::ENGINE))
    };
    if !dockers {
        return Ok(name);
    }
    match accelerate::called().await {
        Ok(called) => Ok(accelerate::key(&called, &name).map_or(name, str::to_owned)),
        Err(why) => Err(Refusal::not_found(format!(
            "netdp itself calls no sandbox {name}, and what Docker calls its containers isn't \
             known now: {why}; try again, or name it as `netdp ps` shows it"
        ))
        .into()),
    }
}

pub(super) async fn create_sandbox(
    State(owner): Shared,
    Json(request): Json<SandboxRequest>,
) -> Answer<Sandbox> {
    whole(async move {
        let sandbox = owner.create_sandbox(request).await?;
        let core = owner.lock().await;
        Ok(view::sandbox(&core, &sandbox))
    })
    .await
}

pub(super) async fn remove_sandbox(
    State(owner): Shared,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer<()> {
    whole(async move {
        let own = own_name(&owner, name.clone()).await?;
        if own != name {
            return Err(Refusal::conflict(format!(
                "{name} is a container of Docker's: use `docker rm {name}`"
            ))
            .into());
        }
        owner.remove_sandbox(&own, removal.force).await
    })
    .await
}

pub(super) async fn connect(
    State(owner): Shared,
    Path(name): Path<String>,
    Json(request): Json<Connect>,
) -> Answer<Sandbox> {
    whole(async move {
        let name = own_name(&owner, name).await?;
        owner
            .connect(&name, &request.network, &request.endpoint)
            .await?;
        shown(&owner, &name).await
    })
    .await
}

pub(super) async fn disconnect(
    State(owner): Shared,
    Path((name, network)): Path<(String, String)>,
) -> Answer<()> {
    whole(async move {
        let own = own_name(&owner, name).await?;
        owner.disconnect(&own, &network).await
    })
    .await
}

pub(super) async fn publish(
    State(owner): Shared,
    Path(name): Path<String>,
    Json(request): Json<Ports>,
) -> Answer<Sandbox> {
    whole(async move {
        let name = own_name(&owner, name).await?;
        owner.publish(&name, &request.ports, &request.allow).await?;
        shown(&owner, &name).await
    })
    .await
}

pub(super) async fn unpublish(
    State(owner): Shared,
    Path(name): Path<String>,
    Json(request): Json<Ports>,
) -> Answer<Sandbox> {
    whole(async move {
        let name = own_name(&owner, name).await?;
        owner.unpublish(&name, &request.ports).await?;
        shown(&owner, &name).await
    })
    .await
}

async fn shown(owner: &Owner, name: &str) -> Result<Sandbox, OwnerError> {
    let core = owner.lock().await;
    let sandbox = core.state().sandbox(name)?;
    Ok(view::sandbox(&core, sandbox))
}
