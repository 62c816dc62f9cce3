//! The order: quote, consent, encryption, transaction.

use std::collections::BTreeSet;

use alloy_primitives::{B256, U256};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use anyhow::Result;
use atoll_base::{
    contracts::{DEPLOYMENTS, IDeployments},
    seal::{self, ContentKey},
};

use super::{plan::Plan, price::Wish};
use crate::{
    cli::{
        failure::{OrFail as _, fail},
        output, proven,
        region::{Region, short_node},
    },
    rpc::{ContractError, Receipt, RpcError},
};

/// How often the order is made anew when the placement changed meanwhile.
const ATTEMPTS_MAX: u32 = 4;

/// What the person wants.
pub(super) struct Order<'a> {
    pub(super) plan: &'a Plan,
    pub(super) wish: Wish,
    pub(super) yes: bool,
    pub(super) dry_run: bool,
}

/// What became of it.
pub(super) enum Outcome {
    /// It was only shown.
    Shown,
    /// The person said no.
    Declined,
    /// It is on the ledger, under this number.
    Placed(u64),
}

/// What the ledger would do.
struct Quote {
    placements: Vec<IDeployments::Placement>,
    price_per_hour: U256,
}

impl Order<'_> {
    /// Carries the order out.
    pub(super) async fn place(&self, region: &Region) -> Result<Outcome> {
        let what = format!("cannot deploy {}", self.plan.name);
        let mut consented = self.yes;
        for attempt in 1..=ATTEMPTS_MAX {
            let quote = region.explain(&what, self.quote(region).await)?;
            let escrow = self.wish.amount(quote.price_per_hour);
            output::print(&self.show(region, &quote, escrow))?;
            if self.dry_run {
                return Ok(Outcome::Shown);
            }
            if !consented && !output::confirm("Deploy?", false)? {
                return Ok(Outcome::Declined);
            }
            // Who agreed to a price does not mind which of the region's nodes it buys.
            consented = true;
            self.check_funds(region, escrow).await?;
            match self.send(region, quote.placements, escrow).await? {
                Ok(receipt) => return deployed(&receipt).map(Outcome::Placed),
                Err(RpcError::Contract(error)) if attempt < ATTEMPTS_MAX && is_placement(&error) => {}
                Err(error) => return region.explain(&what, Err(error)),
            }
        }
        Err(fail(what, "try again: the region is so busy that placements change between question and answer"))
    }

    async fn quote(&self, region: &Region) -> Result<Quote, RpcError> {
        let call = IDeployments::quoteCall { services: self.plan.public() };
        let IDeployments::quoteReturn { placements, pricePerHour } = region.rpc.call(DEPLOYMENTS, &call).await?;
        Ok(Quote { placements, price_per_hour: pricePerHour })
    }

    fn show(&self, region: &Region, quote: &Quote, escrow: U256) -> String {
        let rows: Vec<Vec<String>> = quote
            .placements
            .iter()
            .map(|placement| {
                let service = usize::try_from(placement.service).ok().and_then(|index| self.plan.services.get(index));
                let public = service.map(|service| &service.public);
                vec![
                    format!("{}.{}", public.map_or("?", |s| s.name.as_str()), placement.replica.saturating_add(1)),
                    public.map(|s| output::cores(s.cpuMilli)).unwrap_or_default(),
                    public.map(|s| output::bytes(s.memoryBytes)).unwrap_or_default(),
                    public.map(|s| output::bytes(s.diskBytes)).unwrap_or_default(),
                    short_node(placement.node),
                    short_node(placement.standby),
                ]
            })
            .collect();
        let table = output::table(&["SERVICE", "CORES", "MEMORY", "DISK", "NODE", "STANDBY"], &rows);
        let hours = if quote.price_per_hour.is_zero() { U256::ZERO } else { escrow / quote.price_per_hour };
        format!(
            "{table}Price   {} an hour when everything runs\nEscrow  {}, enough for {hours} hours; what is left comes back\n",
            region.amount(quote.price_per_hour),
            region.amount(escrow),
        )
    }

    async fn check_funds(&self, region: &Region, escrow: U256) -> Result<()> {
        let address = region.wallet()?.address();
        let balance = region.explain("cannot read the balance", region.rpc.balance(address).await)?;
        if balance > escrow {
            return Ok(());
        }
        Err(fail(
            format!(
                "not enough funds to deploy {}: the escrow is {}, and {address} holds {}",
                self.plan.name,
                region.amount(escrow),
                region.amount(balance)
            ),
            "deposit less (`--hours H` or `--escrow AMOUNT`), or receive coins first: `atoll wallet` shows the address",
        ))
    }

    async fn send(
        &self,
        region: &Region,
        expected: Vec<IDeployments::Placement>,
        escrow: U256,
    ) -> Result<Result<Receipt, RpcError>> {
        let (services, keys) = self.seal(region, &expected).await?;
        let call = IDeployments::deployCall { name: self.plan.name.clone(), services, expected, keys };
        Ok(region.rpc.transact(&region.wallet()?, DEPLOYMENTS, escrow, call.abi_encode().into()).await)
    }

    /// Encrypts each private part under a fresh key, and the key to the nodes that may run it.
    async fn seal(
        &self,
        region: &Region,
        placements: &[IDeployments::Placement],
    ) -> Result<(Vec<IDeployments::Service>, Vec<IDeployments::SealedKey>)> {
        let known = proven::sealing_keys(region).await?;
        let mut recipients: BTreeSet<(u32, B256)> = BTreeSet::new();
        for placement in placements {
            let nodes = [placement.node, placement.standby].into_iter().filter(|node| !node.is_zero());
            recipients.extend(nodes.map(|node| (placement.service, node)));
        }
        let (mut services, mut keys) = (Vec::new(), Vec::new());
        for (index, service) in (0_u32..).zip(&self.plan.services) {
            let key = ContentKey(rand::random());
            let sealed = seal::seal_content(&key, &service.plaintext);
            services.push(IDeployments::Service { sealedSpec: sealed.into(), ..service.public.clone() });
            for (_, node) in recipients.range((index, B256::ZERO)..=(index, B256::repeat_byte(0xff))) {
                let unknown = || fail(format!("node {} is not registered", short_node(*node)), "try again");
                let recipient = known.get(node).ok_or_else(unknown)?;
                let sealed = seal::seal_key(&recipient.0, &key, rand::random()).or_fail(
                    || format!("cannot encrypt for node {}", short_node(*node)),
                    || "its provider must register it again",
                )?;
                keys.push(IDeployments::SealedKey { service: index, node: *node, key: sealed.into() });
            }
        }
        Ok((services, keys))
    }
}

fn is_placement(error: &ContractError) -> bool {
    matches!(error, ContractError::Deployments(IDeployments::IDeploymentsErrors::PlacementChanged(_)))
}

fn deployed(receipt: &Receipt) -> Result<u64> {
    receipt
        .logs
        .iter()
        .filter(|log| log.address == DEPLOYMENTS)
        .find_map(|log| IDeployments::Deployed::decode_raw_log(log.topics.iter().copied(), &log.data).ok())
        .map(|event| event.deployment)
        .ok_or_else(|| fail("the ledger did not say which number the deployment got", "look for it with `atoll ps`"))
}
