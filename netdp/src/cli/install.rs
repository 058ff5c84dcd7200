//! `netdp install`.

use std::{env, path::Path};

use anyhow::{Context, Result};

use super::{
    args::{DockerArgs, Format, InstallArgs, InstallCommand},
    output, runtime,
};
use crate::{
    api::client::Client,
    install::{self, Place, Report},
};

pub fn run(run_dir: &Path, command: InstallCommand) -> Result<()> {
    match command {
        InstallCommand::Docker(args) => docker(run_dir, args),
        InstallCommand::Podman(args) => {
            let place = place(run_dir, &args)?;
            let report = if args.remove {
                install::remove_podman(&place)?
            } else {
                install::podman(&place)?
            };
            print(&args, &report)
        }
    }
}

fn docker(run_dir: &Path, args: DockerArgs) -> Result<()> {
    let DockerArgs {
        direct_ports,
        install: args,
    } = args;
    let place = place(run_dir, &args)?;
    let report = if args.remove {
        install::remove_docker(&place, direct_ports)?
    } else {
        let answers = args.root.is_none() && answers(run_dir)?;
        install::docker(&place, answers, direct_ports)?
    };
    print(&args, &report)
}

fn place(run_dir: &Path, args: &InstallArgs) -> Result<Place> {
    Ok(Place {
        root: args.root.clone(),
        program: env::current_exe().context("cannot tell where netdp lies")?,
        run_dir: run_dir.to_owned(),
    })
}

fn answers(run_dir: &Path) -> Result<bool> {
    let client = Client::new(run_dir);
    Ok(runtime()?.block_on(client.status()).is_ok())
}

fn print(args: &InstallArgs, report: &Report) -> Result<()> {
    let rows = report.files.iter().map(|file| {
        let path = file.path.display().to_string();
        vec![path, file.what.text().to_owned()]
    });
    output::print(args.format, report, &["FILE", ""], rows)?;
    if args.format == Format::Json {
        return Ok(());
    }
    if report.running {
        output::line("systemd runs netdp now: docker network create -d netdp NAME")?;
    }
    match &report.next {
        Some(next) => output::line(next),
        None => Ok(()),
    }
}
