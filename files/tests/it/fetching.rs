//! What is fetched, kept, and fetched anew.

use std::fs;

use anyhow::Result;
use avsweep_files::{FilesError, ModelFiles};

use crate::support::{Cache, Server, content};

fn model(server: &Server) -> Result<()> {
    server.put("llama/config.json", b"{}")?;
    server.put("llama/tokenizer.json", &content(40_000, 1))?;
    server.put("llama/model-00001-of-00002.safetensors", &content(3_000_000, 2))?;
    server.put("llama/model-00002-of-00002.safetensors", &content(1_000_000, 3))?;
    server.put("llama/empty.txt", b"")?;
    server.put("llama/pytorch_model.bin", &content(1000, 4))?;
    server.put("llama/original/consolidated.safetensors", &content(1000, 5))?;
    server.put("llama-2/config.json", b"{\"other\": 1}")
}

#[tokio::test]
async fn folder_comes_whole_once_and_without_what_is_not_read() -> Result<()> {
    let server = Server::start().await?;
    model(&server)?;
    let cache = Cache::new(server.address)?;
    let path = cache.files.fetch("s3://models/llama").await?;
    assert_eq!(path.file_name().and_then(|name| name.to_str()), Some("llama"));
    let mut names: Vec<_> = fs::read_dir(&path)?
        .map(|file| Ok(file?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    let wanted = [
        "config.json",
        "empty.txt",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(names, wanted);
    assert!(fs::read(path.join("model-00001-of-00002.safetensors"))? == content(3_000_000, 2));
    assert!(fs::read(path.join("model-00002-of-00002.safetensors"))? == content(1_000_000, 3));

    let downloads = server.downloads().len();
    for again in ["s3://models/llama", "s3://models/llama/", "s3a://models/llama"] {
        assert_eq!(cache.files.fetch(again).await?, path);
    }
    let other = ModelFiles::with_environment(
        cache.files.cache().to_owned(),
        crate::support::variables(server.address),
    );
    assert_eq!(other.fetch("s3://models/llama").await?, path);
    assert_eq!(server.downloads().len(), downloads);
    assert_eq!(cache.on_the_way(), 0);
    Ok(())
}

#[tokio::test]
async fn single_object_becomes_a_file_of_its_name() -> Result<()> {
    let server = Server::start().await?;
    server.put("vectors/medical.safetensors", &content(70_000, 7))?;
    let cache = Cache::new(server.address)?;
    let path = cache.files.fetch("s3://models/vectors/medical.safetensors").await?;
    assert_eq!(path.file_name().and_then(|name| name.to_str()), Some("medical.safetensors"));
    assert!(fs::read(&path)? == content(70_000, 7));
    assert_eq!(cache.files.fetch("s3://models/vectors/medical.safetensors").await?, path);
    assert_eq!(server.downloads().len(), 1);
    Ok(())
}

#[tokio::test]
async fn path_is_returned_as_it_is() -> Result<()> {
    let cache = Cache::new(([127, 0, 0, 1], 1).into())?;
    assert_eq!(cache.files.fetch("models/base").await?.to_str(), Some("models/base"));
    assert_eq!(cache.files.fetch("file:///models/base").await?.to_str(), Some("/models/base"));
    assert!(!cache.files.cache().exists());
    cache.files.forget("models/base").await?;
    Ok(())
}

#[tokio::test]
async fn changed_object_is_fetched_anew_and_the_old_one_is_thrown_away() -> Result<()> {
    let server = Server::start().await?;
    model(&server)?;
    let cache = Cache::new(server.address)?;
    let old = cache.files.fetch("s3://models/llama").await?;
    // As long as before: only its e-tag tells.
    server.put("llama/tokenizer.json", &content(40_000, 9))?;
    let new = cache.files.fetch("s3://models/llama").await?;
    assert_ne!(old, new);
    assert!(fs::read(new.join("tokenizer.json"))? == content(40_000, 9));
    assert!(!old.exists());

    server.delete("llama/tokenizer.json")?;
    let newest = cache.files.fetch("s3://models/llama").await?;
    assert!(!newest.join("tokenizer.json").exists() && newest.join("config.json").exists());
    Ok(())
}

#[tokio::test]
async fn forgotten_location_is_downloaded_again_and_others_are_not() -> Result<()> {
    let server = Server::start().await?;
    server.put("a.safetensors", &content(1000, 1))?;
    server.put("b.safetensors", &content(1000, 2))?;
    let cache = Cache::new(server.address)?;
    let (a, b) = ("s3://models/a.safetensors", "s3://models/b.safetensors");
    let (path_a, path_b) = (cache.files.fetch(a).await?, cache.files.fetch(b).await?);
    cache.files.forget(a).await?;
    assert!(!path_a.exists() && path_b.exists());
    assert_eq!(cache.files.fetch(a).await?, path_a);
    assert_eq!(cache.files.fetch(b).await?, path_b);
    assert_eq!(server.downloads().len(), 3);
    Ok(())
}

#[tokio::test]
async fn file_that_something_else_wrote_to_is_fetched_again_alone() -> Result<()> {
    let server = Server::start().await?;
    model(&server)?;
    let cache = Cache::new(server.address)?;
    let path = cache.files.fetch("s3://models/llama").await?;
    let downloads = server.downloads().len();
    let shard = path.join("model-00002-of-00002.safetensors");

    // Touched, but the same: its checksum says so.
    fs::write(&shard, content(1_000_000, 3))?;
    assert_eq!(cache.files.fetch("s3://models/llama").await?, path);
    assert_eq!(server.downloads().len(), downloads);

    let mut damaged = content(1_000_000, 3);
    damaged[500_000] ^= 1;
    for damage in [&damaged[..], b"short", b""] {
        fs::write(&shard, damage)?;
        assert_eq!(cache.files.fetch("s3://models/llama").await?, path);
        assert!(fs::read(&shard)? == content(1_000_000, 3));
    }
    fs::remove_file(&shard)?;
    assert_eq!(cache.files.fetch("s3://models/llama").await?, path);
    assert!(fs::read(&shard)? == content(1_000_000, 3));
    let again = server.downloads().split_off(downloads);
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|seen| seen.path.ends_with("model-00002-of-00002.safetensors")), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn many_fetchers_download_once() -> Result<()> {
    let server = Server::start().await?;
    server.put("a.safetensors", &content(5_000_000, 1))?;
    let cache = Cache::new(server.address)?;
    let fetchers: Vec<_> = (0..8)
        .map(|_| {
            let files = cache.files.clone();
            tokio::spawn(async move { files.fetch("s3://models/a.safetensors").await })
        })
        .collect();
    let mut paths = Vec::new();
    for fetcher in fetchers {
        paths.push(fetcher.await??);
    }
    assert!(paths.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(fs::read(&paths[0])? == content(5_000_000, 1));
    assert_eq!(server.downloads().len(), 1);
    Ok(())
}

#[tokio::test]
async fn nothing_at_the_location_is_said_by_name() -> Result<()> {
    let server = Server::start().await?;
    model(&server)?;
    let cache = Cache::new(server.address)?;
    for location in
        ["s3://models/none", "s3://models/llam", "s3://models/llama/none.json", "s3://models/none/"]
    {
        let error = cache.files.fetch(location).await.expect_err(location);
        assert!(matches!(error, FilesError::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains(location), "{error}");
        assert!(!error.is_transient());
    }
    let error = cache.files.fetch("s3://no-such-bucket/llama").await.expect_err("no bucket");
    assert!(error.to_string().contains("no-such-bucket/llama"), "{error}");
    assert!(error.to_string().contains("check the bucket"), "{error}");
    Ok(())
}
