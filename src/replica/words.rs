//! What the protocol has to say, in words for an operator.

use super::{
    protocol::{Error, Note, Obstacles, Stop, Why},
    status::{NoteCode, StopCode, Trouble},
    transport::{self, ErrorKind},
    wire::MissingRow,
};
use crate::model::Timestamp;

/// What was seen, and what to do about it.
pub struct Words {
    pub trouble: Trouble,
    pub message: String,
    pub advice: String,
}

impl From<&transport::Error> for Words {
    fn from(error: &transport::Error) -> Self {
        let advice = error.kind.advice().to_owned();
        Self { trouble: error.kind.into(), message: error.detail.clone(), advice }
    }
}

impl From<&Error> for Words {
    fn from(error: &Error) -> Self {
        let (trouble, advice) = match error {
            Error::Garbage(_) => (Trouble::Garbage, ErrorKind::Garbage.advice()),
            Error::Store(_) => (Trouble::Store, "see to the store; keytide goes on by itself then"),
            Error::Document(_) => {
                (Trouble::Document, "use the keytide that wrote it, or restore a backup of the store")
            }
        };
        Self { trouble, message: error.to_string(), advice: advice.to_owned() }
    }
}

impl From<ErrorKind> for Trouble {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Certificate => Self::Certificate,
            ErrorKind::Credentials => Self::Credentials,
            ErrorKind::Forbidden => Self::Forbidden,
            ErrorKind::NoSchema => Self::NoSchema,
            ErrorKind::Missing => Self::Missing,
            ErrorKind::ReadOnly => Self::ReadOnly,
            ErrorKind::Full => Self::Full,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::TooLarge => Self::TooLarge,
            ErrorKind::Server => Self::Server,
            ErrorKind::Garbage => Self::Garbage,
            ErrorKind::Settings => Self::Settings,
        }
    }
}

/// What keeps a hub that is reached from being replicated with.
pub fn hindered(by: &Obstacles) -> Option<Words> {
    let say =
        |trouble, message: String, advice: &str| Some(Words { trouble, message, advice: advice.to_owned() });
    if let Some(speaks) = &by.unsupported {
        return say(Trouble::Unsupported, other_functions(speaks), OTHER_FUNCTIONS);
    }
    if !by.missing.is_empty() {
        return say(Trouble::Missing, lacking(&by.missing), ErrorKind::Missing.advice());
    }
    by.read_only
        .then_some(())
        .and_then(|()| say(Trouble::ReadOnly, READ_ONLY.to_owned(), ErrorKind::ReadOnly.advice()))
}

const READ_ONLY: &str = "the hub takes no writes at present; what is counted and changed here waits";
const OTHER_FUNCTIONS: &str =
    "install the keytide that the hub is for, or run `keytide schema apply` if this one is newer";

fn lacking(missing: &[MissingRow]) -> String {
    let all: Vec<_> = missing.iter().map(|of| format!("{}: {}", of.stream, of.what.join(", "))).collect();
    format!("the hub lacks something ({})", all.join("; "))
}

fn other_functions(speaks: &[u32]) -> String {
    let theirs: Vec<_> = speaks.iter().map(ToString::to_string).collect();
    let theirs = if theirs.is_empty() { "of another number".to_owned() } else { theirs.join(", ") };
    let ours = super::wire::PROTOCOL;
    format!(
        "the hub's functions are of another keytide (they speak protocol {theirs}, this one speaks {ours})"
    )
}

fn requests(count: u64) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// Why nothing is sent or read any more, and what to do.
pub fn stopped(stop: &Stop) -> String {
    match stop {
        Stop::OtherHub(found) => format!(
            "another database ({}, system {}) stands where the hub was; if it is to be the hub from now on, run \
             `keytide sync adopt` on the instance that was in touch last, else correct the URL",
            found.id, found.system
        ),
        Stop::RolledBack(batch) => format!(
            "the hub is back at batch {batch} of this instance, which is further back than what is kept here; run \
             `keytide sync adopt` on the instance that was in touch last"
        ),
    }
}

fn why(why: Why) -> &'static str {
    match why {
        Why::RolledBack => "the hub was rolled back",
        Why::Moved => "the hub was moved or recovered",
        Why::Forked => "another instance goes by the same file",
        Why::Clock => "this machine's clock is off by another amount than before",
        Why::Away => "this instance was away for longer than deletions are remembered",
    }
}

pub fn code_of_stop(stop: &Stop) -> StopCode {
    match stop {
        Stop::OtherHub(_) => StopCode::OtherHub,
        Stop::RolledBack(_) => StopCode::RolledBack,
    }
}

pub fn code(note: &Note) -> NoteCode {
    match note {
        Note::Forked { .. } => NoteCode::Forked,
        Note::Copied { .. } => NoteCode::Copied,
        Note::RolledBack { .. } => NoteCode::RolledBack,
        Note::Stopped { .. } => NoteCode::Stopped,
        Note::Resumed { .. } => NoteCode::Resumed,
        Note::Moved { .. } => NoteCode::Moved,
        Note::ResyncBegun { .. } => NoteCode::ResyncBegun,
        Note::ResyncDone { missing: 0, .. } => NoteCode::ResyncDone,
        Note::ResyncDone { .. } => NoteCode::ResyncIncomplete,
        Note::Clock { .. } => NoteCode::Clock,
        Note::Gone { .. } => NoteCode::Gone,
        Note::Expired { .. } => NoteCode::Expired,
        Note::LogsLeftOut { .. } => NoteCode::LogsLeftOut,
        Note::Uncertain { .. } => NoteCode::Uncertain,
        Note::Lost { .. } => NoteCode::Lost,
        Note::Missing { .. } => NoteCode::Missing,
        Note::KeptBack { .. } => NoteCode::KeptBack,
        Note::ReadOnly => NoteCode::ReadOnly,
        Note::Unsupported { .. } => NoteCode::Unsupported,
        Note::Adopted { .. } => NoteCode::Adopted,
        Note::AdoptedInexactly { .. } => NoteCode::AdoptedInexactly,
        Note::AdoptRefused { .. } => NoteCode::AdoptRefused,
    }
}

pub fn note(note: &Note) -> String {
    match note {
        Note::Forked { provider, instance, taken, doubled } => {
            let goes_on =
                format!("{provider}: another instance goes by the same file; this one goes on as {instance}");
            let taken = match taken {
                0 => None,
                taken => {
                    Some(format!("{} from before its start count as told by the other", requests(*taken)))
                }
            };
            let doubled = match doubled {
                0 => None,
                doubled => Some(format!(
                    "up to {} may be counted twice if the copy was made while this process ran and not with `keytide \
                     store backup`",
                    requests(*doubled)
                )),
            };
            match (taken, doubled) {
                (None, None) => format!("{goes_on}, and nothing is in doubt"),
                (Some(one), None) | (None, Some(one)) => format!("{goes_on}. {one}"),
                (Some(taken), Some(doubled)) => format!("{goes_on}. {taken}; {doubled}"),
            }
        }
        Note::Copied { provider } => format!(
            "{provider}: a copy of this instance's file that was made while it ran is in use; stop that one, for what \
             both have counted may be counted twice or not at all. Only `keytide store backup` copies the file of a \
             keytide that runs"
        ),
        Note::RolledBack { provider, batches } => {
            format!("{provider}: the hub had forgotten {batches} batches and is told them again")
        }
        Note::Stopped { provider, stop } => format!("{provider}: {}", stopped(stop)),
        Note::Resumed { provider } => format!("{provider}: replicates again"),
        Note::Moved { provider, to } => {
            format!("{provider}: the hub is another database now ({}), which has taken over", to.id)
        }
        Note::ResyncBegun { provider, why: reason } => {
            format!("{provider}: everything is read anew, because {}", why(*reason))
        }
        Note::ResyncDone { provider, why: reason, missing: 0 } => {
            format!("{provider}: everything was read anew, because {}; nothing is missing", why(*reason))
        }
        Note::ResyncDone { provider, why: reason, missing } => format!(
            "{provider}: everything was read anew, because {}; {} that were known here are not in the hub's total and \
             cannot be recovered by this instance",
            why(*reason),
            requests(*missing)
        ),
        Note::Clock { provider, rows: count } => format!(
            "{provider}: {} bore a time that lies in the future and are told again with the present one; check this \
             machine's clock",
            rows(*count)
        ),
        Note::Gone { provider, rows: count } => {
            format!("{provider}: {} of keys, tokens or users that were deleted elsewhere", rows(*count))
        }
        Note::Expired { provider, rows: count } => {
            format!(
                "{provider}: {} of hours or days that are no longer kept; the totals lack nothing",
                rows(*count)
            )
        }
        Note::LogsLeftOut { logs } => format!(
            "{} of the usage log, from before the first contact with the hub, were left out: a copy of this file may tell them as \
             well; the totals have them",
            rows(logs.len() as u64)
        ),
        Note::Uncertain { provider, requests: count } => format!(
            "{provider}: the hub was adopted by way of what one instance knew; up to {} that this instance had told it \
             before may be missing in its totals",
            requests(*count)
        ),
        Note::Lost { provider, requests: count } => {
            format!(
                "{provider}: {} of a key or token whose text nobody knows any more were left out",
                requests(*count)
            )
        }
        Note::Missing { missing } => format!("{}; run `keytide schema apply`", lacking(missing)),
        Note::KeptBack { rows: count } => format!(
            "the hub has no room for what is optional: hours of keys, details of events and rows of requests stay here from \
             now on, to begin with {}",
            rows(*count)
        ),
        Note::ReadOnly => READ_ONLY.to_owned(),
        Note::Unsupported { speaks } => format!("{}; {OTHER_FUNCTIONS}", other_functions(speaks)),
        Note::Adopted { to } => format!("this database ({}) is the hub from now on", to.id),
        Note::AdoptedInexactly { provider, raised: false } => format!(
            "{provider}: others had told the hub something that this instance does not know, so it was not told its \
             totals; counts of instances that no longer exist may be missing"
        ),
        Note::AdoptedInexactly { provider, raised: true } => format!(
            "{provider}: this instance was in the middle of reading when the hub was lost, or the new one has the \
             functions of an older keytide; some counts of others may be missing or twice in it"
        ),
        Note::AdoptRefused { by: Some(by), until } => format!(
            "instance {by} is adopting this database{}; wait for it",
            until.map(|until| format!(", until {} at the latest", Timestamp(until))).unwrap_or_default()
        ),
        Note::AdoptRefused { by: None, .. } => {
            "the database cannot be adopted now: see what `keytide schema check` says, and try again"
                .to_owned()
        }
    }
}
