//! A place becomes empty again, as it was before something was restored into it.
//!
//! This is the way back of a replacement that found nothing in its place, taken by an act of its own: what stands in the
//! place goes where a new one would stand before its swap, and is removed from there for good. So each state is one of
//! the inner replacement's, seen from the other side:
//!
//! | inner | here |
//! |---|---|
//! | `Swapped` | `Staged`: what is to go is in its place |
//! | `Staged` | `Swapped`: the place is empty, what was in it stands beside it |
//! | `Halfway`, `Untouched` | the same |

use super::postgres::PostgresReplacement;
use super::sqlite::SqliteReplacement;
use super::tree::TreeReplacement;
use super::{Error, Names, Replace, State, require_new_beside, require_old_beside};

/// Replacements of which the way back can be begun without a way forward.
pub trait Emptied: Replace {
    /// Begins: remembers beside the place that it was empty once. To be done again if it was cut short.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Unexpected`] when something of the act stands beside the place.
    fn begin_emptying(&self) -> Result<(), Error>;

    /// What is in the place stays for good: forgets what was begun, and lets everybody use it again.
    ///
    /// # Errors
    /// [`Error`].
    fn end_emptying(&self) -> Result<(), Error>;
}

/// The emptying of one place by one act.
#[derive(Debug)]
pub enum Emptying {
    /// Of a PostgreSQL database; made as one whose place was empty.
    Postgres(PostgresReplacement),
    /// Of an SQLite database.
    Sqlite(SqliteReplacement),
    /// Of a tree.
    Tree(TreeReplacement),
}

impl Emptying {
    fn inner(&self) -> &dyn Emptied {
        match self {
            Self::Postgres(inner) => inner,
            Self::Sqlite(inner) => inner,
            Self::Tree(inner) => inner,
        }
    }

    /// Everything that can be done before the place is touched: to [`State::Staged`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn begin(&self) -> Result<(), Error> {
        self.inner().begin_emptying()
    }
}

impl Replace for Emptying {
    fn state(&self) -> Result<State, Error> {
        Ok(match self.inner().state()? {
            State::Swapped => State::Staged,
            State::Staged => State::Swapped,
            other => other,
        })
    }

    fn swap(&self) -> Result<(), Error> {
        match self.state()? {
            State::Untouched => Err(Error::NothingStaged { place: self.names().place }),
            _ => self.inner().unswap(),
        }
    }

    fn unswap(&self) -> Result<(), Error> {
        match self.state()? {
            State::Untouched => Ok(()),
            State::Staged => match self {
                // It may be closed already, although it has its name.
                Self::Postgres(inner) => inner.end_emptying(),
                Self::Sqlite(_) | Self::Tree(_) => Ok(()),
            },
            State::Halfway | State::Swapped => self.inner().swap(),
        }
    }

    fn discard_new(&self) -> Result<(), Error> {
        require_new_beside(self)?;
        self.inner().end_emptying()
    }

    fn discard_old(&self) -> Result<(), Error> {
        require_old_beside(self)?;
        self.inner().discard_new()
    }

    /// The old one has the name that a new one would have.
    fn names(&self) -> Names {
        let Names { place, new, .. } = self.inner().names();
        Names { place, new: "nothing".to_owned(), old: new }
    }
}

#[cfg(test)]
mod tests {
    use super::super::quick_directory;
    use super::*;
    use std::path::Path;

    const ACT: &str = "0123456789abcdef0123456789abcdef";

    /// What an act of this kind works on, in a process that dies after so many steps.
    fn emptying(place: &Path, sqlite: bool, steps: u32) -> Emptying {
        if sqlite {
            let mut inner = SqliteReplacement::new(place, ACT).unwrap();
            inner.beside_mut().cut.set(steps);
            return Emptying::Sqlite(inner);
        }
        let mut inner = TreeReplacement::new(place, ACT).unwrap();
        inner.beside_mut().cut.set(steps);
        Emptying::Tree(inner)
    }

    fn make(place: &Path, sqlite: bool) {
        if sqlite {
            std::fs::write(place, b"a database").unwrap();
            std::fs::write(place.with_file_name("app-wal"), b"its log").unwrap();
        } else {
            std::fs::create_dir_all(place.join("sub")).unwrap();
            std::fs::write(place.join("sub/file"), b"a file").unwrap();
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_place_is_emptied_and_filled_again_and_emptied_for_good() {
        for sqlite in [false, true] {
            let dir = quick_directory();
            let place = dir.path().join("app");
            make(&place, sqlite);
            let before = names(dir.path());
            let emptying = emptying(&place, sqlite, u32::MAX);
            assert_eq!(emptying.state().unwrap(), State::Untouched);
            assert!(matches!(emptying.swap(), Err(Error::NothingStaged { .. })));
            for _ in 0..2 {
                emptying.begin().unwrap();
                assert_eq!(emptying.state().unwrap(), State::Staged);
                assert!(matches!(emptying.discard_old(), Err(Error::InUse { .. })));
                emptying.swap().unwrap();
                emptying.swap().unwrap();
                assert_eq!(emptying.state().unwrap(), State::Swapped);
                assert!(!place.exists());
                assert!(matches!(emptying.discard_new(), Err(Error::InUse { .. })));
                emptying.unswap().unwrap();
                emptying.unswap().unwrap();
                assert_eq!(emptying.state().unwrap(), State::Staged);
                emptying.discard_new().unwrap();
                assert_eq!((emptying.state().unwrap(), names(dir.path())), (State::Untouched, before.clone()));
            }
            emptying.begin().unwrap();
            emptying.swap().unwrap();
            emptying.discard_old().unwrap();
            emptying.discard_old().unwrap();
            assert_eq!(names(dir.path()), Vec::<String>::new(), "{sqlite}");
        }
    }

    /// Cuts each call after each of its steps; then another process decides.
    #[test]
    fn cut_anywhere_it_is_all_there_or_gone() {
        let mut cuts = 0;
        for sqlite in [false, true] {
            for cut in 0..14 {
                for (back_first, forward) in [(false, false), (false, true), (true, false), (true, true)] {
                    let what = format!("{sqlite} {cut} {back_first} {forward}");
                    let dir = quick_directory();
                    let place = dir.path().join("app");
                    make(&place, sqlite);
                    let before = names(dir.path());
                    let dying = emptying(&place, sqlite, if back_first { u32::MAX } else { cut });
                    let mut done = dying.begin().and_then(|()| dying.swap());
                    if back_first {
                        done.unwrap();
                        done = emptying(&place, sqlite, cut).unswap();
                    }
                    cuts += u32::from(done.is_err());
                    let next = emptying(&place, sqlite, u32::MAX);
                    match forward {
                        true => {
                            next.begin()
                                .or_else(|error| match next.state().unwrap() {
                                    State::Halfway | State::Swapped => Ok(()),
                                    _ => Err(error),
                                })
                                .unwrap();
                            next.swap().unwrap_or_else(|error| panic!("{what}: {error}"));
                            next.discard_old().unwrap();
                            assert_eq!(names(dir.path()), Vec::<String>::new(), "{what}");
                        }
                        false => {
                            next.unswap().unwrap_or_else(|error| panic!("{what}: {error}"));
                            next.discard_new().unwrap();
                            assert_eq!(names(dir.path()), before, "{what}");
                        }
                    }
                }
            }
        }
        assert!(cuts > 40, "{cuts}");
    }
}
