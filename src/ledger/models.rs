//! Which model names get a row of their own. Names come from callers, and rows are for good.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

/// The row shared by names that are neither listed nor answered by the provider.
pub const OTHER: &str = "(other)";
/// Most rows that one provider's models can take, [`OTHER`] included.
pub const MAX_MODELS: usize = 1000;
/// Longer names are never the provider's.
const MAX_NAME_LEN: usize = 256;

/// A model's place in [`ModelNames`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModelRef(pub(super) u32);

impl ModelRef {
    pub const OTHER: Self = Self(0);
}

/// The names of one provider's models, numbered in the order they were learnt.
#[derive(Debug)]
pub struct ModelNames {
    /// Replaced by what is learnt, which is rare: to look a name up is nothing that another core would notice.
    inner: ArcSwap<Inner>,
    /// Held by whoever learns.
    change: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Inner {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, u32>,
}

impl Default for ModelNames {
    fn default() -> Self {
        let other: Arc<str> = OTHER.into();
        let inner = Inner { names: vec![other.clone()], by_name: HashMap::from([(other, 0)]) };
        Self { inner: ArcSwap::from_pointee(inner), change: Mutex::default() }
    }
}

impl ModelNames {
    /// The row of a name that is already known, or [`ModelRef::OTHER`].
    pub fn find(&self, name: &str) -> ModelRef {
        self.inner.load().by_name.get(name).map_or(ModelRef::OTHER, |index| ModelRef(*index))
    }

    /// Gives a name that the provider listed or answered a row, while there is room.
    pub fn learn(&self, name: &str) -> ModelRef {
        let known = self.find(name);
        if known != ModelRef::OTHER || !is_name(name) {
            return known;
        }
        self.learn_all([name]);
        self.find(name)
    }

    /// The same for many, which cost no more than one.
    pub fn learn_all<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let _alone = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.inner.load();
        let mut changed: Option<Inner> = None;
        for name in names {
            let known = changed.as_ref().unwrap_or(&before);
            if !is_name(name) || known.by_name.contains_key(name) || known.names.len() >= MAX_MODELS {
                continue;
            }
            let inner = changed.get_or_insert_with(|| Inner::clone(&before));
            let (name, index) = (Arc::<str>::from(name), inner.names.len() as u32);
            inner.names.push(name.clone());
            inner.by_name.insert(name, index);
        }
        if let Some(inner) = changed {
            self.inner.store(Arc::new(inner));
        }
    }

    pub fn name(&self, model: ModelRef) -> Arc<str> {
        let inner = self.inner.load();
        inner.names.get(model.0 as usize).unwrap_or(&inner.names[0]).clone()
    }
}

fn is_name(name: &str) -> bool {
    // Postgres takes no NUL in a text: one such name would keep a hub from taking any batch that holds it.
    (1..=MAX_NAME_LEN).contains(&name.len()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_share_a_row_and_known_ones_are_bounded() {
        let names = ModelNames::default();
        assert_eq!(names.find("made-up"), ModelRef::OTHER);
        assert_eq!(names.learn("no\0model"), ModelRef::OTHER);
        let first = names.learn("llama3");
        assert_eq!((names.find("llama3"), names.learn("llama3")), (first, first));
        names.learn_all(["gemma", "llama3", "gemma", "no\0model", ""]);
        assert_eq!((names.find("llama3"), names.inner.load().names.len()), (first, 3));
        assert_eq!(&*names.name(names.find("gemma")), "gemma");
        names.learn_all(["llama3"]);
        for n in 0..2 * MAX_MODELS {
            names.learn(&format!("model-{n}"));
        }
        assert_eq!(names.inner.load().names.len(), MAX_MODELS);
        assert_eq!(names.learn("one-too-many"), ModelRef::OTHER);
        assert_eq!(names.learn(&"x".repeat(MAX_NAME_LEN + 1)), ModelRef::OTHER);
        assert_eq!(&*names.name(first), "llama3");
        assert_eq!(&*names.name(ModelRef::OTHER), OTHER);
    }
}
