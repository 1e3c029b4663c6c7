//! Verdicts in memory: what was judged is not judged again, and what is being judged is waited for.
//!
//! The store is what makes verdicts last; this saves requests within one process.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use avsweep_domain::{Fingerprint, Verdict};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use crate::error::JudgeError;

type Judging = BoxFuture<'static, Result<Verdict, JudgeError>>;

/// Verdicts by item, bounded, first in first out.
#[derive(Debug)]
pub(crate) struct VerdictCache {
    capacity: usize,
    entries: Mutex<Entries>,
    hits: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Fingerprint, Entry>,
    /// Keys in the order they came; a key whose judging failed stays until its turn.
    order: VecDeque<Fingerprint>,
}

#[derive(Debug)]
enum Entry {
    Done(Verdict),
    /// Dead when everyone who waited for it has gone.
    UnderWay(WeakShared<Judging>),
}

impl VerdictCache {
    /// A cache of at most `capacity` items (at least one).
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity: capacity.max(1),
            entries: Mutex::new(Entries::default()),
            hits: AtomicU64::new(0),
        })
    }

    /// How many times a verdict was found or waited for instead of asked for.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The item's verdict: the one there is, the one under way, or that of `judge`.
    ///
    /// Failures are given to everyone who waited and not kept.
    pub(crate) async fn get_or_judge<F>(
        self: &Arc<Self>,
        key: Fingerprint,
        judge: impl FnOnce() -> F,
    ) -> Result<Verdict, JudgeError>
    where
        F: Future<Output = Result<Verdict, JudgeError>> + Send + 'static,
    {
        let shared = {
            let mut entries = self.lock();
            match entries.by_key.get(&key) {
                Some(Entry::Done(verdict)) => {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(verdict.clone());
                }
                Some(Entry::UnderWay(weak)) if let Some(shared) = weak.upgrade() => {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    shared
                }
                _ => self.start(&mut entries, key, judge()),
            }
        };
        shared.await
    }

    fn start(
        self: &Arc<Self>,
        entries: &mut Entries,
        key: Fingerprint,
        judging: impl Future<Output = Result<Verdict, JudgeError>> + Send + 'static,
    ) -> Shared<Judging> {
        let cache = Arc::clone(self);
        let shared = async move {
            let outcome = judging.await;
            cache.settle(key, &outcome);
            outcome
        }
        .boxed()
        .shared();
        if let Some(weak) = shared.downgrade() {
            entries.by_key.insert(key, Entry::UnderWay(weak));
            entries.order.push_back(key);
            if entries.order.len() > self.capacity
                && let Some(oldest) = entries.order.pop_front()
                && oldest != key
            {
                entries.by_key.remove(&oldest);
            }
        }
        shared
    }

    fn settle(&self, key: Fingerprint, outcome: &Result<Verdict, JudgeError>) {
        let mut entries = self.lock();
        match outcome {
            // Not there any more: pushed out by others meanwhile.
            Ok(verdict) => {
                if let Some(entry) = entries.by_key.get_mut(&key) {
                    *entry = Entry::Done(verdict.clone());
                }
            }
            Err(_) => {
                entries.by_key.remove(&key);
            }
        }
    }

    /// No code panics while it holds the lock, so what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::Label;

    use super::*;
    use crate::error::ReplyError;

    fn key(number: u8) -> Fingerprint {
        Fingerprint::of(&[number])
    }

    fn verdict(reason: &str) -> Verdict {
        Verdict { label: Label::Unclear, confidence: None, reason: Some(reason.to_owned()) }
    }

    fn failure() -> JudgeError {
        JudgeError::GaveUp { endpoint: "e".to_owned(), attempts: 1, source: ReplyError::NoChoice.into() }
    }

    #[tokio::test]
    async fn identical_items_under_way_are_judged_once_and_all_get_the_verdict() {
        let cache = VerdictCache::new(8);
        let calls = AtomicU64::new(0);
        let verdicts = futures::future::join_all((0..5).map(|_| {
            cache.get_or_judge(key(1), || {
                calls.fetch_add(1, Ordering::Relaxed);
                async {
                    tokio::task::yield_now().await;
                    Ok(verdict("one"))
                }
            })
        }))
        .await;
        assert!(verdicts.iter().all(|found| found.as_ref().is_ok_and(|found| *found == verdict("one"))));
        assert_eq!((calls.into_inner(), cache.hits()), (1, 4));
    }

    #[tokio::test]
    async fn a_kept_verdict_answers_later_calls_and_another_item_does_not_get_it() {
        let cache = VerdictCache::new(8);
        for (number, reason, wanted) in [(1, "first", "first"), (1, "again", "first"), (2, "other", "other")]
        {
            let found = cache.get_or_judge(key(number), || async move { Ok(verdict(reason)) }).await;
            assert_eq!(found.expect("a verdict"), verdict(wanted));
        }
    }

    #[tokio::test]
    async fn a_failure_reaches_everyone_who_waited_and_is_not_kept() {
        let cache = VerdictCache::new(8);
        let fail = || async {
            tokio::task::yield_now().await;
            Err(failure())
        };
        let (left, right) =
            futures::join!(cache.get_or_judge(key(1), fail), cache.get_or_judge(key(1), fail));
        assert!(left.is_err() && right.is_err());
        let found = cache.get_or_judge(key(1), || async { Ok(verdict("second try")) }).await;
        assert_eq!(found.expect("judged anew"), verdict("second try"));
    }

    #[tokio::test]
    async fn judging_goes_on_when_the_caller_who_began_it_goes_away() {
        let cache = VerdictCache::new(8);
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let begin = || async {
            held.await.expect("released");
            Ok(verdict("begun by the first"))
        };
        let mut first = Box::pin(cache.get_or_judge(key(1), begin));
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(cache.get_or_judge(key(1), || async { Ok(verdict("not asked")) }));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        release.send(()).expect("somebody still waits");
        assert_eq!(second.await.expect("a verdict"), verdict("begun by the first"));
    }

    #[tokio::test]
    async fn an_item_that_everyone_left_is_judged_anew() {
        let cache = VerdictCache::new(8);
        let mut first =
            Box::pin(cache.get_or_judge(key(1), std::future::pending::<Result<Verdict, JudgeError>>));
        assert!(futures::poll!(&mut first).is_pending());
        drop(first);
        let found = cache.get_or_judge(key(1), || async { Ok(verdict("anew")) }).await;
        assert_eq!(found.expect("a verdict"), verdict("anew"));
    }

    #[tokio::test]
    async fn no_more_items_are_kept_than_the_capacity() {
        let cache = VerdictCache::new(3);
        for number in 0..50 {
            let found = cache
                .get_or_judge(key(number), || async move {
                    if number % 3 == 0 { Err(failure()) } else { Ok(verdict("kept")) }
                })
                .await;
            assert_eq!(found.is_err(), number % 3 == 0);
            let entries = cache.lock();
            assert!(entries.by_key.len() <= 3 && entries.order.len() <= 3);
        }
        let newest = cache.get_or_judge(key(49), || async { Err(failure()) }).await;
        assert_eq!(newest.expect("the newest is still there"), verdict("kept"));
    }
}
