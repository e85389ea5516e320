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
            && bool::from(known.caller.text().as_bytes().ct_eq(text.as_bytes()))
            && !known.caller.is_expired(now)
        {
            return Ok(known.caller.clone());
        }
        let caller = users.caller(tokens.find(text, now)?)?;
        *known = Some(Known { caller: caller.clone(), tokens: tokens.clone(), changes });
        Ok(caller)
    }
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
