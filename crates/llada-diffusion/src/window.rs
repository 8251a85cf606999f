//! The window: how many blocks are denoised at a time.
//!
//! A block that is only begun can already take the next one along: a forward then fills positions of
//! several blocks at once. Each row sees its own block and all before it *as they are now*, so that
//! later blocks are conditioned on MASK and on half a sentence. The model was not trained for that
//! unless its recipe says so, and the text differs from the one decoded block by block: **the window
//! is approximate, and off by default** (arXiv:2606.29215; Diffulex calls it a running set).
//!
//! ```text
//! finished blocks | the mat and _ | _ on _ _ |  . . . .         buffer_blocks 2
//!                   first block     admitted    next: when the first is filled and leaves
//! ```
//!
//! What does not change: the first block always moves on, a position once filled stays, tokens are
//! final in order of position, and texts end where the single block's rules say. Only finished
//! blocks, computed from clean tokens, count as a prefix.

use crate::Error;
use crate::policy::check_finite;

/// Which blocks are active together. The default is one block after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Most consecutive blocks that are active, at least 1.
    pub buffer_blocks: usize,
    /// The last active block admits the next once this share of its rows is filled. From 1 on it
    /// never does: the next block begins when its predecessor is done.
    pub admit_threshold: f32,
    /// The quota holds in the first block, and in one whose predecessor is filled to this share.
    /// Elsewhere only proposals that pass on their own merit are accepted.
    pub semi_complete: f32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            buffer_blocks: 1,
            admit_threshold: 1.0,
            semi_complete: 0.9,
        }
    }
}

impl Window {
    /// Returns whether a block may begin before its predecessor is done.
    pub fn is_approximate(self) -> bool {
        self.buffer_blocks > 1 && self.admit_threshold < 1.0
    }

    /// Returns how many blocks can be active together.
    pub fn max_blocks(self) -> usize {
        if self.is_approximate() {
            self.buffer_blocks
        } else {
            1
        }
    }

    /// Returns an error unless the numbers mean something.
    pub(crate) fn check(self) -> Result<(), Error> {
        if self.buffer_blocks == 0 {
            return Err(Error::EmptyWindow);
        }
        check_finite("admission threshold", &[self.admit_threshold])?;
        check_finite("semi-complete threshold", &[self.semi_complete])
    }

    /// Returns whether `active` blocks, of whose last this share is filled, take in another.
    pub(crate) fn admits(self, active: usize, filled: f32) -> bool {
        active == 0 || (active < self.max_blocks() && filled >= self.admit_threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_several_blocks_that_begin_early_are_approximate() {
        let is_approximate = |buffer_blocks, admit_threshold| {
            let window = Window {
                buffer_blocks,
                admit_threshold,
                ..Window::default()
            };
            window.is_approximate()
        };
        assert!(is_approximate(2, 0.1));
        for (blocks, threshold) in [(1, 0.1), (1, 1.0), (2, 1.0), (4, 1.5)] {
            assert!(!is_approximate(blocks, threshold));
        }
        assert!(!Window::default().is_approximate());
    }

    #[test]
    fn windows_that_mean_nothing_are_refused() {
        let check = |change: fn(&mut Window)| {
            let mut window = Window::default();
            change(&mut window);
            window.check()
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|w| w.buffer_blocks = 0), Err(Error::EmptyWindow));
        assert!(check(|w| w.admit_threshold = f32::NAN).is_err());
        assert!(check(|w| w.semi_complete = f32::INFINITY).is_err());
    }
}
