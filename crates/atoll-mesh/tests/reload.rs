//! The daemon as a program of its own reads its configuration again when it gets SIGHUP. Needs root.

mod process;

use process::{Machine, block_on, join, line, next_of, wait};

use atoll_api::mesh::Reloaded;

#[test]
fn at_a_hangup_the_file_is_read_again_and_a_wrong_one_is_not_used() {
    let mut machines = line(2);
    for machine in &mut machines {
        let config = machine.config(&[], "");
        machine.start(&config);
    }
    let [a, b] = machines.as_slice() else { panic!("two machines") };
    let up = |machine: &Machine| machine.status().peers.iter().filter(|peer| peer.up).count();
    let hang_up = |config: &str| {
        std::fs::write(a.file("mesh.toml"), config).expect("written");
        let killed = a.run("kill", &["-HUP", &a.pid().to_string()]);
        assert!(killed.status.success());
    };
    let peers = next_of(0, 2);
    let peers: Vec<_> = peers.iter().map(String::as_str).collect();
    hang_up(&a.config(&peers, ""));
    wait("it calls its new neighbour", || up(a) == 1 && up(b) == 1);

    hang_up(&a.config(&[], "open = [\"22\"]\n"));
    // The local API says what the signal could not, and the link lives on.
    let client = a.client();
    let error = block_on(async { client.post::<_, Reloaded>("/v1/reload", &()).await.expect_err("it is wrong") });
    assert!(error.to_string().contains("transport is missing"), "{error}");
    assert!(up(a) == 1 && up(b) == 1);

    hang_up(&a.config(&[], ""));
    wait("it calls nobody, and both forget the link", || a.status().peers.is_empty() && b.status().peers.is_empty());
    // A name for the neighbour, over the other transport: nobody listens there, which is said.
    hang_up(&a.config(&["tls://10.78.1.2:8443"], ""));
    wait("it calls over TLS", || !a.status().peers.is_empty());
    wait("it says that nobody answers", || !a.status().problems.is_empty());
    join(a, "spare", "10.79.1.1", b, "spare", "10.79.1.2");
    hang_up(&a.config(&["udp://10.79.1.2:4870"], ""));
    wait("it calls over the other wire", || up(a) == 1 && a.status().problems.is_empty());
}
