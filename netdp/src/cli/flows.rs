//! Connections that the datapath knows, and those of direct ports: `netdp flows`.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Result};

use super::{
    args::{FlowsArgs, Format},
    columns::{Columns, readers},
    output, runtime,
};
use crate::api::{
    client::{Client, Pieces},
    types::{Flow, FlowCount, FlowQuery},
};

const HEADING: [&str; 9] = [
    "PROTO",
    "KIND",
    "STATE",
    "REMOTE",
    "HOST",
    "CONTAINER",
    "IDLE",
    "TIMEOUT",
    "ACCELERATED",
];

pub fn list(run_dir: &Path, args: FlowsArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let query = FlowQuery {
        protocol: args.proto,
        sandbox: args.sandbox,
        peer: args.peer,
        limit: args.limit,
    };
    runtime()?.block_on(async {
        if args.count {
            let count = client.count_flows(&query).await?;
            return match args.format {
                Format::Json => output::json(&count),
                Format::Table => output::line(&counted(&count)),
            };
        }
        let pieces = client.flows(&query).await?;
        match args.format {
            Format::Json => copy(pieces).await,
            Format::Table => table(pieces).await,
        }
    })
}

/// Passes the daemon's JSON on.
async fn copy(mut pieces: Pieces) -> Result<()> {
    let mut out = io::stdout().lock();
    while let Some(piece) = pieces.next().await? {
        if readers(out.write_all(&piece))?.is_break() {
            break;
        }
    }
    Ok(())
}

async fn table(mut pieces: Pieces) -> Result<()> {
    let mut columns = Columns::new(io::stdout().lock(), &HEADING);
    let mut lines = Lines::default();
    while let Some(piece) = pieces.next().await? {
        lines.add(&piece);
        while let Some(line) = lines.next() {
            let Some(flow) = flow(line)? else { continue };
            if columns.row(cells(&flow))?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(columns.end()?)
}

/// The flow on a line of the daemon's answer; none where the array begins or
/// ends.
fn flow(line: &[u8]) -> Result<Option<Flow>> {
    let line = line.strip_suffix(b",").unwrap_or(line);
    if matches!(line, b"[" | b"]") {
        return Ok(None);
    }
    serde_json::from_slice(line)
        .map(Some)
        .context("the daemon's answer makes no sense")
}

fn cells(flow: &Flow) -> Vec<String> {
    vec![
        flow.protocol.clone(),
        flow.kind.clone(),
        flow.state.clone(),
        flow.remote.to_string(),
        flow.host.to_string(),
        flow.container
            .map_or_else(|| "-".to_owned(), |socket| socket.to_string()),
        seconds(flow.idle),
        seconds(flow.timeout),
        flow.accelerated.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn seconds(time: Option<u64>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{time} s"))
}

fn counted(count: &FlowCount) -> String {
    let (tracked, direct) = (count.flows + count.pending, count.direct);
    let unanswered = count.pending;
    let of_direct_ports = match direct {
        0 => String::new(),
        direct => format!(", and {direct} of direct ports"),
    };
    format!("{tracked} flows, {unanswered} of them unanswered{of_direct_ports}")
}

/// Cuts pieces into lines.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    begin: usize,
}

impl Lines {
    fn add(&mut self, piece: &[u8]) {
        self.text.drain(..self.begin);
        self.begin = 0;
        self.text.extend_from_slice(piece);
    }

    /// The next whole line, without its end.
    fn next(&mut self) -> Option<&[u8]> {
        let begin = self.begin;
        let length = self.text[begin..].iter().position(|byte| *byte == b'\n')?;
        self.begin = begin + length + 1;
        Some(&self.text[begin..begin + length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut lines = Lines::default();
        let mut found: Vec<Vec<u8>> = Vec::new();
        for piece in ["[\n{", "", "}", ",\n{}\n", "]\n"] {
            lines.add(piece.as_bytes());
            while let Some(line) = lines.next() {
                found.push(line.to_vec());
            }
        }
        assert_eq!(found, [&b"["[..], b"{},", b"{}", b"]"]);
    }

    #[test]
    fn a_line_is_a_flow_or_the_arrays_own() {
        for line in ["[", "]"] {
            assert_eq!(flow(line.as_bytes()).unwrap(), None);
        }
        let line = r#"{"protocol":"tcp","kind":"host","state":"closed","remote":"192.0.2.1:80","container":null,"host":"[fd00::1]:1","idle":1,"timeout":2,"pending":true},"#;
        let shown = cells(&flow(line.as_bytes()).unwrap().unwrap());
        let expected = [
            "tcp",
            "host",
            "closed",
            "192.0.2.1:80",
            "[fd00::1]:1",
            "-",
            "1 s",
            "2 s",
            "-",
        ];
        assert_eq!(shown, expected);
        assert!(flow(b"{").is_err());
        let line = r#"{"protocol":"udp","kind":"direct","state":"heard","remote":"192.0.2.1:80","container":null,"host":"[fd00::1]:1","idle":null,"timeout":null,"pending":false}"#;
        let shown = cells(&flow(line.as_bytes()).unwrap().unwrap());
        assert_eq!(shown[6..], ["-", "-", "-"]);
    }

    #[test]
    fn flows_of_direct_ports_are_counted_apart() {
        let mut count = FlowCount {
            flows: 3,
            pending: 1,
            direct: 0,
        };
        assert_eq!(counted(&count), "4 flows, 1 of them unanswered");
        count.direct = 2;
        let said = "4 flows, 1 of them unanswered, and 2 of direct ports";
        assert_eq!(counted(&count), said);
    }
}
