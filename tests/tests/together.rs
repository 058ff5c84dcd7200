//! Requests that arrive while another is being done are done as one, and each
//! of them has its own answer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netdp::api::client::{Client, ClientError};
use netdp::api::types::Removal;
use netdp::demo::world::HOST_ADDRESS;
use netdp::model::SandboxRequest;
use netdp::netns::Namespace;
use netdp_tests::{Topology, connect, listen, talk};
use tokio::task::JoinSet;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const MANY: usize = 16;
/// Has an interface by the name that the sandbox's end gets.
const FAILING: usize = 9;
/// Both ask for one port.
const RIVALS: [usize; 2] = [5, 12];

fn request(number: usize, namespace: &Namespace) -> SandboxRequest {
    let port = match number == RIVALS[1] {
        true => 8100 + RIVALS[0],
        false => 8100 + number,
    };
    SandboxRequest {
        name: Some(format!("many{number}").parse().unwrap()),
        netns: namespace.path().into(),
        publish: vec![format!("{port}:80").parse().unwrap()],
        ..SandboxRequest::default()
    }
}

/// All requests at once; what came of each, by its number.
fn all_at_once<F>(
    numbers: impl Iterator<Item = usize>,
    ask: impl Fn(usize) -> F,
) -> Vec<(usize, Result<(), ClientError>)>
where
    F: Future<Output = Result<(), ClientError>> + Send + 'static,
{
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut asked = JoinSet::new();
        for number in numbers {
            let answer = ask(number);
            asked.spawn(async move { (number, answer.await) });
        }
        asked.join_all().await
    })
}

fn names(topology: &Topology) -> BTreeSet<String> {
    let listed = topology.netdp("ps --format json");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let sandboxes = listed.as_array().unwrap().iter();
    let names = sandboxes.map(|sandbox| sandbox["name"].as_str().unwrap().to_owned());
    names.collect()
}

fn host_ends(topology: &Topology) -> usize {
    let mut command = topology.world.host.command("ip");
    let links = command.args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    links.lines().filter(|line| line.contains(": vn")).count()
}

#[test]
fn of_many_requests_at_once_only_those_fail_that_cannot_be_done() {
    let Some(topology) = Topology::start("together") else {
        return;
    };
    let namespaces: Vec<Namespace> = (0..MANY)
        .map(|number| {
            let name = format!("many{number}");
            topology.world.add_namespace(&name).unwrap()
        })
        .collect();
    let taken = namespaces[FAILING]
        .command("ip")
        .args(["link", "add", "eth0", "type", "bridge"])
        .status()
        .unwrap();
    assert!(taken.success());

    let run_dir = topology.world.run_dir();
    let made = all_at_once(0..MANY, |number| {
        let request = request(number, &namespaces[number]);
        let client = Client::new(&run_dir);
        async move { client.create_sandbox(&request).await.map(drop) }
    });
    let failed: BTreeSet<usize> = made
        .iter()
        .filter_map(|(number, answer)| answer.as_ref().err().map(|_| *number))
        .collect();
    let rival = failed.intersection(&RIVALS.into()).copied().next().unwrap();
    assert_eq!(failed, [FAILING, rival].into(), "{made:?}");
    let why = |wanted: usize| {
        let mut answers = made.iter();
        let (_, answer) = answers.find(|(number, _)| *number == wanted).unwrap();
        answer.as_ref().unwrap_err().to_string()
    };
    assert!(why(FAILING).contains("eth0"), "{}", why(FAILING));
    assert!(why(rival).contains("8105"), "{}", why(rival));

    let there: BTreeSet<usize> = (0..MANY).filter(|it| !failed.contains(it)).collect();
    let expected: BTreeSet<String> = there.iter().map(|it| format!("many{it}")).collect();
    assert_eq!(names(&topology), expected);
    assert_eq!(host_ends(&topology), there.len());
    for &number in &there {
        let server = listen(&namespaces[number], ANY, 80);
        let port = request(number, &namespaces[number]).publish[0].to_string();
        let port: u16 = port.split(':').next().unwrap().parse().unwrap();
        let near = connect(&topology.world.client, (HOST_ADDRESS, port));
        talk(&near, &server.accept().0);
    }

    let removed = all_at_once(there.into_iter(), |number| {
        let client = Client::new(&run_dir);
        async move {
            let removal = Removal { force: true };
            client
                .remove_sandbox(&format!("many{number}"), removal)
                .await
        }
    });
    assert!(removed.iter().all(|(_, gone)| gone.is_ok()), "{removed:?}");
    assert_eq!(names(&topology), BTreeSet::new());
    assert_eq!(host_ends(&topology), 0);
    let pins = std::fs::read_dir(topology.world.bpffs().join("netdp/links")).unwrap();
    let pins: Vec<_> = pins
        .map(|pin| pin.unwrap().file_name().into_string().unwrap())
        .collect();
    let is_endpoints = |pin: &&String| pin.ends_with("_container");
    assert_eq!(pins.iter().find(is_endpoints), None, "{pins:?}");
}
