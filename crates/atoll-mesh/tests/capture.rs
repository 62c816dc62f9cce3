//! What the owner of a node sees of what goes through his daemon. Needs root.

mod process;

use std::time::Duration;

use atoll_api::{
    ClientError,
    mesh::{CaptureRequest, Captured, Way},
};
use process::{Machine, block_on, line, start, wait};

/// What is captured while something happens, until `enough` says so.
fn capture(
    machine: &Machine,
    request: &CaptureRequest,
    work: impl FnOnce() + Send,
    mut enough: impl FnMut(&[Captured]) -> bool,
) -> Vec<Captured> {
    let client = machine.client();
    std::thread::scope(|scope| {
        let (begun, may_begin) = std::sync::mpsc::channel();
        scope.spawn(move || {
            may_begin.recv().expect("the capture has begun");
            work();
        });
        block_on(async {
            let mut lines = client.lines("/v1/capture", request).await.expect("it begins");
            begun.send(()).expect("the work waits");
            let mut captured = Vec::new();
            while !enough(&captured) {
                captured.push(lines.next().await.expect("read").expect("it goes on"));
            }
            captured
        })
    })
}

fn packets(captured: &[Captured]) -> Vec<(u64, Way, Vec<u8>, Option<String>)> {
    let packet = |one: &Captured| match one {
        Captured::Packet { at_us, way, bytes, dropped } => {
            let digits = bytes.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
            let bytes = digits.map(|pair| u8::from_str_radix(pair, 16).expect("a byte")).collect();
            Some((*at_us, *way, bytes, dropped.clone()))
        }
        Captured::Frame { .. } | Captured::Missed { .. } => None,
    };
    captured.iter().filter_map(packet).collect()
}

#[test]
fn an_owner_sees_his_packets_in_clear_and_of_others_only_frames() {
    let mut machines = line(3);
    start(&mut machines, |_| "");
    let [a, b, c] = &machines[..] else { panic!("three") };
    wait("a ping comes back", || a.hears(c.address()));

    // The sender's own packets.
    let request = CaptureRequest { packets: true, address: Some(c.address()), ..CaptureRequest::default() };
    let captured = capture(a, &request, || assert!(a.hears(c.address())), |captured| packets(captured).len() >= 2);
    let seen = packets(&captured);
    let [(at, Way::Out, ping, None), (later, Way::In, pong, None)] = &seen[..] else { panic!("{captured:?}") };
    assert!(at <= later);
    assert_eq!((ping[40], pong[40]), (128, 129), "an echo and its reply");
    assert_eq!((&ping[8..24], &ping[24..40]), (&a.address().octets()[..], &c.address().octets()[..]));
    assert_eq!(&ping[44..], &pong[44..], "the payload is there");

    // The relay sees sealed frames of the two, and no packet.
    let request = CaptureRequest { packets: true, frames: true, ..CaptureRequest::default() };
    let relayed = |captured: &[Captured]| {
        captured.iter().filter(|one| matches!(one, Captured::Frame { relayed: true, .. })).count()
    };
    let captured = capture(b, &request, || assert!(a.hears(c.address())), |captured| relayed(captured) >= 4);
    assert_eq!(packets(&captured), []);
    let frames: Vec<_> = captured
        .iter()
        .filter_map(|one| match one {
            Captured::Frame { way, kind, node, relayed: true, dropped: None, length, .. } => {
                assert_eq!((kind.as_str(), *length > 104), ("data", true));
                Some((*way, *node))
            }
            _ => None,
        })
        .collect();
    let [near, far] = [a, c].map(|machine| Some(machine.secret.id()));
    assert_eq!(frames[..4], [(Way::In, near), (Way::Out, far), (Way::In, far), (Way::Out, near)]);

    // What is dropped says why: here what travelled too far, and what has no way.
    let dropped = |reason: &'static str| {
        move |captured: &[Captured]| {
            captured.iter().any(|one| match one {
                Captured::Frame { dropped, .. } | Captured::Packet { dropped, .. } => {
                    dropped.as_deref() == Some(reason)
                }
                Captured::Missed { .. } => false,
            })
        }
    };
    let short = || drop(a.run("ping", &["-6", "-c1", "-t1", "-W1", &c.address().to_string()]));
    capture(b, &request, short, dropped("hop_limit"));
    let nobody = Machine::new("nobody", 99);
    let nowhere = || drop(a.run("ping", &["-6", "-c1", "-W1", &nobody.address().to_string()]));
    capture(a, &request, nowhere, dropped("no_route"));
}

#[test]
fn one_capture_at_a_time_and_a_slow_reader_holds_up_nobody() {
    let mut machines = line(2);
    start(&mut machines, |_| "");
    let [a, b] = &machines[..] else { panic!("two") };
    wait("a ping comes back", || a.hears(b.address()));
    let request = CaptureRequest { packets: true, frames: true, ..CaptureRequest::default() };
    let client = a.client();
    block_on(async {
        let mut lines = client.lines("/v1/capture", &request).await.expect("it begins");
        let second = client.lines("/v1/capture", &request).await;
        assert!(matches!(&second, Err(ClientError::Refused { status, .. }) if status.as_u16() == 409), "{second:?}");
        // Far more than the queues hold, and nobody reads.
        let flood = tokio::task::spawn_blocking({
            let namespace = a.namespace.clone();
            let target = b.address();
            move || {
                let socket = namespace.run(|| std::net::UdpSocket::bind("[::]:0")).expect("inside").expect("a port");
                for _ in 0..40_000 {
                    let _ = socket.send_to(&[7; 1000], (target, 9));
                }
            }
        });
        flood.await.expect("sent");
        assert!(a.hears(b.address()), "the mesh works on");
        let mut missed = 0;
        while missed == 0 {
            match tokio::time::timeout(Duration::from_millis(100), lines.next::<Captured>()).await {
                Ok(read) => match read.expect("read").expect("it goes on") {
                    Captured::Missed { count } => missed += count,
                    Captured::Packet { .. } | Captured::Frame { .. } => {}
                },
                // All is read. What was left out is told with the next that there is to show.
                Err(_) => assert!(a.hears(b.address())),
            }
        }
        println!("{missed} were left out");
    });
    // The first reader is gone: there may be another.
    let again = || block_on(async { client.lines("/v1/capture", &request).await.is_ok() });
    wait("another capture may begin", again);
}
