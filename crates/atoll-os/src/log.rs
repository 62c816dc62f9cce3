//! The output of a workload: two files of bounded size, each line with its time and stream.
//!
//! ```text
//! 2026-11-22T16:55:23.123Z out text of the line
//! ```
//! Lines go to `output.log`; when that is full it becomes `output.log.1` (replacing the older one) and a new one begins.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::limits::{LOG_LINE_BYTES_MAX, LOG_TAIL_LINES_MAX};

const NEWEST: &str = "output.log";
const OLDER: &str = "output.log.1";

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
    /// The shim itself, about the workload.
    Note,
}

impl Stream {
    fn tag(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Note => "---",
        }
    }
}

/// Writes a workload's log; one writer at a time.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    file: File,
    size_bytes: u64,
    file_bytes_max: u64,
    dropped: u64,
}

impl LogWriter {
    /// Continues the log in this directory.
    pub fn open(dir: &Path, file_bytes_max: u64) -> io::Result<Self> {
        let file = append_to(&dir.join(NEWEST))?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { dir: dir.to_owned(), file, size_bytes, file_bytes_max, dropped: 0 })
    }

    /// Adds a line, given without its end. What cannot be written (a full disk) is counted, and reported as soon as
    /// writing works again: a workload must never stop because of its log.
    pub fn line(&mut self, stream: Stream, text: &[u8], now: SystemTime) {
        if self.dropped > 0 {
            let note = format!("{} lines could not be written to the log", self.dropped);
            if self.write(Stream::Note, note.as_bytes(), now).is_ok() {
                self.dropped = 0;
            }
        }
        if self.write(stream, text, now).is_err() {
            self.dropped += 1;
        }
    }

    fn write(&mut self, stream: Stream, text: &[u8], now: SystemTime) -> io::Result<()> {
        let mut line = format!("{} {} ", humantime::format_rfc3339_millis(now), stream.tag()).into_bytes();
        line.extend(text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        line.push(b'\n');
        if self.size_bytes + line.len() as u64 > self.file_bytes_max {
            self.rotate()?;
        }
        self.file.write_all(&line)?;
        self.size_bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let newest = self.dir.join(NEWEST);
        fs::rename(&newest, self.dir.join(OLDER))?;
        self.file = append_to(&newest)?;
        self.size_bytes = 0;
        Ok(())
    }
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
pub struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Takes bytes and gives each line that is complete, without its end, to `line`.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LOG_LINE_BYTES_MAX - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|byte| *byte == b'\n');
            self.pending.extend_from_slice(&window[..end.unwrap_or(window.len())]);
            bytes = &bytes[end.map_or(window.len(), |at| at + 1)..];
            if end.is_some() || self.pending.len() == LOG_LINE_BYTES_MAX {
                self.flush(&mut line);
            }
        }
    }

    /// Gives what is left when the stream has ended.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            self.flush(&mut line);
        }
    }

    fn flush(&mut self, line: &mut impl FnMut(&[u8])) {
        line(self.pending.strip_suffix(b"\r").unwrap_or(&self.pending));
        self.pending.clear();
    }
}

/// Reads a workload's log while it is written: first the last lines, then what comes.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    file: Option<BufReader<File>>,
    partial: Vec<u8>,
}

impl LogReader {
    /// The log in this directory, which need not exist yet, and its last `tail` lines.
    pub fn open(dir: &Path, tail: usize) -> io::Result<(Self, Vec<String>)> {
        let tail = tail.min(LOG_TAIL_LINES_MAX);
        let mut lines = VecDeque::new();
        let mut reader = Self { dir: dir.to_owned(), file: None, partial: Vec::new() };
        if let Some(mut older) = open_if_there(&dir.join(OLDER))? {
            let mut older_reader = Self { dir: dir.to_owned(), file: None, partial: Vec::new() };
            older_reader.drain(&mut older, |line| push_bounded(&mut lines, line, tail))?;
        }
        reader.poll_each(|line| push_bounded(&mut lines, line, tail))?;
        Ok((reader, lines.into()))
    }

    /// The lines that were added since the last call; when there are more than [`LOG_TAIL_LINES_MAX`], the newest.
    pub fn poll(&mut self) -> io::Result<Vec<String>> {
        let mut lines = VecDeque::new();
        self.poll_each(|line| push_bounded(&mut lines, line, LOG_TAIL_LINES_MAX))?;
        Ok(lines.into())
    }

    fn poll_each(&mut self, mut line: impl FnMut(String)) -> io::Result<()> {
        loop {
            let Some(mut file) = self.file.take().or(open_if_there(&self.dir.join(NEWEST))?) else { return Ok(()) };
            self.drain(&mut file, &mut line)?;
            let current = match fs::metadata(self.dir.join(NEWEST)) {
                Ok(found) => Some(found.ino()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            };
            if current.is_none_or(|inode| file.get_ref().metadata().is_ok_and(|own| own.ino() == inode)) {
                self.file = Some(file);
                return Ok(());
            }
            // It was rotated: what was added before that is still to be read from the old file, then the new one.
            self.drain(&mut file, &mut line)?;
        }
    }

    fn drain(&mut self, file: &mut BufReader<File>, mut line: impl FnMut(String)) -> io::Result<()> {
        loop {
            let read = file.by_ref().take(2 * LOG_LINE_BYTES_MAX as u64).read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                self.partial.pop();
                line(String::from_utf8_lossy(&self.partial).into_owned());
                self.partial.clear();
            } else if read == 0 {
                // A seek to where we are makes the next read see what is appended from now on.
                let here = file.stream_position()?;
                file.seek(SeekFrom::Start(here))?;
                return Ok(());
            }
        }
    }
}

fn push_bounded(lines: &mut VecDeque<String>, line: String, max: usize) {
    lines.push_back(line);
    if lines.len() > max {
        lines.pop_front();
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn open_if_there(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::limits::LOG_FILE_BYTES_MIN;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        for chunk in chunks {
            splitter.feed(chunk, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_cut_at_their_end_and_at_the_bound() {
        assert_eq!(split(&[b"a\nb", b"c\r\n", b"\n", b"d"]), [&b"a"[..], b"bc", b"", b"d"]);
        let long = vec![b'x'; 2 * LOG_LINE_BYTES_MAX + 1];
        let lengths: Vec<usize> = split(&[&long]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [LOG_LINE_BYTES_MAX, LOG_LINE_BYTES_MAX, 1]);
    }

    #[test]
    fn a_log_stays_bounded_and_a_reader_misses_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut writer = LogWriter::open(dir.path(), LOG_FILE_BYTES_MIN).expect("a log");
        let (mut reader, before) = LogReader::open(dir.path(), 10).expect("a reader");
        assert!(before.is_empty());
        let now = UNIX_EPOCH + Duration::from_millis(1_000_000_000_123);
        let (mut seen, text) = (Vec::new(), "y".repeat(200));
        for number in 0..1000 {
            writer.line(Stream::Out, format!("{number} {text}").as_bytes(), now);
            if number % 50 == 0 {
                seen.extend(reader.poll().expect("poll"));
            }
        }
        seen.extend(reader.poll().expect("poll"));
        assert_eq!(seen.len(), 1000, "each line once");
        assert!(seen[999].starts_with("2001-09-09T01:46:40.123Z out 999 y"), "{}", seen[999]);
        for name in [NEWEST, OLDER] {
            assert!(fs::metadata(dir.path().join(name)).expect("a file").len() <= LOG_FILE_BYTES_MIN);
        }
        let (_, tail) = LogReader::open(dir.path(), 3).expect("a reader");
        assert_eq!(tail, seen[997..]);
        let (_, tail) = LogReader::open(dir.path(), 150).expect("a reader");
        assert!(tail == seen[850..], "also across the two files");
    }

    #[test]
    fn a_log_is_continued_after_a_restart() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for round in ["first", "second"] {
            let mut writer = LogWriter::open(dir.path(), LOG_FILE_BYTES_MIN).expect("a log");
            writer.line(Stream::Err, round.as_bytes(), UNIX_EPOCH);
        }
        let (_, tail) = LogReader::open(dir.path(), 10).expect("a reader");
        assert!(tail[0].ends_with("err first") && tail[1].ends_with("err second"), "{tail:?}");
    }
}
