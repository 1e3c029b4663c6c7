//! Keys and values of one sequence, kept between generated tokens.

use crate::kernels::{PANEL, PackedHead, head_sizes, store_position};
use crate::model::ModelConfig;

/// Sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheShape {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Positions, a multiple of the panel width.
    capacity: usize,
}

impl CacheShape {
    /// Room for `positions` tokens.
    pub(crate) fn new(config: &ModelConfig, positions: usize) -> Self {
        Self {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            capacity: positions.next_multiple_of(PANEL),
        }
    }

    /// Bytes of such a cache.
    pub(crate) fn bytes(&self) -> u64 {
        let (keys, values) = head_sizes(self.head_dim, self.capacity);
        (self.layers * self.kv_heads * (keys + values) * size_of::<f32>()) as u64
    }
}

/// Preallocated keys and values of all layers and heads, each head in the layout that attention reads.
pub(crate) struct KvCache {
    shape: CacheShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    /// An empty cache.
    pub(crate) fn new(shape: CacheShape) -> Self {
        let (keys, values) = head_sizes(shape.head_dim, shape.capacity);
        let heads = shape.layers * shape.kv_heads;
        Self { shape, keys: vec![0.0; heads * keys], values: vec![0.0; heads * values] }
    }

    /// Stores one position of one layer: `row` holds the keys of all heads, then the values.
    pub(crate) fn store(&mut self, layer: usize, position: usize, row: &[f32]) {
        let CacheShape { kv_heads, head_dim, capacity, .. } = self.shape;
        let (key_size, value_size) = head_sizes(head_dim, capacity);
        let (keys, values) = row.split_at(kv_heads * head_dim);
        for (head, (key, value)) in keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim)).enumerate()
        {
            let index = layer * kv_heads + head;
            let keys = &mut self.keys[index * key_size..(index + 1) * key_size];
            let values = &mut self.values[index * value_size..(index + 1) * value_size];
            store_position(keys, values, capacity, position, (key, value));
        }
    }

    /// Keys and values of one head.
    pub(crate) fn head(&self, layer: usize, head: usize) -> PackedHead<'_> {
        let CacheShape { kv_heads, head_dim, capacity, .. } = self.shape;
        let (key_size, value_size) = head_sizes(head_dim, capacity);
        let index = layer * kv_heads + head;
        PackedHead {
            keys: &self.keys[index * key_size..(index + 1) * key_size],
            values: &self.values[index * value_size..(index + 1) * value_size],
            head_dim,
            capacity,
        }
    }
}
