//! Blobs by digest: nothing gets a name that was not verified, written completely and synced.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest as _, Sha256};

use super::ImageError;
use crate::limits::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX};

/// SHA-256 of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The file name of the blob.
    pub(crate) fn hex(self) -> String {
        hex::encode(self.0)
    }

    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }
}

impl FromStr for Digest {
    type Err = ImageError;
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let digits = text.strip_prefix("sha256:").filter(|digits| !digits.bytes().any(|c| c.is_ascii_uppercase()));
        digits.and_then(Self::from_hex).ok_or_else(|| ImageError::NotADigest(text.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The store. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub(crate) struct ImageStore {
    root: Arc<PathBuf>,
    /// One lock for each image that is being unpacked, so that it is unpacked once.
    unpacking: Arc<Mutex<BTreeMap<Digest, Arc<Mutex<()>>>>>,
    /// Held for reading while blobs come in, for writing while unused ones are deleted.
    pub(crate) busy: Arc<tokio::sync::RwLock<()>>,
}

/// Distinguishes temporary names within this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

impl ImageStore {
    /// Opens the store in `root`, making it when it is not there.
    pub(crate) fn open(root: PathBuf) -> Result<Self, ImageError> {
        let tmp = root.join("tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(ImageError::io("empty", &tmp))?;
        }
        for folder in ["blobs", "partial", "tmp", "roots", "refs"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(ImageError::io("make", &folder))?;
        }
        Ok(Self { root: Arc::new(root), unpacking: Arc::default(), busy: Arc::default() })
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path for a file or folder that will be renamed when it is complete.
    pub(crate) fn temporary(&self) -> PathBuf {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{}-{number}", std::process::id()))
    }

    /// Where the blob is, or would be.
    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    /// The size of a blob that is complete.
    pub(crate) fn size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|data| data.len())
    }

    /// Reads a small blob, and checks that the disk gave back what was stored.
    pub(crate) fn read(&self, digest: Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(ImageError::io("open", &path))?;
        let mut bytes = Vec::new();
        file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ImageError::io("read", &path))?;
        let actual = Digest::of(&bytes);
        if actual != digest {
            return Err(ImageError::Mismatch {
                what: format!("the stored blob {}", path.display()),
                expected: digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Stores bytes under their own digest.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        self.copy(bytes, "a generated document", Some(digest), Some(bytes.len() as u64))?;
        Ok(digest)
    }

    /// Copies everything from `reader` into the store. Nothing is stored when digest or size are not as expected.
    pub(crate) fn copy(
        &self,
        mut reader: impl Read,
        what: &str,
        expected: Option<Digest>,
        size: Option<u64>,
    ) -> Result<(Digest, u64), ImageError> {
        if let Some((digest, size)) = expected.and_then(|digest| Some((digest, self.size(digest)?))) {
            return Ok((digest, size));
        }
        let path = self.temporary();
        let mut file = File::create_new(&path).map_err(ImageError::io("create", &path))?;
        let result = copy_hashed(&mut reader, &mut file, what, &path);
        let checked = result.and_then(|(digest, length)| {
            check(what, digest, length, expected, size)?;
            Ok((digest, length))
        });
        match checked {
            Ok((digest, length)) => self.commit(file, &path, digest).map(|()| (digest, length)),
            Err(error) => {
                discard(&path);
                Err(error)
            }
        }
    }

    /// Goes on with, or begins, a blob that comes in pieces.
    pub(crate) fn partial(&self, digest: Digest) -> Result<Partial, ImageError> {
        let path = self.root.join("partial").join(digest.hex());
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(ImageError::io("open", &path))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut length = 0;
        loop {
            let read = file.read(&mut buffer).map_err(ImageError::io("read", &path))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            length += read as u64;
        }
        Ok(Partial { store: self.clone(), digest, path, file, hash, length })
    }

    /// Remembers that the image with this manifest came in.
    pub(crate) fn refer(&self, manifest: Digest, now_ms: u64) -> Result<(), ImageError> {
        write_atomic(&self.root.join("refs").join(manifest.hex()), now_ms.to_string().as_bytes())
            .map_err(ImageError::io("write", self.root.join("refs")))
    }

    /// The lock under which the image is unpacked.
    pub(crate) fn unpack_lock(&self, manifest: Digest) -> Arc<Mutex<()>> {
        let mut locks = self.unpacking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(manifest).or_default().clone()
    }

    fn commit(&self, file: File, from: &Path, digest: Digest) -> Result<(), ImageError> {
        file.sync_all().map_err(ImageError::io("sync", from))?;
        let path = self.path(digest);
        fs::rename(from, &path).map_err(ImageError::io("rename", &path))?;
        sync_folder(&self.root.join("blobs")).map_err(ImageError::io("sync", self.root.join("blobs")))
    }
}

/// A blob that comes in pieces. What was written stays when it is dropped, so that a later attempt goes on from there.
#[derive(Debug)]
pub(crate) struct Partial {
    store: ImageStore,
    digest: Digest,
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
}

impl Partial {
    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Adds a piece.
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), ImageError> {
        self.file.write_all(piece).map_err(ImageError::io("write", &self.path))?;
        self.hash.update(piece);
        self.length += piece.len() as u64;
        if self.length > BLOB_BYTES_MAX {
            self.restart()?;
            let (what, actual) = (format!("blob {}", self.digest), self.length);
            return Err(ImageError::Size { what, expected: BLOB_BYTES_MAX, actual });
        }
        Ok(())
    }

    /// Forgets everything so far: the source does not go on from the middle, or what it sent was wrong.
    pub(crate) fn restart(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).map_err(ImageError::io("empty", &self.path))?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Verifies and stores the blob. When it is wrong nothing of it is kept.
    pub(crate) fn finish(mut self, what: &str, size: Option<u64>) -> Result<(), ImageError> {
        let actual = Digest(std::mem::replace(&mut self.hash, Sha256::new()).finalize().into());
        if let Err(error) = check(what, actual, self.length, Some(self.digest), size) {
            discard(&self.path);
            return Err(error);
        }
        self.store.commit(self.file, &self.path, self.digest)
    }
}

fn check(
    what: &str,
    actual: Digest,
    length: u64,
    expected: Option<Digest>,
    size: Option<u64>,
) -> Result<(), ImageError> {
    if let Some(size) = size.filter(|size| *size != length) {
        return Err(ImageError::Size { what: what.to_owned(), expected: size, actual: length });
    }
    match expected {
        Some(expected) if expected != actual => Err(ImageError::Mismatch { what: what.to_owned(), expected, actual }),
        _ => Ok(()),
    }
}

fn copy_hashed(reader: &mut impl Read, file: &mut File, what: &str, path: &Path) -> Result<(Digest, u64), ImageError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut length = 0u64;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok((Digest(hash.finalize().into()), length)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ImageError::Io { doing: "read", path: what.into(), source }),
        };
        length += read as u64;
        if length > BLOB_BYTES_MAX {
            return Err(ImageError::Size { what: what.to_owned(), expected: BLOB_BYTES_MAX, actual: length });
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(ImageError::io("write", path))?;
    }
}

/// Removes a file that is of no use any more; a leftover only costs space until the next start.
fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, "a temporary file stays until the next start");
    }
}

/// Writes a file so that after a crash either the old or the new content is there.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{number}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes renames in a folder last.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
