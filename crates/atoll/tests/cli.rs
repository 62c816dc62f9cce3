//! The real binary as a person calls it, on a machine without a region.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

struct Shell {
    folder: tempfile::TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command
            .current_dir(self.folder.path())
            .env("ATOLL_STATE", self.folder.path().join("state"))
            .stdin(Stdio::null());
        for name in ["ATOLL_LOG", "RUST_LOG", "ATOLL_DAEMON"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("the binary runs")
    }

    /// What a command that must fail says, with the temporary folder's name taken out.
    fn fails(&self, arguments: &[&str], code: i32, expect: &str) {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).expect("text").replace(&self.path(), "DIR");
        assert_eq!(text, expect, "{arguments:?}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stdout.is_empty(), "errors go to standard error only");
    }

    fn path(&self) -> String {
        Path::display(self.folder.path()).to_string()
    }
}

#[test]
fn help_documents_exit_codes_and_environment() {
    let output = Shell::new().run(&["--help"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success());
    for wanted in ["Exit codes: 0 done, 1 failed", "ATOLL_STATE", "ATOLL_LOG", "deploy", "completions"] {
        assert!(text.contains(wanted), "{wanted} is missing in {text}");
    }
    assert!(!text.contains("shim"), "what is not for people is not shown");
}

#[test]
fn wrong_usage_ends_with_2() {
    let shell = Shell::new();
    for arguments in
        [&["nonsense"][..], &["deploy"], &["deploy", "f", "--hours", "1", "--escrow", "2"], &["logs", "x", "-n", "-1"]]
    {
        assert_eq!(shell.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn without_a_region_commands_say_how_to_get_one() {
    let shell = Shell::new();
    let expect = "error: there is no region in DIR/state\n  \
                  what to do: `atoll up` founds one; --state DIR names another directory\n";
    for arguments in [
        &["ps"][..],
        &["nodes", "--json"],
        &["wallet"],
        &["charter", "show"],
        &["logs", "hello"],
        &["why", "hello"],
        &["rm", "hello", "--yes"],
    ] {
        shell.fails(arguments, 1, expect);
    }
}

#[test]
fn a_bad_file_is_refused_before_anything_is_asked() {
    let shell = Shell::new();
    shell.fails(
        &["deploy", "none.yaml"],
        1,
        "error: cannot read none.yaml\n  because: No such file or directory (os error 2)\n  \
         what to do: name the Compose file: `atoll deploy FILE`\n",
    );
    shell.write("bad.yaml", "services:\n  web:\n    image: nginx\n    volumes: [a:/b]\n    prots: [80]\n");
    shell.fails(
        &["deploy", "bad.yaml"],
        1,
        "error: the deployment file cannot be honoured as it stands\n  \
         because: bad.yaml:3:12: services.web.image: 'nginx' names no registry, and no registry is asked that you did not name; \
         write `oci-layout:FOLDER`, `docker-archive:FILE` (what `docker save` writes), or `REGISTRY/REPOSITORY@sha256:DIGEST`\n    \
         bad.yaml:4:5: services.web.volumes: volumes are not built yet; remove it: keep data inside the workload's disk for now, \
         knowing that it is lost when the lease moves\n    \
         bad.yaml:5:5: services.web.prots: unknown key; did you mean `ports`?\n  \
         what to do: correct these lines; nothing was deployed\n",
    );
}

#[test]
fn a_missing_image_and_an_unusable_name_are_refused_offline() {
    let shell = Shell::new();
    shell.write("app/compose.yaml", "services:\n  web:\n    image: oci-layout:img\n");
    shell.fails(
        &["deploy", "app/compose.yaml"],
        1,
        "error: an image is not there\n  \
         because: app/compose.yaml:3:12: services.web.image: cannot find DIR/app/img: No such file or directory (os error 2); \
         build the image first, or correct the path (it is relative to this file)\n  \
         what to do: then deploy again; nothing was deployed\n",
    );
    shell.fails(
        &["deploy", "app/compose.yaml", "--name", "Has Space"],
        1,
        "error: 'Has Space' cannot be the name of an app\n  \
         what to do: use 1 to 63 of a-z, 0-9 and '-', with a letter first and no '-' last\n",
    );
    shell.write("9app/compose.yaml", "services:\n  web:\n    image: oci-layout:img\n");
    shell.fails(
        &["deploy", "9app/compose.yaml"],
        1,
        "error: the app has no name, and its folder's name cannot be one\n  \
         what to do: write `name:` into the file, or use --name NAME\n",
    );
}

#[test]
fn daemons_refuse_a_configuration_that_is_not_theirs() {
    let shell = Shell::new();
    shell.write("mesh.toml", "listen = 1\n");
    for role in ["mesh", "ledger"] {
        let output = shell.run(&[role, "run", "--config", "mesh.toml"]);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("error: mesh.toml is not a configuration of this daemon"), "{text}");
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    for name in ["bash", "zsh", "fish"] {
        let output = Shell::new().run(&["completions", name]);
        assert!(output.status.success(), "{name}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("deploy"), "{name}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let shell = Shell::new();
    // A pipe whose reading end is closed before anything is written.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = shell.command().args(["completions", "bash"]).stdout(writer).output().expect("the binary runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn an_unreadable_log_filter_is_told_and_not_obeyed() {
    let shell = Shell::new();
    let output = shell.command().env("ATOLL_LOG", "atoll=[[").arg("ps").output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("ATOLL_LOG=atoll=[[ is not a log filter"), "{text}");
}
