//! What the daemon refused, as CNI says it.

use rscni_plugin::error::Error;

use crate::api::client::ClientError;

/// Codes from 100 on are a plugin's own.
const REFUSED: u32 = 100;
const IN_USE: u32 = 101;
const CHANGED: u32 = 102;

pub fn of(error: ClientError) -> Error {
    let text = error.to_string();
    match error {
        // It may be there in a moment.
        ClientError::NoDaemon { .. } | ClientError::Stopped { .. } | ClientError::Silent { .. } => {
            Error::TryAgainLater(text)
        }
        ClientError::NotAllowed { .. }
        | ClientError::Connect { .. }
        | ClientError::Exchange { .. } => Error::IOFailure(text),
        ClientError::Answer { .. } => Error::FailedToDecode(text),
        ClientError::Refused { kind, .. } => match kind.as_str() {
            "invalid" | "not-found" => Error::InvalidNetworkConfig(text),
            "in-use" => Error::Custom(IN_USE, "In use already".to_owned(), text),
            _ => Error::Custom(REFUSED, "Refused by netdp".to_owned(), text),
        },
    }
}

/// What CHECK finds that isn't as ADD left it.
pub fn changed(what: String) -> Error {
    Error::Custom(CHANGED, "Not as it was set up".to_owned(), what)
}
