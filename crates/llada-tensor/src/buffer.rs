//! The elements of an array, in memory of the [arena](crate::arena) where they are many.

use std::alloc::Layout;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

use crate::arena::Block;

/// Bytes of the smallest array in the arena. The allocator is fast at smaller ones.
const SMALLEST: usize = 1 << 16;

/// Elements of an array.
#[derive(Debug)]
pub(crate) enum Buffer<E> {
    /// From the allocator.
    Vec(Vec<E>),
    /// From the arena.
    Block(Block),
}

impl<E: Pod> Buffer<E> {
    /// Returns `len` elements of arbitrary value.
    pub(crate) fn scratch(len: usize) -> Self {
        Self::new(len, |_| {})
    }

    /// Returns `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self::new(len, |used| used.fill(E::zeroed()))
    }

    /// Returns `len` zeros, or what `prepare` makes of used memory.
    fn new(len: usize, prepare: impl Fn(&mut [E])) -> Self {
        if len < SMALLEST / size_of::<E>() {
            return vec![E::zeroed(); len].into();
        }
        let layout =
            Layout::array::<E>(len).expect("an array has fewer bytes than there are addresses");
        let block = Block::new(layout);
        let is_clear = block.is_clear();
        let mut buffer = Self::Block(block);
        if !is_clear {
            prepare(&mut buffer);
        }
        buffer
    }
}

impl<E: Pod> From<Vec<E>> for Buffer<E> {
    fn from(values: Vec<E>) -> Self {
        Self::Vec(values)
    }
}

impl<E: Pod> Deref for Buffer<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        match self {
            Self::Vec(values) => values,
            Self::Block(block) => bytemuck::cast_slice(block.bytes()),
        }
    }
}

impl<E: Pod> DerefMut for Buffer<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        match self {
            Self::Vec(values) => values,
            Self::Block(block) => bytemuck::cast_slice_mut(block.bytes_mut()),
        }
    }
}

impl<E: Pod> Clone for Buffer<E> {
    fn clone(&self) -> Self {
        let mut copy = Self::scratch(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<E: Pod + PartialEq> PartialEq for Buffer<E> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn used_memory_is_cleared_for_zeros() {
        const LEN: usize = 100_000;
        Buffer::<f32>::scratch(LEN).fill(f32::NAN);
        // The first place that is large enough: where the first one was, unless another thread was faster.
        let second = Buffer::<bf16>::zeros(2 * LEN);
        assert!(second.iter().all(|x| x.to_bits() == 0));
    }

    #[test]
    fn few_and_many_elements_are_copied_and_compared_alike() {
        for len in [0, 1, 100_000] {
            let mut buffer = Buffer::<f32>::zeros(len);
            buffer.iter_mut().zip(1..).for_each(|(x, i)| *x = i as f32);
            let copy = buffer.clone();
            assert_eq!(buffer, copy);
            assert_eq!(buffer, Buffer::from(copy.to_vec()));
        }
    }
}
