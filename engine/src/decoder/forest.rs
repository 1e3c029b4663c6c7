//! Many token sequences as one forest: what sequences share from their start is computed once.
//!
//! Every sequence is a path from a root. A token's keys, values and hidden state depend on the tokens before it
//! only, so sequences that begin alike share rows: the references of a query share its prompt, and queries share
//! the template's opening. The rows of all sequences lie packed, without padding.

use std::ops::Range;

/// A token of the forest, by the order of insertion.
pub(crate) type NodeId = u32;

/// A run of tokens without branches inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The segment that this one continues.
    pub(crate) parent: Option<usize>,
    /// Its rows, adjacent and in order.
    pub(crate) rows: Range<usize>,
    /// Positions before its first token.
    pub(crate) start: usize,
}

/// Packed rows and the segments over them. A parent's segment comes before its children's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forest {
    /// Token of each row.
    pub(crate) tokens: Vec<u32>,
    /// Position of each row in its sequence.
    pub(crate) positions: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
}

impl Forest {
    /// Row ranges from the root to the end of `segment`, in order.
    pub(crate) fn path(&self, segment: usize, path: &mut Vec<Range<usize>>) {
        path.clear();
        let mut next = Some(segment);
        while let Some(index) = next {
            path.push(self.segments[index].rows.clone());
            next = self.segments[index].parent;
        }
        path.reverse();
    }
}

#[derive(Debug)]
struct Node {
    token: u32,
    parent: Option<NodeId>,
    first_child: Option<NodeId>,
    next_sibling: Option<NodeId>,
}

/// Collects sequences, sharing common beginnings.
#[derive(Debug, Default)]
pub(crate) struct ForestBuilder {
    nodes: Vec<Node>,
    first_root: Option<NodeId>,
}

impl ForestBuilder {
    /// Inserts `tokens` after `parent` (or as a new sequence) and returns the node of each.
    pub(crate) fn insert(&mut self, parent: Option<NodeId>, tokens: &[u32]) -> Vec<NodeId> {
        let mut parent = parent;
        tokens
            .iter()
            .map(|&token| {
                let node = self.child(parent, token);
                parent = Some(node);
                node
            })
            .collect()
    }

    /// Tokens held so far.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The child of `parent` with this token, added as the last one when there is none.
    fn child(&mut self, parent: Option<NodeId>, token: u32) -> NodeId {
        let mut last = None;
        let mut next = match parent {
            Some(parent) => self.nodes[parent as usize].first_child,
            None => self.first_root,
        };
        while let Some(node) = next {
            if self.nodes[node as usize].token == token {
                return node;
            }
            last = Some(node);
            next = self.nodes[node as usize].next_sibling;
        }
        let node = u32::try_from(self.nodes.len()).expect("a batch holds fewer than 2^32 tokens");
        self.nodes.push(Node { token, parent, first_child: None, next_sibling: None });
        match (last, parent) {
            (Some(last), _) => self.nodes[last as usize].next_sibling = Some(node),
            (None, Some(parent)) => self.nodes[parent as usize].first_child = Some(node),
            (None, None) => self.first_root = Some(node),
        }
        node
    }

    /// Lays the tokens out in rows, depth first, and returns the row of each node.
    pub(crate) fn finish(&self) -> (Forest, Vec<u32>) {
        let mut forest = Forest::default();
        let mut row_of = vec![0; self.nodes.len()];
        // (first node of a segment, its parent segment), the next one to lay out last.
        let mut pending: Vec<(NodeId, Option<usize>)> = Vec::new();
        self.push_children(self.first_root, None, &mut pending);
        while let Some((first, parent)) = pending.pop() {
            let start = parent.map_or(0, |parent| {
                let parent: &Segment = &forest.segments[parent];
                parent.start + parent.rows.len()
            });
            let first_row = forest.tokens.len();
            let mut node = first;
            loop {
                let row = forest.tokens.len();
                row_of[node as usize] = row as u32;
                forest.tokens.push(self.nodes[node as usize].token);
                forest.positions.push((start + row - first_row) as u32);
                match self.nodes[node as usize].first_child {
                    Some(only) if self.nodes[only as usize].next_sibling.is_none() => node = only,
                    _ => break,
                }
            }
            forest.segments.push(Segment { parent, rows: first_row..forest.tokens.len(), start });
            let segment = forest.segments.len() - 1;
            self.push_children(self.nodes[node as usize].first_child, Some(segment), &mut pending);
        }
        (forest, row_of)
    }

    fn push_children(
        &self,
        first: Option<NodeId>,
        parent: Option<usize>,
        pending: &mut Vec<(NodeId, Option<usize>)>,
    ) {
        let from = pending.len();
        let mut next = first;
        while let Some(node) = next {
            debug_assert_eq!(
                self.nodes[node as usize].parent.is_none(),
                parent.is_none(),
                "roots hang on nothing, children on a segment"
            );
            pending.push((node, parent));
            next = self.nodes[node as usize].next_sibling;
        }
        pending[from..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The tokens on the way to a row.
    fn sequence_to(forest: &Forest, row: usize) -> Vec<u32> {
        let segment = forest
            .segments
            .iter()
            .position(|segment| segment.rows.contains(&row))
            .expect("every row has one");
        let mut path = Vec::new();
        forest.path(segment, &mut path);
        path.into_iter()
            .flatten()
            .take_while(|&at| at <= row || !forest.segments[segment].rows.contains(&at))
            .map(|at| forest.tokens[at])
            .collect()
    }

    proptest! {
        #[test]
        fn every_sequence_is_a_path_and_nothing_is_held_twice(
            sequences in prop::collection::vec(prop::collection::vec(0_u32..3, 1..8), 1..12)
        ) {
            let mut builder = ForestBuilder::default();
            let nodes: Vec<_> = sequences.iter().map(|tokens| builder.insert(None, tokens)).collect();
            let (forest, row_of) = builder.finish();
            for (tokens, nodes) in sequences.iter().zip(&nodes) {
                for (position, node) in nodes.iter().enumerate() {
                    let row = row_of[*node as usize] as usize;
                    prop_assert_eq!(forest.positions[row] as usize, position);
                    prop_assert_eq!(&sequence_to(&forest, row), &tokens[..=position]);
                }
            }
            let prefixes: std::collections::HashSet<&[u32]> =
                sequences.iter().flat_map(|tokens| (1..=tokens.len()).map(|end| &tokens[..end])).collect();
            prop_assert_eq!(forest.tokens.len(), prefixes.len());
            prop_assert_eq!(forest.segments.iter().map(|segment| segment.rows.len()).sum::<usize>(), forest.tokens.len());
        }
    }
}
