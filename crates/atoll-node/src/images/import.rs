//! Local images into the store: an OCI layout folder, or an archive as `docker save` writes it (either the old form with
//! `manifest.json` alone, or an OCI layout in a tar), plain or compressed with gzip or zstd.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read, Seek as _},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{
    Digest, ImageError, ImageStore,
    manifest::{Descriptor, Document, Manifest, parse},
};
use crate::limits::{BLOB_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};

/// Members of an archive that are looked at.
const ARCHIVE_MEMBERS_MAX: usize = 10_000;
/// How deep indexes may refer to indexes.
const INDEX_DEPTH_MAX: usize = 4;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Copies a local image into the store; returns the digest of its manifest. Blocking.
pub(crate) fn import(
    store: &ImageStore,
    path: &Path,
    tag: Option<&str>,
    digest: Option<Digest>,
) -> Result<Digest, ImageError> {
    let data = fs::metadata(path).map_err(ImageError::io("open", path))?;
    let manifest = if data.is_dir() {
        import_layout(store, path, path, tag)?
    } else {
        let folder = store.temporary();
        fs::create_dir(&folder).map_err(ImageError::io("make", &folder))?;
        let result = import_archive(store, path, &folder, tag);
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::debug!(%error, "a temporary folder stays until the next start");
        }
        result?
    };
    if let Some(expected) = digest.filter(|expected| *expected != manifest) {
        let what = format!("the image in {}", path.display());
        return Err(ImageError::Mismatch { what, expected, actual: manifest });
    }
    Ok(manifest)
}

/// `folder` is where the layout is, `given` what the user named.
fn import_layout(store: &ImageStore, folder: &Path, given: &Path, tag: Option<&str>) -> Result<Digest, ImageError> {
    let not = |why: String| ImageError::NotAnImage { path: given.to_owned(), why };
    let index = folder.join("index.json");
    if !index.exists() {
        return Err(not("it has no index.json".into()));
    }
    let what = format!("{}/index.json", given.display());
    let Document::Index(mut index) = parse(&what, &read_small(&index)?)? else {
        return Err(not("its index.json is no index".into()));
    };
    let mut tag = tag;
    for _ in 0..INDEX_DEPTH_MAX {
        let chosen = index.choose(&what, tag)?.clone();
        tag = None;
        let digest = chosen.digest()?;
        let bytes = read_small(&blob(folder, digest))?;
        let actual = Digest::of(&bytes);
        if actual != digest {
            let what = format!("the manifest in {}", given.display());
            return Err(ImageError::Mismatch { what, expected: digest, actual });
        }
        match parse(&format!("manifest {digest}"), &bytes)? {
            Document::Index(inner) => index = inner,
            Document::Manifest(manifest) => {
                copy_blobs(store, folder, &manifest)?;
                return store.put(&bytes);
            }
        }
    }
    Err(not(format!("its indexes refer to each other more than {INDEX_DEPTH_MAX} levels deep")))
}

fn copy_blobs(store: &ImageStore, folder: &Path, manifest: &Manifest) -> Result<(), ImageError> {
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        let digest = descriptor.digest()?;
        let path = blob(folder, digest);
        let file = open_regular(&path)?;
        let what = format!("blob {}", path.display());
        store.copy(file, &what, Some(digest), Some(descriptor.size))?;
    }
    Ok(())
}

fn blob(folder: &Path, digest: Digest) -> PathBuf {
    folder.join("blobs").join("sha256").join(digest.hex())
}

fn read_small(path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ImageError::io("read", path))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        let what = path.display().to_string();
        return Err(ImageError::Size { what, expected: MANIFEST_BYTES_MAX, actual: bytes.len() as u64 });
    }
    Ok(bytes)
}

/// Opens a file, refusing what is none (a FIFO would block, a device would never end).
fn open_regular(path: &Path) -> Result<File, ImageError> {
    let data = fs::metadata(path).map_err(ImageError::io("open", path))?;
    if !data.is_file() {
        return Err(ImageError::Form { what: path.display().to_string(), why: "it is not a regular file".into() });
    }
    File::open(path).map_err(ImageError::io("open", path))
}

/// One image of an archive in the old form.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OldImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn import_archive(store: &ImageStore, path: &Path, folder: &Path, tag: Option<&str>) -> Result<Digest, ImageError> {
    let links = extract_archive(path, folder)?;
    if folder.join("index.json").exists() && folder.join("blobs").join("sha256").is_dir() {
        return import_layout(store, folder, path, tag);
    }
    let list = folder.join("manifest.json");
    if !list.exists() {
        let why = "the archive has neither index.json nor manifest.json".into();
        return Err(ImageError::NotAnImage { path: path.to_owned(), why });
    }
    let what = format!("manifest.json of {}", path.display());
    let images: Vec<OldImage> = serde_json::from_slice(&read_small(&list)?)
        .map_err(|e| ImageError::Form { what: what.clone(), why: e.to_string() })?;
    let image = choose_old(&images, tag).map_err(|why| ImageError::Form { what, why })?;
    let descriptor = |name: &str, media_type: &str| -> Result<Descriptor, ImageError> {
        let file = member(folder, &links, name)?;
        let (digest, size) = store.copy(open_regular(&file)?, name, None, None)?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            platform: None,
            annotations: BTreeMap::new(),
        })
    };
    if image.layers.len() > LAYERS_MAX {
        let why = format!("it has {} layers, at most {LAYERS_MAX} are allowed", image.layers.len());
        return Err(ImageError::Form { what: path.display().to_string(), why });
    }
    let layers = image.layers.iter().map(|name| descriptor(name, LAYER_TYPE)).collect::<Result<_, _>>()?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_owned(),
        config: descriptor(&image.config, CONFIG_TYPE)?,
        layers,
    };
    let json = serde_json::to_vec(&manifest)
        .map_err(|e| ImageError::Form { what: path.display().to_string(), why: e.to_string() })?;
    store.put(&json)
}

fn choose_old<'a>(images: &'a [OldImage], tag: Option<&str>) -> Result<&'a OldImage, String> {
    let tags = |image: &'a OldImage| image.repo_tags.iter().flatten().map(String::as_str);
    let all = || images.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
    let mut fitting = images.iter().filter(|image| tag.is_none_or(|tag| tags(image).any(|name| name == tag)));
    match (fitting.next(), fitting.next()) {
        (Some(image), None) => Ok(image),
        (Some(_), Some(_)) => Err(format!("it holds several images, name one: {}", all())),
        (None, _) => Err(format!("it holds no image named '{}', but: {}", tag.unwrap_or_default(), all())),
    }
}

/// Links within an archive: from a member's name to the name of the member with the content.
type Links = BTreeMap<PathBuf, PathBuf>;

/// Writes the regular files of an archive below `folder`. Links are not made but returned.
fn extract_archive(path: &Path, folder: &Path) -> Result<Links, ImageError> {
    let not = |why: String| ImageError::NotAnImage { path: path.to_owned(), why };
    let mut archive = tar::Archive::new(open_compressed(path)?);
    let mut links = Links::new();
    let entries = archive.entries().map_err(|e| not(e.to_string()))?;
    for (count, entry) in entries.enumerate() {
        if count >= ARCHIVE_MEMBERS_MAX {
            return Err(not(format!("it has more than {ARCHIVE_MEMBERS_MAX} members")));
        }
        let mut entry = entry.map_err(|e| not(format!("it is no tar archive, or it is damaged: {e}")))?;
        let name = entry.path().map_err(|e| not(e.to_string()))?.into_owned();
        let name = plain(&name).ok_or_else(|| not(format!("member '{}' leads out of it", name.display())))?;
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(|e| not(e.to_string()))?.unwrap_or_default().into_owned();
            let base = if kind.is_symlink() { name.parent().unwrap_or(Path::new("")) } else { Path::new("") };
            links.insert(name.clone(), fold(&base.join(target)));
        } else if kind.is_file() {
            let to = folder.join(&name);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(ImageError::io("make", parent))?;
            }
            let mut file = File::create(&to).map_err(ImageError::io("create", &to))?;
            let written = io::copy(&mut (&mut entry).take(BLOB_BYTES_MAX + 1), &mut file);
            written.map_err(ImageError::io("unpack", &to))?;
        }
    }
    Ok(links)
}

/// The file of a member, through at most a few links.
fn member(folder: &Path, links: &Links, name: &str) -> Result<PathBuf, ImageError> {
    let form = |why: &str| ImageError::Form { what: format!("archive member '{name}'"), why: why.to_owned() };
    let mut name = plain(Path::new(name)).ok_or_else(|| form("it leads out of the archive"))?;
    for _ in 0..8 {
        match links.get(&name) {
            Some(target) => name = plain(target).ok_or_else(|| form("it leads out of the archive"))?,
            None => return Ok(folder.join(name)),
        }
    }
    Err(form("its links lead in a circle"))
}

/// A relative path without `.`; none when it has `..`.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// Takes `a/..` out of a path by its text alone.
fn fold(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if out.pop() => {}
            other => out.push(other),
        }
    }
    out
}

fn open_compressed(path: &Path) -> Result<Box<dyn Read>, ImageError> {
    let mut file = open_regular(path)?;
    let mut magic = [0; 4];
    let known = file.read(&mut magic).map_err(ImageError::io("read", path))?;
    file.rewind().map_err(ImageError::io("read", path))?;
    decompress(BufReader::new(file), &magic[..known]).map_err(ImageError::io("read", path))
}

/// Undoes gzip or zstd, as the first bytes say.
pub(crate) fn decompress<R: io::BufRead + 'static>(reader: R, magic: &[u8]) -> io::Result<Box<dyn Read>> {
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(reader)?),
        _ => Box::new(reader),
    })
}
