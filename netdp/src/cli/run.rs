//! `netdp run`: a program in a network of its own.

use std::{
    collections::BTreeMap,
    env::{self, VarError},
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use super::{
    args::{RunArgs, SandboxArgs, Variable},
    etc, logs, output, runtime, sandbox,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{Removal, Sandbox as Answer},
    },
    direct::{Hears, PortsAt, Task},
    model::{Driver, Name, Process, SandboxRequest},
    sandbox::{Launcher, Mode, Network, ProcessId, Program, Sandbox, SandboxError, Spec},
};

/// Longest host name that Linux and RFC 1123 allow.
const LONGEST_HOSTNAME: usize = 63;

/// The exit status is that of the program; of a detached one, whether it was
/// started.
pub fn run(run_dir: &Path, args: RunArgs) -> Result<ExitCode> {
    let client = Client::new(run_dir);
    runtime()?.block_on(async {
        let start = Start::prepare(&client, args).await?;
        let Started { program, id } = match start.start(&client).await {
            Ok(started) => started,
            Err(error) => {
                // A shell tells by the status whether there is such a program.
                let status = error
                    .downcast_ref::<SandboxError>()
                    .map_or(1, SandboxError::exit_status);
                eprintln!("netdp: {}", output::one_line(&error));
                return Ok(ExitCode::from(status));
            }
        };
        match program {
            Program::Foreground(program) => {
                let status = program.wait().await;
                // The daemon sees the end too, but who waits for this command
                // shall find everything gone. A daemon that can't be told
                // takes nothing from what the program did.
                if let Err(error) = remove(&client, &id).await {
                    eprintln!("netdp: {}", output::one_line(&error.into()));
                }
                Ok(ExitCode::from(status?))
            }
            Program::Detached(_) => {
                output::line(&id)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// Everything that is known before anything is made.
struct Start {
    request: SandboxRequest,
    spec: Spec,
    mode: Mode,
    files: FilesOf,
}

/// Whose `/etc/hosts` and `/etc/resolv.conf` the program sees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FilesOf {
    Host,
    Sandbox,
}

struct Started {
    program: Program,
    id: String,
}

impl Start {
    async fn prepare(client: &Client, args: RunArgs) -> Result<Self> {
        let name = match &args.sandbox.name {
            Some(name) => name.clone(),
            None => random_name(),
        };
        let (network, files) = network(client, args.sandbox.network.as_deref()).await?;
        // With the host's network comes the host's name, unless one is given.
        let hostname = args.hostname.or_else(|| {
            (files == FilesOf::Sandbox).then(|| {
                name.as_str()
                    .chars()
                    .take(LONGEST_HOSTNAME)
                    .collect::<String>()
            })
        });
        let mode = if args.detach {
            Mode::Detached {
                log: log_path(client, &name).await?,
            }
        } else {
            Mode::Foreground
        };
        let log = match &mode {
            Mode::Detached { log } => Some(log.clone()),
            Mode::Foreground => None,
        };
        let request = SandboxRequest {
            hostname: hostname.clone(),
            command: args.command.clone(),
            env: variables(args.env)?,
            log,
            ..sandbox::request(SandboxArgs {
                name: Some(name),
                ..args.sandbox
            })?
        };
        Ok(Self {
            request,
            spec: Spec {
                argv: args.command.into_iter().map(Into::into).collect(),
                network,
                hostname,
            },
            mode,
            files,
        })
    }

    /// Makes a process in namespaces of its own, gives it its network, and
    /// lets it become the program. When a step fails, nothing stays.
    async fn start(self, client: &Client) -> Result<Started> {
        let result = self.start_or_leave(client).await;
        if let (Err(_), Mode::Detached { log }) = (&result, &self.mode)
            && let Err(error) = fs::remove_file(log)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("netdp: cannot remove {}: {error}", log.display());
        }
        result
    }

    async fn start_or_leave(&self, client: &Client) -> Result<Started> {
        let sandbox = Sandbox::start(&Launcher::this_program(), &self.spec, &self.mode).await?;
        let request = SandboxRequest {
            netns: sandbox.netns_path(),
            process: Some(process(sandbox.process())?),
            ..self.request.clone()
        };
        let answer = client.create_sandbox(&request).await?;
        sandbox::tell_what_is_not_direct(client, &answer).await;
        let released = match self.ready(sandbox, &answer) {
            Ok((sandbox, files)) => sandbox.release(&files).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match released {
            Ok(program) => Ok(Started {
                program,
                id: answer.id,
            }),
            Err(error) => {
                remove(client, &answer.id).await?;
                Err(error)
            }
        }
    }

    /// The sandbox with all that its program is to get.
    fn ready(&self, sandbox: Sandbox, answer: &Answer) -> Result<(Sandbox, crate::sandbox::Files)> {
        let files = self.files(answer)?;
        // What was said by name comes before what a link says.
        let mut environment = answer.environment.clone();
        environment.extend(self.request.env.clone());
        let sandbox = sandbox.with_environment(environment);
        let Some(direct) = answer.direct.clone() else {
            return Ok((sandbox, files));
        };
        let log = match &self.mode {
            Mode::Foreground => None,
            Mode::Detached { log } => {
                let file = fs::File::options().append(true).open(log);
                Some(file.with_context(|| format!("cannot open {}", log.display()))?)
            }
        };
        let task = Task {
            hears: Hears::Filter {
                netns: sandbox.netns_path(),
            },
            cgroup: direct.cgroup,
            ports: PortsAt::File(direct.ports),
            maps: direct.maps,
        };
        let sandbox = sandbox.with_direct(&Launcher::this_program(), task, log);
        Ok((sandbox, files))
    }

    fn files(&self, answer: &Answer) -> Result<crate::sandbox::Files> {
        if self.files == FilesOf::Host {
            return Ok(crate::sandbox::Files::default());
        }
        let resolv_conf = etc::resolv_conf(answer)?;
        Ok(crate::sandbox::Files {
            hosts: Some(etc::hosts(answer)),
            resolv_conf: Some(resolv_conf),
            hostname: Some(format!("{}\n", answer.hostname)),
        })
    }
}

/// The namespace that the asked network means, and whose files go with it.
async fn network(client: &Client, asked: Option<&str>) -> Result<(Network, FilesOf)> {
    let Some(asked) = asked else {
        return Ok((Network::New, FilesOf::Sandbox));
    };
    if let Some(other) = asked.strip_prefix("container:") {
        let other = client.sandbox(other).await?;
        let files = if other.mode == "host" {
            FilesOf::Host
        } else {
            FilesOf::Sandbox
        };
        return Ok((Network::Join(other.netns), files));
    }
    Ok(match client.network(asked).await?.driver {
        Driver::Host => (Network::Host, FilesOf::Host),
        _ => (Network::New, FilesOf::Sandbox),
    })
}

/// Where the output of the program will be kept. What an earlier one of the
/// same name left is removed.
async fn log_path(client: &Client, name: &Name) -> Result<PathBuf> {
    let status = client.status().await?;
    match client.sandbox(name.as_str()).await {
        Ok(other) if other.name == name.as_str() => bail!(
            "the name {name} is in use by sandbox {}: choose another one, or remove that one \
             with `netdp rm -f {name}`",
            output::short(&other.id)
        ),
        // Another one whose identifier begins like this name.
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    logs::remove(&status.log_dir, name)?;
    Ok(logs::path(&status.log_dir, name))
}

async fn remove(client: &Client, id: &str) -> Result<(), ClientError> {
    match client.remove_sandbox(id, Removal { force: true }).await {
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed,
    }
}

fn process(process: ProcessId) -> Result<Process> {
    Ok(Process {
        pid: u32::try_from(process.pid).context("the kernel gave a negative process number")?,
        start_time: process.start_time,
    })
}

/// `NAME=VALUE`, or the value that NAME has here, if any.
fn variables(given: Vec<Variable>) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for Variable { name, value } in given {
        let value = match value {
            Some(value) => value,
            None => match env::var(&name) {
                Ok(value) => value,
                Err(VarError::NotPresent) => continue,
                Err(VarError::NotUnicode(_)) => bail!(
                    "the variable {name} is no text: give one that is with --env {name}=VALUE"
                ),
            },
        };
        variables.insert(name, value);
    }
    Ok(variables)
}

fn random_name() -> Name {
    format!("{:012x}", rand::random::<u64>() >> 16)
        .parse()
        .expect("hexadecimal digits are a name")
}
