//! Content of a raw disk image. Only what the file really holds is read: holes are zeros.

use crate::blob::{Error, Result};
use crate::parallel;
use crate::store::Blobs;
use crate::tree::MOST_GIB;
use crate::upload::{Finished, Progress, Upload};
use base::key::DataKey;
use base::volume::BLOCK_BYTES;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Makes content of a raw, perhaps sparse image, with `threads` threads. `size_gib` is the size of
/// the content; `None` is the file's, rounded up. The file must not change meanwhile.
///
/// # Errors
/// The file cannot be read, or the store not be written; [`Error::Invalid`] if the file is larger
/// than the content is to be; [`Error::Stopped`].
pub fn ingest(
    blobs: &Blobs,
    file: &Path,
    size_gib: Option<u32>,
    key: Option<&DataKey>,
    threads: usize,
    progress: Progress<'_>,
) -> Result<Finished> {
    let file = File::open(file)?;
    let length = file.metadata()?.len();
    let needed = length.div_ceil(1 << 30).max(1);
    let size_gib = match size_gib {
        Some(size) if u64::from(size) < needed => {
            return Err(Error::Invalid(format!("{length} bytes do not fit into {size} GiB")));
        }
        Some(size) => size,
        None => u32::try_from(needed)
            .ok()
            .filter(|size| *size <= MOST_GIB)
            .ok_or_else(|| Error::Invalid(format!("no volume has {needed} GiB")))?,
    };
    let ranges = data_blocks(&file, length)?;
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let progress = parallel::Counter::new(total * BLOCK_BYTES as u64, progress);
    let upload = Upload::begin(blobs, None, size_gib, key)?;
    parallel::each(threads, ranges.into_iter().flatten(), |index| {
        let offset = index * BLOCK_BYTES as u64;
        let held = usize::try_from(length - offset).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let mut block = vec![0; BLOCK_BYTES];
        file.read_exact_at(&mut block[..held], offset)?;
        upload.put(index, &block)?;
        progress.add(BLOCK_BYTES as u64)
    })?;
    upload.finish()
}

/// Indexes of the blocks that hold any data, in order, none twice.
fn data_blocks(file: &File, length: u64) -> io::Result<Vec<Range<u64>>> {
    let block = BLOCK_BYTES as u64;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            start => start?,
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        let (first, last) = (start / block, end.min(length).div_ceil(block));
        match ranges.last_mut() {
            Some(range) if range.end >= first => range.end = last.max(range.end),
            _ => ranges.push(first..last),
        }
        at = end;
    }
    Ok(ranges)
}
