//! When something happens by the calendar: a cron expression, in UTC.

use std::{fmt, str::FromStr};

use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The longest text that is looked at.
const MAX_CHARACTERS: usize = 200;

/// Minute, hour, day of the month, month, day of the week, as cron has them: `0 3 1 * *` is at three in the morning of the first of
/// each month. Always UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Calendar(String);

/// The text is no calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected five fields of cron (minute, hour, day, month, weekday; UTC), e.g. \"0 3 1 * *\" for the first of each month at three: {0}"
)]
pub struct InvalidCalendar(String);

impl FromStr for Calendar {
    type Err = InvalidCalendar;

    fn from_str(text: &str) -> Result<Self, InvalidCalendar> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.len() > MAX_CHARACTERS {
            return Err(InvalidCalendar(format!("it has more than {MAX_CHARACTERS} characters")));
        }
        parse(&text).map_err(InvalidCalendar)?;
        let calendar = Self(text);
        match calendar.next_after(Timestamp::from_micros(1_767_225_600_000_000)) {
            Some(_) => Ok(calendar),
            None => Err(InvalidCalendar("there is no such day".to_owned())),
        }
    }
}

impl Calendar {
    /// The first time after a moment; none when there is none.
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let next = parse(&self.0).ok()?.find_next_occurrence(&moment.to_chrono(), false).ok()?;
        Some(Timestamp::from_micros(next.timestamp_micros()))
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse(text: &str) -> Result<Cron, String> {
    CronParser::builder().seconds(Seconds::Disallowed).build().parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(calendar: &str, moment: &str) -> String {
        calendar.parse::<Calendar>().unwrap().next_after(moment.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn the_next_time_is_later_and_in_utc() {
        assert_eq!(after("0 3 1 * *", "2026-01-15T12:00:00.000000Z"), "2026-02-01T03:00:00.000000Z");
        assert_eq!(after("0 3 1 * *", "2026-02-01T03:00:00.000000Z"), "2026-03-01T03:00:00.000000Z", "not the moment itself");
        assert_eq!(after("0 3 1 * *", "2026-02-01T02:59:59.999999Z"), "2026-02-01T03:00:00.000000Z");
        assert_eq!(after("30 4 * * 1", "2026-01-01T00:00:00.000000Z"), "2026-01-05T04:30:00.000000Z", "a Monday");
        assert_eq!(after("0 0 29 2 *", "2026-01-01T00:00:00.000000Z"), "2028-02-29T00:00:00.000000Z", "a leap year");
        assert_eq!(after("0 0 1 1,4,7,10 *", "2026-02-01T00:00:00.000000Z"), "2026-04-01T00:00:00.000000Z", "each quarter");
    }

    #[test]
    fn what_is_no_calendar_is_refused() {
        for wrong in ["", "* * *", "61 * * * *", "0 25 * * *", "0 0 30 2 *", "tomorrow", "0 0 0 1 1 * *", &"1,".repeat(300)] {
            assert!(wrong.parse::<Calendar>().is_err(), "{wrong:?}");
        }
        let spaced: Calendar = " 0  3 1 * * ".parse().unwrap();
        assert_eq!(spaced.to_string(), "0 3 1 * *");
    }
}
