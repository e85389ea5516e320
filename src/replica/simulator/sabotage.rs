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
    HubComparesNumbers,
    /// A batch is applied though the one before it was not.
    HubAcceptsGaps,
    /// What was refused of a batch is not said again.
    HubRepeatsNoAnswers,
    HubMismatchTellsNoAnswers,
    /// A row that cannot be taken ends its batch.
    HubStopsAtARow,
    HubBelievesAnyClock,
    HubDropsRetired,
    HubKeepsRetired,
    HubIgnoresTombstones,
    /// Revoked tokens are forgotten as deleted keys are, on the hub and here.
    TokensAreForgotten,
    /// It forgets deletions and does not say until when.
    HubSweepsSilently,
    StateCreatesRows,
    HubTakesWholeRows,
    HubIgnoresEpochs,
    /// Of a counter that another program lowers.
    LowerIsTaken,
    /// After a dump and restore, stamps lie ahead of the new cluster's transactions.
    AdoptionKeepsStamps,
    AdoptionForgetsStreams,
    /// What an adopter had in its totals is taken for applied: rows that it did not have are awaited for good.
    AdoptedIsApplied,
    /// What is told is taken, though the new hub has more.
    AdoptionLowers,
    /// Counters of a hub that others have told something since are raised all the same.
    AdoptionHidesWhatIsNew,
    /// Instances that an adopter does not know are not told that their counts may be lost.
    StrangersAreNotTold,
    /// What an adopter tells with a version from the future is left out.
    AdoptionLeavesTheFuture,
    AdoptionEndsWhereItIsTooMuch,
    /// A hub that is being adopted takes batches.
    AdoptedHubTakesBatches,
    /// The adopter's own open counts are told with the base, and again.
    AdoptsTheView,
    /// A batch lands in a database that it is not for.
    HubTakesWhatIsForAnother,
    /// What is told of a set takes the place of what was told before.
    HubReplacesSets,
    /// Open deltas go out without being sealed first: what is sent again differs.
    SealsAfterSending,
    SealsWhileOneWaits,
    BatchesAreNotBounded,
    RowsAreNotSorted,
    /// A batch that was refused for its size may lie in the hub all the same.
    SplitsWhatIsInDoubt,
    /// What does not come over in time is sent again as it is, for ever.
    LateBatchesStay,
    /// And asked for.
    PagesStayLarge,
    CopiesHoldWhatIsOpen,
    MergesWhatACopyMayTell,
    /// A confirmed delta leaves the view at its confirmation.
    DropsConfirmedAtOnce,
    /// A sealed delta is not part of the view that a row makes.
    ForgetsSealed,
    ForgetsOpen,
    /// A row's tombstone leaves what is shown of it.
    DeletionKeepsCounts,
    LanesShareACursor,
    /// Of counts that come before their key its deletion is not known.
    EarlyCountsAreStrangers,
    /// The next cursor is the last page's snapshot.
    CursorOfLastPage,
    /// A fork makes everything open again.
    ForkKeepsEverything,
    /// A fork drops what it had sealed.
    ForkDropsEverything,
    ForkKeepsId,
    ForkIsSilent,
    /// What of a copy that was made while a process ran may be counted twice.
    ForkHidesDoubt,
    /// Nobody says that a copy has told what this process has counted.
    CopiesGoUnseen,
    /// What is counted before the first contact belongs to no life.
    FirstContactForgetsLives,
    /// Copies of a file attach a stream under the ids that forks of others gave them.
    CopiesAttachApart,
    IgnoresRollback,
    KeepsNoBatches,
    LossIsSilent,
    /// How far everybody was in the totals of the hub before.
    OldMarksStay,
    AbsentCountersStay,
    /// What the hub does not have is taken for deleted.
    AbsenceIsDeletion,
    /// What the hub does not have is kept for ever.
    AbsenceIsNothing,
    IgnoresHorizon,
    /// Of a hub that has lost rows, absence is taken for a deletion because it has forgotten deletions.
    LossIsDeletion,
    IgnoresAnswers,
    IgnoresExpired,
    UnknownAnswersAreNone,
    RefusalsAreSilent,
    ClockIsNotRestamped,
    ClockIsNotRewound,
    ClockFlickers,
    TakesWholeRows,
    /// Of two values of one version each keeps its own.
    EqualVersionsDiffer,
    StampsBearNoWriter,
    /// An edit is stamped earlier than what it replaces.
    IgnoresSeenVersions,
    IgnoresEpochs,
    HealthIsOverwritten,
    /// A success clears what was set after its attempt began.
    AnswersInFlightClear,
    /// Of a healthy key, too.
    SuccessAlwaysResets,
    /// A page that was read before a deletion here undoes it.
    OwnDeletionsAreForgotten,
    IgnoresDeletions,
    AddIsNotTold,
    StateIsNotToldAgain,
    DatesAreNotShifted,
    BelievesAnyHub,
    StartSealsAsItsOwn,
    /// Members that a hub has lost.
    SetsAreNotRetold,
    SetsAreNotRead,
    /// What was counted of days and hours elsewhere is not shown.
    SpansAreNotRebased,
    /// Nor forgotten here, when it is read again.
    OldSpansComeBack,
    /// What was put into sets and what happened stays in a batch that is taken apart.
    SeenStaysInBatches,
    /// Of what a copy may have told, too, events get other names.
    EventsAreTwice,
    /// And a row for a request is told once more.
    LogsAreTwice,
    TakesWholeUsers,
    UsersKeepTheFuture,
    UsersAreNotDeleted,
    UsersAreNotAdded,
    /// A key that is deleted stays its owner's.
    SharesForgetDeletion,
    /// What others have decided about a key, or a hub has lost, is nobody's to tell.
    SharesAreNotToldAgain,
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
