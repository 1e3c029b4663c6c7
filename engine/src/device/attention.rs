//! Attention over a packed forest, in groups of segments of about one size.
//!
//! A job is a block of a segment's rows with the path that they see. Jobs are sorted by size, and those of a group
//! padded to its largest; everything else in the decoder works on packed rows without padding.

use crate::decoder::Forest;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

/// Rows of a segment that are computed together: bounds the scores of a long prompt, and spares half of those that
/// the causal mask would hide.
pub(super) const QUERY_ROWS: usize = 512;
/// Most scores (per head) of a group: bounds memory.
pub(super) const GROUP_SCORES: usize = 1 << 22;
/// Most keys that are gathered for a group: bounds memory where few queries each see much.
pub(super) const GROUP_KEYS: usize = 1 << 17;
/// Padding that is allowed whatever its share: so few scores cost less than another group's kernels.
pub(super) const FREE_SCORES: usize = 1 << 16;

/// Sizes of the heads, and what is done to scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Factor on query · key.
    pub(super) scale: f32,
    /// Scaled scores s become c · tanh(s / c).
    pub(super) softcap: Option<f32>,
}

/// Some rows of a segment, and what they see.
struct Job {
    /// Positions in the list of wanted rows.
    queries: Vec<u32>,
    /// Position in the sequence of each query.
    positions: Vec<usize>,
    /// Rows of the forest, from the root on.
    keys: Vec<u32>,
}

/// Jobs that are computed together.
struct Group {
    jobs: usize,
    queries: usize,
    keys: usize,
    /// Positions in the list of wanted rows, `[jobs · queries]`.
    query_rows: Tensor,
    /// Rows of the forest, `[jobs · keys]`.
    key_rows: Tensor,
    sight: Sight,
}

/// What each of some rows sees of a path: made into a mask where one is needed, for all masks of a long prompt together
/// are larger than the scores of one layer.
pub(super) struct Sight {
    /// Position of each row, u32 `[rows, 1]`.
    positions: Tensor,
    /// Positions on the path, u32 `[1, keys]`.
    keys: Tensor,
    /// 0 and −∞, `[1, 1]`.
    seen: Tensor,
    hidden: Tensor,
}

impl Sight {
    /// Of rows at these positions (u32, one-dimensional), along paths of `keys` positions.
    pub(super) fn new(positions: &Tensor, keys: usize, dtype: DType) -> Result<Self> {
        let device = positions.device();
        Ok(Self {
            positions: positions.unsqueeze(1)?,
            keys: Tensor::arange(0, keys as u32, device)?.unsqueeze(0)?,
            seen: Tensor::zeros((1, 1), dtype, device)?,
            hidden: Tensor::full(f32::NEG_INFINITY, (1, 1), device)?.to_dtype(dtype)?,
        })
    }

    /// 0 where a row sees under a window, −∞ where it does not, `[rows, keys]`.
    pub(super) fn mask(&self, window: Option<usize>) -> Result<Tensor> {
        let mut visible = self.keys.broadcast_le(&self.positions)?;
        if let Some(window) = window {
            // position − key < window.
            let last = (self.keys.to_dtype(DType::F32)? + window as f64)?;
            visible = (visible * last.broadcast_gt(&self.positions.to_dtype(DType::F32)?)?)?;
        }
        let shape = visible.shape();
        visible.where_cond(&self.seen.broadcast_as(shape)?, &self.hidden.broadcast_as(shape)?)
    }
}

/// How the wanted rows of a forest attend: a function of the forest, used by every layer.
pub(super) struct AttentionPlan {
    groups: Vec<Group>,
    /// Where each wanted row is among the groups' outputs.
    order: Tensor,
}

impl AttentionPlan {
    /// Plans attention for the `wanted` rows (ascending).
    pub(super) fn new(forest: &Forest, wanted: &[u32], dtype: DType, device: &Device) -> Result<Self> {
        let mut jobs = jobs(forest, wanted);
        // Largest first; the sort is stable, so that the plan is a function of the forest.
        jobs.sort_by_key(|job| std::cmp::Reverse((job.keys.len(), job.queries.len())));
        let mut groups = Vec::new();
        let mut order = vec![0_u32; wanted.len()];
        let (mut rest, mut start) = (jobs.as_slice(), 0);
        while !rest.is_empty() {
            let (group, later) = rest.split_at(group_size(rest));
            let queries = group.iter().map(|job| job.queries.len()).max().unwrap_or(0);
            for (index, job) in group.iter().enumerate() {
                for (row, query) in job.queries.iter().enumerate() {
                    order[*query as usize] = (start + index * queries + row) as u32;
                }
            }
            start += group.len() * queries;
            groups.push(Group::new(group, queries, dtype, device)?);
            rest = later;
        }
        let order = Tensor::from_vec(order, wanted.len(), device)?;
        Ok(Self { groups, order })
    }

    /// Attention of the wanted rows, `[wanted, heads · head_dim]`, from their queries `[wanted, heads, head_dim]` and
    /// all rows' keys and values, `[rows, kv_heads, head_dim]`.
    pub(super) fn run(
        &self,
        heads: Heads,
        window: Option<usize>,
        queries: &Tensor,
        (keys, values): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let mixed = self
            .groups
            .iter()
            .map(|group| group.run(heads, window, queries, keys, values))
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&mixed, 0)?.index_select(&self.order, 0)
    }
}

/// The wanted rows, segment by segment, cut into blocks.
fn jobs(forest: &Forest, wanted: &[u32]) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut path = Vec::new();
    let mut from = 0;
    for (index, segment) in forest.segments.iter().enumerate() {
        let count = wanted[from..].partition_point(|&row| (row as usize) < segment.rows.end);
        if count == 0 {
            continue;
        }
        forest.path(index, &mut path);
        let keys: Vec<u32> = path.iter().cloned().flatten().map(|row| row as u32).collect();
        for first in (from..from + count).step_by(QUERY_ROWS) {
            let queries: Vec<u32> =
                (first..(from + count).min(first + QUERY_ROWS)).map(|at| at as u32).collect();
            let positions: Vec<usize> = queries
                .iter()
                .map(|&at| segment.start + wanted[at as usize] as usize - segment.rows.start)
                .collect();
            let seen = positions.last().map_or(0, |last| last + 1);
            jobs.push(Job { queries, positions, keys: keys[..seen].to_vec() });
        }
        from += count;
    }
    jobs
}

/// How many of the sorted jobs make the next group: as many as keep its padding under a tenth, or negligible.
fn group_size(jobs: &[Job]) -> usize {
    let (mut own, mut queries, mut keys) = (0, 0, 0);
    for (index, job) in jobs.iter().enumerate() {
        own += job.queries.len() * job.keys.len();
        queries = queries.max(job.queries.len());
        keys = keys.max(job.keys.len());
        let padded = (index + 1) * queries * keys;
        let over = padded > GROUP_SCORES || (index + 1) * keys > GROUP_KEYS;
        if index > 0 && (over || padded - own > own / 10 + FREE_SCORES) {
            return index;
        }
    }
    jobs.len()
}

impl Group {
    fn new(jobs: &[Job], queries: usize, dtype: DType, device: &Device) -> Result<Self> {
        let keys = jobs.iter().map(|job| job.keys.len()).max().unwrap_or(0);
        let padded = |rows: &[u32], length: usize| {
            let fill = rows.first().copied().unwrap_or(0);
            rows.iter().copied().chain(std::iter::repeat(fill)).take(length).collect::<Vec<_>>()
        };
        let query_rows: Vec<u32> = jobs.iter().flat_map(|job| padded(&job.queries, queries)).collect();
        let key_rows: Vec<u32> = jobs.iter().flat_map(|job| padded(&job.keys, keys)).collect();
        // A padding row sees what the job's first row sees; nobody reads it.
        let position = |job: &Job, row: usize| *job.positions.get(row).unwrap_or(&job.positions[0]) as u32;
        let positions: Vec<u32> =
            jobs.iter().flat_map(|job| (0..queries).map(move |row| position(job, row))).collect();
        let positions = Tensor::from_vec(positions, jobs.len() * queries, device)?;
        Ok(Self {
            jobs: jobs.len(),
            queries,
            keys,
            query_rows: Tensor::from_vec(query_rows, jobs.len() * queries, device)?,
            key_rows: Tensor::from_vec(key_rows, jobs.len() * keys, device)?,
            sight: Sight::new(&positions, keys, dtype)?,
        })
    }

    /// Padded attention, `[jobs · queries, heads · head_dim]`.
    fn run(
        &self,
        heads: Heads,
        window: Option<usize>,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Tensor> {
        let Self { jobs, queries: count, keys: seen, .. } = *self;
        let Heads { heads: all, kv_heads, head_dim, .. } = heads;
        let group = all / kv_heads;
        let queries = queries
            .index_select(&self.query_rows, 0)?
            .reshape((jobs, count, all, head_dim))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((jobs, kv_heads, group * count, head_dim))?;
        let gather = |rows: &Tensor| {
            rows.index_select(&self.key_rows, 0)?
                .reshape((jobs, seen, kv_heads, head_dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let scores = queries.matmul(&gather(keys)?.t()?)?.reshape((jobs, all, count, seen))?;
        let mask = self.sight.mask(window)?.reshape((jobs, 1, count, seen))?;
        let weights = heads.weights(&scores, &mask)?;
        weights
            .reshape((jobs, kv_heads, group * count, seen))?
            .matmul(&gather(values)?)?
            .reshape((jobs, all, count, head_dim))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((jobs * count, all * head_dim))
    }
}

impl Heads {
    /// From products of queries and keys to the weights of values: scaled, capped, masked, normalised.
    pub(super) fn weights(&self, products: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let scale = f64::from(self.scale);
        let scores = match self.softcap.map(f64::from) {
            None => (products * scale)?,
            Some(cap) => ((products * (scale / cap))?.tanh()? * cap)?,
        };
        softmax_last_dim(&scores.broadcast_add(mask)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::ForestBuilder;

    #[test]
    fn padding_of_large_jobs_stays_under_a_tenth_and_every_row_has_one_job() {
        let mut builder = ForestBuilder::default();
        for (sequence, length) in (0_u32..).zip([900, 3, 470, 480, 12, 490, 40, 45]) {
            let tokens: Vec<u32> = (0..length).map(|at| sequence * 10_000 + at).collect();
            let prompt = builder.insert(None, &tokens);
            for reference in 0..3 {
                let tokens = [5_000_000 + reference, 1, 2];
                builder.insert(prompt.last().copied(), &tokens[..1 + reference as usize % 3]);
            }
        }
        let (forest, _) = builder.finish();
        let every: Vec<u32> = (0..forest.tokens.len() as u32).collect();
        let mut jobs = jobs(&forest, &every);
        let mut rows: Vec<u32> = jobs.iter().flat_map(|job| job.queries.clone()).collect();
        rows.sort_unstable();
        assert_eq!(rows, every);
        jobs.sort_by_key(|job| std::cmp::Reverse((job.keys.len(), job.queries.len())));
        let mut rest = jobs.as_slice();
        while !rest.is_empty() {
            let (group, later) = rest.split_at(group_size(rest));
            let own: usize = group.iter().map(|job| job.queries.len() * job.keys.len()).sum();
            let queries = group.iter().map(|job| job.queries.len()).max().expect("a group has jobs");
            let keys = group.iter().map(|job| job.keys.len()).max().expect("a group has jobs");
            assert!(group.len() * queries * keys - own <= own / 10 + FREE_SCORES);
            rest = later;
        }
    }
}
