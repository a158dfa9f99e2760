//! Seconds since 1970 and the Gregorian calendar.

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// A moment as a calendar and a clock say it. Months and days count from 1, days of the week from
/// Sunday, which is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: u64,
    pub(super) month: u64,
    pub(super) day: u64,
    pub(super) weekday: u64,
    pub(super) hour: u64,
    pub(super) minute: u64,
    pub(super) second: u64,
}

impl Civil {
    pub(super) fn from_seconds(seconds: u64) -> Self {
        let days = seconds / DAY;
        // No year has more than 366 days, so this is too early by a few years at most for centuries
        // to come.
        let mut year = 1970 + days / 366;
        while days_before(year + 1) <= days {
            year += 1;
        }
        let mut day = days - days_before(year);
        let mut month = 1;
        while day >= days_in(year, month) {
            day -= days_in(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: day + 1,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4) % 7 + 1,
            hour: seconds % DAY / HOUR,
            minute: seconds % HOUR / MINUTE,
            second: seconds % MINUTE,
        }
    }

    /// What is no date, or lies before 1970, has no number. The day of the week is not looked at.
    pub(super) fn seconds(&self) -> Option<u64> {
        let is_date = self.year >= 1970 && (1..=12).contains(&self.month);
        let is_date = is_date && (1..=days_in(self.year, self.month)).contains(&self.day);
        let is_time = self.hour < 24 && self.minute < 60 && self.second < 60;
        (is_date && is_time).then(|| {
            let days = days_before(self.year)
                + (1..self.month).map(|month| days_in(self.year, month)).sum::<u64>()
                + (self.day - 1);
            days * DAY + self.hour * HOUR + self.minute * MINUTE + self.second
        })
    }
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

const fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Leap years up to and with a year.
const fn leap_years(year: u64) -> u64 {
    year / 4 - year / 100 + year / 400
}

/// Days from 1970 to the start of a year.
const fn days_before(year: u64) -> u64 {
    (year - 1970) * 365 + leap_years(year - 1) - leap_years(1969)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Seconds, and what `date -u -d @SECONDS '+%Y %m %d %u %H %M %S'` says of them.
    const KNOWN: [(u64, [u64; 7]); 9] = [
        (0, [1970, 1, 1, 4, 0, 0, 0]),
        (68_169_599, [1972, 2, 28, 1, 23, 59, 59]),
        (68_169_600, [1972, 2, 29, 2, 0, 0, 0]),
        (951_782_400, [2000, 2, 29, 2, 0, 0, 0]),
        (951_868_800, [2000, 3, 1, 3, 0, 0, 0]),
        (1_735_689_599, [2024, 12, 31, 2, 23, 59, 59]),
        (2_147_483_648, [2038, 1, 19, 2, 3, 14, 8]),
        (4_107_542_399, [2100, 2, 28, 7, 23, 59, 59]),
        (4_107_542_400, [2100, 3, 1, 1, 0, 0, 0]),
    ];

    #[test]
    fn known_dates() {
        for (seconds, [year, month, day, weekday, hour, minute, second]) in KNOWN {
            let civil = Civil { year, month, day, weekday: weekday % 7 + 1, hour, minute, second };
            assert_eq!(Civil::from_seconds(seconds), civil);
            assert_eq!(civil.seconds(), Some(seconds));
        }
    }

    #[test]
    fn what_is_no_date_has_no_number() {
        let valid = Civil { year: 2023, month: 2, day: 28, weekday: 0, hour: 23, minute: 59, second: 59 };
        assert!(valid.seconds().is_some());
        for civil in [
            Civil { day: 29, ..valid },
            Civil { day: 0, ..valid },
            Civil { month: 0, ..valid },
            Civil { month: 13, ..valid },
            Civil { year: 1969, ..valid },
            Civil { hour: 24, ..valid },
            Civil { minute: 60, ..valid },
            Civil { second: 60, ..valid },
        ] {
            assert_eq!(civil.seconds(), None, "{civil:?}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in 0_u64..253_402_300_800) {
            prop_assert_eq!(Civil::from_seconds(seconds).seconds(), Some(seconds));
        }
    }
}
