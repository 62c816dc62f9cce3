//! Namespaces that vanish with the test, whatever happens in it.
#![allow(dead_code)] // each test binary uses its own part of this

use std::process::Command;

use atoll_os::netns::NetNs;

/// A network namespace that is removed at the end.
pub(crate) struct Scratch(pub(crate) NetNs);

impl Scratch {
    /// A namespace whose name is unique to this process.
    pub(crate) fn new(name: &str) -> Self {
        Self(NetNs::ensure(&scratch_name(name)).expect("tests of this crate need root"))
    }

    /// Runs `work` on a tokio runtime inside the namespace.
    pub(crate) fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.0.run(|| runtime().block_on(work())).expect("enter the namespace")
    }

    /// Runs a program in it; its output, and whether it succeeded.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(program);
        command.args(arguments);
        self.0.enter_on_spawn(&mut command).expect("enter the namespace");
        let output = command.output().unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = NetNs::remove(self.0.name());
    }
}

pub(crate) fn scratch_name(name: &str) -> String {
    format!("atoll-test-{}-{name}", std::process::id())
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
