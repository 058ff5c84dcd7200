//! What requests carry and what answers them, with refusals in netdp's own form.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{self, FromRequest, FromRequestParts, Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

use super::refused::Refused;
use crate::{
    daemon::owner::{self, Owner, OwnerError},
    model::Refusal,
};

pub(super) type Shared = State<Arc<Owner>>;
pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// JSON both ways, with refusals in netdp's own form.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                let status = rejection.status();
                let why = match status {
                    StatusCode::PAYLOAD_TOO_LARGE => {
                        "the request is larger than any may be: split it".to_owned()
                    }
                    _ => format!("the request can't be read: {rejection}"),
                };
                Refused::new(status, "invalid", why)
            })?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            Refusal::invalid(format!("the request makes no sense: {error}")).into()
        })
    }
}

/// The query of a path, with refusals in netdp's own form.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        extract::Query::from_request_parts(parts, state)
            .await
            .map(|extract::Query(query)| Self(query))
            .map_err(|rejection| {
                Refusal::invalid(format!(
                    "the query makes no sense: {}",
                    rejection.body_text()
                ))
                .into()
            })
    }
}

pub(super) async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, OwnerError>> + Send + 'static,
) -> Answer<T> {
    Ok(Json(owner::whole(change).await?))
}

/// The same of a change that is refused in words of its own.
pub(super) async fn carried_through<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Answer<T> {
    match tokio::spawn(change).await {
        Ok(done) => done.map(Json),
        Err(error) => Err(Refused::internal(error)),
    }
}
