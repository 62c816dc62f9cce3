//! Accounts of the people on this machine: secp256k1 keys in files of the state directory.

use std::{fs, path::Path};

use alloy_primitives::B256;
use alloy_signer_local::PrivateKeySigner;
use anyhow::Result;

use crate::cli::failure::{OrFail as _, fail};

/// Reads a key file: 64 hexadecimal digits.
pub(crate) fn load(path: &Path) -> Result<PrivateKeySigner> {
    let text = fs::read_to_string(path).or_fail(
        || format!("cannot read the key {}", path.display()),
        || "run the command as the user who owns it (`sudo` for a region that root started)",
    )?;
    let bad = || {
        fail(
            format!("{} is not an account key: it must hold 64 hexadecimal digits", path.display()),
            "restore it from a backup",
        )
    };
    let key: B256 = text.trim().parse().map_err(|_| bad())?;
    PrivateKeySigner::from_bytes(&key).map_err(|_| bad())
}
