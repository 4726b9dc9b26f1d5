//! Acts: dangerous things done under the net, and who does them.

/// What kind of thing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActKind {
    /// A restore over what is there.
    Restore,
    /// A guard around a migration, a deployment or a test.
    Guard,
    /// A restore for proof alone.
    Drill,
    /// What keeps a second guard away from a source. No thing that is done, so histories leave it out.
    Lock,
}

impl ActKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Restore, Self::Guard, Self::Drill, Self::Lock];

    /// The word in the repository, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Guard => "guard",
            Self::Drill => "drill",
            Self::Lock => "lock",
        }
    }

    /// The kind of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A process, told apart from all others, those of other machines and earlier starts among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// Host name.
    pub host: String,
    /// User name.
    pub user: String,
    /// Process id.
    pub process: u32,
    /// Machine, start of the machine, namespace and start of the process; see [`Whereabouts`].
    pub mark: String,
}

/// Whether the process of an [`Owner`] lives, as far as this machine can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// It runs on this machine.
    Alive,
    /// It ran on this machine and is over.
    Dead,
    /// It belongs to another machine or to another container, so nobody can tell from here.
    Elsewhere,
}

impl Whereabouts {
    /// The word for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// Tells which processes live. Nothing that is safe to delete may rest on it.
pub trait Census: Send + Sync {
    /// The mark of a process of this machine, as [`Owner::mark`] holds it; empty when it cannot be told.
    fn mark(&self, process: u32) -> String;

    /// Where the process is.
    fn find(&self, owner: &Owner) -> Whereabouts;
}
