//! Tables of deployment files and what becomes of them.

use std::path::PathBuf;

use atoll_base::{
    schema::{Capacity, Isolation},
    spec::Health,
};
use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is refused, one refusal a line.
fn check(text: &str, expect: &str) {
    let got = match parse("compose.yaml", text.as_bytes()) {
        Ok(app) => format!("accepted: {app:?}"),
        Err(refused) => refused.to_string(),
    };
    assert_eq!(got, expect, "\nin:\n{text}");
}

/// What is refused in a service that is fine but for `lines`, which start in line 4.
fn check_service(lines: &str, expect: &str) {
    let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    check(&format!("services:\n  web:\n    image: oci-layout:img\n{body}"), expect);
}

fn app(text: &str) -> App {
    parse("compose.yaml", text.as_bytes()).unwrap_or_else(|refused| panic!("{refused}"))
}

fn service(lines: &str) -> Service {
    let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    app(&format!("services:\n  web:\n    image: oci-layout:img\n{body}")).services.remove(0)
}

#[test]
fn everything_that_can_be_said_is_read() {
    let text = format!(
        r#"
name: shop
version: "3.9"
x-atoll:
  escrow: 12.5
x-mine: {{anything: [goes, {{here: 1}}]}}
services:
  web:
    image: oci-layout:../build/img:latest
    entrypoint: /bin/app --name 'two words'
    command: ["serve", "--port", "80"]
    working_dir: /srv
    user: 1000:1000
    environment:
      MODE: production
      LEVEL: 3
      PRICE: "5 $$"
      EMPTY: ""
    ports: ["80", "8443:8443"]
    expose: [9000]
    restart: unless-stopped
    deploy:
      mode: replicated
      replicas: 3
      resources: {{limits: {{cpus: '0.5', memory: 64m, pids: 99}}}}
    x-atoll:
      isolation: micro-vm
      constraints: [zone=attic]
      http: 8443
      disk: 2g
      health: {{http: /healthz}}
  db:
    image: registry.example.org:5000/team/redis:7@{DIGEST}
    environment: [A=1, "B=x=y"]
    mem_limit: 134217728
    cpus: 2
    pids_limit: 50
"#
    )
    .replace("memory: 64m", "memory: 256m");
    let app = app(&text);
    assert_eq!(app.name.as_deref(), Some("shop"));
    assert_eq!(app.escrow.map(crate::amount::exact).as_deref(), Some("12.5"));
    let expect = Service {
        name: "web".into(),
        image: Image::Local {
            form: LocalForm::OciLayout,
            path: PathBuf::from("../build/img"),
            tag: Some("latest".into()),
        },
        image_place: refusal::Place { line: 9, column: 12 },
        entrypoint: Some(vec!["/bin/app".into(), "--name".into(), "two words".into()]),
        command: Some(vec!["serve".into(), "--port".into(), "80".into()]),
        environment: [("MODE", "production"), ("LEVEL", "3"), ("PRICE", "5 $"), ("EMPTY", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .to_vec(),
        working_dir: Some("/srv".into()),
        user: Some("1000:1000".into()),
        ports: vec![80, 8443],
        http: Some(8443),
        replicas: 3,
        needs: Capacity { cpu_milli: 500, memory_bytes: 256 << 20, disk_bytes: 2 << 30 },
        pids_max: 99,
        health: Some(Health::Http { port: 8443, path: "/healthz".into() }),
        isolation: Isolation::MicroVm,
        constraints: vec!["zone=attic".into()],
    };
    assert_eq!(app.services[0], expect);
    let db = &app.services[1];
    let repository = "registry.example.org:5000/team/redis".to_owned();
    assert_eq!(db.image, Image::Registry { repository, digest: DIGEST.to_owned() });
    assert_eq!(db.environment, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
    assert_eq!((db.needs.cpu_milli, db.needs.memory_bytes, db.pids_max), (2000, 128 << 20, 50));
    assert_eq!((db.http, db.health.clone(), db.command.clone()), (None, None, None));
    assert_eq!(app.notes, []);
}

#[test]
fn a_service_that_says_little_gets_defaults() {
    let web = service("ports: [80]");
    assert_eq!((web.http, web.health), (Some(80), Some(Health::Tcp { port: 80 })));
    assert_eq!((web.replicas, web.isolation), (1, Isolation::Container));
    assert_eq!(service("healthcheck: {disable: true}\nports: [80]").health, None);
    assert_eq!(service("healthcheck: {test: [NONE]}\nports: [80]").health, None);
    assert_eq!(service("x-atoll: {http: none}\nports: [80]").http, None);
    assert_eq!(service("x-atoll: {http: 81}\nports: [80]").ports, [80, 81]);
    assert_eq!(service("x-atoll: {health: {tcp: 6379}}").health, Some(Health::Tcp { port: 6379 }));
    assert_eq!(service("command:").command, None);
    assert_eq!(service("command: []").command, Some(vec![]));
}

#[test]
fn what_works_differently_is_noted() {
    let app =
        app("services:\n  web:\n    image: oci-layout:i\n    ports: ['8080:80', '81:81']\n    restart: on-failure\n");
    let notes: Vec<String> =
        app.notes.iter().map(|n| format!("{}:{} {}", n.place.line, n.place.column, n.text)).collect();
    assert_eq!(
        notes,
        [
            "4:13 '8080' of '8080:80' plays no part: the service has an address of its own, and answers on 80",
            "5:14 a workload that ends is started again also when it ends with success",
        ]
    );
}

#[test]
fn files_that_are_no_deployment_are_refused() {
    let root = "write a Compose file: `services:` with at least one service";
    check("", &format!("compose.yaml:1:1: the file is empty; {root}"));
    check("# only a comment\n", &format!("compose.yaml:1:1: the file is empty; {root}"));
    check("hello", "compose.yaml:1:1: a single value stands here; write a mapping (`key: value` lines)");
    check("- a", "compose.yaml:1:1: a list stands here; write a mapping (`key: value` lines)");
    check("name: x\n", "compose.yaml:1:1: services: missing; write `services:` with at least one service");
    check("services:\n", "compose.yaml:1:1: services: no service in it; write at least one");
    check("services: [a]\n", "compose.yaml:1:11: services: a list stands here; write a mapping (`key: value` lines)");
    check(
        "services:\n\tweb:\n",
        "compose.yaml:2:1: a tab in the indentation, where YAML allows only spaces; replace it by spaces",
    );
    check(
        "services:\n  a:\n    image: oci-layout:i\n---\nservices:\n",
        "compose.yaml:4:1: a second document (`---`); put each deployment into a file of its own",
    );
    let not_text = parse("f", b"a: 1\nb: \xff").expect_err("not UTF-8");
    assert_eq!(not_text.to_string(), "f:2:4: the file is not UTF-8 text; save it as UTF-8");
    let huge = parse("f", &vec![b'#'; limits::FILE_BYTES_MAX + 1]).expect_err("huge");
    assert_eq!(
        huge.to_string(),
        "f:1:1: the file has 262145 bytes, at most 262144 are read; is it a Compose file? put data into the image, not into the file"
    );
    let deep = parse("f", "[".repeat(200).as_bytes()).expect_err("deep");
    assert_eq!(deep.to_string(), "f:1:33: more than 32 lists and mappings within each other; is it a Compose file?");
}

#[test]
fn yaml_that_hides_what_runs_is_refused() {
    check(
        "services:\n  web: &a\n    image: oci-layout:i\n",
        "compose.yaml:2:8: anchors (`&name`) are not supported; write the value out where it is used",
    );
    check(
        "a: *b\n",
        "compose.yaml:1:4: not valid YAML: while parsing node, found unknown anchor; correct the indentation or quotes here or just above",
    );
    check(
        "services:\n  web:\n    <<: {a: 1}\n",
        "compose.yaml:3:5: merge keys (`<<`) are not supported; write the keys out",
    );
    check("name: !secret x\n", "compose.yaml:1:7: tags (`!name`) are not supported; write the value without the tag");
    check(
        "services:\n  web:\n    image: a\n    image: b\n",
        "compose.yaml:4:5: the key 'image' stands here twice, first in line 3; keep one of them",
    );
    check("? [a]\n: b\n", "compose.yaml:1:3: a list or mapping as a key; use a plain word as the key");
    check_service(
        "environment:\n  TOKEN: ${TOKEN}",
        "compose.yaml:5:14: services.web.environment.TOKEN: variables (`$NAME`) are not filled in; write the value itself, or `$$` where a dollar sign is meant",
    );
}

#[test]
fn keys_that_cannot_be_honoured_are_refused_by_line() {
    check_service(
        "volumes: [a:/b]\nprivilged: true\nfoo: 1\nMem_Limit: 1g\nbuild: .",
        "compose.yaml:4:5: services.web.volumes: volumes are not built yet; remove it: keep data inside the workload's disk for now, knowing that it is lost when the lease moves\n\
         compose.yaml:5:5: services.web.privilged: unknown key; remove it; known here: command, cpus, deploy, entrypoint, environment, expose, healthcheck, image, mem_limit, pids_limit, ports, restart, user, working_dir, x-atoll\n\
         compose.yaml:6:5: services.web.foo: unknown key; remove it; known here: command, cpus, deploy, entrypoint, environment, expose, healthcheck, image, mem_limit, pids_limit, ports, restart, user, working_dir, x-atoll\n\
         compose.yaml:7:5: services.web.Mem_Limit: unknown key; did you mean `mem_limit`?\n\
         compose.yaml:8:5: services.web.build: images are not built here; build it first (`docker build`, `buildah`), then name it by `image: docker-archive:FILE` or `oci-layout:FOLDER`",
    );
    check_service(
        "depends_on: [db]",
        "compose.yaml:4:5: services.web.depends_on: all services start at once, on different machines, and may be moved one by one; remove it, and let the program try again until the other service answers",
    );
    check_service(
        "healthcheck:\n  test: curl -f http://localhost",
        "compose.yaml:5:7: services.web.healthcheck.test: commands cannot be run inside the workload as health checks; write `x-atoll: {health: {http: /PATH}}` or `x-atoll: {health: {tcp: PORT}}`",
    );
    check_service(
        "restart: no",
        "compose.yaml:4:14: services.web.restart: a workload that ends is always started again, with growing pauses; remove it, or let the program wait when its work is done",
    );
    check_service(
        "deploy:\n  replicas: 0\n  mode: global\n  placement: {}\n  resources: {reservations: {cpus: 1}}",
        "compose.yaml:5:17: services.web.deploy.replicas: '0' is no number of replicas; write a number from 1 to 16\n\
         compose.yaml:6:13: services.web.deploy.mode: 'global' cannot be honoured; write replicated, or remove it\n\
         compose.yaml:7:7: services.web.deploy.placement: here it is called otherwise; write `x-atoll: {constraints: [key=value]}` beside `deploy`\n\
         compose.yaml:8:19: services.web.deploy.resources.reservations: what a service may use is always reserved for it; use `limits`",
    );
    check(
        "services: {a: {image: 'oci-layout:i'}}\nvolumes: {}\nservicse: {}\n",
        "compose.yaml:2:1: volumes: volumes are not built yet; remove it: keep data inside the workload's disk for now, knowing that it is lost when the lease moves\n\
         compose.yaml:3:1: servicse: unknown key; did you mean `services`?",
    );
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    check_service(
        "ports: 80",
        "compose.yaml:4:12: services.web.ports: a single value stands here; write a list (`- value` lines)",
    );
    check_service(
        "ports: [0, 80-90, 53/udp, x, 80, '81:80', 70000]",
        "compose.yaml:4:13: services.web.ports: '0' is not a port; write a number from 1 to 65535\n\
         compose.yaml:4:16: services.web.ports: '80-90' is a range of ports; list each port on a line of its own\n\
         compose.yaml:4:23: services.web.ports: only TCP ports can be opened, not 'udp'; leave it out: services of one deployment reach each other on every port and protocol\n\
         compose.yaml:4:31: services.web.ports: 'x' is not a port; write a number from 1 to 65535\n\
         compose.yaml:4:38: services.web.ports: port 80 stands here twice; keep one of them\n\
         compose.yaml:4:47: services.web.ports: '70000' is not a port; write a number from 1 to 65535",
    );
    check_service(
        "environment:\n  A:\n  B: true\n  C: [1]",
        "compose.yaml:5:7: services.web.environment: 'A' has no value, and the shell of whoever deploys is not read; write its value: A=… (an empty one is `A=`)\n\
         compose.yaml:6:10: services.web.environment.B: is `true` the word or the truth value?; write \"true\" in quotes\n\
         compose.yaml:7:10: services.web.environment.C: a list stands here; write a value",
    );
    check_service(
        "environment: [A=1, A=2, '=3']",
        "compose.yaml:4:24: services.web.environment: 'A' stands here twice; keep one of them\n\
         compose.yaml:4:29: services.web.environment: '' cannot name a variable; write NAME=value",
    );
    check_service(
        "command: 'a \"b'",
        "compose.yaml:4:14: services.web.command: a \" is not closed; close it, or write the command as a list of words",
    );
    check_service(
        "user: a b\nworking_dir: srv",
        "compose.yaml:4:11: services.web.user: 'a b' is no user; write a name or number, or USER:GROUP\n\
         compose.yaml:5:18: services.web.working_dir: 'srv' is not an absolute path; write it with a / in front",
    );
}

#[test]
fn limits_and_placement_are_checked() {
    check_service(
        "cpus: 0\nmem_limit: 1x\npids_limit: -1",
        "compose.yaml:4:11: services.web.cpus: zero cores cannot run anything; write a number of cores with at most three decimals, such as 0.5 or 2\n\
         compose.yaml:5:16: services.web.mem_limit: '1x' is not a size; write a number and a unit, such as 256m or 1.5g (k, m, g, t: powers of 1024)\n\
         compose.yaml:6:17: services.web.pids_limit: '-1' is no number of processes that can be a limit; write a number from 1 to 4194304",
    );
    check_service(
        "cpus: 1\ndeploy: {resources: {limits: {cpus: 2}}}",
        "compose.yaml:5:41: services.web.deploy.resources.limits.cpus: this limit stands in line 4 already; keep one of them",
    );
    check_service(
        "mem_limit: 64m\nx-atoll: {isolation: micro-vm}",
        "compose.yaml:4:16: services.web.mem_limit: 67108864 bytes of memory are too few for a virtual machine; write at least 128m",
    );
    check_service(
        "x-atoll:\n  isolation: vm\n  constraints: [zone, 'a b=c']\n  http: web\n  health: {http: x}\n  disc: 1g",
        "compose.yaml:5:18: services.web.x-atoll.isolation: 'vm' is no isolation; write container or micro-vm\n\
         compose.yaml:6:21: services.web.x-atoll.constraints: 'zone' is not a constraint; write key=value, such as zone=attic\n\
         compose.yaml:6:27: services.web.x-atoll.constraints: 'a b=c' is longer than 128 bytes or has blanks in it; write key=value, such as zone=attic\n\
         compose.yaml:7:13: services.web.x-atoll.http: 'web' is not a port; write a number from 1 to 65535\n\
         compose.yaml:8:22: services.web.x-atoll.health.http: 'x' is not an absolute path; write it with a / in front\n\
         compose.yaml:9:7: services.web.x-atoll.disc: unknown key; did you mean `disk`?",
    );
    check_service(
        "x-atoll: {health: {http: /}}",
        "compose.yaml:4:23: services.web.x-atoll.health: no port to check; add `port: NUMBER`",
    );
    check(
        "services:\n  My_App: {image: 'oci-layout:i'}\n",
        "compose.yaml:2:3: services.My_App: cannot be the name of a service; use 1 to 63 of a-z, 0-9 and '-', with a letter first and no '-' last",
    );
    let many: String = (0..17).map(|n| format!("  s{n}: {{image: 'oci-layout:i'}}\n")).collect();
    check(
        &format!("services:\n{many}"),
        "compose.yaml:18:3: services: 17 services, a deployment has at most 16; split it into several deployments",
    );
}

#[test]
fn images_are_named_so_that_nothing_unnamed_is_asked() {
    let forms = values::IMAGE_FORMS;
    let image = |name: &str, expect: &str| {
        check(
            &format!("services:\n  web: {{image: '{name}'}}\n"),
            &format!("compose.yaml:2:16: services.web.image: {expect}"),
        );
    };
    image("nginx", &format!("'nginx' names no registry, and no registry is asked that you did not name; {forms}"));
    image(
        "library/nginx:1",
        &format!("'library/nginx:1' names no registry, and no registry is asked that you did not name; {forms}"),
    );
    image(
        &format!("nginx@{DIGEST}"),
        &format!("'nginx' names no registry, and no registry is asked that you did not name; {forms}"),
    );
    image(
        "docker.io/library/nginx:1",
        "'docker.io/library/nginx:1' may mean another image tomorrow; pin it: add `@sha256:` and the digest, which `skopeo inspect` or `docker images --digests` show",
    );
    image("docker.io/x@sha256:12", "'sha256:12' is not a digest; write sha256: and 64 hexadecimal digits");
    image(&format!("docker.io/X@{DIGEST}"), "'X' is not the path of a repository; use a-z, 0-9, '.', '_', '-' and '/'");
    image("oci-layout:", &format!("no path after the colon; {forms}"));
    image("oci-layout:a:", "no tag after the last colon; write the tag, or leave the colon out");
    check("services:\n  web: {}\n", &format!("compose.yaml:2:3: services.web.image: missing; {forms}"));
    let archive = &app("services: {a: {image: 'docker-archive:/x/y.tar:me/app:1'}}").services[0].image;
    let tag = Some("me/app:1".to_owned());
    assert_eq!(*archive, Image::Local { form: LocalForm::DockerArchive, path: PathBuf::from("/x/y.tar"), tag });
}

#[test]
fn sizes_and_shares_are_exact() {
    for (text, expect) in [
        ("0", Some(0)),
        ("10", Some(10)),
        ("1.5k", Some(1536)),
        ("512M", Some(512 << 20)),
        ("0.1g", Some(107_374_182)),
        ("2GiB", Some(2 << 30)),
        ("1 tb", Some(1 << 40)),
        ("99999999t", None),
        ("1..5", None),
        ("", None),
        ("k", None),
        ("-1", None),
        ("1e3", None),
    ] {
        assert_eq!(values::size(text).ok(), expect, "{text}");
    }
    for (text, expect) in [
        ("1", Some(1000)),
        ("0.25", Some(250)),
        (".5", Some(500)),
        ("0.0005", None),
        ("0.500000", Some(500)),
        ("2000", None),
    ] {
        assert_eq!(values::cpus(text).ok(), expect, "{text}");
    }
}

#[test]
fn commands_are_split_as_a_shell_does() {
    for (text, expect) in [
        ("a b  c", &["a", "b", "c"][..]),
        ("'a b' \"c d\"", &["a b", "c d"]),
        (r#"a\ b "\"x\" \n" ''"#, &["a b", r#""x" \n"#, ""]),
        ("", &[]),
    ] {
        assert_eq!(values::words(text).expect("words"), expect, "{text}");
    }
}

#[test]
fn terminal_escapes_of_the_file_do_not_reach_the_terminal() {
    let refused = parse("f", b"\"a\\e[31m\": 1\nservices: {a: {image: 'oci-layout:i'}}").expect_err("unknown key");
    assert!(!refused.to_string().contains('\u{1b}'), "{refused}");
}

#[test]
fn only_the_first_refusals_are_shown() {
    let keys: String = (0..30).map(|n| format!("key{n}: 1\n")).collect();
    let text = parse("f", keys.as_bytes()).expect_err("unknown keys").to_string();
    assert_eq!(text.lines().count(), limits::REFUSALS_MAX + 1);
    assert!(text.ends_with("and 11 more"), "{text}");
}

#[test]
fn every_key_of_the_tables_is_refused_as_it_says() {
    for rows in [keys::TOP, keys::SERVICE, keys::DEPLOY, keys::RESOURCES, keys::LIMITS] {
        assert!(rows.is_sorted_by(|a, b| a.0 != b.0), "a key stands twice");
        for (key, why, cure) in rows {
            assert!(!why.is_empty() && !cure.is_empty() && !cure.ends_with('.'), "{key}");
        }
    }
    for (key, why, _) in keys::SERVICE {
        let text = format!("services:\n  web:\n    image: oci-layout:i\n    {key}: 1\n");
        let refused = parse("f", text.as_bytes()).expect_err(key).to_string();
        assert!(refused.starts_with(&format!("f:4:5: services.web.{key}: {why}; ")), "{refused}");
    }
}

/// Pieces from which something like a deployment file can grow.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("services:\n".to_owned()),
        Just("  web:\n".to_owned()),
        Just("    image: oci-layout:img\n".to_owned()),
        "    (ports|environment|command|deploy|x-atoll|healthcheck|cpus|mem_limit|user): ?[\\[{\"'|>&*!a-z0-9:,\\]} -]{0,12}\n",
        "[ ]{0,6}[-?:] [a-z&*!|>\"']{0,6}\n",
        ".{0,12}",
        Just("\u{feff}".to_owned()),
        Just("---\n".to_owned()),
        Just("...\n".to_owned()),
        Just("%YAML 1.2\n".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse("f", &bytes);
    }

    #[test]
    fn no_text_panics(pieces in proptest::collection::vec(fragment(), 0..14)) {
        if let Err(refused) = parse("f", pieces.concat().as_bytes()) {
            prop_assert!(!refused.refusals.is_empty());
            let text = refused.to_string();
            prop_assert!(text.starts_with("f:"), "{}", text);
        }
    }
}

#[test]
fn the_books_example_and_the_examples_are_honoured() {
    let book = include_str!("../../../../docs/book/deployment-file.md");
    let example = book.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    assert_eq!(app(example).services.len(), 2);
    for example in [
        include_str!("../../../../examples/hello/compose.yaml"),
        include_str!("../../../../examples/guestbook/compose.yaml"),
    ] {
        assert_eq!(app(example).notes, []);
    }
    let described = |key: &&str| book.contains(&format!("`{key}`")) || book.contains(&format!(".{key}`"));
    let undescribed: Vec<_> = service::KEYS.iter().filter(|key| !described(key)).collect();
    assert_eq!(undescribed, [&"deploy", &"x-atoll"], "described by their parts");
}
