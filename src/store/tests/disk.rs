//! A disk in memory that fails when told, and forgets what was not synced when the power goes.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use redb::StorageBackend;

/// What becomes of the operation that is told to fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Failure {
    /// Nothing of it happens.
    Nothing,
    /// All of it happens, and an error is reported all the same.
    Reported,
    /// No space, for this and the next few operations that need it.
    Full(u32),
}

#[derive(Debug, Default)]
struct State {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(u64, Vec<u8>)>,
    operations: u64,
    fail_at: Option<(u64, Failure)>,
    full: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { now: bytes.clone(), synced: bytes, ..State::default() })))
    }

    /// The `n`th operation that changes something from now on fails.
    pub(super) fn fail_after(&self, n: u64, failure: Failure) {
        let mut state = self.state();
        state.fail_at = Some((state.operations + n, failure));
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state().fail_at.is_none()
    }

    pub(super) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// What a power loss leaves: of the writes since the last sync some, by the bits of `seed`, are there.
    pub(super) fn after_power_loss(&self, seed: u64) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.synced.clone();
        bytes.resize(state.now.len().max(bytes.len()), 0);
        let mut random = fastrand::Rng::with_seed(seed);
        for (at, data) in &state.unsynced {
            if random.bool() {
                let at = usize::try_from(*at).unwrap();
                if at + data.len() <= bytes.len() {
                    bytes[at..at + data.len()].copy_from_slice(data);
                }
            }
        }
        bytes
    }

    fn change(&self, needs_space: bool, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state();
        state.operations += 1;
        if needs_space && state.full > 0 {
            state.full -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some((at, failure)) = state.fail_at
            && state.operations >= at
        {
            state.fail_at = None;
            match failure {
                Failure::Nothing => {}
                Failure::Reported => change(&mut state),
                Failure::Full(times) => {
                    state.full = times;
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            return Err(io::Error::other("the disk is ill"));
        }
        change(&mut state);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let state = self.state();
        let found = state.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(true, |state| {
            let len = usize::try_from(len).unwrap();
            state.now.resize(len, 0);
            state.synced.truncate(len);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(false, |state| {
            state.synced = state.now.clone();
            state.unsynced.clear();
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(true, |state| {
            let at = usize::try_from(offset).unwrap();
            state.now[at..at + data.len()].copy_from_slice(data);
            state.unsynced.push((offset, data.to_vec()));
        })
    }
}
