//! Object storage: opened from the environment, asked what is at a location.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig};

use crate::FilesError;
use crate::location::{Remote, Service};

/// Weights in formats that are not read here; whole repositories are often copied into buckets.
const FOREIGN_WEIGHTS: [&str; 8] = ["bin", "pt", "pth", "gguf", "onnx", "h5", "msgpack", "ot"];

/// A store that sends nothing for so long is away.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// The environment's variables. They hold credentials, so there is no way to print them.
#[derive(Clone)]
pub(crate) struct Environment(pub(crate) Arc<[(String, String)]>);

impl Environment {
    /// Variables that begin with `prefix`, in lower case, as object_store names its settings.
    fn settings(&self, prefix: &str) -> impl Iterator<Item = (String, &str)> {
        let chosen = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        chosen.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }
}

/// What is at a location now.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// One object, rather than a folder.
    pub(crate) single: bool,
    pub(crate) files: Vec<Wanted>,
}

/// One object to have.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Name of the local file.
    pub(crate) name: String,
    pub(crate) key: Key,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) e_tag: Option<String>,
    /// Changes when the object does: its e-tag, or else when it was last written.
    pub(crate) tag: String,
}

impl Wanted {
    fn new(name: &str, meta: ObjectMeta) -> Self {
        let tag = tag(&meta);
        Self { name: name.to_owned(), key: meta.location, size: meta.size, e_tag: meta.e_tag, tag }
    }

    /// Whether `meta` is still the object that was looked up.
    pub(crate) fn is_same(&self, meta: &ObjectMeta) -> bool {
        self.tag == tag(meta) && self.size == meta.size
    }
}

fn tag(meta: &ObjectMeta) -> String {
    meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339())
}

impl Inventory {
    /// One text per state of the location.
    pub(crate) fn version(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[u8::from(self.single)]);
        for file in &self.files {
            for part in [file.name.as_bytes(), &file.size.to_le_bytes(), file.tag.as_bytes()] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

/// A store with a location in it.
pub(crate) struct Storage<'a> {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) remote: &'a Remote,
}

impl<'a> Storage<'a> {
    /// Nothing is sent yet.
    pub(crate) fn open(remote: &'a Remote, environment: &Environment) -> Result<Self, FilesError> {
        // The HTTP client takes the process's choice. An error means that a choice was made already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(200),
                max_backoff: Duration::from_secs(5),
                ..BackoffConfig::default()
            },
            max_retries: 4,
            retry_timeout: Duration::from_secs(30),
        };
        // `timeout` would be for a whole download, however large; silence is what must end.
        let client = ClientOptions::new().with_timeout_disabled().with_read_timeout(LONGEST_SILENCE);
        // The three builders have the same methods, but no trait in common.
        macro_rules! build {
            ($builder:ident, $prefix:literal, $bucket:ident) => {{
                let mut builder = $builder::new().with_client_options(client).with_retry(retry);
                for (name, value) in environment.settings($prefix) {
                    if let Ok(setting) = name.parse() {
                        builder = builder.with_config(setting, value);
                    }
                }
                builder.$bucket(&remote.bucket).build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }};
        }
        let store = match remote.service {
            Service::S3 => build!(AmazonS3Builder, "AWS_", with_bucket_name),
            Service::Google => build!(GoogleCloudStorageBuilder, "GOOGLE_", with_bucket_name),
            Service::Azure => build!(MicrosoftAzureBuilder, "AZURE_", with_container_name),
        };
        let store = store.map_err(|source| FilesError::Setup {
            location: remote.location.clone(),
            variables: variables(remote.service),
            source: Box::new(source),
        })?;
        Ok(Self { store, remote })
    }

    /// Looks up what is there: the object of that key, or else the files of that folder.
    pub(crate) async fn look(&self) -> Result<Inventory, FilesError> {
        let remote = self.remote;
        if !remote.folder {
            match self.store.head(&remote.key).await {
                Ok(meta) => {
                    let files = vec![Wanted::new(remote.name(), meta)];
                    return Ok(Inventory { single: true, files });
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.error("look up", &remote.key, error)),
            }
        }
        let prefix = (!remote.key.as_ref().is_empty()).then_some(&remote.key);
        let listing = self.store.list_with_delimiter(prefix).await;
        let listing = listing.map_err(|error| self.error("list", &remote.key, error))?;
        let mut files = Vec::new();
        for meta in listing.objects {
            let name = meta.location.filename().unwrap_or_default().to_owned();
            // Some tools mark a folder by an empty object of its own name.
            if meta.location == remote.key || !is_file_name(&name) {
                continue;
            }
            if is_foreign(&name) {
                tracing::debug!(
                    location = remote.location,
                    name,
                    "weights in a format not read here: left out"
                );
                continue;
            }
            // Some stores tell e-tags only when asked for the object itself.
            let meta = match meta.e_tag {
                Some(_) => meta,
                None => {
                    let key = meta.location;
                    self.store.head(&key).await.map_err(|error| self.error("look up", &key, error))?
                }
            };
            files.push(Wanted::new(&name, meta));
        }
        if files.is_empty() {
            return Err(FilesError::Missing { location: remote.location.clone() });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Inventory { single: false, files })
    }

    /// An error of the store, with what to do about it.
    pub(crate) fn error(
        &self,
        operation: &'static str,
        key: &Key,
        source: object_store::Error,
    ) -> FilesError {
        let (hint, transient) = hint(self.remote.service, &source);
        FilesError::Storage {
            location: self.remote.location.clone(),
            operation,
            object: format!("{}/{key}", self.remote.bucket),
            hint,
            transient,
            source: Box::new(source),
        }
    }
}

fn is_file_name(name: &str) -> bool {
    let path = std::path::Path::new(name);
    path.file_name().is_some_and(|file| file == name) && !name.contains('\0')
}

fn is_foreign(name: &str) -> bool {
    let extension = std::path::Path::new(name).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| FOREIGN_WEIGHTS.contains(&extension.to_ascii_lowercase().as_str()))
}

fn variables(service: Service) -> &'static str {
    match service {
        Service::S3 => {
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP"
        }
        Service::Google => "GOOGLE_SERVICE_ACCOUNT or GOOGLE_SERVICE_ACCOUNT_KEY",
        Service::Azure => "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
    }
}

/// What to do about an error, and whether it may pass by itself.
fn hint(service: Service, error: &object_store::Error) -> (&'static str, bool) {
    use object_store::Error;
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    // Listings come without a kind of their own, but with the HTTP status in their text.
    let status = |code: &str| has(&format!("status code: {code}"));
    let refused = matches!(error, Error::Unauthenticated { .. } | Error::PermissionDenied { .. })
        || status("401")
        || status("403");
    let missing = matches!(error, Error::NotFound { .. }) || status("404");
    // The last resort of the search for credentials is a service of the machine's own, which is not there.
    let none = has("169.254.169.254") || has("metadata.google.internal");
    let hint = match service {
        _ if missing => {
            "there is no such bucket, or the object has just been deleted; check the bucket and the endpoint"
        }
        Service::S3 if refused => {
            "access is refused; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may list and read it"
        }
        Service::Google if refused => {
            "access is refused; check GOOGLE_SERVICE_ACCOUNT, and that it may list and read the bucket"
        }
        Service::Azure if refused => {
            "access is refused; check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
        }
        Service::S3 if none => {
            "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SKIP_SIGNATURE=true for \
             public data)"
        }
        Service::Google if none => {
            "there are no credentials; set GOOGLE_SERVICE_ACCOUNT to the path of a service account's key"
        }
        Service::Azure if none => {
            "there are no credentials; set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
        }
        _ => {
            let hint = match service {
                Service::S3 => {
                    "the store cannot be reached or is in trouble; check AWS_ENDPOINT_URL (http:// also wants \
                     AWS_ALLOW_HTTP=true) and AWS_REGION"
                }
                Service::Google | Service::Azure => "the store cannot be reached or is in trouble",
            };
            return (hint, matches!(error, Error::Generic { .. }));
        }
    };
    (hint, false)
}
