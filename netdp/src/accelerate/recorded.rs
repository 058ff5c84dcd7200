//! What real dockerds said (`tests/tests/engine_records.rs`), read: 20.10 and
//! 28.5, each with the same containers on the same networks.

use std::collections::BTreeSet;

use bollard::models::{ContainerInspectResponse, ContainerSummary, EventMessage, Network};

use super::{
    docker::{container, forget_time},
    select::unfit,
    view::{DockerContainer, DockerNetwork, View},
};
use crate::model::Selection;

macro_rules! recorded {
    ($version:literal) => {
        Recorded {
            version: $version,
            networks: include_str!(concat!(
                "../../../tests/fixtures/docker-",
                $version,
                "/networks.json"
            )),
            containers: include_str!(concat!(
                "../../../tests/fixtures/docker-",
                $version,
                "/containers.json"
            )),
            inspect: include_str!(concat!(
                "../../../tests/fixtures/docker-",
                $version,
                "/inspect.json"
            )),
            events: include_str!(concat!(
                "../../../tests/fixtures/docker-",
                $version,
                "/events.json"
            )),
        }
    };
}

const ALL: [Recorded; 2] = [recorded!("20.10"), recorded!("28.5")];

struct Recorded {
    version: &'static str,
    networks: &'static str,
    containers: &'static str,
    inspect: &'static str,
    events: &'static str,
}

impl Recorded {
    fn view(&self) -> View {
        let networks: Vec<Network> = serde_json::from_str(self.networks).unwrap();
        let inspected: Vec<ContainerInspectResponse> = serde_json::from_str(self.inspect).unwrap();
        View {
            networks: networks.into_iter().filter_map(DockerNetwork::of).collect(),
            containers: inspected
                .into_iter()
                .filter_map(DockerContainer::of)
                .collect(),
        }
    }

    fn has_ipv6(&self) -> bool {
        self.version != "20.10"
    }
}

fn network<'a>(view: &'a View, name: &str) -> &'a DockerNetwork {
    let mut networks = view.networks.iter();
    networks.find(|it| it.name == name).unwrap()
}

fn named<'a>(view: &'a View, name: &str) -> &'a DockerContainer {
    let mut containers = view.containers.iter();
    containers.find(|it| it.name == name).unwrap()
}

#[test]
fn networks_are_read() {
    for recorded in &ALL {
        let view = recorded.view();
        let mut names: Vec<_> = view.networks.iter().map(|it| it.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["bridge", "fast", "host", "inner", "none", "plain", "shop"]
        );
        let shop = network(&view, "shop");
        assert_eq!(
            (shop.driver.as_str(), shop.scope.as_str()),
            ("bridge", "local")
        );
        assert_eq!(shop.id.len(), 64);
        assert_eq!(shop.bridge(), format!("br-{}", &shop.id[..12]));
        assert!(shop.is_translated(4) && shop.is_translated(6));
        assert_eq!(network(&view, "bridge").bridge(), "docker0");
        let plain = network(&view, "plain");
        assert_eq!(plain.bridge(), "plain0");
        let masquerade = "com.docker.network.bridge.enable_ip_masquerade";
        assert!(plain.is_off(masquerade));
        assert!(!network(&view, "bridge").is_off(masquerade) && !shop.is_off(masquerade));
    }
}

#[test]
fn what_can_be_carried_is_selected() {
    for recorded in &ALL {
        let view = recorded.view();
        for (name, why) in [
            ("shop", None),
            ("bridge", None),
            ("plain", None),
            ("inner", Some("it is internal")),
            ("fast", Some("its driver is netdp")),
            ("host", Some("its driver is host")),
            ("none", Some("its driver is null")),
        ] {
            let said = unfit(network(&view, name));
            match why {
                None => assert_eq!(said, None, "{name}"),
                Some(why) => assert!(said.unwrap().starts_with(why), "{name}"),
            }
        }
        let mut selection = Selection::default();
        let shop = network(&view, "shop").id.clone();
        // By name, id, and the beginning of one.
        for reference in ["shop", &shop, &shop[..12]] {
            selection.add(&[reference.to_owned()], &view).unwrap();
            assert!(selection.has("shop") && !selection.has("bridge"));
            selection.remove(&[reference.to_owned()], &view).unwrap();
            assert!(selection.is_empty());
        }
        let refused = selection.add(&["inner".to_owned()], &view).unwrap_err();
        assert!(refused.to_string().contains("it is internal"), "{refused}");
        selection.add(&[], &view).unwrap();
        selection.remove(&["bridge".to_owned()], &view).unwrap();
        assert!(selection.has("shop") && !selection.has("bridge"));
    }
}

#[test]
fn containers_are_read() {
    for recorded in &ALL {
        let view = recorded.view();
        assert_eq!(view.containers.len(), 6);
        let one = named(&view, "one");
        assert_eq!(one.hostname, "one");
        assert!(one.pid > 0 && one.sandbox_key.starts_with("/var/run/docker/netns/"));
        assert_eq!(one.command[..2], ["/bin/busybox", "httpd"]);
        assert_eq!(one.published.len(), 4, "{:?}", one.published);
        let ports: BTreeSet<_> = one
            .published
            .iter()
            .map(|it| (it.host_ip.to_string(), it.host_port, it.container_port))
            .collect();
        let expected = [
            ("0.0.0.0", 5353, 53),
            ("0.0.0.0", 8081, 80),
            ("::", 5353, 53),
            ("::", 8081, 80),
        ];
        let expected = expected.map(|(ip, host, container)| (ip.to_owned(), host, container));
        assert_eq!(ports, expected.into());

        let two = named(&view, "two");
        // What is exposed is not published.
        let [port] = &two.published[..] else {
            panic!("{:?}", two.published);
        };
        assert_eq!(
            (port.host_ip.to_string().as_str(), port.host_port),
            ("127.0.0.1", 8082)
        );
        let shop = &network(&view, "shop").id;
        let mut endpoints = two.endpoints.iter();
        let endpoint = endpoints.find(|it| it.network == *shop).unwrap();
        let addresses: Vec<_> = endpoint
            .addresses
            .iter()
            .map(|it| (it.net.to_string(), it.gateway.to_string()))
            .collect();
        let mut expected = vec![("172.30.0.2/24".to_owned(), "172.30.0.1".to_owned())];
        if recorded.has_ipv6() {
            expected.push(("fd00:8::2/64".to_owned(), "fd00:8::1".to_owned()));
        }
        assert_eq!(addresses, expected);
        assert!(endpoint.mac.is_some());
        assert_eq!(two.endpoints.len(), 2);

        // Of an internal network there may be no gateway.
        let inner = &named(&view, "drei").endpoints[0];
        assert_eq!(inner.addresses[0].net.to_string(), "172.31.0.2/24");
        // The host's network, and another container's.
        let host = named(&view, "four");
        assert!(host.endpoints.iter().all(|it| it.addresses.is_empty()));
        let shared = named(&view, "five");
        assert!(shared.endpoints.is_empty() && shared.sandbox_key.is_empty());
        assert!(named(&view, "six").published.is_empty());
    }
}

#[test]
fn a_listing_tells_whether_a_container_is_another() {
    for recorded in &ALL {
        let listed: Vec<ContainerSummary> = serde_json::from_str(recorded.containers).unwrap();
        let inspected: Vec<ContainerInspectResponse> =
            serde_json::from_str(recorded.inspect).unwrap();
        for (listed, inspected) in listed.into_iter().zip(inspected) {
            assert_eq!(listed.id, inspected.id);
            let later = ContainerSummary {
                status: Some("Up 3 hours".to_owned()),
                ..listed.clone()
            };
            let without_time = |mut listed: ContainerSummary| {
                forget_time(&mut listed);
                listed
            };
            assert_ne!(listed, later);
            assert_eq!(without_time(listed.clone()), without_time(later));
            // An endpoint is another with each start.
            let mut restarted = listed.clone();
            let networks = restarted.network_settings.as_mut();
            let Some(networks) = networks.and_then(|it| it.networks.as_mut()) else {
                panic!("{restarted:?}");
            };
            for endpoint in networks.values_mut() {
                assert!(
                    endpoint
                        .endpoint_id
                        .as_ref()
                        .is_some_and(|id| id.len() == 64)
                );
                endpoint.endpoint_id = Some("another".to_owned());
            }
            let is_same = networks.is_empty();
            assert_eq!(without_time(listed) == without_time(restarted), is_same);
        }
    }
}

#[test]
fn events_name_their_container() {
    for recorded in &ALL {
        let view = recorded.view();
        let events: Vec<EventMessage> = serde_json::from_str(recorded.events).unwrap();
        let of = |action: &str| -> Vec<Option<String>> {
            let events = events.iter().cloned();
            let events = events.filter(|it| it.action.as_deref() == Some(action));
            events.map(container).collect()
        };
        let id = |name: &str| Some(named(&view, name).id.clone());
        for action in ["start", "connect"] {
            assert!(of(action).contains(&id("one")), "{action}");
        }
        for action in ["die", "rename", "disconnect"] {
            assert!(of(action).contains(&id("drei")), "{action}");
        }
        assert!(of("disconnect").contains(&id("two")));
        // Of networks that are made, and of containers.
        let created = of("create");
        assert_eq!(created.iter().filter(|it| it.is_none()).count(), 4);
        assert!(created.contains(&id("six")));
    }
}
