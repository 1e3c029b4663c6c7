//! The simulated user: the verbs as a client sends them, once, whatever becomes of it.

use std::time::Duration;

use anyhow::Context as _;
use avsweep_domain::SweepDefinition;
use avsweep_proto::v1;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_transport::Transport;
use tokio::time::timeout;

/// Longest time a user waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A user's client.
#[derive(Clone, Debug)]
pub(crate) struct User(SweepServiceClient<Transport>);

async fn patiently<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> anyhow::Result<T> {
    Ok(timeout(PATIENCE, call).await??.into_inner())
}

impl User {
    pub(crate) fn new(transport: Transport) -> Self {
        Self(SweepServiceClient::new(transport))
    }

    pub(crate) async fn create(&mut self, definition: &SweepDefinition) -> anyhow::Result<()> {
        let request = v1::CreateSweepRequest { definition: Some(definition.into()), priority: 0 };
        patiently(self.0.create_sweep(request)).await?;
        Ok(())
    }

    pub(crate) async fn set_state(&mut self, sweep: &str, state: v1::SweepState) -> anyhow::Result<()> {
        let request = v1::SetSweepStateRequest { sweep: sweep.to_owned(), state: state.into() };
        patiently(self.0.set_sweep_state(request)).await?;
        Ok(())
    }

    pub(crate) async fn prioritise(&mut self, sweep: &str, priority: i32) -> anyhow::Result<()> {
        let request = v1::SetSweepPriorityRequest { sweep: sweep.to_owned(), priority };
        patiently(self.0.set_sweep_priority(request)).await?;
        Ok(())
    }

    pub(crate) async fn retry(&mut self, sweep: &str, jobs: Vec<i64>) -> anyhow::Result<u64> {
        let request = v1::RetryJobsRequest { sweep: sweep.to_owned(), jobs };
        Ok(patiently(self.0.retry_jobs(request)).await?.retried)
    }

    pub(crate) async fn sweeps(&mut self) -> anyhow::Result<Vec<v1::SweepProgress>> {
        Ok(patiently(self.0.list_sweeps(v1::ListSweepsRequest {})).await?.sweeps)
    }

    pub(crate) async fn parked(&mut self, sweep: &str) -> anyhow::Result<Vec<v1::Job>> {
        let request = v1::ListJobsRequest {
            sweep: sweep.to_owned(),
            states: vec![v1::JobState::Parked.into()],
            after: None,
            limit: 0,
        };
        Ok(patiently(self.0.list_jobs(request)).await?.jobs)
    }

    /// Looks around; what is seen is for nobody.
    pub(crate) async fn look(&mut self, sweep: &str) -> anyhow::Result<()> {
        patiently(self.0.list_workers(v1::ListWorkersRequest {})).await?;
        let request = v1::BestPointsRequest { sweep: sweep.to_owned(), ..v1::BestPointsRequest::default() };
        patiently(self.0.best_points(request)).await?;
        Ok(())
    }

    /// Every stored result.
    pub(crate) async fn export(&mut self, sweep: &str) -> anyhow::Result<Vec<v1::ResultRow>> {
        let request = v1::ReadResultsRequest { sweep: sweep.to_owned() };
        let mut pages = patiently(self.0.read_results(request)).await?;
        let mut rows = Vec::new();
        while let Some(page) = pages.message().await.context("an export's page")? {
            rows.extend(page.rows);
        }
        Ok(rows)
    }
}
