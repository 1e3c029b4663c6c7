//! The real engine within a small budget, against the real coordinator.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use avsweep_coordinator::{Coordinator, InProcessServer, Settings};
use avsweep_domain::{
    Coefficient, Dtype, Fingerprint, Point, Range, Rung, Space, SweepDefinition, SweepId, Ticks,
};
use avsweep_engine::{AlignmentVector, BaseModel, Device, DeviceChoice, Engine, EngineError, WeightType};
use avsweep_proto::v1;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_store::{SqliteStore, SqliteStoreOptions};
use avsweep_worker::{
    Chunk, End, EngineEvaluator, EngineOptions, Evaluate, Failure, Shutdown, Task, UnfitError, UnfitPolicy,
    Worker,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::coordinator::definition;
use crate::evaluator::options;

/// The pocket model with a context for long queries; a sweep of three points whose third query is long.
struct Fixture {
    _folder: tempfile::TempDir,
    base: PathBuf,
    definition: SweepDefinition,
}

fn fixture() -> Fixture {
    let pocket = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pocket");
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().to_path_buf();
    for file in std::fs::read_dir(pocket.join("base")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), base.join(file.file_name())).unwrap();
    }
    let config = base.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let longer = text.replace("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 8192");
    assert_ne!(text, longer);
    std::fs::write(config, longer).unwrap();

    let model = BaseModel::open(&base).unwrap();
    let path = pocket.join("medical.safetensors");
    let vector = AlignmentVector::open(&path, &model).unwrap();
    let mut definition = definition(1, 4);
    definition.model.path = base.display().to_string();
    definition.model.fingerprint = model.fingerprint().parse().unwrap();
    definition.vectors[0].path = path.display().to_string();
    definition.vectors[0].fingerprint = vector.fingerprint().parse().unwrap();
    let range = Range::new(Ticks::new(-1000), Ticks::new(1000), Ticks::new(1000)).unwrap();
    let alpha = Coefficient { name: "alpha".to_owned(), vector: 0, tensors: None, range };
    definition.space = Space::new(vec![alpha]).unwrap();
    definition.domains[0].search[2].messages[0].content = "fever ".repeat(1500);
    Fixture { _folder: folder, base, definition }
}

/// The least that the model takes, by its own complaint.
fn least(base: &Path) -> u64 {
    match Engine::check_memory(&Device::cpu(), Some(1), base, WeightType::F32) {
        Err(EngineError::TooLarge { merged, least, .. }) => merged + least,
        other => panic!("{other:?}"),
    }
}

fn engine(memory: u64) -> EngineEvaluator {
    let options =
        EngineOptions { device: DeviceChoice::Cpu, memory: Some(memory), ..EngineOptions::default() };
    EngineEvaluator::start(&options).unwrap()
}

/// An engine that notes what it is asked for.
struct Noting {
    engine: EngineEvaluator,
    asked: Arc<Mutex<Vec<(Point, Vec<u32>)>>>,
}

#[async_trait]
impl Evaluate for Noting {
    async fn evaluate(
        &mut self,
        task: Arc<Task>,
        chunks: mpsc::Sender<Chunk>,
        unwanted: CancellationToken,
    ) -> Result<End, Failure> {
        self.asked.lock().unwrap().push((task.point.clone(), task.ordinals.clone()));
        self.engine.evaluate(task, chunks, unwanted).await
    }

    fn device(&self) -> String {
        self.engine.device()
    }
}

#[tokio::test]
async fn a_query_over_the_budget_fails_its_job_by_name_and_the_others_are_reported_once() {
    let Fixture { base, definition, _folder } = &fixture();
    let store = SqliteStore::open(&SqliteStoreOptions::memory()).await.unwrap();
    let coordinator = Arc::new(Coordinator::new(Arc::new(store), Settings::default()));
    let stop = CancellationToken::new();
    let _background = coordinator.start_background(stop.clone());
    let server = InProcessServer::start(coordinator, stop.clone()).await;
    let mut sweeps = SweepServiceClient::new(server.transport());
    let create = v1::CreateSweepRequest { definition: Some(definition.into()), priority: 0 };
    sweeps.create_sweep(create).await.unwrap();

    let mut options = options();
    options.unfit = UnfitPolicy::End;
    let asked = Arc::<Mutex<Vec<_>>>::default();
    let noting = Noting { engine: engine(least(base) + (1 << 20)), asked: Arc::clone(&asked) };
    let shutdown = Shutdown::default();
    let worker = Worker::with_evaluator(server.transport(), options, Box::new(noting));
    let worker = tokio::spawn(worker.run(shutdown.clone()));

    let parked = async {
        loop {
            let states = vec![v1::JobState::Parked.into()];
            let request = v1::ListJobsRequest { states, ..v1::ListJobsRequest::default() };
            let jobs = sweeps.list_jobs(request).await.unwrap().into_inner().jobs;
            if jobs.len() == 3 {
                return jobs;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let parked = tokio::time::timeout(Duration::from_secs(60), parked).await.expect("the jobs are parked");
    for job in parked {
        let error = job.last_error.unwrap();
        assert!(error.contains("query 'q2'") && error.contains("--memory"), "{error}");
        assert_eq!(job.lost, 0);
    }
    let request = v1::GetSweepRequest { sweep: "sweep-1".to_owned() };
    let progress = sweeps.get_sweep(request).await.unwrap().into_inner().progress.unwrap();
    assert_eq!(progress.duplicate_results, 0);
    shutdown.drain.cancel();
    let summary = worker.await.unwrap().unwrap();
    assert_eq!((summary.results, summary.lost), (3 * 3, 0));
    // Everything once, then only what is missing, until the limit of failures.
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len() as u64, summary.failed);
    for point in asked.iter().map(|(point, _)| point) {
        let of_point: Vec<_> = asked.iter().filter(|(of, _)| of == point).map(|(_, asked)| asked).collect();
        assert_eq!(of_point[0], &[0, 1, 2, 3]);
        assert!(of_point.len() > 1 && of_point[1..].iter().all(|asked| **asked == [2]), "{of_point:?}");
    }
    stop.cancel();
}

fn task(definition: SweepDefinition, ordinals: Vec<u32>) -> Arc<Task> {
    Arc::new(Task {
        sweep: SweepId(1),
        sweep_fingerprint: definition.fingerprint(),
        recipe: definition.recipe_fingerprint(),
        rung: Rung::Likelihood,
        point: Point::new(vec![Ticks::new(1000)]),
        definition: Arc::new(definition),
        ordinals,
        together: None,
    })
}

async fn outcome(memory: u64, task: Arc<Task>) -> (Vec<u32>, Result<End, Failure>) {
    let (sender, mut chunks) = mpsc::channel(16);
    let outcome = engine(memory).evaluate(task, sender, CancellationToken::new()).await;
    let mut done = Vec::new();
    while let Ok(chunk) = chunks.try_recv() {
        done.extend(chunk.results.ordinals());
    }
    (done, outcome)
}

#[tokio::test]
async fn a_job_of_queries_over_the_budget_alone_has_no_result_and_a_larger_budget_does_them_all() {
    let Fixture { base, definition, _folder } = fixture();
    let small = least(&base) + (1 << 20);
    let (done, outcome_of_one) = outcome(small, task(definition.clone(), vec![2])).await;
    assert!(done.is_empty() && matches!(outcome_of_one, Err(Failure::Short(_))), "{outcome_of_one:?}");
    let (done, outcome_of_all) = outcome(1 << 30, task(definition, vec![0, 1, 2, 3])).await;
    assert!(matches!(outcome_of_all, Ok(End::Finished)), "{outcome_of_all:?}");
    assert_eq!(done, [0, 1, 2, 3]);
}

/// Files that would prove to be others once they were read are not read.
#[tokio::test]
async fn a_model_over_the_budget_is_refused_before_its_files_are_read() {
    let Fixture { base, mut definition, _folder } = fixture();
    definition.model.fingerprint = Fingerprint::of(b"another");
    definition.model.dtype = Dtype::F32;
    let (_, over) = outcome(least(&base) - 1, task(definition.clone(), vec![0])).await;
    assert!(matches!(over, Err(Failure::Unfit(UnfitError::TooLarge { .. }))), "{over:?}");
    let (_, within) = outcome(least(&base), task(definition, vec![0])).await;
    assert!(matches!(within, Err(Failure::Unfit(UnfitError::FilesDiffer { .. }))), "{within:?}");
}
