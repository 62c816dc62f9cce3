//! `atoll logs`: what the workloads of an app print.

use std::{path::Path, process::ExitCode};

use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use anyhow::Result;
use atoll_api::node::LogsRequest;
use atoll_base::{LeaseId, schema::LeaseState};
use futures::future::join_all;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use super::{
    apps::{self, Lease},
    failure::{self, OrFail as _, fail},
    output,
    region::{self, Region},
};

/// Longest line that is kept together.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// `atoll logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Name of the app, or APP/SERVICE
    #[arg(value_name = "APP[/SERVICE]")]
    name: String,
    /// Stay and print what comes
    #[arg(long, short)]
    follow: bool,
    /// How many of the last lines of each workload
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    tail: u32,
}

pub(crate) fn run(args: &LogsArgs, state: Option<&Path>) -> Result<ExitCode> {
    let region = Region::open(state)?;
    let (name, service) = match args.name.split_once('/') {
        Some((name, service)) => (name, Some(service)),
        None => (args.name.as_str(), None),
    };
    region::block_on(async {
        let app = apps::find(&region, name).await?;
        let leases: Vec<&Lease> = app
            .leases
            .iter()
            .filter(|lease| {
                lease.state != LeaseState::Ended
                    && lease.node.is_some()
                    && service.is_none_or(|service| lease.service == service)
            })
            .collect();
        if leases.is_empty() {
            let known: Vec<&str> = app.services.iter().map(|service| service.name.as_str()).collect();
            return Err(fail(
                format!("no workload of {} is there", args.name),
                format!("its services are: {}", known.join(", ")),
            ));
        }
        let signer = region.wallet()?;
        let alone = leases.len() == 1;
        let copies = leases.into_iter().map(async |lease| {
            let prefix = if alone { String::new() } else { format!("{}.{} | ", lease.service, lease.replica + 1) };
            let lines = open(&region, &signer, LeaseId(lease.id), args.tail, args.follow).await?;
            copy(lines, &prefix).await
        });
        let mut failed = false;
        // One workload whose log cannot be had does not hide the others'.
        for error in join_all(copies).await.into_iter().filter_map(Result::err) {
            if failure::is_broken_pipe(&error) {
                return Err(error);
            }
            failure::report(&error);
            failed = true;
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    })
}

/// The last lines of a workload's log, for a message about its failure. Empty when they cannot be had.
pub(crate) async fn last_lines(region: &Region, signer: &PrivateKeySigner, lease: u64, count: u32) -> Vec<String> {
    let Ok(mut log) = open(region, signer, LeaseId(lease), count, false).await else { return Vec::new() };
    let mut lines = Vec::new();
    while let Ok(Some(line)) = next_line(&mut log).await {
        lines.push(output::clean(String::from_utf8_lossy(&line).trim_end()));
    }
    lines
}

async fn open(
    region: &Region,
    signer: &PrivateKeySigner,
    lease: LeaseId,
    tail: u32,
    follow: bool,
) -> Result<impl AsyncBufRead + Unpin> {
    let signed_ms = region::now_ms();
    let message = LogsRequest::message(region.id, lease, signed_ms);
    let signature = signer.sign_message_sync(message.as_bytes())?;
    let request = LogsRequest { lease, tail, follow, signed_ms, signature: hex::encode(signature.as_bytes()) };
    let body = region.node().stream("/v1/logs", &request).await.or_fail(
        || format!("cannot read the log of lease {lease}"),
        || "see `atoll ps` for where it runs, and `atoll status` for what is wrong",
    )?;
    Ok(BufReader::new(tokio_util::io::StreamReader::new(Box::pin(frames(body)))))
}

/// The body's data as it comes.
fn frames(body: hyper::body::Incoming) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> {
    use futures::StreamExt as _;
    http_body_util::BodyDataStream::new(body).map(|frame| frame.map_err(std::io::Error::other))
}

async fn copy(mut log: impl AsyncBufRead + Unpin, prefix: &str) -> Result<()> {
    while let Some(line) = next_line(&mut log)
        .await
        .or_fail(|| "the log broke off", || "the workload may have moved: see `atoll ps`, then try again")?
    {
        let mut text = prefix.as_bytes().to_vec();
        text.extend_from_slice(&line);
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        out.write_all(&text).and_then(|()| out.flush())?;
    }
    Ok(())
}

/// The next line with its end; a line beyond the bound comes in pieces.
async fn next_line(log: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    use tokio::io::AsyncReadExt as _;
    let mut line = Vec::new();
    let read = log.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).await?;
    Ok((read > 0).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_keep_their_bytes_and_have_a_bound() {
        let mut long = vec![b'x'; LINE_BYTES_MAX + 3];
        long.extend_from_slice(b"\na\n\xffb");
        let mut log = BufReader::new(long.as_slice());
        let mut sizes = Vec::new();
        while let Some(line) = next_line(&mut log).await.expect("memory") {
            sizes.push(line.len());
        }
        assert_eq!(sizes, [LINE_BYTES_MAX, 4, 2, 2]);
    }
}
