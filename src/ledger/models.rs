//! Which model names get a row of their own. Names come from callers, and rows are for good.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

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
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, u32>,
}

impl Default for ModelNames {
    fn default() -> Self {
        let other: Arc<str> = OTHER.into();
        let inner = Inner { names: vec![other.clone()], by_name: HashMap::from([(other, 0)]) };
        Self { inner: RwLock::new(inner) }
    }
}

impl ModelNames {
    /// The row of a name that is already known, or [`ModelRef::OTHER`].
    pub fn find(&self, name: &str) -> ModelRef {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.by_name.get(name).map_or(ModelRef::OTHER, |index| ModelRef(*index))
    }

    /// Gives a name that the provider listed or answered a row, while there is room.
    pub fn learn(&self, name: &str) -> ModelRef {
        let known = self.find(name);
        // Postgres takes no NUL in a text: one such name would keep a hub from taking any batch that holds it.
        let is_name = (1..=MAX_NAME_LEN).contains(&name.len()) && !name.chars().any(char::is_control);
        if known != ModelRef::OTHER || !is_name {
            return known;
        }
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = inner.by_name.get(name) {
            return ModelRef(*index);
        }
        if inner.names.len() >= MAX_MODELS {
            return ModelRef::OTHER;
        }
        let index = inner.names.len() as u32;
        let name: Arc<str> = name.into();
        inner.names.push(name.clone());
        inner.by_name.insert(name, index);
        ModelRef(index)
    }

    pub fn name(&self, model: ModelRef) -> Arc<str> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.names.get(model.0 as usize).unwrap_or(&inner.names[0]).clone()
    }
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
        for n in 0..2 * MAX_MODELS {
            names.learn(&format!("model-{n}"));
        }
        assert_eq!(names.inner.read().unwrap().names.len(), MAX_MODELS);
        assert_eq!(names.learn("one-too-many"), ModelRef::OTHER);
        assert_eq!(names.learn(&"x".repeat(MAX_NAME_LEN + 1)), ModelRef::OTHER);
        assert_eq!(&*names.name(first), "llama3");
        assert_eq!(&*names.name(ModelRef::OTHER), OTHER);
    }
}
