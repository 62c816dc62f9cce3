//! The first program of a micro-VM's guest: it mounts, connects and starts the workload, carries its output to the
//! host, and powers off when it ends. See [`crate::vm`] for the picture.

mod run;
mod setup;

use std::process::ExitCode;

use nix::{
    sys::reboot::{RebootMode, reboot},
    unistd::{Pid, getpid, sync},
};

use crate::{
    disk,
    spec::ShimSpec,
    vm::protocol::{self, Report},
};

/// The main function of `atoll guest-init`. Call it before any thread is started.
pub fn main() -> ExitCode {
    if getpid() != Pid::from_raw(1) {
        eprintln!("atoll guest-init: this is the first program of a guest; it is not for people");
        return ExitCode::FAILURE;
    }
    if let Err(why) = begin() {
        println!("atoll guest: {why}");
    }
    sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        // The kernel panics when its first program returns, and the hypervisor ends then too.
        Err(_) => ExitCode::FAILURE,
    }
}

fn begin() -> Result<(), String> {
    setup::mount_kernel_files()?;
    setup::load_modules()?;
    let spec = disk::read_json::<ShimSpec>(protocol::SPEC_FILE.as_ref()).map_err(|e| e.to_string())?;
    let Some(spec) = spec else {
        println!("{}", protocol::PROBE_GREETING);
        return Ok(());
    };
    let mut ports = setup::open_ports()?;
    let report = match setup::prepare(&spec).and_then(|account| run::workload(&spec, &account, &mut ports)) {
        Ok(report) => report,
        Err(why) => Report::Failed { why },
    };
    setup::unmount();
    ports.report(&report)
}
