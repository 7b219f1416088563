//! `strftime` in the C locale, as Python has it.

/// Days and months, as they are written. Their first three letters are the short forms.
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const SECONDS_IN_DAY: i64 = 86_400;

/// Seconds since 1970 began, of the host's clock.
pub(super) fn now() -> i64 {
    use web_time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A moment, by the calendar.
struct Moment {
    /// Seconds since 1970 began.
    seconds: i64,
    year: i64,
    /// From 1.
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// From Sunday, 0.
    weekday: i64,
    /// From 1.
    day_of_year: i64,
}

/// How a number is written.
#[derive(Clone, Copy)]
enum Fill {
    Zeros,
    Spaces,
    None,
}

/// Writes a moment, in seconds since 1970 began, by a format.
///
/// # Errors
/// Names the directive that is not known, or says that the moment is not within the years 1 to 9999.
pub(super) fn format(seconds: i64, format: &str) -> Result<String, String> {
    let moment = Moment::new(seconds);
    if !(1..=9999).contains(&moment.year) {
        return Err(format!("the time {seconds} s is not within the years 1 to 9999"));
    }
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut directive = rest.next();
        let (mut fill, mut is_upper) = (None, false);
        while let Some(flag @ ('-' | '_' | '0' | '^')) = directive {
            match flag {
                '-' => fill = Some(Fill::None),
                '_' => fill = Some(Fill::Spaces),
                '0' => fill = Some(Fill::Zeros),
                _ => is_upper = true,
            }
            directive = rest.next();
        }
        let known = directive.and_then(|directive| moment.write(directive, fill));
        let written = known.ok_or_else(|| {
            let directive = directive.map_or(String::new(), String::from);
            format!("strftime has no %{directive} (in {format:?})")
        })?;
        text.push_str(&if is_upper { written.to_uppercase() } else { written });
    }
    Ok(text)
}

impl Moment {
    fn new(seconds: i64) -> Self {
        let (days, within) =
            (seconds.div_euclid(SECONDS_IN_DAY), seconds.rem_euclid(SECONDS_IN_DAY));
        // Years that begin with March, in eras of 400: the leap day is the last of its year.
        let shifted = days + 719_468;
        let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let from_march = (5 * day + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = 400 * era + year + i64::from(month <= 2);
        let day = day - (153 * from_march + 2) / 5 + 1;
        Self {
            seconds,
            year,
            month,
            day,
            hour: within / 3600,
            minute: within / 60 % 60,
            second: within % 60,
            weekday: (days + 4).rem_euclid(7),
            day_of_year: days_before(year, month) + day,
        }
    }

    fn write(&self, directive: char, fill: Option<Fill>) -> Option<String> {
        let number = |value: i64, width: usize, usual: Fill| {
            Some(match fill.unwrap_or(usual) {
                Fill::Zeros => format!("{value:0width$}"),
                Fill::Spaces => format!("{value:width$}"),
                Fill::None => value.to_string(),
            })
        };
        let two = |value| number(value, 2, Fill::Zeros);
        let all = |format| self::format(self.seconds, format).ok();
        let day = DAYS[self.weekday as usize];
        let month = MONTHS[self.month as usize - 1];
        let hour = (self.hour + 11) % 12 + 1;
        let half = if self.hour < 12 { "AM" } else { "PM" };
        let (iso_year, iso_week) = self.iso_week();
        match directive {
            'a' => Some(day[..3].to_owned()),
            'A' => Some(day.to_owned()),
            'b' | 'h' => Some(month[..3].to_owned()),
            'B' => Some(month.to_owned()),
            'c' => all("%a %b %e %H:%M:%S %Y"),
            'C' => two(self.year / 100),
            'd' => two(self.day),
            'D' | 'x' => all("%m/%d/%y"),
            'e' => number(self.day, 2, Fill::Spaces),
            'f' => Some("000000".to_owned()),
            'F' => all("%Y-%m-%d"),
            'g' => two(iso_year % 100),
            'G' => number(iso_year, 4, Fill::Zeros),
            'H' => two(self.hour),
            'I' => two(hour),
            'j' => number(self.day_of_year, 3, Fill::Zeros),
            'k' => number(self.hour, 2, Fill::Spaces),
            'l' => number(hour, 2, Fill::Spaces),
            'm' => two(self.month),
            'M' => two(self.minute),
            'n' => Some("\n".to_owned()),
            'p' => Some(half.to_owned()),
            'P' => Some(half.to_lowercase()),
            'r' => all("%I:%M:%S %p"),
            'R' => all("%H:%M"),
            's' => Some(self.seconds.to_string()),
            'S' => two(self.second),
            't' => Some("\t".to_owned()),
            'T' | 'X' => all("%H:%M:%S"),
            'u' => number((self.weekday + 6) % 7 + 1, 1, Fill::Zeros),
            'U' => two((self.day_of_year + 6 - self.weekday) / 7),
            'V' => two(iso_week),
            'w' => number(self.weekday, 1, Fill::Zeros),
            'W' => two((self.day_of_year + 6 - (self.weekday + 6) % 7) / 7),
            'y' => two(self.year % 100),
            'Y' => number(self.year, 4, Fill::Zeros),
            // A time of no zone.
            'z' | 'Z' => Some(String::new()),
            '%' => Some("%".to_owned()),
            _ => None,
        }
    }

    /// Year and week of ISO 8601: weeks begin on Monday, the first has the year's first Thursday.
    fn iso_week(&self) -> (i64, i64) {
        let weekday = (self.weekday + 6) % 7;
        let week = (self.day_of_year - weekday + 9) / 7;
        if week < 1 {
            return (self.year - 1, weeks_in(self.year - 1));
        }
        if week > weeks_in(self.year) { (self.year + 1, 1) } else { (self.year, week) }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days of a year before a month.
fn days_before(year: i64, month: i64) -> i64 {
    const DAYS: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    DAYS[month as usize - 1] + i64::from(is_leap(year) && month > 2)
}

/// Weeks of a year of ISO 8601: 53 where it begins or ends with a Thursday.
fn weeks_in(year: i64) -> i64 {
    let last_weekday = |year: i64| (year + year / 4 - year / 100 + year / 400).rem_euclid(7);
    if last_weekday(year) == 4 || last_weekday(year - 1) == 3 { 53 } else { 52 }
}
