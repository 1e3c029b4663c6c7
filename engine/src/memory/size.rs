//! Numbers of bytes as people write and read them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes: `12GiB`, `1.5 GB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Binary and decimal units; a bare `G` would be read either way.
const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let number: Option<f64> = digits.trim().parse().ok();
        let unit = UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(&text[digits.len()..]));
        match (number, unit) {
            (Some(number), Some((_, unit))) => {
                let bytes = number * *unit as f64;
                if (1.0..1e18).contains(&bytes) { Some(Self(bytes as u64)) } else { None }
            }
            _ => None,
        }
        .ok_or_else(|| format!("`{text}`, wanted a size in MiB, GiB, TiB, MB, GB, TB or bytes, as in 12GiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(formatter, "{} B", self.0),
            1024..0x10_0000 => write!(formatter, "{:.1} KiB", bytes / 1024.0),
            0x10_0000..0x4000_0000 => write!(formatter, "{:.1} MiB", bytes / f64::from(1 << 20)),
            _ => write!(formatter, "{:.2} GiB", bytes / f64::from(1 << 30)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_unmistakable_units_only() {
        for (text, bytes) in [
            ("12GiB", 12 << 30),
            ("1.5 GiB", 3 << 29),
            ("500MB", 500_000_000),
            ("4096", 4096),
            ("64 kib", 64 << 10),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for wrong in
            ["", "GiB", "12G", "-1GiB", "0", "nan", "inf", "1e30GiB", "12 GiB GiB", "0x10", "12Gib/s"]
        {
            let error = wrong.parse::<ByteSize>().expect_err("not a size");
            assert!(error.contains(wrong) && error.contains("12GiB"), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_suits_them() {
        let shown = [0, 1000, 2048, 538 << 20, 3 << 29].map(|bytes| ByteSize(bytes).to_string());
        assert_eq!(shown, ["0 B", "1000 B", "2.0 KiB", "538.0 MiB", "1.50 GiB"]);
    }
}
