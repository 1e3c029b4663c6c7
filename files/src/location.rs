//! Where model files are.

use std::path::PathBuf;

use object_store::path::Path as Key;

use crate::FilesError;

/// Whether a location is a URL, which [`crate::ModelFiles::fetch`] turns into a path, and not a path by itself.
pub fn is_remote(location: &str) -> bool {
    split(location).is_some()
}

/// A parsed location.
#[derive(Debug)]
pub(crate) enum Location {
    Local(PathBuf),
    Remote(Remote),
}

/// A kind of object storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    S3,
    Google,
    Azure,
}

/// A place in object storage.
#[derive(Debug)]
pub(crate) struct Remote {
    /// As given, for messages.
    pub(crate) location: String,
    pub(crate) service: Service,
    pub(crate) bucket: String,
    pub(crate) key: Key,
    /// Written with a slash at its end: a folder and nothing else.
    pub(crate) folder: bool,
}

impl Remote {
    /// Last part of the key, as the name of the local file or folder.
    pub(crate) fn name(&self) -> &str {
        self.key.filename().unwrap_or(&self.bucket)
    }

    /// One text per place, however it was written.
    pub(crate) fn canonical(&self) -> String {
        let scheme = match self.service {
            Service::S3 => "s3",
            Service::Google => "gs",
            Service::Azure => "az",
        };
        format!("{scheme}://{}/{}", self.bucket, self.key)
    }
}

impl Location {
    pub(crate) fn parse(text: &str) -> Result<Self, FilesError> {
        let Some((scheme, rest)) = split(text) else { return Ok(Self::Local(PathBuf::from(text))) };
        let wrong = |problem: String| FilesError::Location { location: text.to_owned(), problem };
        let service = match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                let path = url::Url::parse(text).map_err(|error| wrong(error.to_string()))?;
                let path =
                    path.to_file_path().map_err(|()| wrong("not the URL of a local path".to_owned()))?;
                return Ok(Self::Local(path));
            }
            "s3" | "s3a" => Service::S3,
            "gs" => Service::Google,
            "az" => Service::Azure,
            other => return Err(wrong(format!("{other}:// is not a kind of storage known here"))),
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            let rest = rest.rsplit('@').next().unwrap_or_default();
            return Err(FilesError::Location {
                location: format!("{scheme}://{rest}"),
                problem: "credentials do not belong into a location; they come from the environment"
                    .to_owned(),
            });
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if bucket.is_empty() || !bucket.chars().all(plain) {
            return Err(wrong(format!("{bucket:?} is no name of a bucket")));
        }
        let folder = key.is_empty() || key.ends_with('/');
        let key = Key::parse(key).map_err(|error| wrong(error.to_string()))?;
        Ok(Self::Remote(Remote {
            location: text.to_owned(),
            service,
            bucket: bucket.to_owned(),
            key,
            folder,
        }))
    }
}

/// Scheme and rest of a URL; a path never has `://` after a scheme's characters.
fn split(location: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = location.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    is_scheme.then_some((scheme, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> Remote {
        match Location::parse(text) {
            Ok(Location::Remote(remote)) => remote,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn path_stays_a_path() -> anyhow::Result<()> {
        for text in ["base", "/models/base", "../a b", "C:\\models", "a:b", "./s3:/x", "1s3://x", ""] {
            assert!(!is_remote(text), "{text}");
            assert!(matches!(Location::parse(text)?, Location::Local(path) if path.to_str() == Some(text)));
        }
        let Location::Local(path) = Location::parse("file:///models/a%20b")? else { anyhow::bail!("a file") };
        assert_eq!(path, PathBuf::from("/models/a b"));
        Ok(())
    }

    #[test]
    fn one_place_has_one_canonical_text() {
        assert_eq!(remote("s3://bucket/models/base").canonical(), "s3://bucket/models/base");
        assert_eq!(remote("s3a://bucket/models/base/").canonical(), "s3://bucket/models/base");
        assert_eq!(remote("gs://bucket").canonical(), "gs://bucket/");
        assert_eq!(remote("gs://bucket").name(), "bucket");
        assert_eq!(remote("az://box/a.safetensors").name(), "a.safetensors");
        assert!(remote("s3://bucket/models/").folder && !remote("s3://bucket/models").folder);
    }

    #[test]
    fn bad_location_is_refused_with_its_text_but_without_credentials() {
        for text in [
            "ftp://host/x",
            "s3://",
            "s3:///key",
            "s3://a b/key",
            "s3://b/../x",
            "s3://b/a//b",
            "https://h/x",
        ] {
            assert!(is_remote(text));
            let error = Location::parse(text).expect_err(text).to_string();
            assert!(error.contains(text) && error.contains("s3://bucket/key"), "{error}");
        }
        let error = Location::parse("s3://key:hunter2@bucket/x").expect_err("credentials").to_string();
        assert!(!error.contains("hunter2") && error.contains("s3://bucket/x"), "{error}");
    }
}
