//! Lists of keys, however many there are: copied in small parts, so that picks wait for no list, then chosen,
//! ordered and cut in this request's own memory.

use std::{cmp::Ordering, collections::HashSet, ops::Range};

use super::{
    ProviderEntry, State,
    error::ApiError,
    view::{Code, KeySort, KeysQuery, Order},
};
use crate::{
    model::{KeyId, KeyUsage, Status, Timestamp},
    pool::{KeyView, Pool},
};

const PAGE_SIZE: usize = 50;
const MAX_PAGE_SIZE: usize = 1000;
/// Keys copied under one hold of the pool's lock: some twenty microseconds.
const PART: usize = 64;

/// A query's numbers, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) page: usize,
    pub(super) page_size: usize,
}

impl Cut {
    pub(super) fn of(page: Option<usize>, page_size: Option<usize>) -> Result<Self, ApiError> {
        let page = page.unwrap_or(1);
        if page == 0 {
            return Err(ApiError::bad_request(Code::InvalidQuery, "Pages are counted from 1.").param("page"));
        }
        let page_size = page_size.unwrap_or(PAGE_SIZE);
        if !(1..=MAX_PAGE_SIZE).contains(&page_size) {
            return Err(ApiError::bad_request(
                Code::InvalidQuery,
                format!("pageSize must be from 1 to {MAX_PAGE_SIZE}."),
            )
            .param("pageSize"));
        }
        Ok(Self { page, page_size })
    }

    /// What of `total` rows is on the page.
    pub(super) fn range(self, total: usize) -> Range<usize> {
        let from = (self.page - 1).saturating_mul(self.page_size).min(total);
        from..from.saturating_add(self.page_size).min(total)
    }
}

pub(super) struct Listed {
    pub(super) cut: Cut,
    pub(super) total: usize,
    pub(super) keys: Vec<(KeyView, KeyUsage)>,
}

impl Listed {
    pub(super) fn pages(&self) -> usize {
        self.total.div_ceil(self.cut.page_size)
    }
}

/// All keys, each once.
pub(super) fn each_key(pool: &Pool, now: Timestamp, mut take: impl FnMut(KeyView)) {
    let mut from = Some(0);
    while let Some(at) = from {
        let (part, next) = pool.scan(at, PART, now);
        part.into_iter().for_each(&mut take);
        from = next;
    }
}

/// What of the keys is looked at.
pub(super) struct Wanted {
    status: Option<Status>,
    search: Option<Search>,
}

impl Wanted {
    pub(super) fn new(status: Option<Status>, search: Option<&str>, provider: &ProviderEntry) -> Self {
        Self { status, search: search.map(|text| Search::new(text, &provider.name)) }
    }

    pub(super) fn finds(&self, key: &KeyView) -> bool {
        self.status.is_none_or(|status| key.status == status)
            && self.search.as_ref().is_none_or(|search| search.finds(key))
    }
}

/// The ids of all that is wanted, in one pass.
pub(super) fn ids_of(pool: &Pool, wanted: &Wanted, now: Timestamp) -> Vec<KeyId> {
    let mut found = Vec::new();
    each_key(pool, now, |key| {
        if wanted.finds(&key) {
            found.push(key.id);
        }
    });
    found
}

pub(super) fn list(state: &State, provider: &ProviderEntry, query: &KeysQuery, cut: Cut) -> Listed {
    let now = state.clock.now();
    let wanted = Wanted::new(query.status, query.search.as_deref(), provider);
    let mut found = Vec::new();
    each_key(&provider.pool, now, |key| {
        if wanted.finds(&key) {
            found.push((key, KeyUsage::default()));
        }
    });
    let sort = query.sort.unwrap_or_default();
    let of_usage = matches!(sort, KeySort::TotalRequests | KeySort::SuccessRate | KeySort::LastUsed);
    if of_usage {
        fill(state, provider, &mut found);
    }
    let total = found.len();
    let Range { start: from, end: to } = cut.range(total);
    let descending = query.order.unwrap_or_default() == Order::Desc;
    let compare = |a: &(KeyView, KeyUsage), b: &(KeyView, KeyUsage)| {
        let order = compare(sort, a, b);
        // Ties stand in the order of their ids, so that pages never overlap.
        (if descending { order.reverse() } else { order }).then_with(|| a.0.id.cmp(&b.0.id))
    };
    // Only what stands before the page's end has to be in order.
    if to < total && to > 0 {
        found.select_nth_unstable_by(to - 1, compare);
    }
    found.truncate(to);
    found.sort_unstable_by(compare);
    let mut keys = found.split_off(from);
    if !of_usage {
        fill(state, provider, &mut keys);
    }
    Listed { cut, total, keys }
}

fn fill(state: &State, provider: &ProviderEntry, keys: &mut [(KeyView, KeyUsage)]) {
    state.ledger.read(|books| {
        if let Some(books) = books.providers.get(&*provider.name) {
            for (key, usage) in keys {
                *usage = books.keys.get(&key.id).copied().unwrap_or_default();
            }
        }
    });
}

fn compare(sort: KeySort, (a, used_a): &(KeyView, KeyUsage), (b, used_b): &(KeyView, KeyUsage)) -> Ordering {
    match sort {
        KeySort::CreatedAt => a.created_at.cmp(&b.created_at),
        KeySort::Username => a.username.cmp(&b.username),
        KeySort::Status => rank(a.status).cmp(&rank(b.status)),
        KeySort::TotalRequests => used_a.counts.total().cmp(&used_b.counts.total()),
        KeySort::SuccessRate => used_a.counts.success_rate().total_cmp(&used_b.counts.success_rate()),
        KeySort::LastUsed => used_a.last_used.cmp(&used_b.last_used),
    }
}

fn rank(status: Status) -> u8 {
    match status {
        Status::Active => 0,
        Status::Failed => 1,
        Status::Disabled => 2,
        Status::Expired => 3,
    }
}

struct Search {
    needle: String,
    /// The needle may be a whole key: then it has this id.
    id: KeyId,
    may_be_id: bool,
}

impl Search {
    fn new(text: &str, provider: &str) -> Self {
        let needle = text.trim().to_lowercase();
        let may_be_id = !needle.is_empty() && needle.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        Self { id: KeyId::derive(provider, text.trim()), may_be_id, needle }
    }

    fn finds(&self, key: &KeyView) -> bool {
        let within = |text: &Option<Box<str>>| text.as_deref().is_some_and(|text| self.within(text));
        self.needle.is_empty()
            || key.id == self.id
            || within(&key.username)
            || within(&key.note)
            || (self.may_be_id && key.id.to_string().starts_with(&self.needle))
    }

    fn within(&self, text: &str) -> bool {
        contains(text, &self.needle)
    }
}

/// Whether `needle`, which is in lower case and not empty, is in `text`, in whatever case.
pub(super) fn contains(text: &str, needle: &str) -> bool {
    if text.is_ascii() {
        let needle = needle.as_bytes();
        text.as_bytes().windows(needle.len()).any(|part| part.eq_ignore_ascii_case(needle))
    } else {
        text.to_lowercase().contains(needle)
    }
}

/// The keys a change or a check is about: those named, or all (of one status).
pub(super) fn select(
    state: &State,
    provider: &ProviderEntry,
    ids: Option<&[KeyId]>,
    all: bool,
    status: Option<Status>,
) -> Result<Selection, ApiError> {
    match (ids, all) {
        (Some(_), true) => Err(ApiError::bad_request(
            Code::InvalidSelection,
            "Send either \"ids\" or \"all\": true, not both.",
        )
        .param("all")),
        (None, false) => Err(ApiError::bad_request(
            Code::InvalidSelection,
            "Say which keys: send \"ids\": […] or \"all\": true.",
        )
        .param("ids")),
        (Some(_), false) if status.is_some() => {
            Err(ApiError::bad_request(Code::InvalidSelection, "\"status\" goes with \"all\": true only.")
                .param("status"))
        }
        (Some(ids), false) => {
            let mut seen = HashSet::with_capacity(ids.len());
            let unique = ids.iter().copied().filter(|id| seen.insert(*id));
            let (found, missing) = unique.partition(|id| provider.pool.contains(*id));
            Ok(Selection { found, missing })
        }
        (None, true) => {
            let wanted = Wanted::new(status, None, provider);
            Ok(Selection { found: ids_of(&provider.pool, &wanted, state.clock.now()), missing: Vec::new() })
        }
    }
}

pub(super) struct Selection {
    pub(super) found: Vec<KeyId>,
    pub(super) missing: Vec<KeyId>,
}
