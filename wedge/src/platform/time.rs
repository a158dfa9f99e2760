//! Nanoseconds and the ticks of a crystal, without a rounding error that grows.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Ticks per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frequency(pub(super) u64);

impl Frequency {
    /// Whole ticks in a span of nanoseconds. Whole seconds are whole ticks, so only the rest is
    /// divided.
    pub(super) const fn ticks(self, span: u64) -> u64 {
        span / SECOND * self.0 + span % SECOND * self.0 / SECOND
    }

    /// The shortest span of nanoseconds with so many ticks.
    pub(super) const fn span(self, ticks: u64) -> u64 {
        ticks / self.0 * SECOND + (ticks % self.0 * SECOND).div_ceil(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_span_is_the_shortest_with_its_ticks(hz in 1_u64..4_000_000, ticks in 1_u64..1 << 40) {
            let frequency = Frequency(hz);
            prop_assume!(ticks / hz < 1 << 33);
            prop_assert_eq!(frequency.ticks(frequency.span(ticks)), ticks);
            prop_assert_eq!(frequency.ticks(frequency.span(ticks) - 1), ticks - 1);
        }
    }
}
