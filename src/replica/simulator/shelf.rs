//! A shelf in memory: one ordered map, with a log to undo a transaction that is given up.

use std::{collections::BTreeMap, ops::Bound};

use uuid::Uuid;

use crate::{
    model::{CounterId, Event, KeyId, Set, SetId, SetKind, Tally, TokenId, UsageLog, UserId},
    store::{
        Error,
        shelf::{Dirty, Gone, Inflight, KeyEntry, Row, Seen, Shelf, TokenEntry, UserEntry},
    },
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Instance,
    Note(String),
    Replicated(String),
    Key(String, KeyId),
    Token(String, TokenId),
    Gone(String, Row),
    Digest(String, [u8; 16], bool),
    Dirty(String, Row),
    View(String, CounterId),
    Open(String, CounterId),
    Inflight(String, CounterId),
    Set(SetId),
    OpenSet(SetId),
    OpenEvent(Uuid),
    OpenLog(Uuid),
    User(UserId),
    Batch(String, u64),
    Seen(String, Seen),
}

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Instance(Uuid),
    Bytes(Vec<u8>),
    Replicated,
    Key(Box<KeyEntry>),
    Token(Box<TokenEntry>),
    Gone(Gone),
    Id(Row),
    Dirty(Dirty),
    Tally(Tally),
    Inflight(Inflight),
    Set(Set),
    Event(Box<Event>),
    Log(UsageLog),
    User(Box<UserEntry>),
    Seen,
}

#[derive(Clone, Debug, Default)]
pub struct MemoryShelf {
    items: BTreeMap<At, Item>,
    undo: Vec<(At, Option<Item>)>,
    /// Writes so far: a fault can be put before any of them.
    pub writes: u64,
    /// The write at which the process dies.
    pub dies_at: Option<u64>,
    /// Batches that this transaction has thrown away.
    pub thrown: Vec<(String, Vec<u8>)>,
}

impl MemoryShelf {
    pub fn new(instance: Uuid) -> Self {
        let mut shelf = Self::default();
        shelf.items.insert(At::Instance, Item::Instance(instance));
        shelf
    }

    /// Writes of this transaction.
    pub fn written(&self) -> usize {
        self.undo.len()
    }

    pub fn commit(&mut self) {
        self.undo.clear();
        self.thrown.clear();
    }

    pub fn give_up(&mut self) {
        self.thrown.clear();
        while let Some((at, old)) = self.undo.pop() {
            match old {
                Some(item) => self.items.insert(at, item),
                None => self.items.remove(&at),
            };
        }
    }

    fn put(&mut self, at: At, item: Option<Item>) -> Result<(), Error> {
        self.writes += 1;
        if self.dies_at.is_some_and(|last| self.writes >= last) {
            return Err(Error::Closed);
        }
        let old = match item {
            Some(item) => self.items.insert(at.clone(), item),
            None => self.items.remove(&at),
        };
        self.undo.push((at, old));
        Ok(())
    }

    fn list<T>(&self, begin: Bound<At>, max: usize, pick: impl Fn(&At, &Item) -> Option<T>) -> Vec<T> {
        self.items.range((begin, Bound::Unbounded)).map_while(|(at, item)| pick(at, item)).take(max).collect()
    }

    fn set_at(&self, at: &At) -> Set {
        match self.items.get(at) {
            Some(Item::Set(set)) => set.clone(),
            _ => Set::default(),
        }
    }

    pub fn is_replicated(&self, provider: &str) -> bool {
        self.items.contains_key(&At::Replicated(provider.to_owned()))
    }

    pub fn instance_id(&self) -> Uuid {
        match self.items.get(&At::Instance) {
            Some(Item::Instance(id)) => *id,
            _ => Uuid::nil(),
        }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }
}

type Result2<T> = Result<T, Error>;

fn begin<K>(after: Option<K>, at: impl Fn(K) -> At, first: At) -> Bound<At> {
    match after {
        Some(after) => Bound::Excluded(at(after)),
        None => Bound::Included(first),
    }
}

const FIRST_ROW: Row = Row::Key(KeyId(0));
const FIRST_SET: SetId = SetId { kind: SetKind::KeyDay, at: 0, id: 0 };
const FIRST_COUNTER: CounterId = CounterId::Key(KeyId(0));

impl Shelf for MemoryShelf {
    fn instance(&self) -> Uuid {
        self.instance_id()
    }

    fn set_instance(&mut self, id: Uuid) -> Result2<()> {
        self.put(At::Instance, Some(Item::Instance(id)))
    }

    fn note(&self, name: &str) -> Result2<Option<Vec<u8>>> {
        Ok(match self.items.get(&At::Note(name.to_owned())) {
            Some(Item::Bytes(bytes)) => Some(bytes.clone()),
            _ => None,
        })
    }

    fn set_note(&mut self, name: &str, value: Option<&[u8]>) -> Result2<()> {
        self.put(At::Note(name.to_owned()), value.map(|value| Item::Bytes(value.to_vec())))
    }

    fn set_replicated(&mut self, provider: &str, on: bool) -> Result2<()> {
        self.put(At::Replicated(provider.to_owned()), on.then_some(Item::Replicated))
    }

    fn replicates(&self, provider: &str) -> Result2<bool> {
        Ok(self.is_replicated(provider))
    }

    fn key(&self, provider: &str, id: KeyId) -> Result2<Option<KeyEntry>> {
        Ok(match self.items.get(&At::Key(provider.to_owned(), id)) {
            Some(Item::Key(entry)) => Some((**entry).clone()),
            _ => None,
        })
    }

    fn put_key(&mut self, provider: &str, id: KeyId, entry: &KeyEntry) -> Result2<()> {
        if self.is_replicated(provider) {
            self.set_digest(provider, Row::Key(id), digest(entry.record.secret.expose()))?;
        }
        self.put(At::Key(provider.to_owned(), id), Some(Item::Key(Box::new(entry.clone()))))
    }

    fn remove_key(&mut self, provider: &str, id: KeyId) -> Result2<()> {
        self.put(At::Key(provider.to_owned(), id), None)
    }

    fn keys(&self, provider: &str, after: Option<KeyId>, max: usize) -> Result2<Vec<(KeyId, KeyEntry)>> {
        let at = |id| At::Key(provider.to_owned(), id);
        Ok(self.list(begin(after, at, at(KeyId(0))), max, |at, item| match (at, item) {
            (At::Key(of, id), Item::Key(entry)) if of == provider => Some((*id, (**entry).clone())),
            _ => None,
        }))
    }

    fn token(&self, provider: &str, id: TokenId) -> Result2<Option<TokenEntry>> {
        Ok(match self.items.get(&At::Token(provider.to_owned(), id)) {
            Some(Item::Token(entry)) => Some((**entry).clone()),
            _ => None,
        })
    }

    fn put_token(&mut self, provider: &str, id: TokenId, entry: &TokenEntry) -> Result2<()> {
        if self.is_replicated(provider) {
            self.set_digest(provider, Row::Token(id), digest(entry.record.secret.expose()))?;
        }
        self.put(At::Token(provider.to_owned(), id), Some(Item::Token(Box::new(entry.clone()))))
    }

    fn remove_token(&mut self, provider: &str, id: TokenId) -> Result2<()> {
        self.put(At::Token(provider.to_owned(), id), None)
    }

    fn tokens(
        &self,
        provider: &str,
        after: Option<TokenId>,
        max: usize,
    ) -> Result2<Vec<(TokenId, TokenEntry)>> {
        let at = |id| At::Token(provider.to_owned(), id);
        Ok(self.list(begin(after, at, at(TokenId(0))), max, |at, item| match (at, item) {
            (At::Token(of, id), Item::Token(entry)) if of == provider => Some((*id, (**entry).clone())),
            _ => None,
        }))
    }

    fn gone(&self, provider: &str, row: Row) -> Result2<Option<Gone>> {
        Ok(match self.items.get(&At::Gone(provider.to_owned(), row)) {
            Some(Item::Gone(gone)) => Some(gone.clone()),
            _ => None,
        })
    }

    fn set_gone(&mut self, provider: &str, row: Row, gone: Option<Gone>) -> Result2<()> {
        if let Some(gone) = gone.as_ref().filter(|_| self.is_replicated(provider)) {
            self.set_digest(provider, row, gone.digest)?;
        }
        self.put(At::Gone(provider.to_owned(), row), gone.map(Item::Gone))
    }

    fn all_gone(&self, provider: &str, after: Option<Row>, max: usize) -> Result2<Vec<(Row, Gone)>> {
        let at = |row| At::Gone(provider.to_owned(), row);
        Ok(self.list(begin(after, at, at(FIRST_ROW)), max, |at, item| match (at, item) {
            (At::Gone(of, row), Item::Gone(gone)) if of == provider => Some((*row, gone.clone())),
            _ => None,
        }))
    }

    fn set_digest(&mut self, provider: &str, row: Row, digest: [u8; 16]) -> Result2<()> {
        let key = matches!(row, Row::Key(_));
        self.put(At::Digest(provider.to_owned(), digest, key), Some(Item::Id(row)))
    }

    fn key_by_digest(&self, provider: &str, digest: [u8; 16]) -> Result2<Option<KeyId>> {
        Ok(match self.items.get(&At::Digest(provider.to_owned(), digest, true)) {
            Some(Item::Id(Row::Key(id)))
                if self.key(provider, *id)?.is_some() || self.gone(provider, Row::Key(*id))?.is_some() =>
            {
                Some(*id)
            }
            _ => None,
        })
    }

    fn token_by_digest(&self, provider: &str, digest: [u8; 16]) -> Result2<Option<TokenId>> {
        Ok(match self.items.get(&At::Digest(provider.to_owned(), digest, false)) {
            Some(Item::Id(Row::Token(id)))
                if self.token(provider, *id)?.is_some()
                    || self.gone(provider, Row::Token(*id))?.is_some() =>
            {
                Some(*id)
            }
            _ => None,
        })
    }

    fn dirty(&self, provider: &str, after: Option<Row>, max: usize) -> Result2<Vec<(Row, Dirty)>> {
        let at = |row| At::Dirty(provider.to_owned(), row);
        Ok(self.list(begin(after, at, at(FIRST_ROW)), max, |at, item| match (at, item) {
            (At::Dirty(of, row), Item::Dirty(dirty)) if of == provider => Some((*row, *dirty)),
            _ => None,
        }))
    }

    fn dirty_row(&self, provider: &str, row: Row) -> Result2<Option<Dirty>> {
        Ok(match self.items.get(&At::Dirty(provider.to_owned(), row)) {
            Some(Item::Dirty(dirty)) => Some(*dirty),
            _ => None,
        })
    }

    fn set_dirty(&mut self, provider: &str, row: Row, dirty: Option<Dirty>) -> Result2<()> {
        self.put(At::Dirty(provider.to_owned(), row), dirty.map(Item::Dirty))
    }

    fn dirty_len(&self, provider: &str) -> Result2<u64> {
        Ok(self.dirty(provider, None, usize::MAX)?.len() as u64)
    }

    fn view(&self, provider: &str, id: &CounterId) -> Result2<Tally> {
        Ok(match self.items.get(&At::View(provider.to_owned(), id.clone())) {
            Some(Item::Tally(tally)) => *tally,
            _ => Tally::default(),
        })
    }

    fn set_view(&mut self, provider: &str, id: &CounterId, value: &Tally) -> Result2<()> {
        let item = (*value != Tally::default()).then_some(Item::Tally(*value));
        self.put(At::View(provider.to_owned(), id.clone()), item)
    }

    fn views(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result2<Vec<(CounterId, Tally)>> {
        let at = |id: &CounterId| At::View(provider.to_owned(), id.clone());
        Ok(self.list(begin(after, at, at(&FIRST_COUNTER)), max, |at, item| match (at, item) {
            (At::View(of, id), Item::Tally(tally)) if of == provider => Some((id.clone(), *tally)),
            _ => None,
        }))
    }

    fn open(&self, provider: &str, id: &CounterId) -> Result2<Option<Tally>> {
        Ok(match self.items.get(&At::Open(provider.to_owned(), id.clone())) {
            Some(Item::Tally(tally)) => Some(*tally),
            _ => None,
        })
    }

    fn set_open(&mut self, provider: &str, id: &CounterId, value: Option<&Tally>) -> Result2<()> {
        self.put(At::Open(provider.to_owned(), id.clone()), value.map(|value| Item::Tally(*value)))
    }

    fn opens(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result2<Vec<(CounterId, Tally)>> {
        let at = |id: &CounterId| At::Open(provider.to_owned(), id.clone());
        Ok(self.list(begin(after, at, at(&FIRST_COUNTER)), max, |at, item| match (at, item) {
            (At::Open(of, id), Item::Tally(tally)) if of == provider => Some((id.clone(), *tally)),
            _ => None,
        }))
    }

    fn open_len(&self, provider: &str) -> Result2<u64> {
        Ok(self.opens(provider, None, usize::MAX)?.len() as u64)
    }

    fn inflight(&self, provider: &str, id: &CounterId) -> Result2<Option<Inflight>> {
        Ok(match self.items.get(&At::Inflight(provider.to_owned(), id.clone())) {
            Some(Item::Inflight(inflight)) => Some(inflight.clone()),
            _ => None,
        })
    }

    fn set_inflight(&mut self, provider: &str, id: &CounterId, value: Option<&Inflight>) -> Result2<()> {
        self.put(At::Inflight(provider.to_owned(), id.clone()), value.cloned().map(Item::Inflight))
    }

    fn inflights(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result2<Vec<(CounterId, Inflight)>> {
        let at = |id: &CounterId| At::Inflight(provider.to_owned(), id.clone());
        Ok(self.list(begin(after, at, at(&FIRST_COUNTER)), max, |at, item| match (at, item) {
            (At::Inflight(of, id), Item::Inflight(inflight)) if of == provider => {
                Some((id.clone(), inflight.clone()))
            }
            _ => None,
        }))
    }

    fn set(&self, id: SetId) -> Result2<Set> {
        Ok(self.set_at(&At::Set(id)))
    }

    fn put_set(&mut self, id: SetId, set: &Set) -> Result2<()> {
        self.put(At::Set(id), (!set.is_empty()).then(|| Item::Set(set.clone())))
    }

    fn sets(&self, after: Option<SetId>, max: usize) -> Result2<Vec<(SetId, Set)>> {
        Ok(self.list(begin(after, At::Set, At::Set(FIRST_SET)), max, |at, item| match (at, item) {
            (At::Set(id), Item::Set(set)) => Some((*id, set.clone())),
            _ => None,
        }))
    }

    fn open_set(&self, id: SetId) -> Result2<Set> {
        Ok(self.set_at(&At::OpenSet(id)))
    }

    fn put_open_set(&mut self, id: SetId, set: &Set) -> Result2<()> {
        self.put(At::OpenSet(id), (!set.is_empty()).then(|| Item::Set(set.clone())))
    }

    fn open_sets(&self, after: Option<SetId>, max: usize) -> Result2<Vec<(SetId, Set)>> {
        Ok(self.list(begin(after, At::OpenSet, At::OpenSet(FIRST_SET)), max, |at, item| match (at, item) {
            (At::OpenSet(id), Item::Set(set)) => Some((*id, set.clone())),
            _ => None,
        }))
    }

    fn open_events(&self, max: usize) -> Result2<Vec<Event>> {
        Ok(self.list(Bound::Included(At::OpenEvent(Uuid::nil())), max, |_, item| match item {
            Item::Event(event) => Some((**event).clone()),
            _ => None,
        }))
    }

    fn set_open_event(&mut self, id: Uuid, event: Option<&Event>) -> Result2<()> {
        self.put(At::OpenEvent(id), event.map(|event| Item::Event(Box::new(event.clone()))))
    }

    fn open_logs(&self, max: usize) -> Result2<Vec<UsageLog>> {
        Ok(self.list(Bound::Included(At::OpenLog(Uuid::nil())), max, |_, item| match item {
            Item::Log(log) => Some(*log),
            _ => None,
        }))
    }

    fn set_open_log(&mut self, id: Uuid, log: Option<&UsageLog>) -> Result2<()> {
        self.put(At::OpenLog(id), log.map(|log| Item::Log(*log)))
    }

    fn user(&self, id: UserId) -> Result2<Option<UserEntry>> {
        Ok(match self.items.get(&At::User(id)) {
            Some(Item::User(entry)) => Some((**entry).clone()),
            _ => None,
        })
    }

    fn put_user(&mut self, id: UserId, entry: &UserEntry) -> Result2<()> {
        self.put(At::User(id), Some(Item::User(Box::new(entry.clone()))))
    }

    fn remove_user(&mut self, id: UserId) -> Result2<()> {
        self.put(At::User(id), None)
    }

    fn users(&self, after: Option<UserId>, max: usize) -> Result2<Vec<(UserId, UserEntry)>> {
        Ok(self.list(begin(after, At::User, At::User(UserId(0))), max, |at, item| match (at, item) {
            (At::User(id), Item::User(entry)) => Some((*id, (**entry).clone())),
            _ => None,
        }))
    }

    fn batch(&self, provider: &str, seq: u64) -> Result2<Option<Vec<u8>>> {
        Ok(match self.items.get(&At::Batch(provider.to_owned(), seq)) {
            Some(Item::Bytes(bytes)) => Some(bytes.clone()),
            _ => None,
        })
    }

    fn set_batch(&mut self, provider: &str, seq: u64, batch: Option<&[u8]>) -> Result2<()> {
        if let (None, Some(bytes)) = (batch, self.batch(provider, seq)?) {
            self.thrown.push((provider.to_owned(), bytes));
        }
        self.put(At::Batch(provider.to_owned(), seq), batch.map(|batch| Item::Bytes(batch.to_vec())))
    }

    fn batches(&self, provider: &str, from: u64, max: usize) -> Result2<Vec<u64>> {
        let first = Bound::Included(At::Batch(provider.to_owned(), from));
        Ok(self.list(first, max, |at, _| match at {
            At::Batch(of, seq) if of == provider => Some(*seq),
            _ => None,
        }))
    }

    fn mark_seen(&mut self, provider: &str, mark: &Seen) -> Result2<()> {
        self.put(At::Seen(provider.to_owned(), mark.clone()), Some(Item::Seen))
    }

    fn was_seen(&self, provider: &str, mark: &Seen) -> Result2<bool> {
        Ok(self.items.contains_key(&At::Seen(provider.to_owned(), mark.clone())))
    }

    fn forget_seen(&mut self, provider: &str, max: usize) -> Result2<bool> {
        let first = At::Seen(provider.to_owned(), Seen::Row(FIRST_ROW));
        let seen = self.list(Bound::Included(first), max, |at, _| match at {
            At::Seen(of, _) if of == provider => Some(at.clone()),
            _ => None,
        });
        let more = seen.len() == max;
        seen.into_iter().try_for_each(|at| self.put(at, None))?;
        Ok(more)
    }
}

pub fn digest(text: &str) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
    short
}
