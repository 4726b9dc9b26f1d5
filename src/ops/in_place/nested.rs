//! Places that lie in the tree of another place: a database in the folder of an application, a tree in a tree.
//!
//! Each would be carried away by the swap of the tree around it. So what goes there is put into the new tree while that
//! stands beside its place, where nobody uses it, and comes and goes with the tree.

use super::places::{Replacement, stage};
use super::{Context, Item, Place, PlannedItem, Trouble};
use crate::domain::id::ActId;
use crate::domain::snapshot::{Snapshot, SourceKind};
use crate::repository::error::RepoError;
use crate::target::replace::carry::carry;
use crate::target::replace::sqlite::SqliteReplacement;
use crate::target::replace::{self, Names, Replace, State, staged_folder};
use std::path::{Path, PathBuf};

/// What comes and goes with the tree around it.
#[derive(Debug)]
pub(super) struct Within {
    pub(super) place: String,
}

impl Replace for Within {
    fn state(&self) -> Result<State, replace::Error> {
        Ok(State::Untouched)
    }

    fn swap(&self) -> Result<(), replace::Error> {
        Ok(())
    }

    fn unswap(&self) -> Result<(), replace::Error> {
        Ok(())
    }

    fn discard_new(&self) -> Result<(), replace::Error> {
        Ok(())
    }

    fn discard_old(&self) -> Result<(), replace::Error> {
        Ok(())
    }

    fn names(&self) -> Names {
        Names { place: self.place.clone(), new: self.place.clone(), old: self.place.clone() }
    }
}

/// Marks the items whose places lie in the tree of another one.
pub(super) fn mark(planned: &mut [PlannedItem]) {
    let paths: Vec<Option<PathBuf>> = planned.iter().map(path_of).collect();
    let within = |(index, path): (usize, &Option<PathBuf>)| {
        path.as_ref().is_some_and(|path| around(planned, &paths, index, path).next().is_some())
    };
    let marks: Vec<bool> = paths.iter().enumerate().map(within).collect();
    for (item, mark) in planned.iter_mut().zip(marks) {
        item.within = mark;
    }
}

/// Trees that a path lies in.
fn around<'p>(
    planned: &'p [PlannedItem],
    paths: &'p [Option<PathBuf>],
    index: usize,
    path: &'p Path,
) -> impl Iterator<Item = (usize, PathBuf)> + 'p {
    planned.iter().zip(paths).enumerate().filter_map(move |(other, (tree, root))| {
        let rest = path.strip_prefix(root.as_ref()?).ok().filter(|rest| !rest.as_os_str().is_empty())?;
        (other != index && tree.kind == SourceKind::Files).then(|| (other, rest.to_owned()))
    })
}

/// Where an item is, its folder without links; None for what is in no folder.
fn path_of(planned: &PlannedItem) -> Option<PathBuf> {
    if planned.kind == SourceKind::Postgres {
        return None;
    }
    let path = PathBuf::from(&planned.reach);
    if let Ok(real) = path.canonicalize() {
        return Some(real);
    }
    match (path.parent().and_then(|folder| folder.canonicalize().ok()), path.file_name()) {
        (Some(folder), Some(name)) => Some(folder.join(name)),
        _ => Some(path),
    }
}

/// Puts what belongs into the new trees, which are complete and proved, there, and proves it.
///
/// # Errors
/// [`Trouble`]; the new trees hold a part of it then, and must be discarded.
pub(super) fn stage_all(
    context: &Context<'_>,
    snapshot: &Snapshot,
    act: ActId,
    planned: &[PlannedItem],
    items: &[Item],
    replacements: &[Replacement],
) -> Result<(), Trouble> {
    let paths: Vec<Option<PathBuf>> = planned.iter().map(path_of).collect();
    let mut inner: Vec<usize> =
        (0..planned.len()).filter(|index| planned.get(*index).is_some_and(|p| p.within)).collect();
    // What holds others comes before them.
    inner.sort_by_key(|index| paths.get(*index).and_then(|path| path.as_ref()).map(|path| path.components().count()));
    for index in inner {
        context.cancel.check()?;
        let (Some(planned_item), Some(item), Some(Some(path))) =
            (planned.get(index), items.get(index), paths.get(index))
        else {
            continue;
        };
        let outer =
            around(planned, &paths, index, path).find(|(other, _)| planned.get(*other).is_some_and(|p| !p.within));
        let Some((Some(Replacement::Tree(tree)), rest)) = outer.map(|(other, rest)| (replacements.get(other), rest))
        else {
            // The tree around it is emptied, and this with it.
            continue;
        };
        let there = Path::new(&tree.names().new).join(&rest);
        let source = snapshot.source(&item.source);
        staged_folder(&there, || one(context, snapshot, source, act, planned_item, item, &there))?;
        if let Place::Sqlite { path } = &item.place
            && planned_item.existed
        {
            // It leaves its place with the tree; whoever has it open would write into what is gone.
            SqliteReplacement::new(path, &act.hex())?.check_unused()?;
        }
    }
    Ok(())
}

fn one(
    context: &Context<'_>,
    snapshot: &Snapshot,
    source: Option<&crate::domain::snapshot::SourceRecord>,
    act: ActId,
    planned: &PlannedItem,
    item: &Item,
    there: &Path,
) -> Result<(), Trouble> {
    let place = match &item.place {
        Place::Sqlite { .. } => Place::Sqlite { path: there.to_owned() },
        // What its rules leave out is in the old tree, not here.
        Place::Tree { from, .. } => Place::Tree { path: there.to_owned(), from: from.clone(), left_out: None },
        Place::Postgres { .. } => return Ok(()),
    };
    let existed = place.exists()?;
    if planned.empties && !existed {
        return Ok(());
    }
    let replacement = place.replacement(act, &PlannedItem { within: false, existed, ..planned.clone() })?;
    match (&replacement, source) {
        (Replacement::Emptying(emptying), _) => emptying.begin()?,
        (_, Some(source)) => stage(context, snapshot, source, &place, &replacement)?,
        (_, None) => {
            let what = format!("Source {} of the snapshot", item.source);
            return Err(RepoError::Missing { what }.into());
        }
    }
    replacement.steps().swap()?;
    replacement.steps().discard_old()?;
    if let Place::Tree { path: old, left_out: Some(left_out), .. } = &item.place
        && old.is_dir()
        && there.is_dir()
    {
        carry(old, there, &left_out.find(old))?;
    }
    Ok(())
}
