//! How much is deposited.

use alloy_primitives::U256;
use anyhow::Result;

use crate::{
    amount,
    cli::failure::{OrFail as _, fail},
};

/// Hours that the deposit lasts when nobody says otherwise: thirty days.
const HOURS_DEFAULT: u32 = 720;

/// What the person said about the deposit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// So many smallest units.
    Amount(U256),
    /// Enough for so many hours.
    Hours(u32),
}

impl Wish {
    /// The command line goes before the file.
    pub(super) fn of(escrow: Option<&str>, hours: Option<u32>, in_file: Option<U256>) -> Result<Self> {
        if let Some(text) = escrow {
            let amount =
                amount::parse(text).or_fail(|| "--escrow cannot be read", || "write a number of coins, such as 5")?;
            return Ok(Self::Amount(amount));
        }
        match (hours, in_file) {
            (Some(0), _) => Err(fail("--hours 0 would deposit nothing", "write at least 1")),
            (Some(hours), _) => Ok(Self::Hours(hours)),
            (None, Some(amount)) => Ok(Self::Amount(amount)),
            (None, None) => Ok(Self::Hours(HOURS_DEFAULT)),
        }
    }

    /// Smallest units to deposit at this price.
    pub(super) fn amount(self, price_per_hour: U256) -> U256 {
        match self {
            Self::Amount(amount) => amount,
            Self::Hours(hours) => super::for_hours(price_per_hour, hours),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_before_the_file() {
        let coin = U256::from(10).pow(U256::from(18));
        let of = |escrow, hours, file| Wish::of(escrow, hours, file).map_err(|e| e.to_string());
        assert_eq!(of(None, None, None), Ok(Wish::Hours(720)));
        assert_eq!(of(None, None, Some(coin)), Ok(Wish::Amount(coin)));
        assert_eq!(of(None, Some(3), Some(coin)), Ok(Wish::Hours(3)));
        assert_eq!(of(Some("1"), None, None), Ok(Wish::Amount(coin)));
        assert_eq!(of(Some("x"), None, None), Err("--escrow cannot be read".to_owned()));
        assert_eq!(of(None, Some(0), None), Err("--hours 0 would deposit nothing".to_owned()));
        assert_eq!(Wish::Hours(3).amount(coin), coin * U256::from(3));
    }
}
