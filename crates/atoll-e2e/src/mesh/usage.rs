//! What processes use.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

/// Seconds of processor time that all threads of these processes took, in user space and in the kernel.
pub fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let ticks: f64 = crate::command("getconf", ["CLK_TCK"])?.trim().parse()?;
    let mut total = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("process {pid} has ended: {path}"))?;
        let fields: Vec<_> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        // utime and stime, fields 14 and 15 of proc(5).
        total += fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / ticks;
    }
    Ok(total)
}

/// The same to the nanosecond, of the threads that live: for processes that hardly use any.
pub fn cpu_seconds_fine(pids: &[u32]) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} has ended"))? {
            // A thread may end while we look.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        }
    }
    Ok(nanoseconds / 1e9)
}

/// MiB that only this process has, plus its share of what is shared (Pss).
pub fn memory_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("process {pid} has ended: {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// The most MiB that a process had while `work` went on.
pub fn peak_memory_mib(pid: u32, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let is_over = AtomicBool::new(false);
    let watch = || -> Result<f64> {
        let mut most = memory_mib(pid)?;
        while !is_over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
            most = most.max(memory_mib(pid)?);
        }
        Ok(most)
    };
    thread::scope(|scope| {
        let watching = scope.spawn(watch);
        let worked = work();
        is_over.store(true, Ordering::Relaxed);
        let most = watching.join().map_err(|_| anyhow!("the watch panicked"))?;
        worked.and(most)
    })
}
