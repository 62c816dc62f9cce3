//! `atoll wallet`: the account on this machine, what it holds, and sending from it.

use std::{path::Path, process::ExitCode};

use alloy_primitives::{Address, Bytes};
use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{
    failure::OrFail as _,
    output,
    proven::{self, Balance},
    region::{self, Region},
};
use crate::amount;

/// `atoll wallet`.
#[derive(Debug, clap::Args)]
pub(crate) struct WalletArgs {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<WalletCommand>,
}

#[derive(Debug, Subcommand)]
enum WalletCommand {
    /// Send coins to another account
    Send {
        /// The account, 0x and 40 hexadecimal digits
        to: String,
        /// How much, in whole coins, such as 12 or 0.25
        amount: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(crate) fn run(args: &WalletArgs, state: Option<&Path>) -> Result<ExitCode> {
    let region = Region::open(state)?;
    match &args.command {
        None => region::block_on(show(&region, args.json)),
        Some(WalletCommand::Send { to, amount, yes }) => region::block_on(send(&region, to, amount, *yes)),
    }
}

async fn show(region: &Region, as_json: bool) -> Result<ExitCode> {
    let address = region.wallet()?.address();
    let Balance { units: balance, height } = proven::balance(region, address).await?;
    let currency = &region.charter.currency;
    if as_json {
        output::print_json(&json!({
            "address": address,
            "balance": amount::exact(balance),
            "balance_units": balance.to_string(),
            "proven_height": height,
            "symbol": currency.symbol,
            "chain_id": region.charter.chain_id,
            "region": region.id,
        }))?;
    } else {
        output::print(&format!(
            "Address   {address}\nBalance   {} {}, proven at block {height}\nCurrency  {}\nChain id  {}\n",
            amount::exact(balance),
            currency.symbol,
            currency.name,
            region.charter.chain_id,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn send(region: &Region, to: &str, text: &str, yes: bool) -> Result<ExitCode> {
    let to = account(to)?;
    let value =
        amount::parse(text).or_fail(|| "cannot send", || "write the amount in whole coins, such as 12 or 0.25")?;
    let what = format!("{} {}", amount::exact(value), region.charter.currency.symbol);
    if !output::confirm(&format!("Send {what} to {to}?"), yes)? {
        output::print("Nothing is sent.\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let sent = region.rpc.transact(&region.wallet()?, to, value, Bytes::new()).await;
    let receipt = region.explain(&format!("cannot send {what}"), sent)?;
    output::print(&format!("Sent {what} to {to} in transaction {}.\n", receipt.transaction_hash))?;
    Ok(ExitCode::SUCCESS)
}

/// An account; mixed case is checked as its checksum (EIP-55), so that a mistyped digit is noticed.
fn account(text: &str) -> Result<Address> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mixed = digits.bytes().any(|c| c.is_ascii_lowercase()) && digits.bytes().any(|c| c.is_ascii_uppercase());
    let cure = || "compare it with its source; an account is 0x and 40 hexadecimal digits";
    if mixed {
        return Address::parse_checksummed(text, None)
            .or_fail(|| format!("'{text}' is not an account: its checksum does not fit"), cure);
    }
    text.parse().or_fail(|| format!("'{text}' is not an account"), cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_account_is_noticed() {
        let good = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert!(account(good).is_ok());
        assert!(account(&good.to_lowercase()).is_ok());
        assert!(account(&good.replace("5aAe", "5AAe")).is_err());
        assert!(account("0x12").is_err());
        assert!(account("home").is_err());
    }
}
