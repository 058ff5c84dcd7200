//! What is done for Docker's networks: programs and tables in line with what
//! Docker, the host and its rules say.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Mutex as StdMutex, PoisonError},
};

use futures_util::Stream;

use super::{
    ENGINE,
    docker::{Api, Inspected},
    error::DockerError,
    inside::{self, Interface},
    keeper::{AccelerateError, Seen, Shown},
    rules::{self, Judged},
    view::View,
    wanted::{Known, Wanted, wanted},
};
use crate::{
    bpf::{Accelerated, BpfError, Entry, Key, Options, Role},
    daemon::{
        host::Host,
        owner::{Owner, now},
    },
    model::{Acceleration, Publication},
    netlink::Netlink,
    plan::{self, Facts, Write},
};

/// Loading takes seconds of the CPU.
async fn load(options: Options) -> Result<Accelerated, BpfError> {
    match tokio::task::spawn_blocking(move || Accelerated::load(&options)).await {
        Ok(loaded) => loaded,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(super) type Events = Pin<Box<dyn Stream<Item = Option<String>> + Send>>;

/// What is done, and what for.
pub(super) struct Work {
    pub told: Acceleration,
    /// None while Docker doesn't answer.
    api: Option<Api>,
    pub view: View,
    pub programs: Accelerated,
    pub netlink: Netlink,
    inspected: Inspected,
    /// When Docker was last asked, in seconds since the Unix epoch.
    asked: u64,
    /// By the id of the endpoint.
    interfaces: BTreeMap<String, Interface>,
    judged: Judged,
    slots: BTreeMap<String, u32>,
    wanted: Wanted,
    /// Why Docker's words are old.
    pub problem: Option<String>,
}

impl Work {
    /// With programs that are on no interface yet, and nothing heard of Docker.
    pub async fn new(owner: &Owner, told: Acceleration) -> Result<Self, AccelerateError> {
        Ok(Self {
            told,
            api: None,
            view: View::default(),
            inspected: Inspected::default(),
            asked: 0,
            programs: load(owner.settings().datapath.clone()).await?,
            netlink: Netlink::open()?,
            interfaces: BTreeMap::new(),
            judged: Judged::default(),
            slots: BTreeMap::new(),
            wanted: Wanted::default(),
            problem: None,
        })
    }

    /// Does what is told from now on, stored first; all of it or nothing.
    pub async fn follow(
        &mut self,
        owner: &Owner,
        told: Acceleration,
    ) -> Result<(), AccelerateError> {
        let before = {
            let mut core = owner.lock().await;
            let before = core.state().accelerations.get(ENGINE).cloned();
            core.remember(ENGINE, Some(told.clone()))?;
            before
        };
        let told_before = std::mem::replace(&mut self.told, told);
        self.enter().await;
        let done = self.reconcile(owner).await;
        if done.is_err() {
            self.told = told_before;
            owner.lock().await.remember(ENGINE, before)?;
        }
        done
    }

    /// What changes from the last look on; nothing while Docker doesn't answer.
    pub fn events(&self) -> Events {
        match &self.api {
            Some(api) => Box::pin(api.events(self.asked)),
            None => Box::pin(futures_util::stream::pending()),
        }
    }

    /// Hears what Docker has to say now. `changed`: containers of which it told
    /// that they have.
    pub async fn ask(&mut self, changed: &BTreeSet<String>) -> Result<(), DockerError> {
        self.asked = now();
        let asked = async {
            if self.api.is_none() {
                self.api = Some(Api::connect(&self.told.socket).await?);
            }
            match &self.api {
                Some(api) => api.look(&mut self.inspected, changed).await,
                None => Ok(View::default()),
            }
        };
        match asked.await {
            Ok(view) => {
                self.view = view;
                self.problem = None;
                self.enter().await;
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                if self.problem.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                }
                // What was carried goes on as long as its interfaces are there.
                self.problem = Some(text);
                self.api = None;
                Err(error)
            }
        }
    }

    /// Looks at the host's rules, and at the interfaces of the containers.
    pub async fn enter(&mut self) {
        self.judged = rules::judge(&self.view, self.told.skip_rules).await;
        let mut found = BTreeMap::new();
        let selected: BTreeSet<&str> = self
            .view
            .networks
            .iter()
            .filter(|network| self.told.networks.has(&network.name))
            .map(|network| network.id.as_str())
            .collect();
        for container in &self.view.containers {
            let mut endpoints = container.endpoints.iter();
            if !endpoints.any(|endpoint| selected.contains(endpoint.network.as_str())) {
                continue;
            }
            match inside::interfaces(container, &self.netlink).await {
                Ok(interfaces) => found.extend(interfaces),
                // It has ended meanwhile.
                Err(error) => tracing::debug!("container {}: {error}", container.name),
            }
        }
        self.interfaces = found;
    }

    /// Brings programs and tables in line with what is known.
    pub async fn reconcile(&mut self, owner: &Owner) -> Result<(), AccelerateError> {
        let links = self.netlink.links().await?;
        let host = Host::read(&self.netlink).await?;
        let (facts, published, uplinks) = {
            let core = owner.lock().await;
            let state = core.state();
            let alias = format!("netdp:{}:", state.instance);
            let facts = host.facts(core.engine().asked_uplinks(), &alias);
            let endpoints = state.endpoints.values();
            let published: Vec<Publication> =
                endpoints.flat_map(|it| it.published.clone()).collect();
            // These programs come before netdp's own, which have to be there.
            let attached = core.engine().target().datapath.attached();
            (facts, published, attached)
        };
        let addresses = self.netlink.addresses().await?;
        let addresses: Vec<_> = addresses.iter().map(|it| (it.ifindex, it.net)).collect();
        let known = Known {
            links: &links,
            addresses: &addresses,
            interfaces: &self.interfaces,
            published: &published,
            rules: &self.judged,
        };
        self.wanted = wanted(&self.view, &self.told.networks, &known, &mut self.slots);
        self.apply(&facts, |ifindex| {
            uplinks.get(&ifindex) == Some(&Role::Uplink)
        })?;
        Ok(())
    }

    fn apply(&mut self, facts: &Facts, is_uplink: impl Fn(u32) -> bool) -> Result<(), BpfError> {
        let Wanted {
            bridges, endpoints, ..
        } = &self.wanted;
        let want = plan::foreign(facts, bridges, endpoints);
        let mut names: BTreeMap<(u32, Role), String> = BTreeMap::new();
        for foreign in endpoints {
            let name = foreign.endpoint.host_ifname.clone();
            names.insert((foreign.ifindex, Role::Endpoint), name);
        }
        for uplink in &facts.uplinks {
            let of_tables = want.contains_key(&Key::Uplink(uplink.ifindex));
            if of_tables && is_uplink(uplink.ifindex) && !endpoints.is_empty() {
                names.insert((uplink.ifindex, Role::Uplink), uplink.ifname.clone());
            }
        }
        let gone: Vec<_> = self
            .programs
            .attached()
            .filter(|at| !names.contains_key(at))
            .collect();
        for (ifindex, role) in gone {
            self.programs.detach(ifindex, role);
        }
        let datapath = self.programs.datapath_mut();
        let have = datapath.tables()?;
        for write in plan::writes(&have, &want) {
            match write {
                Write::Put(key, entry) => datapath.put(&key, &entry)?,
                Write::Remove(key) => {
                    datapath.remove(&key)?;
                    if let (Key::Endpoint(ifindex), Some(Entry::Endpoint(endpoint))) =
                        (key, have.get(&key))
                    {
                        datapath.forget_flows(&[(ifindex, *endpoint)])?;
                        datapath.clear_stats(endpoint.slot)?;
                    }
                }
            }
        }
        datapath.settle_ports()?;
        for ((ifindex, role), name) in names {
            match self.programs.attach(&name, ifindex, role) {
                Ok(()) => {}
                // It has just gone: another look follows.
                Err(error) => tracing::debug!("{error}"),
            }
        }
        Ok(())
    }

    pub fn show(&self, shown: &StdMutex<Option<Shown>>) -> Shown {
        let now = Shown {
            told: self.told.clone(),
            problem: self.problem.clone(),
            networks: self.wanted.networks.clone(),
            seen: Some(Seen {
                counters: self.programs.counters(),
                v4: self.programs.datapath().flow_tables().clone(),
                v6: self.programs.datapath().flow_tables().clone(),
            }),
        };
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(now.clone());
        now
    }
}
