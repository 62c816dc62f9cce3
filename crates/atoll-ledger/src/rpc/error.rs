//! Errors in the form that wallets and libraries expect.

use alloy_primitives::Bytes;
use jsonrpsee::types::ErrorObjectOwned;

use crate::{chain::IndexError, mempool::TxError};

/// Why a method has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request is not well formed, or asks for more than is allowed.
    Params(String),
    /// Well formed, but the answer is no.
    Refused(String),
    /// The called contract reverted.
    Reverted { message: String, data: Bytes },
    /// The server's own trouble.
    Internal(String),
    /// As the parser of parameters put it.
    Object(ErrorObjectOwned),
}

impl Failure {
    pub(super) fn params(why: impl Into<String>) -> Self {
        Self::Params(why.into())
    }

    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }

    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        Self::Internal(crate::chain::chain_of(error))
    }
}

impl From<Failure> for ErrorObjectOwned {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Params(why) => Self::owned(-32602, why, None::<()>),
            Failure::Refused(why) => Self::owned(-32000, why, None::<()>),
            Failure::Reverted { message, data } => Self::owned(3, message, Some(data)),
            Failure::Internal(why) => {
                tracing::warn!(%why, "a JSON-RPC request failed");
                Self::owned(-32603, why, None::<()>)
            }
            Failure::Object(object) => object,
        }
    }
}

impl From<ErrorObjectOwned> for Failure {
    fn from(object: ErrorObjectOwned) -> Self {
        Self::Object(object)
    }
}

impl From<TxError> for Failure {
    fn from(error: TxError) -> Self {
        match error {
            TxError::State(_) => Self::Internal(error.to_string()),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        Self::internal(&error)
    }
}

impl From<atoll_ledger_core::state::StateError> for Failure {
    fn from(error: atoll_ledger_core::state::StateError) -> Self {
        Self::internal(&error)
    }
}
