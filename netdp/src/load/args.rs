//! The hidden subcommands that run either side as a process of its own.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::{
    ClientConfig, Kind, Listen, LoadError, ServerConfig, Service, client, each_cpu, fetch, fill,
    serve,
};

/// `netdp __load-server`: serves until it is killed. Once every listener is
/// bound it prints one line of JSON with their addresses.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// What to serve and where, as KIND=ADDR:PORT; may be given again. With @CPU
    /// behind it, by a process of that CPU's
    #[arg(long = "listen", value_name = "KIND=ADDR:PORT[@CPU]", value_parser = parse_served,
          required_unless_present = "bind")]
    pub listen: Vec<Served>,
    /// Where to serve what --kind names
    #[arg(long, value_name = "ADDR:PORT", requires = "kind")]
    pub bind: Option<SocketAddr>,
    /// What to serve at --bind
    #[arg(long, requires = "bind")]
    pub kind: Option<Service>,
    /// What /whoami tells
    #[arg(long, default_value = "load")]
    pub name: String,
    /// Run on this CPU only
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Use this TCP congestion control
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
}

/// `netdp __load-client`: measures once and prints the result as JSON.
#[derive(Clone, Debug, clap::Args)]
pub struct ClientArgs {
    /// What to measure
    #[arg(long)]
    pub kind: Kind,
    /// The server
    #[arg(long, value_name = "ADDR:PORT")]
    pub target: SocketAddr,
    /// How long to measure
    #[arg(long, default_value = "1", value_parser = parse_seconds)]
    pub seconds: Duration,
    /// How long the traffic runs before it is measured
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub warm_up: Option<Duration>,
    /// Run on this CPU only
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Use this TCP congestion control
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Print an empty line when ready, and begin when standard input ends
    #[arg(long)]
    pub wait: bool,
    /// Connections kept busy (http)
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
}

/// `netdp __load-fetch`: prints the body of one page.
#[derive(Clone, Debug, clap::Args)]
pub struct FetchArgs {
    /// The server
    #[arg(long, value_name = "ADDR:PORT")]
    pub target: SocketAddr,
    /// The page
    #[arg(long, default_value = "/whoami")]
    pub path: String,
    /// How long to wait for each step
    #[arg(long, default_value = "3", value_parser = parse_seconds)]
    pub timeout: Duration,
}

/// `netdp __load-fill`: makes flows and leaves them.
#[derive(Clone, Debug, clap::Args)]
pub struct FillArgs {
    /// How many
    #[arg(long)]
    pub flows: usize,
    /// Echo servers; may be given again
    #[arg(long = "target", value_name = "ADDR:PORT", required = true)]
    pub targets: Vec<SocketAddr>,
}

/// What is served, and the CPU whose process does it.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub listen: Listen,
    pub cpu: Option<usize>,
}

fn parse_served(text: &str) -> Result<Served, String> {
    let (text, cpu) = match text.split_once('@') {
        Some((text, cpu)) => (text, Some(cpu)),
        None => (text, None),
    };
    let cpu = cpu.map(str::parse).transpose();
    Ok(Served {
        listen: parse_listen(text)?,
        cpu: cpu.map_err(|error| format!("no CPU: {error}"))?,
    })
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    let (kind, bind) = text
        .split_once('=')
        .ok_or("expected KIND=ADDR:PORT, such as http=0.0.0.0:80")?;
    Ok(Listen {
        service: clap::ValueEnum::from_str(kind, false)?,
        bind: bind
            .parse()
            .map_err(|error| format!("{bind:?} is no ADDR:PORT: {error}"))?,
    })
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected seconds, such as 0.5")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && seconds <= 3600.0 => Ok(duration),
        _ => Err("expected more than 0 and at most 3600 seconds".into()),
    }
}

/// # Errors
/// When an address can't be bound or the CPU does not exist.
pub fn server_main(args: ServerArgs) -> Result<ExitCode, LoadError> {
    let own = args.listen.first().and_then(|served| served.cpu);
    if args.listen.iter().any(|served| served.cpu != own) {
        let congestion = args.congestion.as_deref();
        return each_cpu::serve(&args.listen, &args.name, congestion);
    }
    let listen = args.listen.iter().map(|served| served.listen);
    let mut listen: Vec<Listen> = listen.collect();
    if let Some((service, bind)) = args.kind.zip(args.bind) {
        listen.push(Listen { service, bind });
    }
    let name = args.name;
    let server = serve(ServerConfig {
        name: name.clone(),
        listen,
        cpu: own.or(args.cpu),
        congestion: args.congestion,
        stoppable: false,
    })?;
    // Whoever started this may not read it, and is served all the same.
    print_line(&json!({ "name": name, "listening": server.addresses() }).to_string());
    server.wait();
    Ok(ExitCode::SUCCESS)
}

/// # Errors
/// When the server can't be reached at all or the CPU does not exist.
pub fn client_main(args: ClientArgs) -> Result<ExitCode, LoadError> {
    if args.wait {
        print_line("");
        // An error is as good as an end.
        let _ = io::stdin().read_to_end(&mut Vec::new());
    }
    let usual = ClientConfig::new(args.kind, args.target, args.seconds);
    let measurement = client::run(ClientConfig {
        warm_up: args.warm_up.unwrap_or(usual.warm_up),
        cpu: args.cpu,
        congestion: args.congestion,
        connections: args.connections,
        ..usual
    })?;
    print_line(&json!(measurement).to_string());
    Ok(ExitCode::SUCCESS)
}

/// Exit status 1 when the page's status is not 200.
///
/// # Errors
/// When the server can't be reached or does not answer in HTTP.
pub fn fetch_main(args: FetchArgs) -> Result<ExitCode, LoadError> {
    let response = fetch(args.target, &args.path, args.timeout)?;
    print_line(&String::from_utf8_lossy(&response.body));
    if response.status == 200 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "{}: {} answered {}",
        args.target, args.path, response.status
    );
    Ok(ExitCode::FAILURE)
}

/// # Errors
/// When fewer flows than wanted were answered.
pub fn fill_main(args: &FillArgs) -> Result<ExitCode, LoadError> {
    let answered = fill(args.flows, &args.targets)?;
    // A datagram in a thousand may be lost, five times in a row even.
    if answered + args.flows / 1000 < args.flows {
        let wanted = args.flows;
        return Err(LoadError::Fill { answered, wanted });
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn print_line(line: &str) {
    let mut stdout = io::stdout().lock();
    drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_takes_kind_and_address() {
        let listen = parse_listen("udp-echo=0.0.0.0:7").unwrap();
        assert_eq!(listen.service, Service::UdpEcho);
        assert_eq!(listen.bind.port(), 7);
        assert!(parse_listen("http=[::1]:80").unwrap().bind.is_ipv6());
        let served = parse_served("http=[::1]:80@3").unwrap();
        assert_eq!((served.listen.bind.port(), served.cpu), (80, Some(3)));
        assert_eq!(parse_served("http=[::1]:80").unwrap().cpu, None);
        for wrong in [
            "",
            "http",
            "http=80",
            "smtp=0.0.0.0:25",
            "http=0.0.0.0:70000",
            "http=0.0.0.0:80@",
            "http=0.0.0.0:80@all",
        ] {
            assert!(parse_served(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(parse_seconds("0.5").unwrap(), Duration::from_millis(500));
        for wrong in ["0", "-1", "nan", "inf", "1e9", "1s", ""] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
