//! What would become of a packet: `netdp explain`.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
};

use anyhow::{Result, bail};

use super::{
    args::{ExplainArgs, Format},
    output, runtime,
};
use crate::{
    api::{
        client::Client,
        types::{Explained, Fate},
    },
    explain::{Protocol, Question, Step},
};

/// The identifier of an echo request that names none.
const IDENTIFIER: u16 = 1;

/// An address, with a port if one is given: IPv6 in brackets then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    address: IpAddr,
    port: Option<u16>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self {
                address: socket.ip(),
                port: Some(socket.port()),
            });
        }
        let unwrapped = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Ok(address) = unwrapped.unwrap_or(text).parse() {
            return Ok(Self {
                address,
                port: None,
            });
        }
        Err(format!(
            "{}: write ADDRESS:PORT, such as 192.0.2.7:443 or [2001:db8::7]:443, or for icmp \
             the address alone",
            wrong(text)
        ))
    }
}

/// What of a place can't be read.
fn wrong(text: &str) -> String {
    match text.rsplit_once(':') {
        Some((address, port)) if address.parse::<IpAddr>().is_ok_and(|it| it.is_ipv4()) => {
            format!("{port} is no port from 0 to 65535")
        }
        Some((address, _)) if !address.contains(':') => format!("{address} is no IP address"),
        _ => "this is no IP address".to_owned(),
    }
}

/// The question that the arguments ask.
fn question(args: &ExplainArgs) -> Result<Question> {
    let (from, to) = (args.source, args.destination);
    let (source, destination) = match args.protocol {
        Protocol::Tcp | Protocol::Udp => {
            let socket = |place: Place| match place.port {
                Some(port) => Ok(SocketAddr::new(place.address, port)),
                None => bail!(
                    "{} needs a port, and {} names none: write {}",
                    args.protocol,
                    place.address,
                    SocketAddr::new(place.address, 443)
                ),
            };
            (socket(from)?, socket(to)?)
        }
        Protocol::Icmp => {
            if from.port.is_some() {
                bail!(
                    "an echo request has no ports, but an identifier, which is written behind \
                     its destination: netdp explain icmp {} {}",
                    from.address,
                    SocketAddr::new(to.address, to.port.unwrap_or(IDENTIFIER))
                );
            }
            let identifier = to.port.unwrap_or(IDENTIFIER);
            (
                SocketAddr::new(from.address, identifier),
                SocketAddr::new(to.address, 0),
            )
        }
    };
    Ok(Question {
        protocol: args.protocol,
        source,
        destination,
    })
}

pub fn run(run_dir: &Path, args: &ExplainArgs) -> Result<()> {
    let question = question(args)?;
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
        Fate::Delivered => {
            let sandbox = explained.sandbox.as_deref().unwrap_or("a sandbox");
            match &explained.interface {
                Some(interface) => format!("delivered to {sandbox} by {interface}"),
                None => format!("delivered inside {sandbox}"),
            }
        }
        Fate::Sent => format!("sent out of {interface}"),
        Fate::Host => match &explained.sandbox {
            Some(sandbox) => format!("left to the host's own stack, for a socket of {sandbox}'s"),
            None => "left to the host's own stack".to_owned(),
        },
        Fate::Dropped => format!("dropped: {}", explained.reason.as_deref().unwrap_or("-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocol: Protocol, source: &str, destination: &str) -> Result<Question> {
        question(&ExplainArgs {
            protocol,
            source: source.parse().map_err(anyhow::Error::msg)?,
            destination: destination.parse().map_err(anyhow::Error::msg)?,
            format: Format::Table,
        })
    }

    #[test]
    fn places_are_sockets_or_for_icmp_addresses() {
        let tcp = asked(Protocol::Tcp, "10.0.0.2:40000", "[fd00::1]:80").unwrap();
        assert_eq!(tcp.destination, "[fd00::1]:80".parse().unwrap());
        for (to, identifier) in [("fd00::1", 1), ("[fd00::1]", 1), ("[fd00::1]:7", 7)] {
            let echo = asked(Protocol::Icmp, "fd00::2", to).unwrap();
            assert_eq!(echo.source.port(), identifier, "{to}");
            assert_eq!(echo.destination, "[fd00::1]:0".parse().unwrap());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        for (protocol, source, destination, said) in [
            (
                Protocol::Tcp,
                "1.2.3.4",
                "1.2.3.4:80",
                "tcp needs a port, and 1.2.3.4 names none: write 1.2.3.4:443",
            ),
            (
                Protocol::Udp,
                "[fd00::1]:1",
                "fd00::2",
                "write [fd00::2]:443",
            ),
            (
                Protocol::Tcp,
                "1.2.3.4:99999",
                "1.2.3.4:80",
                "99999 is no port from 0 to 65535: write ADDRESS:PORT, such as 192.0.2.7:443",
            ),
            (
                Protocol::Tcp,
                "host:80",
                "1.2.3.4:80",
                "host is no IP address",
            ),
            (
                Protocol::Icmp,
                "1.2.3.4:7",
                "1.2.3.5",
                "netdp explain icmp 1.2.3.4 1.2.3.5:1",
            ),
        ] {
            let error = asked(protocol, source, destination)
                .unwrap_err()
                .to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
