//! Whether a workload works: asks it at its mesh address, and watches its process.

use std::{
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::{Duration, Instant},
};

use atoll_base::{LeaseId, schema::Isolation, spec::Health};
use atoll_node_core::Event;
use atoll_os::shim::{Shim, Status};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::Message;
use crate::limits::{
    HEALTH_ALIVE, HEALTH_ANSWER, HEALTH_MISSES_MAX, HEALTH_RUNNING_EVERY, HEALTH_START_CONTAINER, HEALTH_START_VM,
    HEALTH_STARTING_EVERY,
};

/// Bytes of an answer's first line that are read.
const STATUS_LINE_BYTES_MAX: usize = 64;

/// How one workload is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pub(crate) lease: LeaseId,
    /// Which start of it is watched: news of earlier ones are ignored.
    pub(crate) starts: u32,
    pub(crate) address: Ipv6Addr,
    /// None: it works as long as its process lives.
    pub(crate) check: Option<Health>,
    pub(crate) isolation: Isolation,
    /// Whether it was healthy already.
    pub(crate) healthy: bool,
}

impl Watch {
    /// Watches until the workload fails or ends.
    pub(crate) async fn run(self, shim: Shim, events: mpsc::Sender<Message>) {
        let why = tokio::select! {
            why = ended(&shim) => why,
            why = self.healthy_until(&events) => why,
        };
        self.tell(&events, Event::Failed(why)).await;
    }

    async fn tell(&self, events: &mpsc::Sender<Message>, event: Event) {
        let message = Message::Health { lease: self.lease, starts: self.starts, event };
        if events.send(message).await.is_err() {
            tracing::trace!("the runner is gone");
        }
    }

    /// Returns why it is not healthy, or not any more.
    async fn healthy_until(&self, events: &mpsc::Sender<Message>) -> String {
        if !self.healthy {
            if let Err(why) = self.becomes_healthy().await {
                return why;
            }
            self.tell(events, Event::Healthy).await;
        }
        let mut misses = 0;
        loop {
            tokio::time::sleep(HEALTH_RUNNING_EVERY).await;
            match self.ask().await {
                Ok(()) => misses = 0,
                Err(why) => {
                    misses += 1;
                    if misses >= HEALTH_MISSES_MAX {
                        return format!("it failed {misses} health checks in a row: {why}");
                    }
                }
            }
        }
    }

    async fn becomes_healthy(&self) -> Result<(), String> {
        let patience = match self.isolation {
            Isolation::Container => HEALTH_START_CONTAINER,
            Isolation::MicroVm => HEALTH_START_VM,
        };
        if self.check.is_none() {
            tokio::time::sleep(HEALTH_ALIVE).await;
            return Ok(());
        }
        let began = Instant::now();
        loop {
            let why = match self.ask().await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if began.elapsed() > patience {
                return Err(format!("it was not healthy {} s after its start: {why}", patience.as_secs()));
            }
            tokio::time::sleep(HEALTH_STARTING_EVERY).await;
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let asked = match &self.check {
            None => return Ok(()),
            Some(Health::Tcp { port }) => timeout(HEALTH_ANSWER, self.connect(*port)).await.map(|r| r.map(drop)),
            Some(Health::Http { port, path }) => timeout(HEALTH_ANSWER, self.get(*port, path)).await,
        };
        asked.unwrap_or_else(|_| Err(format!("no answer within {}", seconds(HEALTH_ANSWER))))
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let address: SocketAddr = SocketAddrV6::new(self.address, port, 0, 0).into();
        TcpStream::connect(address).await.map_err(|e| format!("port {port} does not take connections ({e})"))
    }

    async fn get(&self, port: u16, path: &str) -> Result<(), String> {
        let mut stream = self.connect(port).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: [{}]:{port}\r\nconnection: close\r\n\r\n", self.address);
        let broken = |e: std::io::Error| format!("port {port} broke off ({e})");
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut line = Vec::new();
        while !line.contains(&b'\n') && line.len() < STATUS_LINE_BYTES_MAX {
            if stream.read_buf(&mut line).await.map_err(broken)? == 0 {
                break;
            }
        }
        let line = String::from_utf8_lossy(&line);
        let status: Option<u16> = line.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        match status {
            Some(status) if status < 400 => Ok(()),
            Some(status) => Err(format!("GET {path} on port {port} answers {status}")),
            None => Err(format!("port {port} does not answer in HTTP")),
        }
    }
}

/// Waits for the end of the process; returns why it ended.
async fn ended(shim: &Shim) -> String {
    match shim.ended().await {
        Ok(Status::Exited(record)) => format!("it {}", record.why()),
        Ok(_) => "it was killed from outside, or the machine was restarted".to_owned(),
        Err(error) => format!("its process cannot be watched: {}", crate::problem::chain(&error)),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
