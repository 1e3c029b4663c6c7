//! Stored results of a point: reading and adding scores, responses and verdicts.

use std::borrow::Cow;
use std::collections::HashMap;

use avsweep_domain::{Fingerprint, Response, Verdict};
use sqlx::postgres::PgConnection;

use crate::StoreError;
use crate::error::During;
use crate::point_results;
use crate::point_results::{Decoded, Scores, Verdicts, finish_text, label_number, read_block};

/// A text as a TEXT column can hold it: without zero characters.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A text from its bytes.
pub(super) fn read_text(bytes: Vec<u8>, what: impl Fn() -> String) -> Result<String, StoreError> {
    String::from_utf8(bytes).map_err(|_| StoreError::corrupt(what(), "its text is not UTF-8"))
}

/// Every score of a point.
pub(super) async fn scores(
    connection: &mut PgConnection,
    point: i64,
    levels: usize,
) -> Result<Scores, StoreError> {
    let blocks: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT scores FROM score_blocks WHERE point = $1")
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
    connection: &mut PgConnection,
    decoded: Decoded,
) -> Result<HashMap<i64, Vec<u8>>, StoreError> {
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT query, hash FROM responses WHERE point = $1 AND decoding = $2")
            .bind(decoded.point)
            .bind(decoded.decoding)
            .fetch_all(connection)
            .await
            .during("read responses")?;
    Ok(rows.into_iter().collect())
}

/// A response from its columns.
pub(super) fn read_response(
    point: i64,
    tokens: i64,
    finish: &str,
    text: Vec<u8>,
) -> Result<Response, StoreError> {
    let text = read_text(text, || format!("a response of point {point}"))?;
    point_results::read_response(point, tokens, finish, text)
}

/// A verdict from its columns.
pub(super) fn read_verdict(
    point: i64,
    label: i64,
    confidence: Option<f64>,
    reason: Option<Vec<u8>>,
) -> Result<Verdict, StoreError> {
    let reason =
        reason.map(|reason| read_text(reason, || format!("a verdict of point {point}"))).transpose()?;
    point_results::read_verdict(point, label, confidence, reason)
}

/// Every response of a point, by query.
pub(super) async fn responses(
    connection: &mut PgConnection,
    decoded: Decoded,
) -> Result<HashMap<i64, Response>, StoreError> {
    let rows: Vec<(i64, i64, String, Vec<u8>)> = sqlx::query_as(
        "SELECT query, tokens, finish, text FROM responses WHERE point = $1 AND decoding = $2",
    )
    .bind(decoded.point)
    .bind(decoded.decoding)
    .fetch_all(connection)
    .await
    .during("read responses")?;
    rows.into_iter()
        .map(|(query, tokens, finish, text)| {
            Ok((query, read_response(decoded.point, tokens, &finish, text)?))
        })
        .collect()
}

/// Adds responses to a point, leaving out queries that it has one for. Returns how many were new.
pub(super) async fn add_responses(
    connection: &mut PgConnection,
    decoded: Decoded,
    results: &[(i64, &Response)],
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "INSERT INTO responses (point, decoding, query, hash, tokens, finish, text)
         SELECT $1, $2, given.query, given.hash, given.tokens, given.finish, given.text
         FROM unnest($3::bigint[], $4::bytea[], $5::bigint[], $6::text[], $7::bytea[])
             AS given (query, hash, tokens, finish, text)
         ORDER BY given.query
         ON CONFLICT DO NOTHING",
    )
    .bind(decoded.point)
    .bind(decoded.decoding)
    .bind(results.iter().map(|(query, _)| *query).collect::<Vec<_>>())
    .bind(results.iter().map(|(_, response)| hash(&response.text)).collect::<Vec<_>>())
    .bind(results.iter().map(|(_, response)| i64::from(response.tokens)).collect::<Vec<_>>())
    .bind(results.iter().map(|(_, response)| finish_text(response.finish)).collect::<Vec<_>>())
    .bind(results.iter().map(|(_, response)| response.text.as_bytes()).collect::<Vec<_>>())
    .execute(connection)
    .await
    .during("store responses")?;
    Ok(done.rows_affected())
}

fn hash(text: &str) -> Vec<u8> {
    Fingerprint::of(text.as_bytes()).as_bytes().to_vec()
}

/// Every verdict on a point's responses that its judgement jobs brought in or found stored.
pub(super) async fn verdicts(
    connection: &mut PgConnection,
    decoded: Decoded,
    judge: i64,
) -> Result<Verdicts, StoreError> {
    let rows: Vec<(i64, i64, Option<f64>, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT p.query, v.label, v.confidence, v.reason
         FROM point_verdicts AS p JOIN verdicts AS v ON v.id = p.verdict
         WHERE p.point = $1 AND p.decoding = $2 AND p.judge = $3",
    )
    .bind(decoded.point)
    .bind(decoded.decoding)
    .bind(judge)
    .fetch_all(connection)
    .await
    .during("read verdicts")?;
    rows.into_iter()
        .map(|(query, label, confidence, reason)| {
            Ok((query, read_verdict(decoded.point, label, confidence, reason)?))
        })
        .collect()
}

/// Adds verdicts on a point's responses, leaving out those that are there for the same query, response and judge.
/// Returns how many were new.
pub(super) async fn add_verdicts(
    connection: &mut PgConnection,
    decoded: Decoded,
    judge: i64,
    results: &[(i64, &Verdict)],
) -> Result<u64, StoreError> {
    let hashes = response_hashes(connection, decoded).await?;
    let known: Vec<&[u8]> = results
        .iter()
        .map(|(query, _)| match hashes.get(query) {
            Some(hash) => Ok(hash.as_slice()),
            None => Err(StoreError::corrupt(
                format!("point {}", decoded.point),
                format!("a verdict was asked for on query {query}, which has no response"),
            )),
        })
        .collect::<Result<_, _>>()?;
    let queries: Vec<i64> = results.iter().map(|(query, _)| *query).collect();
    let done = sqlx::query(
        "INSERT INTO verdicts (judge, query, hash, label, confidence, reason)
         SELECT $1, given.query, given.hash, given.label, given.confidence, given.reason
         FROM unnest($2::bigint[], $3::bytea[], $4::bigint[], $5::float8[], $6::bytea[])
             AS given (query, hash, label, confidence, reason)
         ORDER BY given.query, given.hash
         ON CONFLICT DO NOTHING",
    )
    .bind(judge)
    .bind(&queries)
    .bind(known)
    .bind(results.iter().map(|(_, verdict)| label_number(verdict.label)).collect::<Vec<_>>())
    .bind(results.iter().map(|(_, verdict)| verdict.confidence).collect::<Vec<_>>())
    .bind(
        results.iter().map(|(_, verdict)| verdict.reason.as_ref().map(String::as_bytes)).collect::<Vec<_>>(),
    )
    .execute(&mut *connection)
    .await
    .during("store verdicts")?;
    resolve_verdicts(connection, decoded, judge, &queries).await?;
    Ok(done.rows_affected())
}

/// Gives the point's responses to these queries the verdicts that are stored for the same query, response and judge.
/// Returns how many were given one that had none.
pub(super) async fn resolve_verdicts(
    connection: &mut PgConnection,
    decoded: Decoded,
    judge: i64,
    queries: &[i64],
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "INSERT INTO point_verdicts (point, decoding, judge, query, verdict)
         SELECT r.point, r.decoding, v.judge, r.query, v.id
         FROM unnest($4::bigint[]) AS wanted (query)
         JOIN responses AS r ON r.point = $1 AND r.decoding = $2 AND r.query = wanted.query
         JOIN verdicts AS v ON v.judge = $3 AND v.query = r.query AND v.hash = r.hash
         ON CONFLICT DO NOTHING",
    )
    .bind(decoded.point)
    .bind(decoded.decoding)
    .bind(judge)
    .bind(queries)
    .execute(connection)
    .await
    .during("look up verdicts")?;
    Ok(done.rows_affected())
}

/// Keeps others from changing a point's results, or whose they are, until the transaction ends; what was made ready
/// against its results as they were is made anew.
pub(super) async fn lock_point(connection: &mut PgConnection, point: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE points SET version = version + 1 WHERE id = $1")
        .bind(point)
        .execute(connection)
        .await
        .during("lock a point")?;
    Ok(())
}
