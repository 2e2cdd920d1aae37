use super::{fixture::*, *};
use crate::state::{BROADCAST_GROUP, Commit, Op, StateBackend};
use crate::timer::TimerWrites;
use arrow_array::{ArrayRef, Int64Array};
use async_trait::async_trait;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions, PutResult,
    memory::InMemory,
};
use std::{
    fmt,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio_stream::Stream;

type Outcome<T> = object_store::Result<T>;
type Objects<T> = Pin<Box<dyn Stream<Item = Outcome<T>> + Send>>;

/// A store that changes nothing any more after so many changes: what a process leaves that dies there. It lists a manifest that another session deletes before anybody reads it.
#[derive(Clone, Debug)]
struct Dying {
    store: Arc<InMemory>,
    left: Arc<AtomicUsize>,
}

impl Dying {
    fn after(store: &Arc<InMemory>, changes: usize) -> Checkpoints {
        let dying = Dying { store: store.clone(), left: Arc::new(changes.into()) };
        Checkpoints::with_store(Arc::new(dying), Path::from("jobs/count"))
    }

    fn change(&self) -> Outcome<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| object_store::Error::Generic { store: "dying", source: "it is gone".into() })
    }
}

impl fmt::Display for Dying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dying")
    }
}

#[async_trait]
impl ObjectStore for Dying {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Outcome<PutResult> {
        self.change()?;
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Outcome<Box<dyn MultipartUpload>> {
        self.change()?;
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Outcome<GetResult> {
        self.store.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: Objects<Path>) -> Objects<Path> {
        let dying = self.clone();
        let allowed = paths.map(move |path| path.and_then(|path| dying.change().map(|()| path)));
        // One after the other, so that what stands before the failure is deleted.
        self.store.delete_stream(Box::pin(allowed))
    }

    fn list(&self, prefix: Option<&Path>) -> Objects<ObjectMeta> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Outcome<ListResult> {
        let mut listed = self.store.list_with_delimiter(prefix).await?;
        let gone = listed.objects.first().map(|meta| ObjectMeta { location: Path::from("jobs/count/chk-gone.json"), ..meta.clone() });
        listed.objects.extend(gone);
        Ok(listed)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Outcome<()> {
        panic!("checkpoints copy and rename nothing")
    }
}

/// A store with two checkpoints of it: the second refers to files of the first, but for those of key group 0.
async fn two(checkpoints: &Checkpoints) -> (Arc<dyn StateBackend>, Manifest, Manifest) {
    let store = memory(cells());
    fill(&*store, &[0, 1], 1).await;
    let (first, base) = checkpoints.write(take(&*store, 1, vec![0, 1]), &Base::default()).await.unwrap();
    change(&*store).await;
    let (second, _) = checkpoints.write(take(&*store, 2, vec![0, 1]), &base).await.unwrap();
    (store, first, second)
}

/// Changes a count of key group 0.
async fn change(store: &dyn StateBackend) {
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![-5]));
    let (addresses, _) = addresses(&[0]);
    let writes = vec![writes(0, vec![0], Op::Put, None, &counts)];
    store.apply(&Commit { seq: 3, addresses, writes, timers: TimerWrites::default(), now_ms: 1000 }).await.unwrap();
}

async fn restored(checkpoints: &Checkpoints, manifest: &Manifest) -> String {
    let target = memory(cells());
    checkpoints.restore(restoring(&[manifest], 0..2), Arc::clone(&target)).await.unwrap();
    dump(&*target, &[0, 1, BROADCAST_GROUP], 2000).await
}

#[tokio::test]
async fn wherever_a_write_breaks_off_the_checkpoint_before_is_whole() {
    let mut breaks = 0;
    loop {
        let objects = Arc::new(InMemory::new());
        let whole = Dying::after(&objects, usize::MAX);
        let store = memory(cells());
        fill(&*store, &[0, 1], 1).await;
        let (first, base) = whole.write(take(&*store, 1, vec![0, 1]), &Base::default()).await.unwrap();
        let before = restored(&whole, &first).await;
        change(&*store).await;
        // Half of the times nothing is referred to, so that every file is written.
        let base = if breaks % 2 == 0 { base } else { Base::default() };
        let outcome = Dying::after(&objects, breaks / 2).write(take(&*store, 2, vec![0, 1]), &base).await;
        let listed = whole.list().await.unwrap();
        assert_eq!(restored(&whole, &first).await, before);
        match outcome {
            Err(error) => {
                assert_eq!((error.code(), error.is_retryable()), (Code::SnapshotFailed, true));
                assert_eq!(listed, std::slice::from_ref(&first), "without a manifest there is no checkpoint");
                assert_eq!(whole.sweep(i64::MAX).await.unwrap(), breaks / 2);
                assert_eq!(files(&whole, DATA).await, first.files.len());
            }
            Ok((second, _)) => {
                let new = second.files.iter().filter(|file| !first.files.contains(file)).count();
                assert_eq!(listed, [first, second]);
                if breaks % 2 == 1 {
                    assert_eq!(breaks / 2, new + 1, "all files and then the manifest");
                    break;
                }
            }
        }
        breaks += 1;
    }
    assert!(breaks > 10, "{breaks} are no test");
}

#[tokio::test]
async fn wherever_a_deletion_breaks_off_the_others_are_whole() {
    let mut breaks = 0;
    loop {
        let objects = Arc::new(InMemory::new());
        let whole = Dying::after(&objects, usize::MAX);
        let (_, first, second) = two(&whole).await;
        let (all, after) = (files(&whole, DATA).await, restored(&whole, &second).await);
        let outcome = Dying::after(&objects, breaks).delete(&first.handle).await;
        assert_eq!(restored(&whole, &second).await, after);
        let listed = whole.list().await.unwrap();
        if breaks == 0 {
            assert_eq!(listed, [first, second], "nothing has been deleted");
        } else {
            assert_eq!(listed, std::slice::from_ref(&second));
            assert_eq!(files(&whole, DATA).await, all + 1 - breaks);
            whole.sweep(i64::MAX).await.unwrap();
            assert_eq!(files(&whole, DATA).await, second.files.len());
        }
        match outcome {
            Err(error) => assert_eq!(error.code(), Code::SnapshotFailed),
            Ok(()) => break,
        }
        breaks += 1;
    }
    assert!(breaks > 1, "{breaks} are no test");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(DATA), "a file where a folder should be").unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0], 1).await;
    let error = checkpoints.write(take(&*store, 1, vec![0]), &Base::default()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::SnapshotFailed, true));
    assert_eq!(Checkpoints::open(folder.path().join(DATA).to_str().unwrap()).unwrap_err().code(), Code::SnapshotFailed);
}

#[test]
fn places_are_folders_and_buckets() {
    let bucket = |url, prefix| Place::Bucket { url, prefix: Path::from(prefix) };
    for (text, place) in [
        ("chk/here", Place::Folder("chk/here")),
        ("file:///chk", Place::Folder("/chk")),
        ("s3://b", bucket("s3://b", "")),
        ("s3://b.c-d_e/jobs/count/", bucket("s3://b.c-d_e/jobs/count/", "jobs/count")),
        ("s3a://b/with%20space", bucket("s3a://b/with%20space", "with space")),
    ] {
        assert_eq!(Place::parse(text).unwrap(), place);
    }
    for text in ["s3://", "s3:///jobs", "s3://key:secret@bucket/jobs", "s3://bucket/../other"] {
        let error = Place::parse(text).unwrap_err();
        assert!(error.code() == Code::SnapshotFailed && !error.report().contains("secret"), "{text}: {error}");
    }
    for text in ["gs://bucket", "https://bucket.s3.eu-west-3.amazonaws.com", "memory:///"] {
        let error = Place::parse(text).unwrap_err();
        assert_eq!(error.code(), Code::Unsupported, "{text}: {error}");
        assert!(error.hint_text().unwrap().contains("`s3://BUCKET/PREFIX`"));
    }
    let checkpoints = Checkpoints::open("s3://bucket/jobs/count").unwrap();
    assert_eq!((checkpoints.store.to_string().as_str(), checkpoints.root.as_ref()), ("AmazonS3(bucket)", "jobs/count"));
}
