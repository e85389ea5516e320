//! The bytes of every record as each version wrote them. A change of layout fails here: it needs a new version,
//! an arm that reads the old bytes, and a fixture of its own. A pinned line is never edited.

use super::*;
use crate::{
    model::{
        CoreDelta, Event, KeyAttempts, KeyVersions, LastKey, LimitVersions, Set, SetId, SetKind, SpanId,
        SpanKind, Tally, TokenVersions, UsageLog, UsageType, UserRecord, UserVersions, Version,
    },
    store::{
        codec::{self, Packed, Record},
        desk::GoneRecord,
        shelf::{Dirty, Gone, Inflight},
        tables::SetSize,
    },
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// What an older version wrote is read as `record`.
fn read<T: Record + PartialEq + std::fmt::Debug>(record: &T, written: &str) {
    assert_eq!(codec::decode::<T>(&unhex(written)).as_ref(), Ok(record));
}

fn pinned<T: Record + PartialEq + std::fmt::Debug>(record: &T, written: &str) {
    assert_eq!(hex(&codec::encode(record)), written);
    assert_eq!(codec::decode::<T>(&unhex(written)).as_ref(), Ok(record));
}

#[test]
fn layouts() {
    let key_record = KeyRecord {
        secret: Secret::new("sk-1"),
        username: Some("u".into()),
        note: None,
        created_at: Timestamp(1),
        expires_at: Some(Timestamp(300)),
        weight: 2,
        enabled: true,
        disabled_until: Some(Timestamp(-1)),
        owner: None,
    };
    read(&key_record, "0104736b2d31010175000201fb580202010101");
    pinned(&key_record, "0204736b2d31010175000201fb58020201010100");
    let owned = KeyRecord { owner: Some(UserId(7)), ..key_record };
    pinned(&owned, "0204736b2d31010175000201fb580202010101011000000000000000000000000000000007");
    let health = Health {
        failed_until: Some(Timestamp(5)),
        cause: Cause::Server,
        consecutive_failures: 1,
        auth_failures: 2,
        server_failures: 3,
        needs_verification: true,
        epoch: Version::at(Timestamp(7)),
    };
    read(&health, "01010a04010203010e");
    pinned(&health, "02010a0401020301fc00c0da00");
    let counts = Counts { success: 1, failure: 2, other: 300 };
    let key_usage = KeyUsage {
        counts,
        last_used: Some(Timestamp(9)),
        last_success: None,
        last_failure: Some(Timestamp(4)),
    };
    pinned(&key_usage, "010102fb2c010112000108");
    let token = TokenRecord {
        secret: Secret::new("t"),
        name: "n".into(),
        created_at: Timestamp(1),
        expires_at: None,
        user: None,
        limits: Limits {
            allowed_models: vec!["a*".into(), "b".into()],
            requests_per_minute: Some(60),
            ..Limits::default()
        },
    };
    read(&token, "010174016e02000202612a0162013c");
    pinned(&token, "020174016e020000013c00000202612a016200");
    let limits = Limits {
        requests_per_day: Some(300),
        tokens_per_day: Some(70_000),
        allowed_addresses: vec!["::1".into()],
        ..token.limits
    };
    let token = TokenRecord { user: Some(UserId(7)), limits, ..token };
    pinned(
        &token,
        "020174016e0200011000000000000000000000000000000007013c01fb2c0101fc701101000202612a016201033a3a31",
    );
    let user = UserRecord {
        name: "n".into(),
        note: Some("o".into()),
        created_at: Timestamp(1),
        enabled: true,
        limits: Limits { requests_per_minute: Some(60), ..Limits::default() },
    };
    pinned(&user, "01016e01016f0201013c00000000");
    let usage = Usage { counts, prompt_tokens: 70_000, completion_tokens: 4, last_used: Some(Timestamp(9)) };
    pinned(&usage, "010102fb2c01fc70110100040112");
    let mut of = ProviderDelta::default();
    of.keys.insert(KeyId(1), key_usage);
    of.hours.insert((Hour(400_000), "m".into()), usage);
    of.tokens.insert(crate::model::TokenId(2), usage);
    of.health.insert(KeyId(1), health);
    let mut delta = Delta { providers: [("p".into(), of)].into(), ..Delta::default() };
    read(
        &delta,
        "040101700110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc70110100040112011000000000000000000000000000000001010a0401020301fc00c0da00000000",
    );
    read(
        &delta,
        "030101700110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc70110100040112011000000000000000000000000000000001010a0401020301fc00c0da000000",
    );
    read(
        &delta,
        "020101700110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc70110100040112011000000000000000000000000000000001010a0401020301fc00c0da00",
    );
    read(
        &delta,
        "010101700110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc70110100040112011000000000000000000000000000000001010a04010203010e",
    );
    let attempts = KeyAttempts { usage: key_usage, timed: 3, millis: 300 };
    let of = delta.providers.get_mut("p").unwrap();
    of.attempts.entry((Hour(400_000), 16_666)).or_default().insert(KeyId(1), attempts);
    pinned(
        &delta,
        "0501017001fc801a0600fb1a410110000000000000000000000000000000010102fb2c01011200010803fb2c010110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc70110100040112011000000000000000000000000000000001010a0401020301fc00c0da00000000",
    );
}

#[test]
fn layouts_of_replication() {
    let v = |n: i64| Version(n);
    let same = KeyVersions::all(v(1));
    read(&Packed::from(same), "010002");
    pinned(&Packed::from(same), "020002");
    let each = KeyVersions { weight: v(1 << 60), disabled_until: v(300), ..same };
    read(&Packed::from(each), "010102020202fd000000000000002002fb5802");
    pinned(&Packed::from(each), "020102020202fd000000000000002002fb580202");
    let same = TokenVersions::all(v(1));
    read(&Packed::from(same), "010002");
    pinned(&Packed::from(same), "020002");
    let each = TokenVersions { limits: LimitVersions { allowed_models: v(300), ..same.limits }, ..same };
    read(&Packed::from(each), "0101020202fb580202");
    pinned(&Packed::from(each), "020102020202020202fb580202");
    let same = UserVersions::all(v(1));
    pinned(&Packed::from(same), "010002");
    pinned(&Packed::from(UserVersions { note: v(300), ..same }), "01010202fb5802020202020202");
    let gone = Gone { version: v(300), digest: *b"0123456789abcdef", text: None };
    pinned(&GoneRecord::from(&gone), "01fb58023031323334353637383961626364656600");
    let gone = Gone { text: Some(Secret::new("sk-1")), ..gone };
    pinned(&GoneRecord::from(&gone), "01fb5802303132333435363738396162636465660104736b2d31");
    pinned(&Dirty { added: true, gone: false, changed: true }, "01010001");
    let tally = Tally {
        success: 1,
        failure: -2,
        other: 300,
        prompt_tokens: 70_000,
        completion_tokens: 4,
        last_used: Some(Timestamp(9)),
        last_success: None,
        last_failure: Some(Timestamp(4)),
    };
    pinned(&tally, "010203fb5802fce0220200080112000108");
    let inflight = Inflight { sealed: vec![(7, tally)], confirmed: Some((6, Tally::default())) };
    pinned(&inflight, "0101070203fb5802fce022020008011200010801060000000000000000");
}

#[test]
fn layouts_of_what_is_counted_by_day() {
    let set = Set {
        members: [1, 300, 1 << 100].into(),
        more: true,
        last: Some(LastKey { at: Timestamp(9), key: 7 }),
    };
    pinned(&set, "010301fb2c01fe0000000000000000000000001000000001011207");
    pinned(&SetSize(300), "01fb2c01");
    let mut core = CoreDelta::default();
    core.tallies.insert(SpanId::new(SpanKind::UserUses, 7, 20_779), Tally { success: 1, ..Tally::default() });
    core.sets.insert(SetId { kind: SetKind::UserKeys, at: 20_779, id: 7 }, Set::of(3));
    let delta = Delta { core, ..Delta::default() };
    // Before single requests had rows.
    let third = "030001061000000000000000000000000000000007fb2b5102000000000000000102fb2b51100000000000000000000000000000000701030000";
    assert_eq!(codec::decode::<Delta>(&unhex(third)).unwrap(), delta);
    let logged = UsageLog {
        id: uuid::Uuid::from_u128(5),
        key: KeyId(1),
        user: crate::model::UserId(2),
        usage_type: UsageType::Call,
        status: 200,
        at: Timestamp(9),
    };
    let mut delta = delta;
    delta.core.logs.push(logged);
    read(
        &delta,
        "040001061000000000000000000000000000000007fb2b5102000000000000000102fb2b511000000000000000000000000000000007010300000110000000000000000000000000000000051000000000000000000000000000000001100000000000000000000000000000000201c812",
    );
    pinned(
        &delta,
        "050001061000000000000000000000000000000007fb2b5102000000000000000102fb2b511000000000000000000000000000000007010300000110000000000000000000000000000000051000000000000000000000000000000001100000000000000000000000000000000201c812",
    );
}

#[test]
fn layouts_of_moments() {
    let details = serde_json::json!({"kind": "frequency", "seen": 9.5});
    let event = Event {
        id: uuid::Uuid::from_u128(5),
        kind: "abuse".into(),
        user: Some(UserId(7)),
        key: None,
        severity: 4,
        details: details.as_object().unwrap().clone(),
        at: Timestamp(9),
        weight: 300,
    };
    pinned(
        &event,
        "01100000000000000000000000000000000505616275736501100000000000000000000000000000000700041f7b226b696e64223a226672657175656e6379222c227365656e223a392e357d12fb2c01",
    );
    let log = UsageLog {
        id: uuid::Uuid::from_u128(5),
        key: KeyId(1),
        user: UserId(2),
        usage_type: UsageType::Call,
        status: 300,
        at: Timestamp(9),
    };
    pinned(
        &log,
        "0110000000000000000000000000000000051000000000000000000000000000000001100000000000000000000000000000000201fb2c0112",
    );
}

#[test]
fn newer_and_broken_records_are_told_apart() {
    let mut bytes = codec::encode(&usage(1));
    assert!(matches!(codec::decode::<Usage>(&[]), Err(codec::Error::Broken(_))));
    assert!(matches!(codec::decode::<Usage>(&bytes[..3]), Err(codec::Error::Broken(_))));
    bytes.push(0);
    assert!(matches!(codec::decode::<Usage>(&bytes), Err(codec::Error::Broken(_))));
    bytes[0] = 0;
    assert!(matches!(codec::decode::<Usage>(&bytes), Err(codec::Error::Broken(_))));
    bytes[0] = 2;
    assert_eq!(codec::decode::<Usage>(&bytes), Err(codec::Error::Newer { found: 2, known: 1 }));
}

#[test]
fn a_mangled_length_asks_for_no_memory() {
    let mut bytes = vec![1, 253];
    bytes.extend(u64::MAX.to_le_bytes());
    assert!(matches!(codec::decode::<TokenRecord>(&bytes), Err(codec::Error::Broken(_))));
    assert!(matches!(codec::decode::<Delta>(&bytes), Err(codec::Error::Broken(_))));
    // The hours of a provider, and the keys of an hour.
    for begin in [[5, 1, 1, b'p'].as_slice(), &[5, 1, 1, b'p', 1, 0, 0]] {
        let bytes = [begin, &[253], &u64::MAX.to_le_bytes()].concat();
        assert!(matches!(codec::decode::<Delta>(&bytes), Err(codec::Error::Broken(_))));
    }
}

#[test]
fn what_was_counted_in_many_hours_without_a_file_can_be_read_again() {
    let mut of = ProviderDelta::default();
    for hour in 0..20 {
        let of_hour = of.attempts.entry((Hour(hour), 0)).or_default();
        for n in 0..1000 {
            let usage = KeyUsage { last_used: Some(NOW), ..KeyUsage::default() };
            of_hour.insert(KeyId(n), KeyAttempts { usage, timed: 1, millis: 1 });
        }
    }
    let delta = Delta { providers: [(P.into(), of)].into(), ..Delta::default() };
    // More than a short record may ask for; in tests that is little.
    assert!(codec::decode::<Delta>(&codec::encode(&delta)).unwrap() == delta);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let mut bytes = bytes;
        bytes.insert(0, 1 + (bytes.len() % 5) as u8);
        let _ = codec::decode::<Delta>(&bytes);
        let _ = codec::decode::<KeyRecord>(&bytes);
        let _ = codec::decode::<TokenRecord>(&bytes);
        let _ = codec::decode::<Health>(&bytes);
        let _ = codec::decode::<Packed<KeyVersions>>(&bytes);
        let _ = codec::decode::<UserRecord>(&bytes);
        let _ = codec::decode::<GoneRecord>(&bytes);
        let _ = codec::decode::<Inflight>(&bytes);
        let _ = codec::decode::<Set>(&bytes);
    }
}
