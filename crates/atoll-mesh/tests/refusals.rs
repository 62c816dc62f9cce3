//! What the daemon says of a configuration that it cannot use: the place, and what to do. Needs root.

mod process;

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
};

use process::{Machine, PORT};

/// Holds what the daemon says against the words that have to be in it.
fn check(machine: &Machine, config: &str, words: &[&str]) {
    let said = machine.fails(&[], config);
    for word in words {
        assert!(said.contains(word), "'{word}' is missing in: {said}\n{config}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_wrong_setting_is_named() {
    let machine = Machine::new("wrong", 1);
    let good = machine.config(&[], "");
    let peer = |text| machine.config(&[text], "");
    let listen = format!("listen = \"[::]:{PORT}\"");
    let socket = format!("socket = {:?}", machine.file("run/mesh.sock"));
    let long = format!("socket = \"{}/{}\"", machine.file("").display(), "x".repeat(120));
    let cases: &[(String, &[&str])] = &[
        (format!("{good}peer = []\n"), &["mesh.toml", "unknown field `peer`", "`peers`"]),
        (good.replace("region = ", "# "), &["mesh.toml", "missing field `region`"]),
        (good.replace("region = \"", "region = \"zz"), &["mesh.toml", "region"]),
        (good.replace(&listen, "listen = 4870"), &["mesh.toml", "listen = 4870"]),
        (good.replace(&listen, "listen = \"4870\""), &["mesh.toml", "listen = \"4870\""]),
        (format!("{good}tun = \"maybe\"\n"), &["unknown variant `maybe`", "`create`", "`none`"]),
        (format!("{good}metrics = 9871\n"), &["mesh.toml", "metrics = 9871"]),
        ("not = toml = at all".to_owned(), &["mesh.toml"]),
        (peer("10.0.0.1"), &["'10.0.0.1'", "udp://host:port"]),
        (peer("udp://10.0.0.1:99999"), &["'udp://10.0.0.1:99999'", "1 to 65535"]),
        (peer("udp://[fe80::1]:4870"), &["link-local", "fe80::1%eth0"]),
        (format!("{good}discovery = [\"atoll0\"]\n"), &["`discovery`", "'atoll0'"]),
        (format!("{good}tun = \"none\"\n[[babel]]\ninterface = \"eth1\"\n"), &["`babel`", "`tun = \"none\"`"]),
        (format!("{good}tun = \"none\"\nopen = [\"tcp/22\"]\n"), &["`open`", "`tun = \"none\"`"]),
        (good.replace("\"atoll0\"", "\"much-too-long-for-linux\""), &["'much-too-long-for-linux'", "1 to 15 bytes"]),
        (good.replace("\"atoll0\"", "\"\""), &["''", "`interface`", "1 to 15 bytes"]),
        (good.replace("\"atoll0\"", "\"a/b\""), &["'a/b'", "`interface`"]),
        (good.replace("\"atoll0\"", "\"atoll%d\""), &["'atoll%d'", "`interface`"]),
        (good.replace("\"atoll0\"", "\"lo\""), &["'lo'", "already", "`interface`"]),
        (good.replace(&listen, "listen = \"192.0.2.1:4870\""), &["192.0.2.1:4870", "address of this machine"]),
        (format!("{good}metrics = \"192.0.2.1:9871\"\n"), &["192.0.2.1:9871", "`metrics`"]),
        (good.replace(&socket, &long), &["cannot serve the local API", "xxx"]),
        (good.replace(&socket, "socket = \"/proc/none/mesh.sock\""), &["/proc/none/mesh.sock", "can be written"]),
    ];
    for (config, words) in cases {
        check(&machine, config, words);
    }
    let taken = machine.namespace.run(|| UdpSocket::bind(("::", PORT))).expect("inside").expect("free");
    check(&machine, &good, &["UDP port 4870 is in use", "`listen`"]);
    drop(taken);
    let taken = machine.namespace.run(|| TcpListener::bind("127.0.0.1:9871")).expect("inside").expect("free");
    check(&machine, &format!("{good}metrics = \"127.0.0.1:9871\"\n"), &["TCP port 9871 is in use", "`metrics`"]);
    drop(taken);
}

#[test]
fn a_key_that_cannot_be_used_is_named() {
    let machine = Machine::new("key", 2);
    let key = machine.file("identity.key");
    let (name, good) = (key.display().to_string(), machine.config(&[], ""));
    let text = fs::read_to_string(&key).expect("written before");
    for wrong in [&text[..40], "", "not a key", &format!("{text}00"), &"7".repeat(2_000_000)] {
        fs::write(&key, wrong).expect("written");
        check(&machine, &good, &[&name, "64 hexadecimal digits"]);
    }
    fs::write(&key, [0xff; 64]).expect("written");
    check(&machine, &good, &[&name, "cannot read"]);
    fs::write(&key, &text).expect("written");
    for mode in [0o604, 0o644, 0o666] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("changed");
        check(&machine, &good, &[&name, "every user", "chmod 600"]);
    }
    fs::remove_file(&key).expect("removed");
    check(&machine, &good, &[&name, "`identity`", "No such file"]);
    fs::create_dir(&key).expect("made");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o700)).expect("changed");
    check(&machine, &good, &[&name, "`identity`"]);
    // Whoever may read it, and nobody else.
    fs::remove_dir(&key).expect("removed");
    fs::write(&key, &text).expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
    let mut machine = machine;
    machine.start(&good);
    let said = machine.fails(&[], &good);
    assert!(said.contains("another mesh daemon already answers"), "{said}");
}
