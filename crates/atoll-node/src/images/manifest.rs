//! The documents of an image: index, manifest, configuration (OCI image specification 1.1 and its Docker ancestors).

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError, ImageStore};
use crate::limits::{LAYERS_MAX, MANIFEST_BYTES_MAX};

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub(crate) media_type: String,
    /// Its digest.
    pub(crate) digest: String,
    /// Its size.
    pub(crate) size: u64,
    /// For which machines, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    /// In a layout's index, the name of the image.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

/// The manifest of one image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// A list of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

/// Either of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// What an image says about how it wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    pub(crate) user: Option<String>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) stop_signal: Option<String>,
}

impl Descriptor {
    pub(crate) fn digest(&self) -> Result<Digest, ImageError> {
        self.digest.parse()
    }

    fn fits_here(&self) -> bool {
        let here = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == here)
    }
}

/// Reads an index or manifest.
pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Document, ImageError> {
    let form = |why: String| ImageError::Form { what: what.to_owned(), why };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| form(e.to_string()))?;
    if value.get("manifests").is_some() {
        return serde_json::from_value(value).map(Document::Index).map_err(|e| form(e.to_string()));
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|e| form(e.to_string()))?;
    if manifest.schema_version != 2 {
        return Err(form(format!("its schema version is {}, this program knows 2", manifest.schema_version)));
    }
    if manifest.layers.len() > LAYERS_MAX {
        return Err(form(format!("it has {} layers, at most {LAYERS_MAX} are allowed", manifest.layers.len())));
    }
    if manifest.config.size > MANIFEST_BYTES_MAX {
        return Err(form(format!("its configuration is larger than {MANIFEST_BYTES_MAX} bytes")));
    }
    Ok(Document::Manifest(manifest))
}

impl Index {
    /// The manifest for this machine, among those with `tag` when one is given.
    pub(crate) fn choose(&self, what: &str, tag: Option<&str>) -> Result<&Descriptor, ImageError> {
        let named = |d: &&Descriptor| tag.is_none_or(|tag| d.names().any(|name| name == tag));
        let mut fitting = self.manifests.iter().filter(named).filter(|d| d.fits_here());
        let form = |why: String| ImageError::Form { what: what.to_owned(), why };
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) if first.digest == second.digest => Ok(first),
            (Some(_), Some(_)) => Err(form(format!("it holds several images, name one: {}", self.all_names()))),
            (None, _) if self.manifests.iter().any(|d| named(&d)) => {
                Err(form(format!("it holds no image for linux on {}", std::env::consts::ARCH)))
            }
            (None, _) => Err(form(match tag {
                Some(tag) => format!("it holds no image named '{tag}', but: {}", self.all_names()),
                None => "it holds no image".to_owned(),
            })),
        }
    }

    fn all_names(&self) -> String {
        let names: Vec<&str> = self.manifests.iter().flat_map(Descriptor::names).collect();
        if names.is_empty() { "(no names)".to_owned() } else { names.join(", ") }
    }
}

impl Descriptor {
    /// What a layout's index calls it: by its short tag (OCI) or its full name (containerd, docker).
    fn names(&self) -> impl Iterator<Item = &str> {
        ["org.opencontainers.image.ref.name", "io.containerd.image.name"]
            .into_iter()
            .filter_map(|key| self.annotations.get(key).map(String::as_str))
    }
}

impl ImageStore {
    /// The manifest with this digest, which must be complete in the store.
    pub(crate) fn manifest(&self, digest: Digest) -> Result<Manifest, ImageError> {
        match parse(&format!("manifest {digest}"), &self.read(digest)?)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ImageError::Form {
                what: digest.to_string(),
                why: "it is an index of several images, the digest of one image's manifest is needed".into(),
            }),
        }
    }

    /// The digest of the manifest for this machine, when `named` may be an index. Its documents must be in the store.
    pub(crate) fn resolve(&self, name: &str, named: Digest) -> Result<Digest, ImageError> {
        match parse(&format!("manifest {named}"), &self.read(named)?)? {
            Document::Manifest(_) => Ok(named),
            Document::Index(index) => index.choose(name, None)?.digest(),
        }
    }

    /// How the image wants to be run.
    pub(crate) fn image_config(&self, manifest: &Manifest) -> Result<ImageConfig, ImageError> {
        #[derive(Deserialize)]
        struct Outer {
            #[serde(default)]
            config: Option<ImageConfig>,
        }
        let digest = manifest.config.digest()?;
        let outer: Outer = serde_json::from_slice(&self.read(digest)?)
            .map_err(|e| ImageError::Form { what: format!("image configuration {digest}"), why: e.to_string() })?;
        Ok(outer.config.unwrap_or_default())
    }

    /// Bytes of all blobs of an image, each counted once.
    pub(crate) fn image_size(&self, digest: Digest, manifest: &Manifest) -> u64 {
        let mut blobs: Vec<(String, u64)> =
            manifest.layers.iter().chain([&manifest.config]).map(|d| (d.digest.clone(), d.size)).collect();
        blobs.sort();
        blobs.dedup();
        blobs.iter().map(|(_, size)| size).sum::<u64>() + self.size(digest).unwrap_or_default()
    }
}
