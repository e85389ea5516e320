use super::*;
use crate::{
    guard::{Of, Tokens, Users},
    model::{Secret, TokenRecord, UserId, UserRecord},
};

const NOW: Timestamp = Timestamp(1_000);
const ANN: UserId = UserId(7);

fn token(text: &str, limits: Limits) -> TokenRecord {
    TokenRecord {
        secret: Secret::new(text),
        name: "test".into(),
        created_at: Timestamp(0),
        expires_at: None,
        user: Some(ANN),
        limits,
    }
}

fn user(limits: Limits) -> UserRecord {
    UserRecord { name: "Ann".into(), note: None, created_at: Timestamp(0), enabled: true, limits }
}

fn world(of_token: Limits, of_user: Limits) -> (Tokens, Users) {
    let (tokens, users) = (Tokens::default(), Users::default());
    tokens.insert("p", token("sk-a", of_token.clone()));
    tokens.insert("p", token("sk-b", of_token));
    users.insert(ANN, user(of_user));
    (tokens, users)
}

fn per_day(requests: u64) -> Limits {
    Limits { requests_per_day: Some(requests), ..Limits::default() }
}

fn per_minute(requests: u32) -> Limits {
    Limits { requests_per_minute: Some(requests), ..Limits::default() }
}

/// Looked up anew for each request, as requests are.
fn ask(tokens: &Tokens, users: &Users, text: &str) -> Result<Gauges, Exceeded> {
    let caller = users.caller(tokens.find(text, NOW).unwrap()).unwrap();
    caller.admit(Take::Request, NOW).map(Permit::keep)
}

fn crowd(tokens: &Tokens, users: &Users) -> [usize; 2] {
    let granted = |text: &str| (0..200).filter(|_| ask(tokens, users, text).is_ok()).count();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|n| scope.spawn(move || (n % 2, granted(["sk-a", "sk-b"][n % 2])))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold([0; 2], |mut sum, (of, count)| {
            sum[of] += count;
            sum
        })
    })
}

#[test]
fn never_one_request_too_many_and_never_one_too_few() {
    for (of_token, of_user) in [
        (per_minute(100), per_day(150)),
        (per_day(100), per_minute(150)),
        (per_day(100), per_day(150)),
        (per_minute(100), per_minute(150)),
    ] {
        let (tokens, users) = world(of_token.clone(), of_user.clone());
        let [a, b] = crowd(&tokens, &users);
        assert!(a + b == 150 && a <= 100 && b <= 100, "{a} and {b} of {of_token:?} {of_user:?}");
        // What the user's limit refused was not taken from the tokens: both know what they were granted.
        users.insert(ANN, user(Limits::default()));
        let [more_a, more_b] = crowd(&tokens, &users);
        assert_eq!((a + more_a, b + more_b), (100, 100));
        // No change hands out anything anew.
        tokens.insert("p", token("sk-a", of_token.clone()));
        users.insert(ANN, user(of_user.clone()));
        assert_eq!(crowd(&tokens, &users), [0, 0]);
    }
}

#[test]
fn changes_under_load_forget_nothing() {
    let (tokens, users) = world(per_minute(500), per_day(700));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let granted = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                tokens.insert("p", token("sk-a", per_minute(500)));
                users.insert(ANN, user(per_day(700)));
            }
        });
        let sum: usize = (0..4).map(|_| crowd(&tokens, &users).iter().sum::<usize>()).sum();
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        sum
    });
    assert_eq!(granted, 700);
}

#[test]
fn whose_limit_it_was_is_told() {
    let (tokens, users) = world(per_day(3), per_day(2));
    let told = ask(&tokens, &users, "sk-a").unwrap().requests.unwrap();
    assert_eq!((told.of, told.whose, told.limit, told.remaining), (Of::DayRequests, Whose::User, 2, 1));
    ask(&tokens, &users, "sk-b").unwrap();
    assert_eq!(ask(&tokens, &users, "sk-a").unwrap_err().0.whose, Whose::User);
    users.insert(ANN, user(per_day(9)));
    let told = ask(&tokens, &users, "sk-a").unwrap().requests.unwrap();
    assert_eq!((told.whose, told.limit, told.remaining), (Whose::Token, 3, 1));
}

#[test]
fn a_place_that_is_not_kept_is_free_again() {
    let (tokens, users) = world(per_minute(1), per_day(1));
    let caller = users.caller(tokens.find("sk-a", NOW).unwrap()).unwrap();
    let permit = caller.admit(Take::Request, NOW).unwrap();
    assert!(caller.admit(Take::Request, NOW).is_err());
    drop(permit);
    caller.admit(Take::Request, NOW).unwrap().keep();
    assert!(caller.admit(Take::Request, NOW).is_err());
}

#[test]
fn a_token_is_worth_what_its_user_is() {
    let (tokens, users) = world(Limits::default(), Limits::default());
    let find = || tokens.find("sk-a", NOW).unwrap();
    let caller = users.caller(find()).unwrap();
    assert_eq!(caller.revoked(), None);
    users.insert(ANN, UserRecord { enabled: false, ..user(Limits::default()) });
    assert_eq!(users.caller(find()).unwrap_err(), Refusal::UserDisabled(ANN));
    assert_eq!(caller.revoked(), Some(Refusal::UserDisabled(ANN)));
    users.insert(ANN, user(Limits::default()));
    assert!(users.caller(find()).is_ok() && caller.revoked().is_none());
    users.remove(ANN, NOW).unwrap();
    assert_eq!(users.caller(find()).unwrap_err(), Refusal::UserDisabled(ANN));
    assert_eq!(caller.revoked(), Some(Refusal::UserDisabled(ANN)));
    users.insert(ANN, user(Limits::default()));
    let caller = users.caller(find()).unwrap();
    tokens.insert("p", token("sk-a", per_day(1)));
    assert_eq!(caller.revoked(), None, "changed, not revoked");
    tokens.remove(caller.token(), NOW);
    assert_eq!(caller.revoked(), Some(Refusal::Unknown));
}

#[test]
fn both_must_allow_a_model_and_an_address() {
    let of_token = Limits {
        allowed_models: vec!["a*".into(), "b".into()],
        allowed_addresses: vec!["10.0.0.0/8".into()],
        ..Limits::default()
    };
    let of_user = Limits {
        allowed_models: vec!["a1".into()],
        allowed_addresses: vec!["10.1.0.0/16".into(), "192.0.2.1".into()],
        ..Limits::default()
    };
    let (tokens, users) = world(of_token, of_user);
    let caller = users.caller(tokens.find("sk-a", NOW).unwrap()).unwrap();
    assert!(caller.allows_model("a1") && !caller.allows_model("a2") && !caller.allows_model("b"));
    let from = |text: &str| caller.allows_address(text.parse().unwrap());
    assert!(from("10.1.2.3") && from("::ffff:10.1.2.3") && !from("10.2.0.1") && !from("192.0.2.1"));
    assert!(!caller.counts_tokens());
}

#[test]
fn whoever_comes_back_goes_on_where_it_was() {
    let (tokens, users) = world(per_minute(2), per_day(5));
    let served = |text: &str| (0..5).filter(|_| ask(&tokens, &users, text).is_ok()).count();
    assert_eq!(served("sk-a"), 2);
    let gone = tokens.remove(TokenId::derive("p", "sk-a"), NOW).unwrap();
    let id = tokens.insert("p", gone);
    assert_eq!(served("sk-a"), 0, "its minute goes on");
    assert_eq!(served("sk-b"), 2);
    users.remove(ANN, NOW).unwrap();
    users.insert(ANN, user(per_day(5)));
    tokens.insert("p", token("sk-c", Limits::default()));
    assert_eq!(served("sk-c"), 1, "and so does the day");
    // An answer that had to end may go on.
    let caller = users.caller(tokens.get(id).unwrap()).unwrap();
    tokens.remove(id, NOW).unwrap();
    assert_eq!(caller.revoked(), Some(Refusal::Unknown));
    tokens.insert("p", token("sk-a", Limits::default()));
    assert_eq!(caller.revoked(), None);
}
