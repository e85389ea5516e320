//! Rows of the core: users, whose keys are whose, and what is counted and seen by hour and day.

use uuid::Uuid;

use super::{Shift, cut, stamp, texts_home, texts_out, user_home, user_out};
use crate::{
    model::{
        CounterId, Event, KeyId, LastKey, LimitVersions, Limits, Set, SetId, SetKind, SpanId, SpanKind,
        UsageLog, UsageType, UserId, UserRecord, UserVersions, Version,
    },
    replica::wire::{EventRow, LogRow, SetRow, ShareRow, Sums, TallyRow, UserRow},
    store::shelf::{KeyEntry, UserEntry},
};

pub fn user_row(id: UserId, entry: &UserEntry, add: bool, shift: Shift) -> UserRow {
    let (record, versions) = (&entry.record, &entry.versions);
    let (added, limits) = (versions.added, &record.limits);
    UserRow {
        i: user_out(id),
        a: added,
        c: shift.out(Some(record.created_at)).unwrap_or_default(),
        add,
        n: (!record.name.is_empty()).then(|| record.name.to_string()),
        nv: stamp(versions.name, added),
        o: record.note.as_deref().map(str::to_owned),
        ov: stamp(versions.note, added),
        e: (!record.enabled).then_some(false),
        ev: stamp(versions.enabled, added),
        r: limits.requests_per_minute,
        rv: stamp(versions.limits.requests_per_minute, added),
        d: limits.requests_per_day,
        dv: stamp(versions.limits.requests_per_day, added),
        t: limits.tokens_per_day,
        tv: stamp(versions.limits.tokens_per_day, added),
        m: texts_out(&limits.allowed_models),
        mv: stamp(versions.limits.allowed_models, added),
        ip: texts_out(&limits.allowed_addresses),
        iv: stamp(versions.limits.allowed_addresses, added),
    }
}

pub fn user_entry(row: &UserRow, shift: Shift) -> UserEntry {
    let age = |version: Option<Version>| version.unwrap_or(row.a).max(row.a);
    UserEntry {
        record: UserRecord {
            name: cut(row.n.as_deref(), UserRecord::MAX_NAME_LEN).unwrap_or_default(),
            note: cut(row.o.as_deref(), UserRecord::MAX_NOTE_LEN),
            created_at: shift.home(Some(row.c)).unwrap_or_default(),
            enabled: row.e.unwrap_or(true),
            limits: Limits {
                requests_per_minute: row.r,
                requests_per_day: row.d,
                tokens_per_day: row.t,
                allowed_models: texts_home(row.m.as_deref(), Limits::MAX_MODELS),
                allowed_addresses: texts_home(row.ip.as_deref(), Limits::MAX_ADDRESSES),
            },
        },
        versions: UserVersions {
            added: row.a,
            name: age(row.nv),
            note: age(row.ov),
            enabled: age(row.ev),
            limits: LimitVersions {
                requests_per_minute: age(row.rv),
                requests_per_day: age(row.dv),
                tokens_per_day: age(row.tv),
                allowed_models: age(row.mv),
                allowed_addresses: age(row.iv),
            },
        },
    }
}

pub fn user_of(row: &UserRow) -> UserId {
    user_home(row.i)
}

/// Whose a key is that is there.
pub fn share_row(provider: &str, id: KeyId, entry: &KeyEntry) -> ShareRow {
    let (record, versions) = (&entry.record, &entry.versions);
    ShareRow {
        i: Uuid::from_u128(id.0),
        p: provider.to_owned(),
        u: record.owner.map(user_out),
        on: (!record.enabled).then_some(false),
        a: versions.added,
        // The latest of the two would be the same of rows that differ in the other: of two that were decided in two places,
        // whoever has both is later than each.
        v: Version(versions.owner.0.saturating_add(versions.enabled.0)),
    }
}

/// That a key is no more.
pub fn share_ended(provider: &str, id: KeyId, deleted: Version) -> ShareRow {
    ShareRow {
        i: Uuid::from_u128(id.0),
        p: provider.to_owned(),
        u: None,
        on: Some(false),
        a: deleted,
        v: deleted,
    }
}

pub fn tally_row(id: &SpanId, sums: Sums) -> TallyRow {
    TallyRow { t: id.kind.code().to_owned(), i: Uuid::from_u128(id.id), n: id.at.number(), sums }
}

/// `None` of a kind that only a newer keytide knows.
pub fn tally_of(row: &TallyRow) -> Option<CounterId> {
    Some(CounterId::Span(SpanId::new(SpanKind::of_code(&row.t)?, row.i.as_u128(), row.n)))
}

/// Some of a set's members, with or without what else is known of it.
pub fn set_row(id: SetId, members: &[u128], rest: Option<&Set>, shift: Shift) -> SetRow {
    let name = |member: &u128| match id.kind {
        SetKind::KeyDay | SetKind::KeyHour => format!("{member:032x}"),
        SetKind::UserKeys => format!("{member:08x}"),
    };
    let last = rest.and_then(|set| set.last);
    SetRow {
        t: id.kind.code().to_owned(),
        i: Uuid::from_u128(id.id),
        n: id.at,
        m: members.iter().map(name).collect(),
        more: rest.is_some_and(|set| set.more),
        k: last.map(|last| format!("{:08x}", last.key)),
        at: shift.out(last.map(|last| last.at)),
    }
}

/// What is no name of a member is none.
pub fn set_of(row: &SetRow, shift: Shift) -> Option<(SetId, Set)> {
    let id = SetId { kind: SetKind::of_code(&row.t)?, at: row.n, id: row.i.as_u128() };
    let digits = |text: &&String, many| text.len() == many && text.bytes().all(|b| b.is_ascii_hexdigit());
    let many = if id.kind == SetKind::UserKeys { 8 } else { 32 };
    let named = row.m.iter().filter(|text| digits(text, many));
    let members = named.filter_map(|text| u128::from_str_radix(text, 16).ok()).collect();
    let key = row.k.as_ref().filter(|text| digits(text, 8));
    let last = key.zip(row.at).and_then(|(key, at)| {
        Some(LastKey { at: shift.home(Some(at))?, key: u32::from_str_radix(key, 16).ok()? })
    });
    // Others may have written more than are kept.
    let mut set = Set::default();
    set.add(id.kind, &Set { members, more: row.more, last });
    Some((id, set))
}

pub fn event_row(event: &Event, shift: Shift) -> EventRow {
    EventRow {
        x: event.id,
        e: event.kind.to_string(),
        u: event.user.map(user_out),
        i: event.key.map(|key| Uuid::from_u128(key.0)),
        y: event.severity,
        d: event.details.clone(),
        at: shift.out(Some(event.at)).unwrap_or_default(),
        w: (event.weight != 1).then_some(event.weight),
    }
}

pub fn event_of(row: &EventRow, shift: Shift) -> Event {
    Event {
        id: row.x,
        kind: row.e.as_str().into(),
        user: row.u.map(user_home),
        key: row.i.map(|key| KeyId(key.as_u128())),
        severity: row.y,
        details: row.d.clone(),
        at: shift.home(Some(row.at)).unwrap_or_default(),
        weight: row.w.unwrap_or(1),
    }
}

pub fn log_row(log: &UsageLog, shift: Shift) -> LogRow {
    LogRow {
        x: log.id,
        i: Uuid::from_u128(log.key.0),
        u: user_out(log.user),
        y: log.usage_type.number(),
        c: log.status,
        at: shift.out(Some(log.at)).unwrap_or_default(),
    }
}

pub fn log_of(row: &LogRow, shift: Shift) -> Option<UsageLog> {
    Some(UsageLog {
        id: row.x,
        key: KeyId(row.i.as_u128()),
        user: user_home(row.u),
        usage_type: UsageType::of_number(row.y)?,
        status: row.c,
        at: shift.home(Some(row.at)).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    const SHIFT: Shift = Shift(5_000);

    #[test]
    fn what_is_told_is_read_back() {
        let v = |n: i64| Version(n << 10);
        let entry = UserEntry {
            record: UserRecord {
                name: "Ada".into(),
                note: None,
                created_at: Timestamp(1_000),
                enabled: false,
                limits: Limits {
                    requests_per_minute: Some(0),
                    tokens_per_day: Some(7),
                    allowed_models: vec!["a*".into()],
                    ..Limits::default()
                },
            },
            versions: UserVersions { note: v(9), enabled: v(8), ..UserVersions::all(v(3)) },
        };
        let row = user_row(UserId(7), &entry, true, SHIFT);
        assert_eq!((row.ov, row.nv, row.e, row.c), (Some(v(9)), None, Some(false), 6_000));
        let json = serde_json::to_string(&row).unwrap();
        let again: UserRow = serde_json::from_str(&json).unwrap();
        assert_eq!((user_entry(&again, SHIFT), user_of(&again)), (entry, UserId(7)));

        let set =
            Set { members: [1, 255].into(), more: true, last: Some(LastKey { at: Timestamp(4), key: 255 }) };
        for kind in SetKind::ALL {
            let id = SetId { kind: *kind, at: 20_000, id: 7 };
            let members: Vec<u128> = set.members.iter().copied().collect();
            let row = set_row(id, &members, Some(&set), SHIFT);
            assert_eq!(set_of(&row, SHIFT), Some((id, set.clone())), "{row:?}");
        }
        let event = Event {
            id: Uuid::from_u128(3),
            kind: "abuse".into(),
            user: Some(UserId(7)),
            key: None,
            severity: 4,
            details: serde_json::from_str(r#"{"seen": 7.5}"#).unwrap(),
            at: Timestamp(9),
            weight: 1,
        };
        assert_eq!(event_of(&event_row(&event, SHIFT), SHIFT), event);
        let log = UsageLog {
            id: Uuid::from_u128(3),
            key: KeyId(1),
            user: UserId(7),
            usage_type: UsageType::Call,
            status: 429,
            at: Timestamp(9),
        };
        assert_eq!(log_of(&log_row(&log, SHIFT), SHIFT), Some(log));
    }

    #[test]
    fn what_nobody_here_can_have_written_is_left_out() {
        let row = |t: &str, m: &[&str]| SetRow {
            t: t.to_owned(),
            i: Uuid::nil(),
            n: 1,
            m: m.iter().map(|member| (*member).to_owned()).collect(),
            more: false,
            k: Some("+0000001".to_owned()),
            at: Some(1),
        };
        assert_eq!(set_of(&row("zz", &[]), SHIFT), None);
        let (_, set) = set_of(&row("uk", &["0000000a", "+000000a", "a", "0000000aa"]), SHIFT).unwrap();
        assert_eq!(set, Set::of(10));
        let (_, set) = set_of(&row("kd", &["0000000a"]), SHIFT).unwrap();
        assert_eq!(set, Set::default());
        let many: Vec<String> = (0..99).map(|n| format!("{n:08x}")).collect();
        let (_, set) = set_of(&SetRow { m: many, ..row("uk", &[]) }, SHIFT).unwrap();
        assert_eq!((set.members.len(), set.more), (Set::MOST_KEYS, true));
    }
}
