//! Rules broken on purpose, one at a time, to show that the simulator notices.

use std::cell::Cell;

macro_rules! sabotages {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Sabotage {
            $($(#[$doc])* $name,)*
        }

        pub const ALL: &[Sabotage] = &[$(Sabotage::$name,)*];
    };
}

sabotages! {
    /// A batch that was applied is applied again.
    HubAppliesTwice,
    /// A number is taken for a content.
    HubIgnoresDigest,
    /// Rows behind an open transaction stay hidden, and the cursor passes them.
    HubBoundsAtXmin,
    HubBelievesAnyClock,
    HubDropsRetired,
    HubIgnoresTombstones,
    StateCreatesRows,
    HubTakesWholeRows,
    HubIgnoresEpochs,
    /// Of a counter that another program lowers.
    LowerIsTaken,
    /// After a dump and restore, stamps lie ahead of the new cluster's transactions.
    AdoptionKeepsStamps,
    AdoptionForgetsStreams,
    /// A batch lands in a database that it is not for.
    HubTakesWhatIsForAnother,
    /// Open deltas go out without being sealed first: what is sent again differs.
    SealsAfterSending,
    /// A confirmed delta leaves the view at its confirmation.
    DropsConfirmedAtOnce,
    /// A sealed delta is not part of the view that a row makes.
    ForgetsSealed,
    /// The next cursor is the last page's snapshot.
    CursorOfLastPage,
    /// A fork makes everything open again.
    ForkKeepsEverything,
    /// A fork drops what it had sealed.
    ForkDropsEverything,
    ForkKeepsId,
    IgnoresRollback,
    /// What the hub does not have is taken for deleted.
    AbsenceIsDeletion,
    /// What the hub does not have is kept for ever.
    AbsenceIsNothing,
    IgnoresHorizon,
    IgnoresAnswers,
    TakesWholeRows,
    IgnoresEpochs,
    IgnoresDeletions,
    AddIsNotTold,
    StateIsNotToldAgain,
    DatesAreNotShifted,
    BelievesAnyHub,
    StartSealsAsItsOwn,
    /// A batch of an earlier life that is too large becomes several of this one.
    SplitsAsItsOwn,
}

thread_local! {
    static BROKEN: Cell<Option<Sabotage>> = const { Cell::new(None) };
}

pub fn on(rule: Sabotage) -> bool {
    BROKEN.get() == Some(rule)
}

pub fn set(rule: Option<Sabotage>) {
    BROKEN.set(rule);
}
