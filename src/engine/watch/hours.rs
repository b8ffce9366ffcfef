//! When people are expected to look at passwords: days and hours of the week.
//!
//! By the clocks of a time zone: what people see on the wall, also on days when clocks change.

use chrono::{DateTime, Datelike as _, Timelike as _, Utc, Weekday};

use crate::engine::zone::Zone;

const MINUTES_A_DAY: u32 = 24 * 60;
/// What an entry of `work_hours` looks like, for the error text.
pub(super) const WORK_HOURS: &str = "takes days and hours such as `Mon-Fri 07:00-19:00`, `Sat \
     22:00-06:00` or `07:00-19:00` for every day. The end is not included; 24:00 is the end of a \
     day.";

/// The hours of the week in which a look is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkHours {
    spans: Vec<Span>,
    zone: Zone,
}

/// Hours that begin on some days of the week; over midnight if they end before they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    days: Vec<Weekday>,
    from: u32,
    to: u32,
}

impl WorkHours {
    /// Reads the settings' texts; `None` if one is not of the kind of [`WORK_HOURS`].
    pub(super) fn parse(texts: &[String], zone: Zone) -> Option<Self> {
        let spans = texts.iter().map(|text| Span::parse(text));
        let spans = spans.collect::<Option<Vec<_>>>()?;
        Some(Self { spans, zone })
    }

    /// Reports whether a look at this time is not expected; never if no hours are set.
    pub(super) fn is_outside(&self, at: DateTime<Utc>) -> bool {
        let local = self.zone.local(at);
        let (day, minute) = (local.weekday(), local.hour() * 60 + local.minute());
        !self.spans.is_empty() && !self.spans.iter().any(|span| span.has(day, minute))
    }
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace().rev();
        let (hours, days) = (words.next()?, words.next());
        if words.next().is_some() {
            return None;
        }
        let (from, to) = hours.split_once('-')?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        let days = days.map_or_else(|| Some(week_from(Weekday::Mon).collect()), parse_days)?;
        let sound = from < MINUTES_A_DAY && from != to;
        sound.then_some(Self { days, from, to })
    }

    fn has(&self, day: Weekday, minute: u32) -> bool {
        let begun = self.days.contains(&day) && minute >= self.from;
        if self.from < self.to {
            return begun && minute < self.to;
        }
        begun || (self.days.contains(&day.pred()) && minute < self.to)
    }
}

/// The seven days in order, beginning with one.
fn week_from(first: Weekday) -> impl Iterator<Item = Weekday> {
    std::iter::successors(Some(first), |day| Some(day.succ())).take(7)
}

/// `Mon` or `Mon-Fri`, over the end of the week as well.
fn parse_days(text: &str) -> Option<Vec<Weekday>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (Weekday, Weekday) = (first.parse().ok()?, last.parse().ok()?);
    let mut days: Vec<_> = week_from(first).take_while(|day| *day != last).collect();
    days.push(last);
    Some(days)
}

/// `07:30` in minutes, up to `24:00`.
fn minutes(text: &str) -> Option<u32> {
    let two_digits = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| digits)
    };
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= MINUTES_A_DAY).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(texts: &[&str], zone: &str) -> WorkHours {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        WorkHours::parse(&texts, Zone::parse(zone).unwrap()).unwrap()
    }

    /// 2026-09-21 is a Monday.
    fn outside(hours: &WorkHours, at: &str) -> bool {
        hours.is_outside(format!("2026-09-{at}:00Z").parse().unwrap())
    }

    #[test]
    fn the_begin_is_included_and_the_end_is_not() {
        let hours = hours(&["Mon-Fri 07:00-19:00", "sat 09:30-12:00"], "UTC");
        for (at, is_outside) in [
            ("21T06:59", true),
            ("21T07:00", false),
            ("21T18:59", false),
            ("21T19:00", true),
            ("25T12:00", false),
            ("26T09:29", true),
            ("26T09:30", false),
            ("26T12:00", true),
            ("27T10:00", true),
        ] {
            assert_eq!(outside(&hours, at), is_outside, "{at}");
        }
    }

    #[test]
    fn hours_over_midnight_belong_to_the_day_they_begin_on() {
        let hours = hours(&["Fri-Mon 22:00-06:00"], "UTC");
        for (at, is_outside) in [
            ("21T21:59", true),
            ("21T22:00", false),
            ("22T05:59", false),
            ("22T06:00", true),
            ("22T23:00", true),
            ("25T05:00", true),
            ("25T23:00", false),
            ("27T03:00", false),
        ] {
            assert_eq!(outside(&hours, at), is_outside, "{at}");
        }
    }

    #[test]
    fn the_zone_counts_for_day_and_hour() {
        let east = hours(&["Mon 00:00-24:00"], "Asia/Kolkata");
        assert!(!outside(&east, "20T18:30"));
        assert!(outside(&east, "20T18:29"));
        assert!(outside(&east, "21T18:30"));
        let west = hours(&["Mon 07:00-08:00"], "America/Panama");
        assert!(!outside(&west, "21T12:30"));
        assert!(outside(&west, "21T07:30"));
        let daily = hours(&["07:00-19:00"], "UTC");
        assert!(!outside(&daily, "27T10:00"));
        let off = hours(&[], "UTC");
        assert!(!outside(&off, "27T03:00"));
    }

    #[test]
    fn hours_follow_daylight_saving() {
        let hours = hours(&["Mon-Sun 07:00-19:00", "Sat 22:00-02:30"], "Europe/Berlin");
        let outside = |at: &str| hours.is_outside(format!("{at}:00Z").parse().unwrap());
        for (at, is_outside) in [
            // Summer: two hours ahead of UTC. Winter: one.
            ("2026-07-01T05:00", false),
            ("2026-07-01T04:59", true),
            ("2026-07-01T17:00", true),
            ("2026-12-01T05:59", true),
            ("2026-12-01T06:00", false),
            ("2026-12-01T17:59", false),
            // 02:00 to 03:00 is not there on 28 March 2027: 02:30 is never reached.
            ("2027-03-28T00:59", false),
            ("2027-03-28T01:00", true),
            // And twice on 25 October 2026: both times until 02:30.
            ("2026-10-25T00:29", false),
            ("2026-10-25T00:30", true),
            ("2026-10-25T01:29", false),
            ("2026-10-25T01:30", true),
        ] {
            assert_eq!(outside(at), is_outside, "{at}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Mon-Fri",
            "07:00",
            "Mon 7:00-19:00",
            "Mon 07:00-07:00",
            "Mon 24:00-07:00",
            "Mon 07:60-08:00",
            "Mon 07:00-24:01",
            "Mon 07:00 - 19:00",
            "Someday 07:00-19:00",
            "Mon-Fri-Sun 07:00-19:00",
            "Mon +7:00-19:00",
        ] {
            let parsed = WorkHours::parse(&[text.to_owned()], Zone::UTC);
            assert_eq!(parsed, None, "{text}");
        }
    }
}
