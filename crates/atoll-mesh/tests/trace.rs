//! The way that packets take, as the daemon's own probes and as programs of the system find it. Needs root.

mod process;

use atoll_api::ClientError;
use atoll_api::mesh::{Trace, TraceRequest};
use process::{Machine, block_on, line, start, wait};

fn trace(machine: &Machine, request: &TraceRequest) -> Result<Trace, ClientError> {
    let client = machine.client();
    block_on(async { client.post("/v1/trace", request).await })
}

#[test]
fn a_trace_names_each_hop_of_four_machines_in_a_line() {
    let mut machines = line(4);
    start(&mut machines, |_| "");
    let [a, b, c, d] = &machines[..] else { panic!("four") };
    let request = TraceRequest { address: d.address(), probes: 4, timeout_ms: 1000 };
    let found = trace(a, &request).expect("a trace");
    assert!(found.reached, "{found:?}");
    assert_eq!(found.hops.len(), 3, "{found:?}");
    for (hop, machine) in found.hops.iter().zip([b, c, d]) {
        let node = &hop.nodes[0];
        assert_eq!((hop.nodes.len(), hop.sent, hop.received()), (1, 4, 4), "{found:?}");
        assert_eq!((node.node, node.address), (Some(machine.secret.id()), machine.address()));
        assert_eq!(node.is_target, hop.hop == 3);
        println!("hop {}: {:?} us", hop.hop, node.rtt_us);
    }

    // Programs of the system see the same, by errors that the daemon makes of what relays say.
    for (hop, relay) in [("1", b), ("2", c)] {
        let output = a.run("ping", &["-6", "-n", "-c1", "-t", hop, "-W2", &d.address().to_string()]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.contains(&format!("From {} icmp_seq=1 Time exceeded", relay.address())), "{text}");
    }
    let output = a.run("ping", &["-6", "-n", "-c1", "-t3", "-W2", &d.address().to_string()]);
    assert!(output.status.success(), "three links are enough: {output:?}");

    // What cannot be traced is said, with what to do.
    let refused = |request: &TraceRequest| match trace(a, request) {
        Err(ClientError::Refused { status, problem }) => (status.as_u16(), problem.error, problem.cure),
        other => panic!("{other:?}"),
    };
    let nobody = Machine::new("nobody", 99);
    let gone = refused(&TraceRequest { address: nobody.address(), ..request.clone() });
    assert!(gone.0 == 404 && gone.1.contains("no way") && gone.2.is_some(), "{gone:?}");
    let own = refused(&TraceRequest { address: a.address(), ..request.clone() });
    assert!(own.1.contains("this node itself"), "{own:?}");
    let outside = refused(&TraceRequest { address: "2001:db8::1".parse().expect("an address"), ..request.clone() });
    assert!(outside.1.contains("this region's mesh"), "{outside:?}");
    for wrong in [TraceRequest { probes: 0, ..request.clone() }, TraceRequest { timeout_ms: 5, ..request.clone() }] {
        assert_eq!(refused(&wrong).0, 400);
    }

    d.run("ip", &["link", "set", "to-last", "down"]);
    let short = TraceRequest { probes: 1, timeout_ms: 200, ..request };
    wait("it is known that there is no way", || trace(a, &short).is_err());
}
