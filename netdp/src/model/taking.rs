//! Taking published ports back: which ones a specification means, found without
//! comparing each of many with each of many others.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::{Endpoint, PortRange, PortSpec, Proto, Publication};

/// By protocol and first port: places in [`Taking::published`].
type Places = BTreeMap<(Proto, u16), Vec<usize>>;

/// The published ports of an endpoint, some of which are taken back.
pub(super) struct Taking {
    /// In the order of the endpoint's; none where it was taken.
    published: Vec<Option<Publication>>,
    /// Those of the host's addresses.
    by_host_port: Places,
    /// All of them.
    by_container_port: Places,
    /// Those at the endpoint's own addresses.
    at_itself: BTreeSet<usize>,
}

impl Taking {
    /// Takes them out of the endpoint; [`Taking::into_left`] gives back what is
    /// left.
    pub(super) fn of(endpoint: &mut Endpoint) -> Self {
        let mut taking = Self {
            published: Vec::with_capacity(endpoint.published.len()),
            by_host_port: Places::new(),
            by_container_port: Places::new(),
            at_itself: BTreeSet::new(),
        };
        for publication in std::mem::take(&mut endpoint.published) {
            let place = taking.published.len();
            let proto = publication.proto;
            if endpoint.is_at_itself(&publication) {
                taking.at_itself.insert(place);
            } else {
                let port = (proto, publication.host_port);
                taking.by_host_port.entry(port).or_default().push(place);
            }
            let port = (proto, publication.container_port);
            let of_container = taking.by_container_port.entry(port).or_default();
            of_container.push(place);
            taking.published.push(Some(publication));
        }
        taking
    }

    /// Takes what `spec` means, in order.
    pub(super) fn take(&mut self, spec: &PortSpec, taken: &mut Vec<Publication>) {
        for place in self.candidates(spec) {
            let at_itself = self.at_itself.contains(&place);
            let fits = |publication: &mut Publication| spec.fits(publication, at_itself);
            taken.extend(self.published[place].take_if(fits));
        }
    }

    /// Those that `spec` may mean: it [covers](PortSpec::fits) the first ports of
    /// what it means.
    fn candidates(&self, spec: &PortSpec) -> BTreeSet<usize> {
        let of = |places: &'_ Places, ports: PortRange| -> Vec<usize> {
            let range = range(spec.proto, ports);
            places
                .range(range)
                .flat_map(|(_, places)| places)
                .copied()
                .collect()
        };
        match spec.host_ports {
            None => of(&self.by_container_port, spec.container_ports)
                .into_iter()
                .collect(),
            Some(host_ports) => {
                let mut found: BTreeSet<usize> =
                    of(&self.by_host_port, host_ports).into_iter().collect();
                if !self.at_itself.is_empty() {
                    let of_container = of(&self.by_container_port, spec.container_ports);
                    let own = of_container.into_iter();
                    found.extend(own.filter(|place| self.at_itself.contains(place)));
                }
                found
            }
        }
    }

    /// Those that were not taken.
    pub(super) fn left(&self) -> impl Iterator<Item = &Publication> {
        self.published.iter().flatten()
    }

    pub(super) fn into_left(self) -> Vec<Publication> {
        self.published.into_iter().flatten().collect()
    }
}

fn range(proto: Proto, ports: PortRange) -> RangeInclusive<(Proto, u16)> {
    (proto, ports.first())..=(proto, ports.last())
}
