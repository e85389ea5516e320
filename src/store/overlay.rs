//! A file that can be read and seemingly written: what is written stays in memory.

use std::{collections::BTreeMap, fs::File, io, ops::Bound, os::unix::fs::FileExt, sync::Mutex};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

const BLOCK: u64 = 4096;

#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    /// Holds the locks, so that a running keytide is noticed; reads and writes do not pass through it. `None`
    /// where the file cannot be written, for then it cannot be locked either.
    locks: Option<FileBackend>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    len: u64,
    /// How much of the file still shows through; only shrinks.
    visible: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK as usize]>>,
}

impl Overlay {
    pub(super) fn new(file: File, writable: bool) -> Result<Self, DatabaseError> {
        let len = file.metadata()?.len();
        // A duplicated descriptor shares its locks, and this one never takes any itself.
        let locks = if writable { Some(FileBackend::new(file.try_clone()?)?) } else { None };
        Ok(Self { file, locks, state: Mutex::new(State { len, visible: len, blocks: BTreeMap::new() }) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn locks(&self) -> Result<&FileBackend, BackendError> {
        self.locks.as_ref().ok_or(BackendError::Unsupported)
    }

    /// Fills `out` from the file; zeros where nothing shows through.
    fn read_file(&self, visible: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let shown = usize::try_from(visible.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (from_file, zeros) = out.split_at_mut(shown);
        zeros.fill(0);
        self.file.read_exact_at(from_file, offset)
    }
}

/// The parts of `offset..offset + len` that lie in one block each: (block, offset in it, range of the buffer).
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let inside = (at % BLOCK) as usize;
        let take = (len - done).min(BLOCK as usize - inside);
        let range = done..done + take;
        done += take;
        Some((at / BLOCK, inside, range))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if state.blocks.is_empty() {
            let visible = state.visible;
            drop(state);
            return self.read_file(visible, offset, out);
        }
        for (block, inside, range) in parts(offset, out.len()) {
            let at = block * BLOCK + inside as u64;
            let out = &mut out[range];
            match state.blocks.get(&block) {
                Some(bytes) => out.copy_from_slice(&bytes[inside..inside + out.len()]),
                None => self.read_file(state.visible, at, out)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.len = len;
        state.visible = state.visible.min(len);
        // What is cut off must read as zeros if the length grows again.
        state.blocks.split_off(&len.div_ceil(BLOCK));
        if let Some(last) = state.blocks.get_mut(&(len / BLOCK)) {
            last[(len % BLOCK) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let visible = state.visible;
        for (block, inside, range) in parts(offset, data.len()) {
            let data = &data[range];
            let bytes = match state.blocks.entry(block) {
                std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => {
                    let mut bytes = Box::new([0; BLOCK as usize]);
                    self.read_file(visible, block * BLOCK, &mut bytes[..])?;
                    free.insert(bytes)
                }
            };
            bytes[inside..inside + data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.locks.as_ref().map_or(Ok(()), StorageBackend::close)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks()?.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks()?.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks()?.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks()?.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks()?.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks()?.query_lock_range(start, end)
    }
}
