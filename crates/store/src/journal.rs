//! The write-ahead journal: what makes a batch durable with one write and one `fdatasync`.
//!
//! It is a row of files ("segments") that are filled with zeros before they are used: overwriting
//! blocks that are there needs no journal commit of the file system, which halves the time of the
//! sync, and a full disk shows when a segment is made, not in the middle of a record.
//!
//! ```text
//! segment  "gureumj\n", format u32, 0 u32, first sequence u64, number u64, checksum u32, 0 u32
//! record   length u32, checksum u32, sequence u64, steps (see encoding)
//! ```
//!
//! A record is a whole batch, so a torn one is no batch at all. Its checksum continues that of the
//! record before, and sequences have no gaps: what is left of an earlier use of the blocks does
//! not pass for a record.
//!
//! After a failed write or sync the segment is abandoned at the last good record, since nobody
//! knows what is on the disk behind it, and the next batch starts a new segment. Therefore a
//! segment's records count only up to the first sequence of the next segment.
//!
//! Segments whose records are all in the checkpoint are used again ([`Spares`]).

use crate::Error;
use crate::checksum::crc32c;
use crate::disk::{Disk, DiskFile};
use crate::encoding::{Reader, put_step};
use crate::state::{State, Step};
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"gureumj\n";
const FORMAT: u32 = 1;
const SEGMENT_HEADER: u64 = 40;
const RECORD_HEADER: usize = 16;

/// A buffer that grew beyond this is given back after use.
const KEEP_BUFFER: usize = 1 << 20;

/// How many spare segments are kept.
const MAX_SPARES: usize = 4;

fn segment_name(number: u64) -> String {
    format!("{number:016}.journal")
}

fn number_before(name: &str, suffix: &str) -> Option<u64> {
    name.strip_suffix(suffix)?.parse().ok()
}

fn segment_header(first_sequence: u64, number: u64) -> Vec<u8> {
    let mut header = Vec::from(MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&first_sequence.to_le_bytes());
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&crc32c(0, &header).to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header
}

/// Segments that can be used (again), ready to be renamed. Shared with the checkpointer, which
/// fills it.
#[derive(Debug)]
pub(crate) struct Spares {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    ready: Mutex<Vec<String>>,
    /// The number of the last name given out; a name is never in use twice.
    last_name: AtomicU64,
}

impl Spares {
    fn new_name(&self) -> String {
        format!("{:016}.spare", self.last_name.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<String>) -> T) -> T {
        f(&mut self.ready.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a spare if there is none, so that the writer does not have to.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        if self.with(|ready| ready.is_empty()) {
            let name = self.new_name();
            let made = self.disk.create(&name, self.segment_bytes);
            made.map_err(|e| Error::io("make a journal segment in", self.disk.path(), e))?;
            self.with(|ready| ready.push(name));
        }
        Ok(())
    }

    /// Takes back a segment that is in the checkpoint.
    pub(crate) fn recycle(&self, segment: &Sealed) -> Result<(), Error> {
        let name = segment_name(segment.number);
        let keep = segment.bytes == self.segment_bytes && self.with(|r| r.len()) < MAX_SPARES;
        let done = if keep {
            let spare = self.new_name();
            self.disk.rename(&name, &spare).map(|()| self.with(|ready| ready.push(spare)))
        } else {
            self.disk.remove(&name)
        };
        done.map_err(|e| Error::io("recycle a journal segment in", self.disk.path(), e))
    }
}

/// A segment that gets no more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
}

/// The segment that is written to.
struct Active {
    file: Box<dyn DiskFile>,
    number: u64,
    bytes: u64,
    position: u64,
    checksum: u32,
    /// After a failed write nothing more goes into it.
    abandoned: bool,
}

/// The journal, open for appending.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    spares: Arc<Spares>,
    active: Option<Active>,
    next_sequence: u64,
    next_number: u64,
    buffer: Vec<u8>,
}

/// What opening found.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    /// Segments before the one that is written to, oldest first.
    pub(crate) sealed: Vec<Sealed>,
    /// The keys that changed since the checkpoint; with repetitions.
    pub(crate) changed: Vec<Arc<str>>,
}

impl Journal {
    /// Reads the journal in `disk`, does to `state` (the checkpoint, which includes everything up
    /// to the sequence `checkpointed`) what it says, and is ready to append.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        checkpointed: u64,
        state: &mut State,
    ) -> Result<Opened, Error> {
        let fail = |e| Error::io("read the journal in", disk.path(), e);
        let mut segments = Vec::new();
        let mut ready = Vec::new();
        let mut last_name = 0;
        for (name, bytes) in disk.list().map_err(fail)? {
            if let Some(number) = number_before(&name, ".journal") {
                segments.push((number, bytes));
            } else if let Some(number) = number_before(&name, ".spare")
                && bytes == segment_bytes
            {
                last_name = number.max(last_name);
                ready.push(name);
            } else if name.ends_with(".spare") {
                disk.remove(&name).map_err(fail)?; // Half made, or of another size.
            }
        }
        segments.sort_unstable();
        let scanned: Vec<Scanned> = segments
            .iter()
            .map(|(number, bytes)| Scanned::open(&*disk, *number, *bytes))
            .collect::<Result<_, _>>()?;

        let mut sequence = checkpointed;
        let mut changed = Vec::new();
        let mut sealed = Vec::new();
        let mut last: Option<(End, Sealed)> = None;
        let limits: Vec<u64> =
            scanned.iter().skip(1).map(|s| s.first_sequence).chain([u64::MAX]).collect();
        for (segment, limit) in scanned.into_iter().zip(limits) {
            if segment.first_sequence > sequence + 1 {
                return Err(segment.corrupt(&*disk, "records before its first are missing"));
            }
            let number = segment.number;
            let bytes = segment.bytes;
            let end = segment.replay(&*disk, limit, &mut sequence, state, &mut changed)?;
            let before = last.replace((end, Sealed { number, bytes }));
            sealed.extend(before.map(|(_, segment)| segment));
        }
        let next_number = last.as_ref().map_or(1, |(_, segment)| segment.number + 1);
        let spares = Spares {
            disk: Arc::clone(&disk),
            segment_bytes,
            ready: Mutex::new(ready),
            last_name: AtomicU64::new(last_name),
        };
        let mut journal = Journal {
            disk,
            spares: Arc::new(spares),
            active: None,
            next_sequence: sequence + 1,
            next_number,
            buffer: Vec::new(),
        };
        if let Some((end, segment)) = last {
            journal.go_on(segment, end)?;
        } else {
            journal.rotate(0)?;
        }
        Ok(Opened { journal, sealed, changed })
    }

    /// Where spares are put.
    pub(crate) fn spares(&self) -> Arc<Spares> {
        Arc::clone(&self.spares)
    }

    /// The sequence of the last record.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Appends behind what was read. The last record may have been written and not synced by a
    /// process that was killed, or whose sync failed, and readers will now see it: so it is written
    /// again, which makes a sync mean something, and synced.
    fn go_on(&mut self, segment: Sealed, end: End) -> Result<(), Error> {
        let opened = self.disk.open(&segment_name(segment.number)).and_then(|mut file| {
            file.write_at(end.position - end.last_record.len() as u64, &end.last_record)?;
            file.sync()?;
            Ok(file)
        });
        let file = opened.map_err(|e| Error::io("open the journal in", self.disk.path(), e))?;
        self.active = Some(Active {
            file,
            number: segment.number,
            bytes: segment.bytes,
            position: end.position,
            checksum: end.checksum,
            abandoned: false,
        });
        Ok(())
    }

    /// Makes a batch durable. If a new segment had to be begun for it, the one before is returned.
    pub(crate) fn append(&mut self, batch: &[Step]) -> (Option<Sealed>, Result<(), Error>) {
        let mut record = std::mem::take(&mut self.buffer);
        record.clear();
        record.resize(RECORD_HEADER, 0);
        for step in batch {
            put_step(&mut record, step);
        }
        let outcome = self.append_record(&mut record);
        if record.capacity() <= KEEP_BUFFER {
            self.buffer = record;
        }
        outcome
    }

    fn append_record(&mut self, record: &mut [u8]) -> (Option<Sealed>, Result<(), Error>) {
        let fits = |a: &Active| !a.abandoned && a.position + record.len() as u64 <= a.bytes;
        let mut sealed = None;
        if !self.active.as_ref().is_some_and(fits) {
            match self.rotate(record.len() as u64) {
                Ok(before) => sealed = before,
                Err(error) => return (None, Err(error)),
            }
        }
        let Some(active) = &mut self.active else {
            return (sealed, Err(Error::Closed)); // rotate() has just made one.
        };
        let Ok(length) = u32::try_from(record.len() - RECORD_HEADER) else {
            let too_long = io::Error::from(io::ErrorKind::FileTooLarge);
            return (
                sealed,
                Err(Error::io("append to the journal in", self.disk.path(), too_long)),
            );
        };
        record[..4].copy_from_slice(&length.to_le_bytes());
        record[8..16].copy_from_slice(&self.next_sequence.to_le_bytes());
        let checksum = record_checksum(active.checksum, length, &record[8..]);
        record[4..8].copy_from_slice(&checksum.to_le_bytes());
        match active.file.write_at(active.position, record).and_then(|()| active.file.sync()) {
            Ok(()) => {
                active.position += record.len() as u64;
                active.checksum = checksum;
                self.next_sequence += 1;
                (sealed, Ok(()))
            }
            Err(error) => {
                active.abandoned = true;
                (sealed, Err(Error::io("append to the journal in", self.disk.path(), error)))
            }
        }
    }

    /// Begins a new segment with room for a record of `bytes`. On an error the old one stays.
    fn rotate(&mut self, bytes: u64) -> Result<Option<Sealed>, Error> {
        let number = self.next_number;
        let needed = SEGMENT_HEADER + bytes;
        let header = segment_header(self.next_sequence, number);
        let checksum = crc32c(0, &header);
        let made = self.begin(&segment_name(number), needed, &header);
        let (file, bytes) =
            made.map_err(|e| Error::io("make a journal segment in", self.disk.path(), e))?;
        self.next_number += 1;
        let active =
            Active { file, number, bytes, position: SEGMENT_HEADER, checksum, abandoned: false };
        let before = self.active.replace(active);
        Ok(before.map(|a| Sealed { number: a.number, bytes: a.bytes }))
    }

    /// A segment with its header, under its name and durable: from a spare if one fits. It gets its
    /// name last, so that a name always stands for a whole segment.
    fn begin(
        &self,
        name: &str,
        needed: u64,
        header: &[u8],
    ) -> io::Result<(Box<dyn DiskFile>, u64)> {
        let standard = self.spares.segment_bytes;
        if needed <= standard
            && let Some(spare) = self.spares.with(Vec::pop)
        {
            let begun = self.disk.open(&spare).and_then(|mut file| {
                file.write_at(0, header)?;
                file.sync()?;
                self.disk.rename(&spare, name)?;
                Ok((file, standard))
            });
            if begun.is_err() {
                let _ = self.disk.remove(&spare);
            }
            return begun;
        }
        let bytes = needed.max(standard);
        let mut file = self.disk.create("new.spare", bytes)?;
        file.write_at(0, header)?;
        file.sync()?;
        self.disk.rename("new.spare", name)?;
        Ok((file, bytes))
    }
}

fn record_checksum(before: u32, length: u32, sequence_and_steps: &[u8]) -> u32 {
    crc32c(crc32c(before, &length.to_le_bytes()), sequence_and_steps)
}

/// Where a segment's good records end.
struct End {
    position: u64,
    checksum: u32,
    /// The bytes of the last one, up to `position`.
    last_record: Vec<u8>,
}

/// A segment whose header was read.
struct Scanned {
    number: u64,
    bytes: u64,
    first_sequence: u64,
    checksum: u32,
    rest: BufReader<Box<dyn Read>>,
}

impl Scanned {
    fn open(disk: &dyn Disk, number: u64, bytes: u64) -> Result<Self, Error> {
        let name = segment_name(number);
        let mut header = [0; SEGMENT_HEADER as usize];
        let read = disk.read(&name).and_then(|file| {
            let mut rest = BufReader::with_capacity(1 << 18, file);
            rest.read_exact(&mut header).map(|()| rest)
        });
        let rest = read.map_err(|e| Error::io("read the journal in", disk.path(), e))?;
        let checksum = crc32c(0, &header);
        let mut segment = Scanned { number, bytes, first_sequence: 0, checksum, rest };
        let mut fields = Reader(&header[MAGIC.len()..]);
        let (Some(format), Some(_), Some(first), Some(_)) =
            (fields.u32(), fields.u32(), fields.u64(), fields.u64())
        else {
            return Err(segment.corrupt(disk, "it has no header"));
        };
        if header.starts_with(MAGIC) && format > FORMAT {
            let path = disk.path().join(name);
            return Err(Error::NewerFormat {
                path,
                found: format.into(),
                supported: FORMAT.into(),
            });
        }
        if header[..] != segment_header(first, number)[..] {
            return Err(segment.corrupt(disk, "its header does not fit"));
        }
        segment.first_sequence = first;
        Ok(segment)
    }

    fn corrupt(&self, disk: &dyn Disk, what: &str) -> Error {
        let path = disk.path().join(segment_name(self.number));
        Error::Corrupt { path, what: what.to_owned() }
    }

    /// Does what the records say whose sequence is above `sequence` and below `limit`.
    fn replay(
        mut self,
        disk: &dyn Disk,
        limit: u64,
        sequence: &mut u64,
        state: &mut State,
        changed: &mut Vec<Arc<str>>,
    ) -> Result<End, Error> {
        let checksum = self.checksum;
        let mut end = End { position: SEGMENT_HEADER, checksum, last_record: Vec::new() };
        let mut expected = self.first_sequence;
        let fail = |e| Error::io("read the journal in", disk.path(), e);
        while expected < limit
            && let Some((checksum, record)) = self.next_record(&end, expected).map_err(fail)?
        {
            if expected > *sequence {
                let mut steps = Reader(&record[RECORD_HEADER..]);
                if steps.replay(state, changed).is_none() {
                    return Err(self.corrupt(disk, "a record contradicts those before it"));
                }
                *sequence = expected;
            }
            end.position += record.len() as u64;
            end.checksum = checksum;
            end.last_record = record;
            expected += 1;
        }
        Ok(end)
    }

    /// The next record and its checksum; `None` at the end or at a torn record.
    fn next_record(&mut self, end: &End, expected: u64) -> io::Result<Option<(u32, Vec<u8>)>> {
        let mut record = vec![0; RECORD_HEADER];
        let room = self.bytes.saturating_sub(end.position);
        if room < RECORD_HEADER as u64 || !fill(&mut self.rest, &mut record)? {
            return Ok(None);
        }
        let mut fields = Reader(&record);
        let (Some(length), Some(found), Some(sequence)) =
            (fields.u32(), fields.u32(), fields.u64())
        else {
            return Ok(None);
        };
        let too_long = u64::from(length) > room - RECORD_HEADER as u64;
        if length == 0 || too_long || sequence != expected {
            return Ok(None);
        }
        record.resize(RECORD_HEADER + length as usize, 0);
        if !fill(&mut self.rest, &mut record[RECORD_HEADER..])? {
            return Ok(None);
        }
        let checksum = record_checksum(end.checksum, length, &record[8..]);
        Ok((checksum == found).then_some((checksum, record)))
    }
}

/// Reads exactly so much; `false` if the file ends before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
