//! Who came last over a connection. A client keeps to its token: to find it again takes a hash, locks and counts that all
//! cores share, and is spared as long as nothing has changed.

use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq;

use super::{Caller, Refusal, Tokens, Users};
use crate::model::Timestamp;

#[derive(Debug, Default)]
pub struct Acquaintance(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    caller: Caller,
    /// Of the provider that it was a token of.
    tokens: Arc<Tokens>,
    changes: (u64, u64),
}

impl Acquaintance {
    /// Who stands behind a request with the token `text`.
    ///
    /// # Errors
    /// When nothing in force goes by `text`, or its user may not use it.
    pub fn caller(
        &self,
        tokens: &Arc<Tokens>,
        users: &Users,
        text: &str,
        now: Timestamp,
    ) -> Result<Caller, Refusal> {
        // Before anything is looked up: what changes meanwhile is found the next time.
        let changes = (tokens.changes(), users.changes());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known
            && known.changes == changes
            && Arc::ptr_eq(&known.tokens, tokens)
            // Others may share the connection, through a proxy, and must not measure how much of a token they have.
            && is_same(known.caller.text(), text)
            && !known.caller.is_expired(now)
        {
            return Ok(known.caller.clone());
        }
        let caller = users.caller(tokens.find(text, now)?)?;
        *known = Some(Known { caller: caller.clone(), tokens: tokens.clone(), changes });
        Ok(caller)
    }
}

/// In a time that does not tell how much of them is the same. Eight bytes at once: each look is a call that the compiler
/// may not know through.
fn is_same(a: &str, b: &str) -> bool {
    let ((a, a_rest), (b, b_rest)) = (a.as_bytes().as_chunks::<8>(), b.as_bytes().as_chunks::<8>());
    let eights = a.len().ct_eq(&b.len()) & a_rest.ct_eq(b_rest);
    let same = a
        .iter()
        .zip(b)
        .fold(eights, |same, (a, b)| same & u64::from_ne_bytes(*a).ct_eq(&u64::from_ne_bytes(*b)));
    same.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Limits, Secret, TokenRecord, UserId, UserRecord, Zone};

    const NOW: Timestamp = Timestamp(1_000);
    const ANN: UserId = UserId(7);

    fn token(text: &str, expires_at: Option<Timestamp>) -> TokenRecord {
        TokenRecord {
            secret: Secret::new(text),
            name: "test".into(),
            created_at: Timestamp(0),
            expires_at,
            user: Some(ANN),
            limits: Limits::default(),
        }
    }

    fn user(enabled: bool) -> UserRecord {
        UserRecord {
            name: "Ann".into(),
            note: None,
            created_at: Timestamp(0),
            enabled,
            limits: Limits::default(),
        }
    }

    #[test]
    fn texts_are_the_same_where_all_of_them_is() {
        let text = "0123456789abcdef-";
        for end in 0..=text.len() {
            assert!(is_same(&text[..end], &text[..end]), "{end}");
            for other in 0..end {
                assert!(!is_same(&text[..end], &text[..other]) && !is_same(&text[..other], &text[..end]));
                let mut changed = text[..end].to_owned().into_bytes();
                changed[other] ^= 0x40;
                assert!(!is_same(&text[..end], std::str::from_utf8(&changed).unwrap()), "{end} {other}");
            }
        }
    }

    #[test]
    fn who_is_known_is_refused_as_soon_as_anybody_else() {
        let (tokens, other, users) =
            (Arc::new(Tokens::default()), Arc::new(Tokens::default()), Users::default());
        let (known, later) = (Acquaintance::default(), Timestamp(2_000));
        let id = tokens.insert("p", token("sk-a", Some(later)));
        tokens.insert("p", token("sk-b", None));
        users.insert(ANN, user(true));
        let comes = |tokens, text, now| known.caller(tokens, &users, text, now).map(|caller| caller.token());

        assert_eq!(comes(&tokens, "sk-a", NOW), Ok(id));
        assert_eq!(comes(&tokens, "sk-a", NOW), Ok(id));
        assert!(comes(&tokens, "sk-b", NOW).is_ok_and(|other| other != id));
        assert_eq!(comes(&tokens, "sk-a", NOW), Ok(id));
        assert_eq!(comes(&tokens, "sk-", NOW), Err(Refusal::Unknown));
        assert_eq!(comes(&other, "sk-a", NOW), Err(Refusal::Unknown), "another provider's");
        assert_eq!(comes(&tokens, "sk-a", later), Err(Refusal::Expired(id, Some(ANN))));

        assert_eq!(comes(&tokens, "sk-a", NOW), Ok(id));
        users.insert(ANN, user(false));
        assert_eq!(comes(&tokens, "sk-a", NOW), Err(Refusal::UserDisabled(ANN)));
        users.insert(ANN, user(true));
        assert_eq!(comes(&tokens, "sk-a", NOW), Ok(id));
        users.remove(ANN, NOW);
        assert_eq!(comes(&tokens, "sk-a", NOW), Err(Refusal::UserDisabled(ANN)));
        users.insert(ANN, user(true));
        assert_eq!(comes(&tokens, "sk-a", NOW), Ok(id));
        tokens.remove(id, NOW);
        assert_eq!(comes(&tokens, "sk-a", NOW), Err(Refusal::Unknown));
        let limits = Limits { requests_per_minute: Some(3), ..Limits::default() };
        tokens.insert("p", token("sk-a", None));
        assert_eq!(comes(&tokens, "sk-a", NOW), Ok(id));
        tokens.insert("p", TokenRecord { limits, ..token("sk-a", None) });
        let caller = known.caller(&tokens, &users, "sk-a", NOW).unwrap();
        assert_eq!(caller.requests_per_minute(), Some(3), "what was changed is in force");
        users.set_zone(Zone::named("Asia/Tokyo").unwrap());
        assert!(comes(&tokens, "sk-a", NOW).is_ok());
    }
}
