//! The plugin of netavark, Podman's network stack (netavark's plugin-API.md):
//! `netdp create`, `netdp setup NETNS` and `netdp teardown NETNS`, JSON in and
//! out. Podman gives the addresses, and holds the host ports itself.

mod request;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    api::{
        client::Client,
        types::{Attached, Attachment},
    },
    daemon::{
        host::{Host, SocketProbe},
        owner,
    },
    model::{NetworkRequest, State},
    netlink::Netlink,
    plugin,
};

use request::{Exec, Gone, Network};

/// Who asks, as the daemon knows it.
const ENGINE: &str = "netavark";

/// What netavark wants.
#[derive(Debug, PartialEq)]
enum Call {
    Info,
    Create,
    Setup(PathBuf),
    Teardown(PathBuf),
}

impl Call {
    fn of(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let verb = arguments.next()?;
        let netns = arguments.next().map(PathBuf::from);
        if arguments.next().is_some() {
            return None;
        }
        match (verb.to_str()?, netns) {
            ("info", None) => Some(Self::Info),
            ("create", None) => Some(Self::Create),
            ("setup", Some(netns)) => Some(Self::Setup(netns)),
            ("teardown", Some(netns)) => Some(Self::Teardown(netns)),
            _ => None,
        }
    }

    fn given() -> Option<Self> {
        Self::of(std::env::args_os().skip(1))
    }
}

/// Whether netdp was called as netavark calls a plugin.
pub fn is_called() -> bool {
    Call::given().is_some()
}

/// Answers on standard output; so does an error, with status 1.
pub fn main() -> ExitCode {
    let (answer, code) = match Call::given().map_or(Ok(None), serve) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => {
            let text = format!("{error:#}");
            (Some(json!({ "error": text })), ExitCode::FAILURE)
        }
    };
    match answer.map_or(Ok(()), |answer| writeln!(io::stdout(), "{answer}")) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(call: Call) -> Result<Option<Value>> {
    match call {
        Call::Info => Ok(Some(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "api_version": "1.0.0",
        }))),
        Call::Create => {
            let value: Value = serde_json::from_str(&input()?).context(UNREADABLE)?;
            let network: Network = serde_json::from_value(value.clone()).context(UNREADABLE)?;
            check(&network.request()?)?;
            Ok(Some(value))
        }
        Call::Setup(netns) => setup(&netns).map(Some),
        Call::Teardown(netns) => teardown(&netns).map(|()| None),
    }
}

/// Refuses what the daemon would refuse with the first container.
fn check(request: &NetworkRequest) -> Result<()> {
    wait(async {
        let host = Host::read(&Netlink::open()?).await?;
        let now = owner::now();
        // Whatever the daemon gives networks, it was good when it started.
        let options = BTreeMap::new();
        // Nobody has a port that matters.
        let view = host.view(&SocketProbe, &options, now);
        State::new(now).create_network(request, &view)?;
        Ok(())
    })?
}

const UNREADABLE: &str = "what netavark says can't be read";

fn input() -> Result<String> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    Ok(text)
}

fn exec() -> Result<Exec> {
    serde_json::from_str(&input()?).context(UNREADABLE)
}

fn setup(netns: &Path) -> Result<Value> {
    let exec = exec()?;
    let request = exec.attachment(netns)?;
    let attached = wait(client().attach(&request))??;
    status(&exec, &attached)
}

fn teardown(netns: &Path) -> Result<()> {
    let gone: Gone = serde_json::from_str(&input()?).context(UNREADABLE)?;
    let detached = wait(client().detach(&Attachment {
        engine: ENGINE.to_owned(),
        container: gone.container_id,
        network: gone.network.name,
        interface: gone.network_options.interface_name,
        list: None,
    }))?;
    match detached {
        // A daemon that starts looks for the namespaces of its sandboxes.
        Err(absent) if plugin::is_absent(&absent) && !netns.exists() => Ok(()),
        detached => Ok(detached?),
    }
}

/// What Podman shows of the container, and writes into its resolv.conf.
fn status(exec: &Exec, attached: &Attached) -> Result<Value> {
    let Attached {
        network,
        sandbox,
        endpoint,
    } = attached;
    let mut endpoints = sandbox.endpoints.iter();
    let Some(endpoint) = endpoints.find(|it| it.id == *endpoint) else {
        bail!("the endpoint of {} was removed at once", sandbox.name);
    };
    let subnets: Vec<Value> = endpoint
        .addresses
        .iter()
        .map(|address| {
            let mut gateways = endpoint.gateways.iter();
            let gateway = gateways.find(|it| it.is_ipv4() == address.addr().is_ipv4());
            match gateway.filter(|_| !network.internal) {
                Some(gateway) => json!({ "ipnet": address, "gateway": gateway }),
                None => json!({ "ipnet": address }),
            }
        })
        .collect();
    let resolver = sandbox.resolver.filter(|_| exec.network.dns_enabled);
    Ok(json!({
        "dns_server_ips": resolver.iter().collect::<Vec<_>>(),
        "dns_search_domains": [],
        "interfaces": {
            &endpoint.interface: { "mac_address": endpoint.mac, "subnets": subnets },
        },
    }))
}

fn client() -> Client {
    plugin::client(None)
}

fn wait<T>(request: impl Future<Output = T>) -> Result<T> {
    plugin::wait(request).context("cannot start the event loop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_netavarks_own_words_are_a_call() {
        let call = |words: &[&str]| Call::of(words.iter().map(OsString::from));
        assert_eq!(call(&["info"]), Some(Call::Info));
        assert_eq!(call(&["create"]), Some(Call::Create));
        assert_eq!(call(&["setup", "/n"]), Some(Call::Setup("/n".into())));
        assert_eq!(call(&["teardown", "/n"]), Some(Call::Teardown("/n".into())));
        for words in [
            &[][..],
            &["setup"],
            &["create", "x"],
            &["setup", "/n", "x"],
            &["network", "create"],
            &["ps"],
        ] {
            assert_eq!(call(words), None, "{words:?}");
        }
    }
}
