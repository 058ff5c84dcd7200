//! Refusals as answers.

use std::fmt::Display;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::types::{Failure, Reason};
use crate::{
    accelerate::AccelerateError,
    bpf::BpfError,
    daemon::owner::OwnerError,
    model::{Kind, Refusal},
};

/// An answer that isn't a success.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    reason: Reason,
}

impl Refused {
    pub fn new(status: StatusCode, kind: &str, message: String) -> Self {
        Self {
            status,
            reason: Reason {
                kind: kind.to_owned(),
                message,
            },
        }
    }

    pub fn internal(error: impl Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            error.to_string(),
        )
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Failure { error: self.reason };
        (self.status, axum::Json(body)).into_response()
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let (status, kind) = match refusal.kind {
            Kind::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Kind::Conflict => (StatusCode::CONFLICT, "conflict"),
            Kind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
            Kind::Unavailable => (StatusCode::NOT_IMPLEMENTED, "unavailable"),
            Kind::InUse => (StatusCode::CONFLICT, "in-use"),
        };
        Self::new(status, kind, refusal.to_string())
    }
}

impl From<AccelerateError> for Refused {
    fn from(error: AccelerateError) -> Self {
        match error {
            AccelerateError::Refused(refusal) => refusal.into(),
            AccelerateError::Docker(error) => Refusal::unavailable(error).into(),
            AccelerateError::Store(error) => OwnerError::from(error).into(),
            AccelerateError::Bpf(error @ BpfError::NoTcx) => Refusal::unavailable(error).into(),
            error => {
                tracing::error!("{error}");
                Self::internal(error)
            }
        }
    }
}

impl From<OwnerError> for Refused {
    fn from(error: OwnerError) -> Self {
        match error.refusal() {
            Ok(refusal) => refusal.into(),
            Err(error) => Self::internal(error),
        }
    }
}
