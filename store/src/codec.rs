//! Packed forms of points, scores and tallies, for stores that keep them as bytes.
//!
//! Integers are LEB128 (signed ones zigzag first), floats are little-endian IEEE, so that what comes out is bit for
//! bit what went in. Every form that may grow starts with a format byte; reading checks everything and never panics.

use avsweep_domain::{JudgementTally, LikelihoodTally, Point, QueryScore, ReferenceScore, Ticks};

/// Bytes that are none of the forms here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// The bytes end inside a value.
    #[error("it ends too early")]
    TooShort,
    /// Bytes are left over.
    #[error("{0} bytes too many")]
    TooLong(usize),
    /// A number that its field cannot hold.
    #[error("a number is too large for its field")]
    Overflow,
    /// An unknown format byte.
    #[error("format {0} is unknown")]
    Format(u8),
    /// A shape other than the sweep's.
    #[error("it holds {found} {what}; {wanted} are wanted")]
    Shape { what: &'static str, found: usize, wanted: usize },
    /// Ticks are four bytes each.
    #[error("{0} bytes of ticks are not a multiple of four")]
    Ticks(usize),
}

const FORMAT: u8 = 1;
const TICK_BYTES: usize = 4;

/// Bytes of a point with this many coefficients.
pub(crate) fn ticks_width(dimensions: usize) -> usize {
    dimensions * TICK_BYTES
}

/// Appends a point's ticks: big-endian with the sign bit flipped, so that bytes compare as points do.
pub(crate) fn push_ticks(point: &Point, into: &mut Vec<u8>) {
    for ticks in point.values() {
        into.extend_from_slice(&(ticks.get() as u32 ^ (1 << 31)).to_be_bytes());
    }
}

/// A point's ticks as bytes.
pub(crate) fn ticks(point: &Point) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ticks_width(point.dimensions()));
    push_ticks(point, &mut bytes);
    bytes
}

/// The point of some bytes from [`ticks`].
pub(crate) fn read_ticks(bytes: &[u8]) -> Result<Point, CodecError> {
    let (values, rest) = bytes.as_chunks::<TICK_BYTES>();
    if !rest.is_empty() {
        return Err(CodecError::Ticks(bytes.len()));
    }
    Ok(Point::new(
        values
            .iter()
            .map(|value| Ticks::new((u32::from_be_bytes(*value) ^ (1 << 31)) as i32))
            .collect::<Vec<_>>(),
    ))
}

/// A block of scores: per query its number in the store and one [`ReferenceScore`] per level.
pub(crate) fn score_block<'a>(
    levels: usize,
    scores: impl IntoIterator<Item = (i64, &'a QueryScore)>,
) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    push_unsigned(levels as u64, &mut bytes);
    for (query, score) in scores {
        push_signed(query, &mut bytes);
        for reference in &score.0 {
            bytes.extend_from_slice(&reference.log_prob_sum.to_le_bytes());
            push_unsigned(u64::from(reference.tokens), &mut bytes);
            push_unsigned(u64::from(reference.bytes), &mut bytes);
        }
    }
    bytes
}

/// Reads a block from [`score_block`], handing each query's number and scores on.
pub(crate) fn read_score_block(
    bytes: &[u8],
    levels: usize,
    mut each: impl FnMut(i64, QueryScore),
) -> Result<(), CodecError> {
    let mut reader = Reader::new(bytes)?;
    reader.shape("levels", levels)?;
    while !reader.bytes.is_empty() {
        let query = reader.signed()?;
        let mut references = Vec::with_capacity(levels);
        for _ in 0..levels {
            references.push(ReferenceScore {
                log_prob_sum: reader.float()?,
                tokens: reader.narrow()?,
                bytes: reader.narrow()?,
            });
        }
        each(query, QueryScore(references));
    }
    Ok(())
}

/// Likelihood tallies, one per domain.
pub(crate) fn likelihood_tallies(levels: usize, tallies: &[LikelihoodTally]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    push_unsigned(tallies.len() as u64, &mut bytes);
    push_unsigned(levels as u64, &mut bytes);
    for tally in tallies {
        push_unsigned(u64::from(tally.queries), &mut bytes);
        tally.counts.iter().flatten().for_each(|count| push_unsigned(u64::from(*count), &mut bytes));
        tally.mean_log_prob_micronats.iter().for_each(|sum| push_signed(*sum, &mut bytes));
    }
    bytes
}

/// Reads [`likelihood_tallies`].
pub(crate) fn read_likelihood_tallies(
    bytes: &[u8],
    domains: usize,
    levels: usize,
) -> Result<Vec<LikelihoodTally>, CodecError> {
    let mut reader = Reader::new(bytes)?;
    reader.shape("domains", domains)?;
    reader.shape("levels", levels)?;
    let mut tallies = Vec::with_capacity(domains);
    for _ in 0..domains {
        let mut tally = LikelihoodTally::new(levels);
        tally.queries = reader.narrow()?;
        for count in tally.counts.iter_mut().flatten() {
            *count = reader.narrow()?;
        }
        for sum in &mut tally.mean_log_prob_micronats {
            *sum = reader.signed()?;
        }
        tallies.push(tally);
    }
    reader.end()?;
    Ok(tallies)
}

/// Judgement tallies, one per domain.
pub(crate) fn judgement_tallies(levels: usize, tallies: &[JudgementTally]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    push_unsigned(tallies.len() as u64, &mut bytes);
    push_unsigned(levels as u64, &mut bytes);
    for tally in tallies {
        for count in [tally.queries, tally.unclear, tally.refused].iter().chain(&tally.counts) {
            push_unsigned(u64::from(*count), &mut bytes);
        }
    }
    bytes
}

/// Reads [`judgement_tallies`].
pub(crate) fn read_judgement_tallies(
    bytes: &[u8],
    domains: usize,
    levels: usize,
) -> Result<Vec<JudgementTally>, CodecError> {
    let mut reader = Reader::new(bytes)?;
    reader.shape("domains", domains)?;
    reader.shape("levels", levels)?;
    let mut tallies = Vec::with_capacity(domains);
    for _ in 0..domains {
        let mut tally = JudgementTally::new(levels);
        tally.queries = reader.narrow()?;
        tally.unclear = reader.narrow()?;
        tally.refused = reader.narrow()?;
        for count in &mut tally.counts {
            *count = reader.narrow()?;
        }
        tallies.push(tally);
    }
    reader.end()?;
    Ok(tallies)
}

fn push_unsigned(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn push_signed(value: i64, into: &mut Vec<u8>) {
    push_unsigned(((value << 1) ^ (value >> 63)) as u64, into);
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, CodecError> {
        match bytes.split_first() {
            None => Err(CodecError::TooShort),
            Some((&FORMAT, bytes)) => Ok(Self { bytes }),
            Some((&format, _)) => Err(CodecError::Format(format)),
        }
    }

    fn shape(&mut self, what: &'static str, wanted: usize) -> Result<(), CodecError> {
        let found = usize::try_from(self.unsigned()?).map_err(|_| CodecError::Overflow)?;
        if found == wanted { Ok(()) } else { Err(CodecError::Shape { what, found, wanted }) }
    }

    fn unsigned(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first().ok_or(CodecError::TooShort)?;
            self.bytes = rest;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return Err(CodecError::Overflow);
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError::Overflow)
    }

    fn narrow(&mut self) -> Result<u32, CodecError> {
        u32::try_from(self.unsigned()?).map_err(|_| CodecError::Overflow)
    }

    fn signed(&mut self) -> Result<i64, CodecError> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn float(&mut self) -> Result<f64, CodecError> {
        let (bytes, rest) = self.bytes.split_first_chunk::<8>().ok_or(CodecError::TooShort)?;
        self.bytes = rest;
        Ok(f64::from_le_bytes(*bytes))
    }

    fn end(&self) -> Result<(), CodecError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CodecError::TooLong(self.bytes.len())) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn points() -> impl Strategy<Value = Point> {
        prop::collection::vec(any::<i32>().prop_map(Ticks::new), 3).prop_map(Point::new)
    }

    proptest! {
        #[test]
        fn bytes_of_points_compare_as_points_do(a in points(), b in points()) {
            prop_assert_eq!(ticks(&a).cmp(&ticks(&b)), a.cmp(&b));
            prop_assert_eq!(read_ticks(&ticks(&a)), Ok(a));
        }

        #[test]
        fn scores_come_back_bit_for_bit(
            scores in prop::collection::vec(
                (any::<i64>(), prop::collection::vec((any::<f64>(), any::<u32>(), any::<u32>()), 3)),
                0..6,
            )
        ) {
            let scores: Vec<_> = scores
                .into_iter()
                .map(|(query, references)| {
                    let references = references.into_iter().map(|(log_prob_sum, tokens, bytes)| {
                        ReferenceScore { log_prob_sum, tokens, bytes }
                    });
                    (query, QueryScore(references.collect()))
                })
                .collect();
            let bytes = score_block(3, scores.iter().map(|(query, score)| (*query, score)));
            let mut read = Vec::new();
            read_score_block(&bytes, 3, |query, score| read.push((query, score))).expect("reads back");
            let bits = |scores: &[(i64, QueryScore)]| -> Vec<_> {
                scores
                    .iter()
                    .flat_map(|(query, score)| {
                        score.0.iter().map(|s| (*query, s.log_prob_sum.to_bits(), s.tokens, s.bytes))
                    })
                    .collect()
            };
            prop_assert_eq!(bits(&read), bits(&scores));
        }

        #[test]
        fn tallies_come_back(numbers in prop::collection::vec(any::<u32>(), 60), sums in prop::collection::vec(any::<i64>(), 6)) {
            let mut numbers = numbers.into_iter();
            let mut next = || numbers.next().unwrap_or_default();
            let likelihood: Vec<_> = (0..2)
                .map(|domain| LikelihoodTally {
                    queries: next(),
                    counts: std::array::from_fn(|_| vec![next(), next(), next()]),
                    mean_log_prob_micronats: sums[domain * 3..][..3].to_vec(),
                })
                .collect();
            let judgement: Vec<_> = (0..2)
                .map(|_| JudgementTally {
                    queries: next(),
                    counts: vec![next(), next(), next()],
                    unclear: next(),
                    refused: next(),
                })
                .collect();
            prop_assert_eq!(read_likelihood_tallies(&likelihood_tallies(3, &likelihood), 2, 3), Ok(likelihood));
            prop_assert_eq!(read_judgement_tallies(&judgement_tallies(3, &judgement), 2, 3), Ok(judgement));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read_ticks(&bytes);
            let _ = read_score_block(&bytes, 3, |_, _| ());
            let _ = read_likelihood_tallies(&bytes, 3, 3);
            let _ = read_judgement_tallies(&bytes, 3, 3);
        }
    }

    #[test]
    fn a_tally_of_another_shape_is_refused() {
        let bytes = judgement_tallies(3, &[JudgementTally::new(3)]);
        assert_eq!(
            read_judgement_tallies(&bytes, 2, 3),
            Err(CodecError::Shape { what: "domains", found: 1, wanted: 2 })
        );
        assert_eq!(read_judgement_tallies(&bytes[..4], 1, 3), Err(CodecError::TooShort));
    }
}
