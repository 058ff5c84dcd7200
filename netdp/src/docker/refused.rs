//! Refusals as dockerd understands them.

use std::fmt::Display;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{Json, wire::Failure};
use crate::{accelerate, daemon::owner::OwnerError, model::Refusal};

/// How texts begin that the model gives of ports in use.
const IN_USE: &str = "address already in use: ";

/// An answer that isn't a success.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    pub fn new(status: StatusCode, text: String) -> Self {
        Self { status, text }
    }

    /// Of who is in the way, the name that users know.
    pub async fn named(error: OwnerError) -> Self {
        let OwnerError::Refused(refusal) = error else {
            return error.into();
        };
        let name = match refusal.owner() {
            Some(endpoint) => accelerate::name_of(&endpoint.to_string()).await,
            None => None,
        };
        match name {
            Some(name) => refusal.with_owner_called(&name).into(),
            None => refusal.into(),
        }
    }

    pub fn internal(error: impl Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(Failure::new(self.text))).into_response()
    }
}

impl From<Refusal> for Refused {
    /// Status 200: dockerd shows the text alone then, and else the method's
    /// name before it.
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let text = match refusal.taken() {
            // As Docker's own driver says it.
            Some(at) => format!(
                "Bind for {at} failed: port is already allocated: {}",
                text.strip_prefix(IN_USE).unwrap_or(&text)
            ),
            None => text,
        };
        Self::new(StatusCode::OK, text)
    }
}

impl From<OwnerError> for Refused {
    fn from(error: OwnerError) -> Self {
        match error.refusal() {
            Ok(refusal) => refusal.into(),
            Err(error) => Self::new(StatusCode::OK, error.to_string()),
        }
    }
}
