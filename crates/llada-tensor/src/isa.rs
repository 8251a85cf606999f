//! Which instruction set the kernels use.

use std::cell::Cell;
use std::sync::OnceLock;

use crate::simd;

/// Environment variable that forces an instruction set.
const VARIABLE: &str = "LLADA_ISA";

/// Instruction set of the kernels, chosen once per process: the best the machine has, or the one that
/// `LLADA_ISA=scalar|avx2|avxvnni|avx512vnni|avx512` forces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Portable code.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    AvxVnni,
    /// AVX-512 (F, BW, VL, DQ, VNNI).
    Avx512Vnni,
    /// The same with BF16.
    Avx512,
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// Every instruction set, worst first.
    const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Avx512,
    ];

    /// Returns the instruction set that operations started on this thread use.
    ///
    /// Operations read it once, on the calling thread, and hand it to the tasks they spawn. An
    /// invalid `LLADA_ISA` is ignored here; programs report it with [`Isa::from_env`] at start.
    pub fn active() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        let forced = FORCED.get();
        forced.unwrap_or_else(|| *CHOSEN.get_or_init(|| Self::from_env().unwrap_or(Self::best())))
    }

    /// Returns what `LLADA_ISA` asks for, or the best instruction set when it is not set.
    ///
    /// # Errors
    /// A message for the user when the value is unknown or the machine lacks the instruction set.
    pub fn from_env() -> Result<Self, String> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Self::best()),
            Some(value) => Self::parse(&value.to_string_lossy()),
        }
    }

    /// Returns the instruction sets this machine supports, worst first.
    pub fn available() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|isa| isa.is_supported())
            .collect()
    }

    fn best() -> Self {
        Self::ALL
            .into_iter()
            .rfind(|isa| isa.is_supported())
            .unwrap_or(Self::Scalar)
    }

    fn is_supported(self) -> bool {
        simd::supports(self)
    }

    fn parse(value: &str) -> Result<Self, String> {
        let isa = Self::ALL
            .into_iter()
            .find(|isa| isa.name() == value)
            .ok_or_else(|| {
                format!(
                    "{VARIABLE} is `{value}`; expected `scalar`, `avx2`, `avxvnni`, `avx512vnni` or `avx512`"
                )
            })?;
        if isa.is_supported() {
            return Ok(isa);
        }
        let best = Self::best().name();
        Err(format!(
            "{VARIABLE} is `{value}`, which this machine lacks; the best it has is `{best}`"
        ))
    }

    /// Returns the name that `LLADA_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512 => "avx512",
        }
    }
}

/// Runs `body` with [`Isa::active`] returning `isa` on this thread: tests force every kernel with it.
///
/// # Panics
/// If the machine does not support `isa`.
pub fn with_isa<T>(isa: Isa, body: impl FnOnce() -> T) -> T {
    /// Restores the earlier choice, also when `body` panics.
    struct Restore(Option<Isa>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    assert!(isa.is_supported(), "this machine does not support {isa:?}");
    let _restore = Restore(FORCED.replace(Some(isa)));
    body()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_reported_with_the_choices() {
        let message = Isa::parse("sse9").unwrap_err();
        assert!(
            message.contains("`sse9`") && message.contains("`avx512`"),
            "{message}"
        );
    }

    #[test]
    fn every_available_set_parses_from_its_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::parse(isa.name()), Ok(isa));
        }
    }

    #[test]
    fn the_best_set_is_the_last_available() {
        assert_eq!(Isa::available().last(), Some(&Isa::best()));
    }

    #[test]
    fn forcing_ends_with_the_call() {
        let before = Isa::active();
        assert_eq!(with_isa(Isa::Scalar, Isa::active), Isa::Scalar);
        assert_eq!(Isa::active(), before);
    }
}
