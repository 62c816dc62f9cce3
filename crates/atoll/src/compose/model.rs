//! What a deployment file says, checked: everything here can be honoured.

use std::path::PathBuf;

use alloy_primitives::U256;
use atoll_base::{
    schema::{Capacity, Isolation},
    spec::Health,
};

use super::refusal::{Note, Place};

/// An application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct App {
    /// Top-level `name`.
    pub(crate) name: Option<String>,
    /// What to deposit, in the smallest unit: top-level `x-atoll: {escrow: …}`.
    pub(crate) escrow: Option<U256>,
    /// In the order of the file, at least one.
    pub(crate) services: Vec<Service>,
    /// What works differently from what its author may expect.
    pub(crate) notes: Vec<Note>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// A DNS label.
    pub(crate) name: String,
    pub(crate) image: Image,
    /// Where the image stands in the file.
    pub(crate) image_place: Place,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    /// In the order of the file.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
    /// Open to the whole mesh, ascending, each once.
    pub(crate) ports: Vec<u16>,
    /// The gateways forward to it.
    pub(crate) http: Option<u16>,
    pub(crate) replicas: u32,
    pub(crate) needs: Capacity,
    pub(crate) pids_max: u32,
    pub(crate) health: Option<Health>,
    pub(crate) isolation: Isolation,
    /// `key=value`.
    pub(crate) constraints: Vec<String>,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    /// A folder or archive on this machine. The path is relative to the file.
    Local { form: LocalForm, path: PathBuf, tag: Option<String> },
    /// A registry that the user names, pinned by digest.
    Registry { repository: String, digest: String },
}

/// How a local image is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalForm {
    /// A folder in the OCI image layout.
    OciLayout,
    /// What `docker save` or `podman save` writes.
    DockerArchive,
}
