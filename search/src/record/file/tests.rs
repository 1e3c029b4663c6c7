//! Laws of the file: what is written is read, and what is damaged is refused.

use avsweep_domain::Point;

use super::*;
use crate::fixture::definition;
use crate::problem::{DomainShape, first_largest};
use crate::record::{GridBuilder, UNCLEAR};

fn builder() -> GridBuilder {
    let definition = definition(2, 1, 0);
    let domains =
        [("d0", 3), ("d1", 2)].map(|(name, queries)| DomainShape { name: name.to_owned(), queries });
    GridBuilder::new(definition.space, definition.levels, domains.to_vec()).expect("49 points")
}

fn scores(point: &Point) -> Vec<f32> {
    let at = point.to_f64();
    (0..15).map(|i| -1.0 - ((f64::from(i) + 40.0 * at[0] - 17.0 * at[1]).sin().abs()) as f32).collect()
}

fn points() -> Vec<Point> {
    definition(2, 1, 0).space.grid().collect()
}

fn grid(judged: bool) -> RecordedGrid {
    let mut builder = builder();
    for (index, point) in points().iter().enumerate().rev() {
        let levels = [0, 1, 2, UNCLEAR, (index % 3) as u8];
        builder.add(point, &scores(point), judged.then_some(&levels)).expect("a new point");
    }
    builder.build().expect("all points")
}

#[test]
fn a_written_grid_is_read_with_every_level_and_within_two_quanta() {
    let folder = std::env::temp_dir().join(format!("avsweep-grid-{}", std::process::id()));
    for judged in [false, true] {
        let grid = grid(judged);
        let path = folder.with_extension(format!("{judged}.avgrid"));
        grid.write(&path, 1e-3).expect("a writable folder");
        let read = RecordedGrid::read(&path).expect("what was written");
        std::fs::remove_file(&path).expect("the file is there");
        assert_eq!(
            (read.space(), read.levels(), read.domains()),
            (grid.space(), grid.levels(), grid.domains())
        );
        for (index, point) in points().iter().enumerate() {
            assert_eq!(grid.index(point), Some(index));
            assert_eq!(read.judged(index), grid.judged(index));
            for (read, written) in read.log_probs(index).chunks(3).zip(grid.log_probs(index).chunks(3)) {
                assert_eq!(first_largest(read), first_largest(written));
                assert!(read.iter().zip(written).all(|(read, written)| (read - written).abs() < 0.002_1));
            }
            let measured = read.measured(point).expect("on the grid");
            assert_eq!(measured.judged.is_some(), judged);
        }
        // What was rounded once stays as it is.
        assert_eq!(RecordedGrid::from_bytes(&read.to_bytes(1e-3).expect("bytes")).expect("a grid"), read);
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let bytes = grid(true).to_bytes(1e-3).expect("bytes");
    for length in 0..bytes.len() {
        let problem = RecordedGrid::from_bytes(&bytes[..length]).expect_err("cut off");
        assert!(matches!(problem, FileProblem::Truncated { .. }), "{length}: {problem}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(RecordedGrid::from_bytes(&longer), Err(FileProblem::TrailingBytes(1))));
}

#[test]
fn a_changed_byte_is_refused_and_said_to_be_what_it_is() {
    let bytes = grid(true).to_bytes(1e-3).expect("bytes");
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 0x10;
        assert!(RecordedGrid::from_bytes(&changed).is_err(), "byte {place}");
    }
    let with = |place: usize, byte: u8| {
        let mut changed = bytes.clone();
        changed[place] = byte;
        RecordedGrid::from_bytes(&changed).expect_err("changed").to_string()
    };
    assert!(with(0, b'x').contains("no recorded grid"));
    assert!(with(7, b'9').contains("format version 09 is found; this program reads version 01"));
    assert!(with(bytes.len() - 1, bytes[bytes.len() - 1] ^ 1).contains("checksum"));
}

#[test]
fn counts_that_do_not_fit_the_header_are_refused() {
    let bytes = grid(false).to_bytes(1e-3).expect("bytes");
    let length = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) as usize;
    let with_header = |from: &str, to: &str| {
        let header = String::from_utf8(bytes[12..12 + length].to_vec()).expect("JSON").replace(from, to);
        let mut changed = bytes[..8].to_vec();
        changed.extend((header.len() as u32).to_le_bytes());
        changed.extend(header.as_bytes());
        changed.extend(&bytes[12 + length..bytes.len() - 32]);
        let checksum = blake3::hash(&changed);
        changed.extend(checksum.as_bytes());
        RecordedGrid::from_bytes(&changed).expect_err(from).to_string()
    };
    assert_eq!(
        with_header("\"points\":49", "\"points\":48"),
        "48 points are found; 49 are wanted by the header"
    );
    let found = with_header("\"queries\":3", "\"queries\":4");
    assert_eq!(found, "735 log-probabilities are found; 882 are wanted by the header");
    assert!(with_header("\"queries\":3", "\"queries\":2").contains("bytes are left over"));
    assert!(with_header("\"judged\":false", "\"judged\":true").contains("0 judged levels are found; 245"));
    assert!(with_header("\"judged\"", "\"juged\"").contains("unknown field `juged`"));
    assert!(with_header("\"quantum\":0.001", "\"quantum\":0.0").contains("quantum is 0"));
}

#[test]
fn missing_doubled_and_foreign_points_are_named() {
    let points = points();
    let mut builder = builder();
    for point in &points[2..] {
        builder.add(point, &scores(point), None).expect("a new point");
    }
    let doubled = builder.add(&points[2], &scores(&points[2]), None).expect_err("doubled").to_string();
    assert_eq!(doubled, format!("point {} stands twice", points[2]));
    let foreign: Point = "0.005,0".parse().expect("a point");
    let error = builder.add(&foreign, &scores(&foreign), None).expect_err("off the grid").to_string();
    assert_eq!(error, "point 0.005,0 is not on the grid of coefficients alpha,beta");
    let short = builder.add(&points[0], &[-1.0; 14], None).expect_err("too few").to_string();
    assert_eq!(short, format!("point {} has 14 log-probabilities; 15 are wanted", points[0]));
    let mut positive = scores(&points[0]);
    positive[3] = f32::NAN;
    assert!(builder.add(&points[0], &positive, None).is_err());
    assert!(builder.add(&points[0], &scores(&points[0]), Some(&[0; 5])).is_err(), "judged here only");
    let missing = builder.build().expect_err("two are missing").to_string();
    let wanted =
        format!("2 of the grid's 49 points are missing, the first of them ({}), ({})", points[0], points[1]);
    assert!(missing.starts_with(&wanted), "{missing}");
}
