//! What would become of a packet: `netdp explain`.

use std::path::Path;

use anyhow::Result;

use super::{
    args::{ExplainArgs, Format},
    output, runtime,
};
use crate::{
    api::{
        client::Client,
        types::{Explained, Fate},
    },
    explain::{Question, Step},
};

pub fn run(run_dir: &Path, args: &ExplainArgs) -> Result<()> {
    let question = Question {
        protocol: args.protocol,
        source: args.source,
        destination: args.destination,
    };
    let explained = runtime()?.block_on(Client::new(run_dir).explain(&question))?;
    if args.format == Format::Json {
        return output::json(&explained);
    }
    let row = |step: &Step| vec![step.asked.to_uppercase(), step.answer.clone()];
    output::print(
        Format::Table,
        &(),
        &["ASKED", "ANSWER"],
        explained.steps.iter().map(row),
    )?;
    output::line(&fate(&explained))
}

fn fate(explained: &Explained) -> String {
    let interface = explained.interface.as_deref().unwrap_or("-");
    match explained.fate {
        Fate::Delivered => format!(
            "delivered to {} by {interface}",
            explained.sandbox.as_deref().unwrap_or("a sandbox")
        ),
        Fate::Sent => format!("sent out of {interface}"),
        Fate::Host => "left to the host's own stack".to_owned(),
        Fate::Dropped => format!("dropped: {}", explained.reason.as_deref().unwrap_or("-")),
    }
}
