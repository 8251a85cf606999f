//! What templates expect of Python: exceptions, `json.dumps`, `repr` of floats and `strftime`.

use std::fmt::Write as _;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::Formatter;

/// Serialises as `json.dumps(value, ensure_ascii=False, indent=indent)` does.
///
/// minijinja's own filter escapes `<`, `>`, `&` and `'` for HTML, which would change the prompt.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get("indent")?;
    // Asking for the default is common; anything else must not be ignored.
    if options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or(false)
    {
        return Err(invalid("tojson(ensure_ascii=true) is not supported"));
    }
    options.assert_all_used()?;
    let mut out = Vec::new();
    let style = PythonJson {
        indent,
        depth: 0,
        is_empty: true,
    };
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, style))
        .map_err(|error| invalid("tojson").with_source(error))?;
    Ok(String::from_utf8(out).expect("serde_json writes UTF-8"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Ends rendering with the template's own message.
pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(invalid(message))
}

/// The layout of `json.dumps`: `", "` and `": "`, or one item per line.
struct PythonJson {
    indent: Option<usize>,
    depth: usize,
    /// Whether the container being written has no items yet.
    is_empty: bool,
}

impl PythonJson {
    fn open<W: io::Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        out.write_all(bracket)
    }

    fn close<W: io::Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.break_line(out)?;
        }
        self.is_empty = false; // the container itself is an item of its parent
        out.write_all(bracket)
    }

    fn begin_item<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.is_empty = false;
        match (first, self.indent) {
            (false, None) => out.write_all(b", ")?,
            (false, Some(_)) => out.write_all(b",")?,
            (true, _) => {}
        }
        self.break_line(out)
    }

    fn break_line<W: io::Write + ?Sized>(&self, out: &mut W) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(out, "\n{:1$}", "", width * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for PythonJson {
    fn write_f64<W: io::Write + ?Sized>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(float_repr(value).as_bytes())
    }

    fn begin_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_item(out, first)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_item(out, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// Formats a finite float as Python's `repr`: the shortest digits that round-trip, in scientific
/// notation below 1e-4 and from 1e16 on.
fn float_repr(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

/// Formats a time in UTC like Python's `datetime.strftime`, for the directives of dates and times.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let time = CivilTime::from(now);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let directive = rest.next().unwrap_or('%');
        if directive == '-' {
            let padded = time.field(rest.next().unwrap_or('-'))?;
            let bare = padded.trim_start_matches('0');
            out.push_str(if bare.is_empty() { "0" } else { bare });
        } else {
            out.push_str(&time.field(directive)?);
        }
    }
    Ok(out)
}

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
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

/// A UTC time in calendar fields.
struct CivilTime {
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    /// From Sunday, which is 0.
    weekday: usize,
    second_of_day: u64,
}

impl From<SystemTime> for CivilTime {
    /// Times before 1970 read as its first second: clocks, not history, are shown.
    fn from(time: SystemTime) -> Self {
        let seconds = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut day = seconds / 86_400;
        let weekday = ((day + 4) % 7) as usize; // 1970-01-01 was a Thursday
        let mut year = 1970;
        while day >= days_in_year(year) {
            day -= days_in_year(year);
            year += 1;
        }
        let mut month = 0;
        while day >= days_in_month(year, month) {
            day -= days_in_month(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: day + 1,
            weekday,
            second_of_day: seconds % 86_400,
        }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in_month(year: u64, month: usize) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

impl CivilTime {
    fn field(&self, directive: char) -> Result<String, Error> {
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let mut out = String::new();
        match directive {
            'Y' => write!(out, "{}", self.year),
            'y' => write!(out, "{:02}", self.year % 100),
            'm' => write!(out, "{:02}", self.month + 1),
            'B' => write!(out, "{}", MONTHS[self.month]),
            'b' => write!(out, "{}", &MONTHS[self.month][..3]),
            'd' => write!(out, "{:02}", self.day),
            'A' => write!(out, "{}", WEEKDAYS[self.weekday]),
            'a' => write!(out, "{}", &WEEKDAYS[self.weekday][..3]),
            'H' => write!(out, "{hour:02}"),
            'I' => write!(out, "{:02}", (hour + 11) % 12 + 1),
            'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            'M' => write!(out, "{minute:02}"),
            'S' => write!(out, "{:02}", self.second_of_day % 60),
            '%' => write!(out, "%"),
            other => {
                return Err(invalid(format!(
                    "strftime_now: unknown directive `%{other}`"
                )));
            }
        }
        .expect("writing to a string does not fail");
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn floats_look_as_python_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (0.0, "0.0"),
            (-0.5, "-0.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e20, "1.5e+20"),
            (-0.0, "-0.0"),
            (1e-7, "1e-07"),
            (123456.789, "123456.789"),
            (1e100, "1e+100"),
        ];
        for (value, expected) in cases {
            assert_eq!(float_repr(value), expected);
        }
    }

    #[test]
    fn a_known_instant_formats_as_python_does() {
        let leap_day = UNIX_EPOCH + Duration::from_secs(1_709_211_845); // 2024-02-29T13:04:05Z
        let format = "%A %a %d %B %b %m %Y %y %H:%I:%M:%S %p %-d %-I %%";
        assert_eq!(
            strftime(leap_day, format).unwrap(),
            "Thursday Thu 29 February Feb 02 2024 24 13:01:04:05 PM 29 1 %",
        );
    }

    #[test]
    fn an_unknown_directive_is_refused() {
        let error = strftime(UNIX_EPOCH, "%Q").unwrap_err();
        assert!(error.to_string().contains("%Q"), "{error}");
    }
}
