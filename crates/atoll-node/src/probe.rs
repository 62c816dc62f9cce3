//! What this machine can do. Each feature is looked at alone, and its absence explained.

use std::{fs, path::Path, sync::Arc};

use atoll_api::node::Capability;
use atoll_os::{
    cgroup, rootfs,
    vm::{self, Accelerator, GuestKernel},
};
use tokio::sync::watch;

use crate::{config::Checked, images::store::write_atomic};

/// Tells one boot of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What was found out so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// For the API.
    pub(crate) capabilities: Arc<Vec<Capability>>,
    /// How micro-VMs are executed; none until that is known.
    pub(crate) accelerator: Option<Accelerator>,
}

/// Looks, and tells as soon as something is known. Trying KVM takes seconds, so it comes last, once in each boot.
pub(crate) async fn run(checked: Arc<Checked>, out: watch::Sender<Found>) {
    let data = checked.config.data.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let (quick, accelerator) = quick(&data);
        let quick_found = Found { capabilities: Arc::new(quick.clone()), accelerator };
        out.send_replace(quick_found);
        if accelerator.is_none() {
            let kvm = kvm(&data);
            let accelerator = Some(if kvm.works { Accelerator::Kvm } else { Accelerator::Tcg });
            let capabilities = Arc::new(quick.into_iter().chain([kvm]).collect());
            out.send_replace(Found { capabilities, accelerator });
        }
    });
    if let Err(error) = looked.await {
        tracing::warn!(%error, "cannot find out what this machine can do");
    }
}

fn quick(data: &Path) -> (Vec<Capability>, Option<Accelerator>) {
    let mut found = Vec::new();
    let mut tell = |name: &str, outcome: Result<String, String>| {
        let works = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|why| why);
        found.push(Capability { name: name.to_owned(), works, detail });
        works
    };
    tell(
        "cgroup",
        match cgroup::missing_controllers() {
            Ok(missing) if missing.is_empty() => Ok("limits for cpu, memory and processes".to_owned()),
            Ok(missing) => Err(format!("the controllers {} are missing", missing.join(", "))),
            Err(error) => Err(error.to_string()),
        },
    );
    let overlay = rootfs::overlay_works(data);
    tell(
        "overlayfs",
        overlay.map(|()| "root directories share their image".to_owned()).map_err(|e| crate::problem::chain(&e)),
    );
    let vm = vm::qemu_version().map_err(|e| e.to_string()).and_then(|qemu| {
        GuestKernel::find().map(|kernel| format!("{qemu}, kernel {}", kernel.version)).map_err(|e| e.to_string())
    });
    let has_vm = tell("micro-vm", vm);
    let has_kvm = Path::new("/dev/kvm").exists();
    if !has_kvm {
        tell("kvm", Err("there is no /dev/kvm: micro-VMs are translated, several times slower".to_owned()));
    }
    // Without a hypervisor, or without KVM, there is nothing left to try.
    (found, (!has_vm || !has_kvm).then_some(Accelerator::Tcg))
}

/// Whether KVM works: tried once in each boot, because a broken one takes seconds to tell.
fn kvm(data: &Path) -> Capability {
    let file = data.join("kvm-probe");
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let known = fs::read_to_string(&file).ok().and_then(|text| text.strip_prefix(&boot).map(str::to_owned));
    let why = known.unwrap_or_else(|| {
        let why = vm::kvm_works(data).err().unwrap_or_default();
        if let Err(error) = write_atomic(&file, format!("{boot}{why}").as_bytes()) {
            tracing::debug!(%error, "the result of the KVM probe is not kept");
        }
        why
    });
    let works = why.is_empty();
    let detail = if works { "a guest booted with it".to_owned() } else { format!("{why}: micro-VMs are translated") };
    Capability { name: "kvm".to_owned(), works, detail }
}
