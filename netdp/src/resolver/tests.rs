//! Questions and answers, without sockets.

use std::{collections::BTreeSet, net::IpAddr};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::TXT},
};
use proptest::prelude::*;

use super::answer::{Outcome, Transport, answer, fitting, question};
use crate::model::{
    EndpointRequest, NetworkRequest, State,
    names::{Names, View},
    tests::{Sockets, host, state, web},
};

/// `web`, `db` and `both` on the first network, `both` and `far` on another,
/// `alone` on one that is internal.
fn example() -> State {
    let mut state = state();
    let sockets = Sockets::default();
    let host = host(&sockets);
    for (name, internal) in [("other", false), ("inside", true)] {
        let request = NetworkRequest {
            internal,
            ..NetworkRequest::new(name.parse().unwrap())
        };
        state.create_network(&request, &host).unwrap();
    }
    for (name, network) in [
        ("web", "netdp0"),
        ("DB", "netdp0"),
        ("both", "netdp0"),
        ("far", "other"),
        ("alone", "inside"),
    ] {
        let mut request = web(name, &[]);
        request.networks = vec![network.into()];
        request.hostname = Some(format!("{name}-host"));
        state.create_sandbox(&request, &host).unwrap();
    }
    let request = EndpointRequest::default();
    state.connect("other", "both", &request).unwrap();
    state
}

fn view(state: &State, name: &str) -> View {
    let id = state.sandbox(name).unwrap().id;
    View::clone(Names::of(state).view(id).unwrap())
}

fn address(state: &State, name: &str) -> IpAddr {
    let id = state.sandbox(name).unwrap().id;
    state.endpoints_of(id)[0].addresses[0].net.addr()
}

fn asked(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn reply(view: &View, message: &Message, transport: Transport) -> Option<Message> {
    match answer(view, &message.to_vec().unwrap(), transport) {
        Outcome::Answer(bytes) => {
            let reply = Message::from_vec(&bytes).unwrap();
            assert_eq!(reply.metadata.id, 0x1234);
            assert_eq!(reply.metadata.message_type, MessageType::Response);
            Some(reply)
        }
        Outcome::Forward => None,
        Outcome::Ignore => panic!("a question was ignored"),
    }
}

/// Addresses, or none where the question goes outside.
fn resolve(view: &View, name: &str) -> Option<Vec<IpAddr>> {
    let reply = reply(view, &asked(name, RecordType::A), Transport::Udp)?;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative);
    Some(addresses(&reply))
}

fn addresses(reply: &Message) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = reply
        .answers
        .iter()
        .map(|record| match record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            ref other => panic!("{other}"),
        })
        .collect();
    found.sort();
    found
}

#[test]
fn names_of_ones_own_networks_are_known() {
    let state = example();
    let web = view(&state, "web");
    let (db, both) = (address(&state, "DB"), address(&state, "both"));
    let id = state.sandbox("DB").unwrap().id;
    for name in [
        "db.",
        "DB.",
        "db-host.",
        "db.netdp0.",
        "dB.NETDP0.",
        "db-host.netdp0.",
        &format!("{}.", id.short()),
        &format!("{}.", &id.to_string()[..63]),
    ] {
        assert_eq!(resolve(&web, name), Some(vec![db]), "{name}");
    }
    assert_eq!(resolve(&web, "both."), Some(vec![both]));
    assert_eq!(resolve(&web, "web."), Some(vec![address(&state, "web")]));
}

#[test]
fn names_of_other_networks_are_not() {
    let state = example();
    let web = view(&state, "web");
    let id = state.sandbox("DB").unwrap().id.to_string();
    for name in [
        "far.",
        "alone.",
        "far.other.",
        "db.other.",
        "netdp0.",
        ".",
        "db.example.",
        &format!("{}.", &id[..11]),
    ] {
        assert_eq!(resolve(&web, name), None, "{name}");
    }
    // Who is on both sees both, and is seen at the near address.
    let both = view(&state, "both");
    assert_eq!(resolve(&both, "web."), Some(vec![address(&state, "web")]));
    assert_eq!(resolve(&both, "far."), Some(vec![address(&state, "far")]));
    let far = view(&state, "far");
    assert_ne!(resolve(&far, "both."), Some(vec![address(&state, "both")]));
    assert_eq!(resolve(&far, "web."), None);
}

#[test]
fn names_follow_connections() {
    let mut state = example();
    state
        .connect("other", "web", &EndpointRequest::default())
        .unwrap();
    assert!(resolve(&view(&state, "web"), "far.").is_some());
    state.disconnect("other", "web").unwrap();
    assert_eq!(resolve(&view(&state, "web"), "far."), None);
    state.remove_sandbox("DB").unwrap();
    assert_eq!(resolve(&view(&state, "web"), "db."), None);
}

#[test]
fn a_link_is_known_to_who_has_it() {
    let mut state = example();
    let sockets = Sockets::default();
    let mut request = web("client", &[]);
    request.links = vec!["DB:Storage".parse().unwrap()];
    state.create_sandbox(&request, &host(&sockets)).unwrap();
    let db = address(&state, "DB");
    assert_eq!(resolve(&view(&state, "client"), "storage."), Some(vec![db]));
    assert_eq!(resolve(&view(&state, "web"), "storage."), None);
    // Started again, it has another address.
    state.remove_sandbox("DB").unwrap();
    assert_eq!(resolve(&view(&state, "client"), "storage."), None);
    state
        .create_sandbox(&web("DB", &[]), &host(&sockets))
        .unwrap();
    assert_ne!(address(&state, "DB"), db);
    assert_eq!(
        resolve(&view(&state, "client"), "storage."),
        Some(vec![address(&state, "DB")])
    );
}

#[test]
fn an_alias_may_be_anothers_too_and_is_told_in_turn() {
    let mut state = example();
    let sockets = Sockets::default();
    let pool = || vec!["Pool".parse().unwrap()];
    for name in ["one", "two"] {
        let mut request = web(name, &[]);
        request.aliases = pool();
        state.create_sandbox(&request, &host(&sockets)).unwrap();
    }
    let request = EndpointRequest {
        aliases: pool(),
        ..EndpointRequest::default()
    };
    state.connect("other", "web", &request).unwrap();
    let web = view(&state, "web");
    let both = vec![address(&state, "one"), address(&state, "two")];
    assert_eq!(resolve(&web, "pool."), Some(both.clone()));
    assert_eq!(resolve(&web, "POOL.netdp0."), Some(both.clone()));
    // On the other network the name is web's.
    let far = resolve(&view(&state, "far"), "pool.").unwrap();
    assert!(far.len() == 1 && !both.contains(&far[0]), "{far:?}");
    // Each comes first some time: 2^-63 that it doesn't.
    let first = || {
        let reply = reply(&web, &asked("pool.", RecordType::A), Transport::Udp).unwrap();
        reply.answers[0].data.to_string()
    };
    let seen: BTreeSet<String> = (0..64).map(|_| first()).collect();
    assert_eq!(seen.len(), 2);
    // PTR tells the sandbox's own name.
    let asked = asked(&Name::from(both[0]).to_ascii(), RecordType::PTR);
    let back = reply(&web, &asked, Transport::Udp).unwrap();
    assert_eq!(back.answers[0].data.to_string(), "one.netdp0.");
}

#[test]
fn a_known_name_has_no_records_of_other_types() {
    let state = example();
    let web = view(&state, "web");
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT] {
        let reply = reply(&web, &asked("db.", kind), Transport::Udp).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty());
    }
    let mut chaos = asked("db.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(reply(&web, &chaos, Transport::Udp), None);
}

#[test]
fn addresses_have_names() {
    let state = example();
    let web = view(&state, "web");
    let ask = |view: &View, address: IpAddr| {
        let name = Name::from(address).to_ascii();
        reply(view, &asked(&name, RecordType::PTR), Transport::Udp)
    };
    let found = ask(&web, address(&state, "DB")).unwrap();
    assert_eq!(found.answers[0].data.to_string(), "DB.netdp0.");
    // The host's own address, and one that nobody has.
    for address in ["172.17.0.1", "172.17.200.1", "127.0.0.11"] {
        let nobody = ask(&web, address.parse().unwrap()).unwrap();
        assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    }
    // That of a network that the sandbox is not on is as any other.
    assert_eq!(ask(&web, address(&state, "far")), None);
    assert_eq!(ask(&web, "192.0.2.1".parse().unwrap()), None);
    let partial = asked("172.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reply(&web, &partial, Transport::Udp), None);
}

#[test]
fn on_an_internal_network_nothing_is_asked_outside() {
    let mut state = example();
    let alone = view(&state, "alone");
    for name in ["example.net.", "web.", "1.2.0.192.in-addr.arpa."] {
        for kind in [RecordType::A, RecordType::PTR, RecordType::TXT] {
            let reply = reply(&alone, &asked(name, kind), Transport::Udp).unwrap();
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        }
    }
    assert_eq!(
        resolve(&alone, "alone."),
        Some(vec![address(&state, "alone")])
    );
    // One more network that leads outside is enough.
    state
        .connect("other", "alone", &EndpointRequest::default())
        .unwrap();
    assert_eq!(resolve(&view(&state, "alone"), "example.net."), None);
}

#[test]
fn what_is_too_long_for_udp_is_cut_off_there() {
    let mut state = example();
    let sockets = Sockets::default();
    for number in 0..100 {
        let mut request = web(&format!("many{number}"), &[]);
        request.hostname = Some("many".into());
        state.create_sandbox(&request, &host(&sockets)).unwrap();
    }
    let web = view(&state, "web");
    let plain = asked("many.", RecordType::A);
    let cut = reply(&web, &plain, Transport::Udp).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = reply(&web, &plain, Transport::Tcp).unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(addresses(&whole).len(), 100);
    // With EDNS as much as passes any link, not as much as is asked for.
    let mut extended = asked("many.", RecordType::A);
    extended.set_edns(Edns::new().set_max_payload(4096).clone());
    let cut = reply(&web, &extended, Transport::Udp).unwrap();
    assert!(cut.metadata.truncation && cut.edns.is_some());
}

#[test]
fn what_comes_from_outside_is_cut_off_where_it_does_not_fit() {
    let mut question = asked("example.net.", RecordType::TXT);
    let mut reply = Message::response(0x1234, OpCode::Query);
    reply.add_query(question.queries[0].clone());
    let text = RData::TXT(TXT::new(vec!["x".repeat(200); 3]));
    let name = question.queries[0].name.clone();
    reply.add_answer(Record::from_rdata(name, 60, text));
    let reply = reply.to_vec().unwrap();
    let told = |question: &Message| fitting(&question.to_vec().unwrap(), reply.clone());
    let cut = Message::from_vec(&told(&question)).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(cut.queries, question.queries);
    assert_eq!(cut.metadata.response_code, ResponseCode::NoError);
    question.set_edns(Edns::new().set_max_payload(4096).clone());
    assert_eq!(told(&question), reply);
}

#[test]
fn a_later_version_of_edns_is_told_which_one_is_known() {
    let state = example();
    let mut question = asked("db.", RecordType::A);
    question.set_edns(Edns::new().set_version(1).clone());
    let reply = reply(&view(&state, "web"), &question, Transport::Udp).unwrap();
    // BADVERS shares its number with BADSIG (RFC 6895, section 2.3).
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.edns.unwrap().version(), 0);
}

#[test]
fn what_is_no_question_is_refused() {
    let state = example();
    let web = view(&state, "web");
    let good = asked("db.", RecordType::A).to_vec().unwrap();
    let code = |bytes: &[u8]| match answer(&web, bytes, Transport::Udp) {
        Outcome::Answer(reply) => {
            assert_eq!(reply[..2], bytes[..2]);
            assert_eq!(reply[2] & 0x80, 0x80);
            Some(reply[3] & 0x0f)
        }
        Outcome::Forward => panic!("{bytes:02x?} was forwarded"),
        Outcome::Ignore => None,
    };
    assert_eq!(code(&good), Some(ResponseCode::NoError.low()));
    // Cut off anywhere.
    for length in 12..good.len() {
        assert_eq!(code(&good[..length]), Some(ResponseCode::FormErr.low()));
    }
    for length in 0..12 {
        assert_eq!(code(&good[..length]), None);
    }
    // An answer.
    let mut bytes = good.clone();
    bytes[2] |= 0x80;
    assert_eq!(code(&bytes), None);
    // NOTIFY.
    let mut bytes = good.clone();
    bytes[2] = 4 << 3;
    assert_eq!(code(&bytes), Some(ResponseCode::NotImp.low()));
    // No question, and two.
    let mut bytes = good[..12].to_vec();
    bytes[5] = 0;
    assert_eq!(code(&bytes), Some(ResponseCode::FormErr.low()));
    let mut bytes = good.clone();
    bytes[5] = 2;
    bytes.extend(&good[12..]);
    assert_eq!(code(&bytes), Some(ResponseCode::FormErr.low()));
    // A name that refers to itself.
    let mut bytes = good[..12].to_vec();
    bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(code(&bytes), Some(ResponseCode::FormErr.low()));
}

proptest! {
    #[test]
    fn any_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut view = View::default();
        view.forwards = true;
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Outcome::Answer(reply) = answer(&view, &bytes, transport) {
                prop_assert!(reply.len() >= 12);
                prop_assert_eq!(&reply[..2], &bytes[..2]);
            }
        }
        let _ = question(&bytes);
    }

    /// One byte of a good question changed at a time, and its end cut off.
    #[test]
    fn any_change_is_borne(at in 0usize..40, byte: u8, length in 0usize..60) {
        let view = View::default();
        let mut message = asked("db.example.net.", RecordType::A);
        message.set_edns(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(length);
        let _ = answer(&view, &bytes, Transport::Udp);
    }
}
