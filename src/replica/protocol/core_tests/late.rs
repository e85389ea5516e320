//! What a hub is told too late, or not at all.

use std::sync::Arc;

use super::{
    super::{Hub, Machine, Note, StreamOf, text},
    *,
};

#[tokio::test]
async fn who_used_what_and_is_told_too_late_is_said() {
    let scene = Scene::new();
    let kinds = [SetKind::KeyDay, SetKind::KeyHour, SetKind::UserKeys];
    let expired = |shed: bool| {
        move |shelf: &mut dyn Shelf| {
            let (mut note, bounds) = (StreamNote::default(), Bounds::default());
            for kind in kinds {
                let at = if kind == SetKind::KeyHour { Hour::of(NOW).0 } else { today() };
                shelf.put_open_set(set(kind, at), &members(2))?;
            }
            let batch = seal_all(shelf, &mut note, bounds)?.remove(0);
            let expired = (0..3).map(|at| ("sets".to_owned(), at)).collect();
            let answers = RowAnswers { expired, ..RowAnswers::default() };
            let ((), out) = stream(shelf, &mut note, bounds, |stream| {
                stream.shed = shed;
                stream.confirm(batch, Some(&answers))
            })?;
            Ok(out.notes)
        }
    };
    let said = |rows| vec![Note::Expired { provider: CORE.to_owned(), rows }];
    assert_eq!(scene.edit(expired(false)).await, said(3));
    assert_eq!(scene.edit(expired(true)).await, said(2), "a full hub refuses an hour's users all day");
    // Of a batch that nobody has told after all.
    let kept = [
        SetRow { t: "kd".to_owned(), ..text_of(today()) },
        SetRow { t: "kd".to_owned(), ..text_of(today() - 20) },
    ];
    let rows = Rows { sets: kept.to_vec(), ..Rows::default() };
    let notes = scene
        .edit(move |shelf| {
            let mut note = StreamNote::default();
            let ((), out) = stream(shelf, &mut note, Bounds::default(), |stream| stream.reopen(&rows, true))?;
            Ok((out.notes, shelf.open_sets(None, 9)?.len()))
        })
        .await;
    assert_eq!(notes, (said(1), 1));
}

fn text_of(at: u32) -> SetRow {
    text::set_row(set(SetKind::KeyDay, at), &[1, 2], None, Shift(0))
}

/// Two copies of a file would each tell them, and nothing says that they are the same.
#[tokio::test]
async fn requests_of_an_earlier_life_are_not_told_to_the_first_hub() {
    let scene = Scene::new();
    let hub = Hub {
        name: "default".to_owned(),
        streams: vec![StreamOf { provider: CORE.to_owned(), stream: CORE.to_owned() }],
        providers: Vec::new(),
        bounds: Bounds::default(),
        instance_name: String::new(),
        version: String::new(),
        keeps_time: false,
    };
    let (notes, left) = scene
        .edit(move |shelf| {
            open_some(shelf)?;
            let stamps = Arc::new(Stamps::new(1, 0, Version::ZERO));
            let mut machine = Machine::new(hub, stamps, RUN);
            let (mut sealing, mut notes) = (Some(machine.start(shelf)?), Vec::new());
            while let Some(step) = sealing {
                let (out, next) = machine.seal(shelf, NOW, step)?;
                notes.extend(out.notes);
                sealing = next;
            }
            Ok((notes, owed(shelf)?))
        })
        .await;
    let logs = (1..=3).map(Uuid::from_u128).collect();
    assert_eq!(notes, [Note::LogsLeftOut { logs }]);
    assert_eq!(
        (left.0.len(), left.1.len(), left.2, left.3),
        (2, 3, vec![], vec![]),
        "the others are the same twice"
    );
}
