//! A packet of a sandbox for itself, which no program at an interface sees: what
//! becomes of it is settled when its program connects.

use super::{Explanation, Outcome, Protocol, Question, Snapshot};

/// None of a packet for anybody else.
pub fn own(snapshot: &Snapshot<'_>, question: &Question) -> Option<Explanation> {
    let address = question.destination.ip();
    if question.source.ip() != address {
        return None;
    }
    let owner = snapshot.owner(address)?;
    let mut told = Explanation::new(question);
    told.say("source", "a container of this host");
    // Of UDP, its programs are led there from loopback addresses alone.
    let led = match question.protocol {
        Protocol::Tcp => snapshot.instead(question),
        Protocol::Udp | Protocol::Icmp => None,
    };
    if let Some(place) = led {
        let why = "its own address, unless somebody listens at it inside";
        told.say("route", why);
        told.take(place, address);
        return Some(told);
    }
    told.say("route", "its own address: the packet stays inside");
    told.outcome = Outcome::Container(owner.to.ifindex);
    Some(told)
}
