//! The deployment file: a Compose file, of which every key is either honoured or refused with its place.
//!
//! [`parse`] turns bytes into an [`App`] that can be deployed as it stands, or into all the [`Refused`] reasons why not.
//! It reads nothing but those bytes: no other file, no environment, no network. What belongs to Atoll alone (isolation,
//! constraints, health, disk, escrow) stands under `x-atoll`, which every other Compose program ignores.

mod keys;
mod limits;
mod model;
mod read;
mod refusal;
mod service;
mod values;
mod yaml;

pub(crate) use limits::FILE_BYTES_MAX;
pub(crate) use model::{App, Image, LocalForm, Service};
pub(crate) use refusal::{Refusal, Refused};

/// Reads a deployment file. `file` is its name in messages.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<App, Refused> {
    let root = yaml::parse(bytes).map_err(|refusal| Refused::new(file, vec![refusal]))?;
    let mut reader = read::Reader::default();
    match (reader.app(&root), reader.refusals) {
        (Some(app), refusals) if refusals.is_empty() => Ok(App { notes: reader.notes, ..app }),
        (_, refusals) => Err(Refused::new(file, refusals)),
    }
}

#[cfg(test)]
mod tests;
