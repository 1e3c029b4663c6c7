//! The durable identity of a judge covers the prompt: stored verdicts are reused by domain's `judge_fingerprint`,
//! which holds a version in place of the prompt's own text.

use avsweep_domain::{
    Fingerprint, FinishReason, JudgeProvider, JudgeSettings, Levels, Message, Query, Response, Role,
};
use avsweep_judge::Judge;

use crate::api::Api;
use crate::coordinator::definition;

/// Every judge identity that ever was, with what it asked: `judge_fingerprint` of a fixed definition, and the hash of
/// the request for a fixed query. Rows are added at the end and never changed.
const IDENTITIES: &[(&str, &str)] = &[(
    "e0364b304d77122f9ed3cec55941d45de062ab266edf3fa3f2fa200cc8afc5fb",
    "304757bc8c97a301d7fa278787fea290b7bb4c1fc5cf54b5042f12c730583942",
)];

#[tokio::test]
async fn a_prompt_is_changed_only_together_with_the_judges_identity() {
    let api = Api::start([]).await;
    let mut settings = api.settings(None);
    settings.rubric = "Rate it.".to_owned();
    let query = Query {
        id: "q".to_owned(),
        messages: vec![Message { role: Role::User, content: "How is a burn cooled?".to_owned() }],
        references: ["Ask a doctor.", "Use water.", "20 minutes of 15 °C water."].map(str::to_owned).to_vec(),
    };
    let response = Response { text: "Run water.".to_owned(), tokens: 4, finish: FinishReason::Stop };
    let judge = Judge::new(&settings, &Levels::default()).unwrap();
    judge.judge(&query, &response).await.unwrap();
    // With the order of the keys: a schema's properties are written in theirs.
    let asked = Fingerprint::of(api.requests()[0].body.to_string().as_bytes()).to_string();

    let fixed = JudgeSettings {
        provider: JudgeProvider::Openai {
            base_url: "https://api.example.com/v1".to_owned(),
            model: "judge-model".to_owned(),
            api_key_env: None,
            concurrency: 4,
            timeout_seconds: 60,
            max_attempts: 3,
        },
        rubric: settings.rubric,
    };
    let identity = definition(fixed, 1).judge_fingerprint().to_string();

    let (known_identity, known_asked) = IDENTITIES.last().unwrap();
    if asked != *known_asked {
        assert_ne!(
            identity, *known_identity,
            "the prompt changed: raise the version in domain's judge_fingerprint (\"avsweep judge N\"), then this golden"
        );
    }
    assert_eq!(
        (identity.as_str(), asked.as_str()),
        (*known_identity, *known_asked),
        "the judge's identity changed: add a row to this golden"
    );
    let mut identities: Vec<&str> = IDENTITIES.iter().map(|(identity, _)| *identity).collect();
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), IDENTITIES.len(), "a row of this golden was added without a new identity");
}
