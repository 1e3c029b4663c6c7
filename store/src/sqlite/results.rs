//! Stored results of a point: reading and adding scores, responses and verdicts.

use std::collections::HashMap;

use avsweep_domain::{Fingerprint, Response, Verdict};
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Sqlite};

use crate::StoreError;
use crate::error::During;
use crate::point_results;
use crate::point_results::{Decoded, Scores, Verdicts, finish_text, label_number, read_block};

/// Rows of one INSERT: far below SQLite's limit on parameters.
const ROWS_AT_ONCE: usize = 500;

/// Every score of a point.
pub(super) async fn scores(
    connection: &mut SqliteConnection,
    point: i64,
    levels: usize,
) -> Result<Scores, StoreError> {
    let blocks: Vec<(Vec<u8>,)> =
        sqlx::query_as("SELECT scores FROM score_blocks WHERE point = ?1 ORDER BY id")
            .bind(point)
            .fetch_all(connection)
            .await
            .during("read scores")?;
    let mut scores = Scores::new();
    for (block,) in &blocks {
        read_block(point, block, levels, &mut scores)?;
    }
    Ok(scores)
}

/// The queries that a point has a response to, each with the response's hash.
pub(super) async fn response_hashes(
    connection: &mut SqliteConnection,
    decoded: Decoded,
) -> Result<HashMap<i64, Vec<u8>>, StoreError> {
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT query, hash FROM responses WHERE point = ?1 AND decoding = ?2")
            .bind(decoded.point)
            .bind(decoded.decoding)
            .fetch_all(connection)
            .await
            .during("read responses")?;
    Ok(rows.into_iter().collect())
}

/// Every response of a point, by query.
pub(super) async fn responses(
    connection: &mut SqliteConnection,
    decoded: Decoded,
) -> Result<HashMap<i64, Response>, StoreError> {
    let rows: Vec<(i64, i64, String, String)> = sqlx::query_as(
        "SELECT query, tokens, finish, text FROM responses WHERE point = ?1 AND decoding = ?2",
    )
    .bind(decoded.point)
    .bind(decoded.decoding)
    .fetch_all(connection)
    .await
    .during("read responses")?;
    rows.into_iter()
        .map(|(query, tokens, finish, text)| {
            Ok((query, point_results::read_response(decoded.point, tokens, &finish, text)?))
        })
        .collect()
}

/// Adds responses to a point, leaving out queries that it has one for. Returns how many were new.
pub(super) async fn add_responses(
    connection: &mut SqliteConnection,
    decoded: Decoded,
    results: &[(i64, &Response)],
) -> Result<u64, StoreError> {
    let mut added = 0;
    for rows in results.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO responses (point, decoding, query, hash, tokens, finish, text) ",
        );
        insert.push_values(rows, |mut row, (query, response)| {
            row.push_bind(decoded.point)
                .push_bind(decoded.decoding)
                .push_bind(*query)
                .push_bind(Fingerprint::of(response.text.as_bytes()).as_bytes().to_vec())
                .push_bind(i64::from(response.tokens))
                .push_bind(finish_text(response.finish))
                .push_bind(response.text.clone());
        });
        insert.push(" ON CONFLICT DO NOTHING");
        let done = insert.build().execute(&mut *connection).await.during("store responses")?;
        added += done.rows_affected();
    }
    Ok(added)
}

/// Every verdict on a point's responses that its judgement jobs brought in or found stored.
pub(super) async fn verdicts(
    connection: &mut SqliteConnection,
    decoded: Decoded,
    judge: i64,
) -> Result<Verdicts, StoreError> {
    let rows: Vec<(i64, i64, Option<f64>, Option<String>)> = sqlx::query_as(
        "SELECT p.query, v.label, v.confidence, v.reason
         FROM point_verdicts AS p JOIN verdicts AS v ON v.id = p.verdict
         WHERE p.point = ?1 AND p.decoding = ?2 AND p.judge = ?3",
    )
    .bind(decoded.point)
    .bind(decoded.decoding)
    .bind(judge)
    .fetch_all(connection)
    .await
    .during("read verdicts")?;
    rows.into_iter()
        .map(|(query, label, confidence, reason)| {
            Ok((query, point_results::read_verdict(decoded.point, label, confidence, reason)?))
        })
        .collect()
}

/// Adds verdicts on a point's responses, leaving out those that are there for the same query, response and judge.
/// Returns how many were new.
pub(super) async fn add_verdicts(
    connection: &mut SqliteConnection,
    decoded: Decoded,
    judge: i64,
    results: &[(i64, &Verdict)],
) -> Result<u64, StoreError> {
    let hashes = response_hashes(connection, decoded).await?;
    let rows: Vec<_> = results
        .iter()
        .map(|(query, verdict)| match hashes.get(query) {
            Some(hash) => Ok((*query, hash.clone(), *verdict)),
            None => Err(StoreError::corrupt(
                format!("point {}", decoded.point),
                format!("a verdict was asked for on query {query}, which has no response"),
            )),
        })
        .collect::<Result<_, _>>()?;
    let mut added = 0;
    for rows in rows.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO verdicts (judge, query, hash, label, confidence, reason) ",
        );
        insert.push_values(rows, |mut row, (query, hash, verdict)| {
            row.push_bind(judge)
                .push_bind(*query)
                .push_bind(hash.clone())
                .push_bind(label_number(verdict.label))
                .push_bind(verdict.confidence)
                .push_bind(verdict.reason.clone());
        });
        insert.push(" ON CONFLICT DO NOTHING");
        let done = insert.build().execute(&mut *connection).await.during("store verdicts")?;
        added += done.rows_affected();
    }
    let queries: Vec<i64> = results.iter().map(|(query, _)| *query).collect();
    resolve_verdicts(connection, decoded, judge, &queries).await?;
    Ok(added)
}

/// Gives the point's responses to these queries the verdicts that are stored for the same query, response and judge.
/// Returns how many were given one that had none.
pub(super) async fn resolve_verdicts(
    connection: &mut SqliteConnection,
    decoded: Decoded,
    judge: i64,
    queries: &[i64],
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "INSERT INTO point_verdicts (point, decoding, judge, query, verdict)
         SELECT r.point, r.decoding, v.judge, r.query, v.id
         FROM json_each(?4) AS wanted
         CROSS JOIN responses AS r ON r.point = ?1 AND r.decoding = ?2 AND r.query = wanted.value
         CROSS JOIN verdicts AS v ON v.judge = ?3 AND v.query = r.query AND v.hash = r.hash
         WHERE true
         ON CONFLICT DO NOTHING",
    )
    .bind(decoded.point)
    .bind(decoded.decoding)
    .bind(judge)
    .bind(json_numbers(queries))
    .execute(connection)
    .await
    .during("look up verdicts")?;
    Ok(done.rows_affected())
}

/// Numbers as a JSON array, the form in which SQLite takes a list.
pub(super) fn json_numbers(numbers: &[i64]) -> String {
    let mut text = String::with_capacity(2 + 6 * numbers.len());
    for number in numbers {
        text.push(if text.is_empty() { '[' } else { ',' });
        text.push_str(&number.to_string());
    }
    if text.is_empty() {
        text.push('[');
    }
    text.push(']');
    text
}
