//! The system calls that a container may not make: those that reach the whole machine, load code into the kernel, or
//! make namespaces from within. Everything else is bounded by namespaces, capabilities and cgroups.

use std::io;

use nix::libc::{self, sock_filter};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64 of linux/audit.h
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// Numbers from here on are the x32 ABI's, which nobody needs and which would go around the list.
const X32_BIT: u32 = 0x4000_0000;

/// Calls that fail with EPERM.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
];

/// `clone` with any of these makes a namespace.
const CLONE_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

// Offsets into `struct seccomp_data`: number, architecture, instruction pointer (8 bytes), arguments (8 bytes each).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENT_0_AT: u32 = 16; // the low half: both architectures are little-endian

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// The filter as a program for the kernel.
pub(crate) fn filter() -> Vec<sock_filter> {
    let fail = |errno: i32| libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA);
    let mut program = vec![
        step(LOAD, ARCHITECTURE_AT, 0, 0),
        step(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        step(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        step(LOAD, NUMBER_AT, 0, 0),
        step(JUMP_AT_LEAST, X32_BIT, 0, 1),
        step(RETURN, fail(libc::ENOSYS), 0, 0),
        // The filter cannot see the flags of clone3, which are in memory: programs fall back to clone.
        step(JUMP_EQUAL, libc::SYS_clone3 as u32, 0, 1),
        step(RETURN, fail(libc::ENOSYS), 0, 0),
        step(JUMP_EQUAL, libc::SYS_clone as u32, 0, 4),
        step(LOAD, ARGUMENT_0_AT, 0, 0),
        step(JUMP_ANY_BIT, CLONE_NAMESPACES, 0, 1),
        step(RETURN, fail(libc::EPERM), 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    for number in DENIED {
        program.push(step(JUMP_EQUAL, *number as u32, 0, 1));
        program.push(step(RETURN, fail(libc::EPERM), 0, 0));
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program
}

/// Binds the calling process and its descendants to the filter. It must have no new privileges already.
pub(crate) fn install(program: &[sock_filter]) -> io::Result<()> {
    let described = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    // SAFETY: `described` and the instructions it points to live through the call; the kernel copies and only reads them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &described) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this kernel has filters.
pub(crate) fn available() -> bool {
    // SAFETY: with a null program the kernel answers EFAULT if it knows the mode and EINVAL if not; nothing is installed.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, core::ptr::null::<libc::c_void>()) };
    result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // All BPF codes are below 2^16.
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the filter as the kernel would.
    fn verdict(architecture: u32, number: u32, argument: u32) -> u32 {
        let program = filter();
        let (mut at, mut word) = (0, 0);
        loop {
            let step = program[at];
            let code = u32::from(step.code);
            let jump = |holds: bool| 1 + usize::from(if holds { step.jt } else { step.jf });
            at += match code {
                LOAD => {
                    word = match step.k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        ARGUMENT_0_AT => argument,
                        other => panic!("no such field: {other}"),
                    };
                    1
                }
                JUMP_EQUAL => jump(word == step.k),
                JUMP_AT_LEAST => jump(word >= step.k),
                JUMP_ANY_BIT => jump(word & step.k != 0),
                RETURN => return step.k,
                other => panic!("unexpected code {other}"),
            };
        }
    }

    #[test]
    fn ordinary_calls_pass_and_dangerous_ones_fail() {
        let here = |number: libc::c_long, argument: i32| verdict(ARCHITECTURE, number as u32, argument as u32);
        let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        assert_eq!(here(libc::SYS_read, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(here(libc::SYS_clone, libc::CLONE_VM | libc::SIGCHLD), libc::SECCOMP_RET_ALLOW);
        assert_eq!(here(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD), eperm);
        assert_eq!(here(libc::SYS_clone3, 0), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        for number in DENIED {
            assert_eq!(here(*number, 0), eperm);
        }
        assert_eq!(
            verdict(ARCHITECTURE, X32_BIT | libc::SYS_mount as u32, 0),
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32
        );
        assert_eq!(
            verdict(0x4000_0003, 1, 0),
            libc::SECCOMP_RET_KILL_PROCESS,
            "32-bit calls are not filtered, so refused"
        );
    }
}
