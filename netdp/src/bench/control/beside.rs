//! What one endpoint more takes beside others.

use crate::bench::attach::{Requests, Wanted};
use crate::netns::Namespace;
use crate::world::World;

use super::figure::{Figure, quantiles};
use super::going_on;

/// How often it comes and goes.
const TIMES: usize = 25;
/// No other endpoint's.
const PORT: &str = "9999:80";

/// An endpoint that comes and goes.
pub(super) struct Newcomer {
    wanted: Wanted,
    _namespace: Namespace,
}

impl Newcomer {
    pub(super) fn new(world: &World) -> anyhow::Result<Self> {
        let namespace = world.add_namespace("newcomer")?;
        Ok(Self {
            wanted: Wanted::new("newcomer", &namespace, None, &[])?,
            _namespace: namespace,
        })
    }

    /// How long attaching it takes, and publishing a port of it, where there are
    /// so many others.
    pub(super) fn beside(&self, others: usize, requests: &Requests) -> anyhow::Result<Vec<Figure>> {
        let (mut attached, mut published) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            going_on()?;
            let name = &self.wanted.name;
            attached.push(requests.attach(&self.wanted)?);
            published.push(requests.publish(name, &[PORT.into()])?);
            requests.detach(name)?;
        }
        let mut figures = quantiles(&format!("attach beside {others} others"), attached, None);
        let what = format!("publish a port beside {others} others");
        figures.extend(quantiles(&what, published, None));
        Ok(figures)
    }
}
