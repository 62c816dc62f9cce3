//! The pool's journal: acknowledged transactions survive `kill -9`.
//!
//! ```text
//! file   = "ATOLLMP1" record*
//! record = length u32 LE | first 4 bytes of Keccak-256 of the transaction | transaction (EIP-2718)
//! ```
//!
//! A thread of its own appends, with one sync for all that arrived meanwhile. Nothing is ever removed in place: what was
//! included in a block is refused as old when the file is read again, and a file that is mostly dead is rewritten.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use alloy_primitives::{Bytes, keccak256};
use atoll_base::limits::TRANSACTION_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};

use crate::limits;

const MAGIC: &[u8; 8] = b"ATOLLMP1";
const RECORD_HEAD_BYTES: usize = 8;

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("cannot {what} the mempool's journal {path}: is the disk full, or the directory not writable?")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Some other file.
    #[error("{path} is not a mempool journal of this version of atoll: move it away and start again")]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// What the thread is told when a group has become durable.
pub(super) type OnSynced = Box<dyn Fn(Vec<Bytes>) + Send>;

/// Handle to the journal's thread, which ends when the last handle is gone.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    commands: mpsc::Sender<Command>,
    length: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Command {
    Append { tx: Bytes, done: Option<oneshot::Sender<Result<(), String>>> },
    Rewrite { live: Vec<Bytes> },
}

impl Journal {
    /// Opens or creates the file and reads what it holds; an incomplete end, left by a crash, is cut off.
    ///
    /// `on_synced` is called by the thread with the acknowledged transactions of each group.
    pub(super) fn open(path: &Path, on_synced: OnSynced) -> Result<(Self, Vec<Bytes>), JournalError> {
        let (mut file, txs) = Log::open(path.to_owned())?;
        let length = Arc::new(AtomicU64::new(file.length));
        let shared = Arc::clone(&length);
        let (commands, mut inbox) = mpsc::channel(limits::JOURNAL_QUEUE_MAX);
        let run = move || {
            while let Some(first) = inbox.blocking_recv() {
                file.handle_group(first, &mut inbox, &shared, &on_synced);
            }
        };
        thread::Builder::new().name("mempool-journal".into()).spawn(run).map_err(|source| JournalError::Io {
            what: "start the thread of",
            path: path.to_owned(),
            source,
        })?;
        Ok((Self { commands, length }, txs))
    }

    /// Returns when the transaction is durable.
    pub(super) async fn append(&self, tx: Bytes) -> Result<(), String> {
        let (done, synced) = oneshot::channel();
        let gone = |_| "the journal's thread has ended".to_owned();
        self.commands.send(Command::Append { tx, done: Some(done) }).await.map_err(|_| gone(()))?;
        synced.await.map_err(|_| gone(())).and_then(|result| result)
    }

    /// Appends when there is room, without waiting: for transactions that another validator vouches for.
    pub(super) fn append_later(&self, tx: Bytes) {
        // A full queue loses nothing: whoever acknowledged the transaction keeps it and gossips it again.
        let _ = self.commands.try_send(Command::Append { tx, done: None });
    }

    /// Rewrites the file when most of it is dead. To be called while nothing can enter the pool that gave `live`.
    pub(super) fn compact(&self, live_bytes: usize, live: impl FnOnce() -> Vec<Bytes>) {
        let length = self.length.load(Ordering::Relaxed);
        if length >= limits::JOURNAL_COMPACT_BYTES && length / 2 > live_bytes as u64 {
            // When the queue is full the next block tries again.
            if let Ok(permit) = self.commands.try_reserve() {
                permit.send(Command::Rewrite { live: live() });
            }
        }
    }
}

/// The file, as its thread sees it.
struct Log {
    path: PathBuf,
    file: File,
    /// End of the last complete record.
    length: u64,
}

impl Log {
    fn open(path: PathBuf) -> Result<(Self, Vec<Bytes>), JournalError> {
        let io = |what, source| JournalError::Io { what, path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| io("open", e))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|e| io("read", e))?;
        if content.len() < MAGIC.len() && MAGIC.starts_with(&content) {
            content = MAGIC.to_vec();
            file.seek(SeekFrom::Start(0)).map_err(|e| io("create", e))?;
            file.write_all(MAGIC).map_err(|e| io("create", e))?;
        }
        let Some(records) = content.strip_prefix(MAGIC) else { return Err(JournalError::Form { path }) };
        let (txs, used) = parse(records);
        let length = (MAGIC.len() + used) as u64;
        file.set_len(length).map_err(|e| io("cut the incomplete end of", e))?;
        file.seek(SeekFrom::Start(length)).map_err(|e| io("open", e))?;
        file.sync_all().map_err(|e| io("sync", e))?;
        sync_parent(&path).map_err(|e| io("sync the directory of", e))?;
        Ok((Self { path, file, length }, txs))
    }

    fn handle_group(
        &mut self,
        first: Command,
        inbox: &mut mpsc::Receiver<Command>,
        length: &AtomicU64,
        on_synced: &OnSynced,
    ) {
        let (mut buffer, mut waiting, mut own) = (Vec::new(), Vec::new(), Vec::new());
        let mut rewrite = None;
        let (mut next, mut left) = (Some(first), limits::JOURNAL_GROUP_MAX);
        while let Some(command) = next {
            match command {
                Command::Append { tx, done } => {
                    put_record(&mut buffer, &tx);
                    if let Some(done) = done {
                        waiting.push(done);
                        own.push(tx);
                    }
                }
                Command::Rewrite { live } => rewrite = Some(live),
            }
            left -= 1;
            next = if left == 0 || rewrite.is_some() { None } else { inbox.try_recv().ok() };
        }
        let mut synced = self.append(&buffer).map_err(|e| e.to_string());
        if let Some(live) = rewrite
            && let Err(error) = self.rewrite(&live)
        {
            // The old file is still complete; the next block asks again.
            tracing::warn!(%error, path = %self.path.display(), "cannot rewrite the mempool's journal");
        }
        length.store(self.length, Ordering::Relaxed);
        if let Err(error) = &mut synced {
            *error = format!("{error} ({})", self.path.display());
            tracing::warn!(%error, "cannot write the mempool's journal: new transactions are refused");
        } else if !own.is_empty() {
            on_synced(own);
        }
        for done in waiting {
            let _ = done.send(synced.clone());
        }
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(records).and_then(|()| self.file.sync_data());
        if written.is_ok() {
            self.length += records.len() as u64;
        } else {
            // What was refused must not come back after a restart, nor hide what is appended later.
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
        }
        written
    }

    fn rewrite(&mut self, live: &[Bytes]) -> io::Result<()> {
        let mut content = MAGIC.to_vec();
        live.iter().for_each(|tx| put_record(&mut content, tx));
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        self.file = file;
        self.length = content.len() as u64;
        sync_parent(&self.path)
    }
}

fn put_record(out: &mut Vec<u8>, tx: &[u8]) {
    debug_assert!(tx.len() <= TRANSACTION_BYTES_MAX);
    out.extend_from_slice(&(tx.len() as u32).to_le_bytes());
    out.extend_from_slice(&keccak256(tx)[..4]);
    out.extend_from_slice(tx);
}

/// The complete records at the start, and how many bytes they take.
fn parse(mut rest: &[u8]) -> (Vec<Bytes>, usize) {
    let total = rest.len();
    let mut txs = Vec::new();
    while let Some((head, body)) = rest.split_first_chunk::<RECORD_HEAD_BYTES>() {
        let [a, b, c, d, sum @ ..] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > TRANSACTION_BYTES_MAX || length > body.len() || keccak256(&body[..length])[..4] != sum {
            break;
        }
        txs.push(Bytes::copy_from_slice(&body[..length]));
        rest = &body[length..];
    }
    (txs, total - rest.len())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (Journal, Vec<Bytes>) {
        Journal::open(path, Box::new(|_| {})).expect("opens")
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mempool.journal");
        let txs: Vec<Bytes> = (0..100u8).map(|i| vec![i; usize::from(i) + 1].into()).collect();
        let (journal, old) = open(&path);
        assert!(old.is_empty());
        let all = txs.iter().map(|tx| journal.append(tx.clone()));
        assert!(futures::future::join_all(all).await.into_iter().all(|r| r.is_ok()));
        assert_eq!(open(&path).1, txs);
    }

    #[tokio::test]
    async fn a_torn_end_is_cut_off_and_does_not_hide_what_follows() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mempool.journal");
        let (journal, _) = open(&path);
        journal.append(vec![1; 40].into()).await.expect("kept");
        journal.append(vec![2; 40].into()).await.expect("kept");
        let whole = fs::read(&path).expect("readable");
        for cut in MAGIC.len()..whole.len() {
            fs::write(&path, &whole[..cut]).expect("written");
            let (journal, old) = open(&path);
            assert_eq!(old.len(), usize::from(cut >= MAGIC.len() + RECORD_HEAD_BYTES + 40), "cut at {cut}");
            journal.append(vec![3; 9].into()).await.expect("kept");
            assert_eq!(open(&path).1.last(), Some(&Bytes::from(vec![3; 9])), "cut at {cut}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().expect("not empty") ^= 1;
        fs::write(&path, &flipped).expect("written");
        assert_eq!(open(&path).1, vec![Bytes::from(vec![1; 40])]);
    }

    #[tokio::test]
    async fn a_mostly_dead_file_is_rewritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mempool.journal");
        let (journal, _) = open(&path);
        let live: Bytes = vec![7; 100].into();
        let mut written = 0;
        while written < limits::JOURNAL_COMPACT_BYTES {
            journal.append(vec![1; TRANSACTION_BYTES_MAX].into()).await.expect("kept");
            written += TRANSACTION_BYTES_MAX as u64;
        }
        journal.compact(100, || vec![live.clone()]);
        journal.append(vec![8; 9].into()).await.expect("kept");
        assert!(open(&path).1 == [live, vec![8; 9].into()], "only what lives is left");
    }

    #[test]
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mempool.journal");
        fs::write(&path, b"something else").expect("written");
        let error = Journal::open(&path, Box::new(|_| {})).expect_err("refused");
        assert!(matches!(error, JournalError::Form { .. }), "{error}");
    }
}
