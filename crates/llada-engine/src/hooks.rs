//! Rules of a request that need to know its text, which the engine does not.

use std::fmt;

/// A language that the answer must belong to, followed token by token from its first id.
pub trait Constraint: Send {
    /// Returns whether a token may come next; the checkpoint's end-of-text ids may where the answer
    /// can end.
    ///
    /// # Errors
    /// If no token may.
    fn allowed(&mut self) -> Result<Box<dyn Fn(u32) -> bool + '_>, String>;

    /// Appends a token and returns `true`, or returns `false` and changes nothing if it may not come
    /// next.
    fn consume(&mut self, id: u32) -> bool;
}

/// Looks at the ids of the answer as they become final. Once the text is complete it returns how many of the
/// new ids belong to it.
pub type StopRule = Box<dyn FnMut(&[u32]) -> Option<usize> + Send>;

/// What a request brings along besides its data.
#[derive(Default)]
pub struct Hooks {
    /// The answer's language: tokens are then accepted from left to right.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Ends the text, for stop strings. A stop id before that place comes first.
    pub stop: Option<StopRule>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("constraint", &self.constraint.is_some())
            .field("stop", &self.stop.is_some())
            .finish()
    }
}
