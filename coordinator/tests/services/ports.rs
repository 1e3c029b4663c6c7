//! The services on real sockets: tokens, TLS, limits, and the drain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use avsweep_coordinator::{Limits, ServeOptions, serve};
use avsweep_proto::v1::job_service_client::JobServiceClient;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_proto::{ErrorCode, v1};
use avsweep_transport::{
    ConnectOptions, ListenOptions, Listener, Protocol, Role, Secret, ServerTls, Tokens, Transport, connect,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::export::export;
use crate::support::{ALL_RUNGS, BOUND, Cluster, Shape, definition, evaluate, eventually, lease_request};

/// A certificate authority and what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { issuer, folder })
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn sign(&self, usage: &ExtendedKeyUsagePurpose, until: i32) -> anyhow::Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.extended_key_usages = vec![usage.clone()];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |kind| self.folder.path().join(format!("{usage:?}-{until}-{kind}.pem"));
        std::fs::write(file("cert"), certificate.pem())?;
        std::fs::write(file("key"), key.serialize_pem())?;
        Ok((file("cert"), file("key")))
    }
}

/// A coordinator on a port.
struct Port {
    cluster: Cluster,
    address: std::net::SocketAddr,
    tls: bool,
    stop: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Port {
    async fn open(tls: Option<ServerTls>, tokens: bool, drain: Duration) -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let has_tls = tls.is_some();
        let mut options = ListenOptions::new("127.0.0.1:0".parse()?, Protocol::Grpc);
        options.tls = tls;
        let listener = Listener::bind(&options).await?;
        let address = listener.local_addr();
        let tokens = if tokens {
            let of = |role: Role| Ok::<_, anyhow::Error>((role, secret(role.name())?));
            Some(Tokens::new([of(Role::User)?, of(Role::Worker)?, of(Role::Judge)?])?)
        } else {
            None
        };
        let stop = CancellationToken::new();
        let options = ServeOptions { listener, tokens, limits: Limits::default(), drain };
        let server = tokio::spawn(serve(Arc::clone(&cluster.coordinator), options, stop.clone()));
        Ok(Self { cluster, address, tls: has_tls, stop, server })
    }

    /// A way in; `change` says with what.
    fn client(&self, change: impl Fn(&mut ConnectOptions)) -> anyhow::Result<Transport> {
        let scheme = if self.tls { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", self.address.port()).parse()?;
        let mut options = ConnectOptions::new(vec![url]);
        change(&mut options);
        Ok(connect(&options)?)
    }

    fn with_token(&self, token: &str) -> anyhow::Result<Transport> {
        let token = secret(token)?;
        self.client(|options| options.token = Some(token.clone()))
    }

    /// The metrics page has this line.
    async fn counted(&self, method: &str, code: ErrorCode) -> anyhow::Result<()> {
        let line = format!("avsweep_refused_requests_total{{method=\"{method}\",code=\"{code}\"}} ");
        let count = async || Ok(self.cluster.coordinator.metrics_text().await.contains(&line).then_some(()));
        eventually(&line, count).await
    }
}

fn secret(role: &str) -> anyhow::Result<Secret> {
    Ok(Secret::new(&format!("{role}-token-of-the-test"), "a test")?)
}

async fn list(transport: Transport) -> Result<(), Status> {
    SweepServiceClient::new(transport).list_sweeps(v1::ListSweepsRequest {}).await.map(|_| ())
}

async fn lease(transport: Transport, rungs: &[v1::Rung]) -> Result<Vec<v1::LeasedJob>, Status> {
    let answer = JobServiceClient::new(transport).lease(lease_request(rungs, 1, 0)).await?;
    Ok(answer.into_inner().jobs)
}

#[tokio::test]
async fn every_token_lets_in_where_it_is_for_and_nowhere_else() -> anyhow::Result<()> {
    let port = Port::open(None, true, Duration::ZERO).await?;
    let definition = definition(Shape::default());
    port.cluster.create(&definition).await?;
    port.cluster.coordinator.plan_once().await?;
    let before = export(port.cluster.store.as_ref()).await?;
    let refused =
        |result: Result<(), Status>| result.err().map(|status| (ErrorCode::of(&status), status.code()));

    let missing = refused(list(port.client(|_| {})?).await);
    assert_eq!(missing, Some((Some(ErrorCode::Unauthenticated), Code::Unauthenticated)));
    let wrong = refused(list(port.with_token("nobody")?).await);
    assert_eq!(wrong, Some((Some(ErrorCode::Unauthenticated), Code::Unauthenticated)));
    port.counted("SweepService/ListSweeps", ErrorCode::Unauthenticated).await?;
    let worker = refused(list(port.with_token("worker")?).await);
    assert_eq!(worker, Some((Some(ErrorCode::Forbidden), Code::PermissionDenied)));
    port.counted("SweepService/ListSweeps", ErrorCode::Forbidden).await?;

    // Roles on one service: what a worker leases a judge may not, and the other way round.
    for (role, rung) in [
        ("judge", v1::Rung::Likelihood),
        ("judge", v1::Rung::Generation),
        ("worker", v1::Rung::Judgement),
        ("user", v1::Rung::Likelihood),
    ] {
        let refusal = lease(port.with_token(role)?, &[rung]).await.expect_err(role);
        assert_eq!(ErrorCode::of(&refusal), Some(ErrorCode::Forbidden), "{role} {rung:?}: {refusal}");
    }
    port.counted("JobService/Lease", ErrorCode::Forbidden).await?;
    assert_eq!(export(port.cluster.store.as_ref()).await?, before);

    assert!(list(port.with_token("user")?).await.is_ok());
    let job = lease(port.with_token("worker")?, &[v1::Rung::Likelihood]).await?.remove(0);
    let report = evaluate(&definition, &job)?;
    let stolen = JobServiceClient::new(port.with_token("judge")?).report(report.clone()).await;
    assert_eq!(stolen.map_err(|status| ErrorCode::of(&status)).err(), Some(Some(ErrorCode::Forbidden)));
    let taken = JobServiceClient::new(port.with_token("worker")?).report(report).await?.into_inner();
    assert_eq!(taken.status(), v1::LeaseStatus::Held);
    Ok(())
}

#[tokio::test]
async fn without_a_good_certificate_nobody_gets_as_far_as_a_request() -> anyhow::Result<()> {
    let authority = Authority::new()?;
    let (cert, key) = authority.sign(&ExtendedKeyUsagePurpose::ServerAuth, 2999)?;
    let tls = ServerTls { cert, key, client_ca: Some(authority.ca()) };
    let port = Port::open(Some(tls), false, Duration::ZERO).await?;
    let before = export(port.cluster.store.as_ref()).await?;
    let with = |identity: Option<(PathBuf, PathBuf)>| {
        port.client(|options| {
            options.ca = Some(authority.ca());
            options.identity.clone_from(&identity);
        })
    };
    let expired = authority.sign(&ExtendedKeyUsagePurpose::ClientAuth, 2021)?;
    for identity in [None, Some(expired)] {
        let refusal = list(with(identity)?).await.expect_err("no good certificate");
        assert_eq!(refusal.code(), Code::Unavailable, "{refusal}");
    }
    port.counted("connect", ErrorCode::TlsHandshake).await?;
    let plain = ConnectOptions::new(vec![format!("http://localhost:{}", port.address.port()).parse()?]);
    assert!(list(connect(&plain)?).await.is_err());
    let failed = async || {
        let metrics = port.cluster.coordinator.metrics_text().await;
        let count =
            metrics.lines().find_map(|line| line.strip_prefix("avsweep_tls_handshakes_failed_total "));
        let count: u64 = count.context("a count")?.parse()?;
        Ok((count >= 3).then_some(()))
    };
    eventually("three failed handshakes", failed).await?;
    assert_eq!(export(port.cluster.store.as_ref()).await?, before);
    let good = authority.sign(&ExtendedKeyUsagePurpose::ClientAuth, 2999)?;
    list(with(Some(good))?).await?;
    Ok(())
}

#[tokio::test]
async fn a_drain_takes_the_reports_of_held_leases_and_then_ends() -> anyhow::Result<()> {
    // Longer than the test may take: only the last report ends it in time.
    let port = Port::open(None, false, BOUND * 10).await?;
    let definition = definition(Shape::default());
    port.cluster.create(&definition).await?;
    port.cluster.coordinator.plan_once().await?;
    let client = port.client(|_| {})?;
    let job = lease(client.clone(), &ALL_RUNGS).await?.remove(0);
    port.stop.cancel();
    let refused = async || match lease(client.clone(), &ALL_RUNGS).await {
        Ok(jobs) => {
            // The stop has not come through yet: what was handed out goes back.
            let leases = jobs.into_iter().filter_map(|job| job.lease).collect();
            let release = v1::ReleaseRequest { worker: "tester".to_owned(), leases, usage: None };
            JobServiceClient::new(client.clone()).release(release).await?;
            Ok(None)
        }
        Err(refusal) => Ok(Some(ErrorCode::of(&refusal))),
    };
    assert_eq!(eventually("no more jobs", refused).await?, Some(ErrorCode::ShuttingDown));
    let report = evaluate(&definition, &job)?;
    let answer = JobServiceClient::new(client).report(report).await?.into_inner();
    assert_eq!(answer.status(), v1::LeaseStatus::Held);
    tokio::time::timeout(BOUND, port.server).await.context("the drain ends")???;
    Ok(())
}

#[tokio::test]
async fn a_drain_ends_in_its_time_though_leases_are_held() -> anyhow::Result<()> {
    let port = Port::open(None, false, Duration::from_millis(50)).await?;
    port.cluster.create(&definition(Shape::default())).await?;
    port.cluster.coordinator.plan_once().await?;
    lease(port.client(|_| {})?, &ALL_RUNGS).await?;
    port.stop.cancel();
    tokio::time::timeout(BOUND, port.server).await.context("the drain ends")???;
    Ok(())
}
