//! The private part of a service: what only the node that runs it and its standby may read.

use serde::{Deserialize, Serialize};

/// Image, command and environment of a service. Sealed as JSON (see [`crate::seal`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateSpec {
    /// The image.
    pub image: ImageRef,
    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Added to the image's environment, in order; later ones win.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Replaces the image's user, `uid[:gid]` or a name in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Most processes and threads in it.
    pub pids_max: u32,
    /// How the node finds out that it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// An image by the digest of its manifest, and where to fetch it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRef {
    /// `sha256:` and 64 hexadecimal digits: the digest of the manifest for this platform.
    pub digest: String,
    /// What the user called it.
    pub name: String,
    /// Where its blobs are, tried in order; each blob's digest is verified.
    pub sources: Vec<ImageSource>,
}

/// A place that serves an image's blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSource {
    /// The image store of a node, reached over the mesh.
    Node(crate::NodeId),
    /// A repository of an OCI registry, `host[:port]/path`.
    Registry(String),
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Health {
    /// A TCP connection to this port succeeds.
    Tcp {
        /// The port.
        port: u16,
    },
    /// `GET path` on this port answers with a status below 400.
    Http {
        /// The port.
        port: u16,
        /// The path, starting with `/`.
        path: String,
    },
}
