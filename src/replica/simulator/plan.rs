//! What kind of world a seed makes, and in which a broken rule shows.

use super::{sabotage::Sabotage, world::Focus};

/// What befalls a world besides loss, crashes and other hands. One at a time, since what is lost in one is
/// recovered from what the other destroys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Ordinary,
    /// Files are copied and restored.
    Copies,
    /// The hub is recovered to an earlier point in time.
    Rollbacks,
    /// Somebody is away for longer than deletions are remembered.
    Absence,
    /// The hub is dumped and restored elsewhere, or a new one stands in its place.
    Moves,
    /// The hub is recovered to a point from which not everybody can bring it back.
    Losses,
    /// Somebody is away for that long, and the hub is recovered to an earlier point meanwhile.
    Returns,
}

/// What kind of world a seed makes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub fate: Fate,
    pub by_hand: bool,
    pub focus: Focus,
    /// Whether there is a stream of the core.
    pub core: bool,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let fate = match seed % 10 {
            1 | 2 => Fate::Copies,
            3 | 4 => Fate::Rollbacks,
            5 => Fate::Absence,
            6 => Fate::Moves,
            7 => Fate::Losses,
            8 => Fate::Returns,
            _ => Fate::Ordinary,
        };
        let focus = match seed / 10 % 15 {
            0 => Focus::Lives,
            1 => Focus::Edits,
            2 => Focus::Health,
            3 => Focus::Batches,
            4 => Focus::Counts,
            5 => Focus::Hands,
            6 => Focus::Ties,
            7 if fate != Fate::Copies => Focus::Late,
            8 => Focus::Clocks,
            9 => Focus::Narrow,
            10 => Focus::Slow,
            11 => Focus::People,
            _ => Focus::Everything,
        };
        let exact = matches!(fate, Fate::Moves | Fate::Losses | Fate::Returns);
        let core = focus == Focus::People || (seed / 7).is_multiple_of(2);
        Self { fate, by_hand: !seed.is_multiple_of(3) && !exact, focus, core }
    }

    /// Where a broken rule shows, if it is not in most worlds.
    pub fn against(rule: Sabotage, seed: u64) -> Self {
        let (fate, by_hand, focus) = match rule {
            Sabotage::HubIgnoresTombstones => (Fate::Ordinary, true, Focus::Lives),
            Sabotage::TokensAreForgotten => (Fate::Absence, false, Focus::Health),
            Sabotage::HubSweepsSilently => (Fate::Absence, false, Focus::Lives),
            Sabotage::IgnoresExpired => (Fate::Absence, false, Focus::Everything),
            Sabotage::HealthIsOverwritten | Sabotage::SuccessAlwaysResets => {
                (Fate::Ordinary, false, Focus::Health)
            }
            Sabotage::EqualVersionsDiffer => (Fate::Copies, false, Focus::Ties),
            Sabotage::StampsBearNoWriter => (Fate::Ordinary, false, Focus::Ties),
            Sabotage::SealsWhileOneWaits => (Fate::Ordinary, false, Focus::Batches),
            Sabotage::MergesWhatACopyMayTell => (Fate::Copies, false, Focus::Queues),
            Sabotage::HubMismatchTellsNoAnswers | Sabotage::UnknownAnswersAreNone => {
                (Fate::Copies, false, Focus::Batches)
            }
            Sabotage::OwnDeletionsAreForgotten | Sabotage::AnswersInFlightClear => (
                Fate::Ordinary,
                false,
                if rule == Sabotage::OwnDeletionsAreForgotten { Focus::Lives } else { Focus::Health },
            ),
            Sabotage::EarlyCountsAreStrangers => (Fate::Ordinary, false, Focus::Edits),
            Sabotage::HubRepeatsNoAnswers => (Fate::Ordinary, false, Focus::Late),
            Sabotage::HubComparesNumbers => (Fate::Ordinary, true, Focus::Everything),
            Sabotage::SplitsWhatIsInDoubt => (Fate::Ordinary, false, Focus::Late),
            Sabotage::LateBatchesStay | Sabotage::PagesStayLarge => (Fate::Ordinary, false, Focus::Slow),
            Sabotage::AbsentCountersStay => (Fate::Absence, false, Focus::Batches),
            Sabotage::RefusalsAreSilent => (Fate::Absence, false, Focus::Lives),
            Sabotage::HubTakesWhatIsForAnother
            | Sabotage::AdoptionForgetsStreams
            | Sabotage::AdoptionLowers
            | Sabotage::AdoptsTheView
            | Sabotage::BelievesAnyHub => (Fate::Moves, false, Focus::Everything),
            Sabotage::LossIsSilent => (Fate::Losses, false, Focus::Everything),
            Sabotage::LossIsDeletion => (Fate::Returns, false, Focus::Lives),
            Sabotage::AbsenceIsDeletion => (Fate::Rollbacks, true, Focus::Lives),
            Sabotage::ForkKeepsEverything
            | Sabotage::ForkDropsEverything
            | Sabotage::ForkKeepsId
            | Sabotage::ForkIsSilent
            | Sabotage::HubIgnoresDigest
            | Sabotage::StartSealsAsItsOwn
            | Sabotage::CopiesHoldWhatIsOpen => (Fate::Copies, false, Focus::Everything),
            Sabotage::StateCreatesRows | Sabotage::AbsenceIsNothing | Sabotage::IgnoresHorizon => {
                (Fate::Absence, false, Focus::Lives)
            }
            Sabotage::HubIgnoresEpochs | Sabotage::IgnoresEpochs => (Fate::Ordinary, false, Focus::Health),
            Sabotage::LowerIsTaken => (Fate::Ordinary, true, Focus::Counts),
            Sabotage::AdoptionKeepsStamps => (Fate::Moves, false, Focus::Everything),
            Sabotage::ForgetsSealed => (Fate::Ordinary, false, Focus::Batches),
            Sabotage::TakesWholeRows | Sabotage::IgnoresSeenVersions => (Fate::Ordinary, false, Focus::Ties),
            Sabotage::HubBelievesAnyClock
            | Sabotage::ClockIsNotRestamped
            | Sabotage::ClockIsNotRewound
            | Sabotage::DatesAreNotShifted => (Fate::Ordinary, false, Focus::Clocks),
            Sabotage::StateIsNotToldAgain => (Fate::Rollbacks, true, Focus::Hands),
            Sabotage::HubReplacesSets
            | Sabotage::SetsAreNotRead
            | Sabotage::SpansAreNotRebased
            | Sabotage::UsersAreNotDeleted
            | Sabotage::UsersAreNotAdded
            | Sabotage::SharesForgetDeletion => (Fate::Ordinary, false, Focus::People),
            Sabotage::SharesAreNotToldAgain => (Fate::Ordinary, true, Focus::People),
            Sabotage::SeenStaysInBatches | Sabotage::EventsAreTwice | Sabotage::LogsAreTwice => {
                (Fate::Copies, false, Focus::People)
            }
            Sabotage::UsersKeepTheFuture => return Self::new(Fate::Ordinary, false, Focus::Clocks, true),
            _ => return Self { core: false, ..Self::of(seed) },
        };
        Self::new(fate, by_hand, focus, focus == Focus::People)
    }

    fn new(fate: Fate, by_hand: bool, focus: Focus, core: bool) -> Self {
        Self { fate, by_hand, focus, core }
    }
}
