use std::fs;

use super::*;

fn environments(cache: &Path, change: impl FnOnce(&mut Config)) -> Environments {
    let mut config = Config { cache_dir: cache.join("cache"), ..Config::default() };
    change(&mut config);
    Environments::new(&config).unwrap()
}

/// What a spec stands for, before anything is looked up.
fn wanted(environments: &Environments, spec: &EnvironmentSpec) -> Result<EnvironmentSpec, Code> {
    environments.wanted(spec).map(|wanted| wanted.spec).map_err(|error| error.code())
}

#[test]
fn names_defaults_and_descriptions() {
    let folder = tempfile::tempdir().unwrap();
    let configured = environments(folder.path(), |config| {
        let python = |version: &str| EnvironmentConfig { python: Some(version.into()), trusted: true, ..Default::default() };
        config.environments = BTreeMap::from([("default".into(), python("3.12")), ("ml".into(), python("3.11"))]);
    });
    let python = |version: &str| EnvironmentSpec { mode: Some(Mode::Process), ..EnvironmentSpec::python(version) };
    assert_eq!(wanted(&configured, &EnvironmentSpec::default()), Ok(python("3.12")));
    assert_eq!(wanted(&configured, &EnvironmentSpec::named("ml")), Ok(python("3.11")));
    assert_eq!(wanted(&configured, &EnvironmentSpec::named("nn")), Err(Code::EnvironmentNotFound));
    let described = EnvironmentSpec { preload: vec!["json".into()], ..Default::default() };
    assert_eq!(wanted(&configured, &described), Ok(EnvironmentSpec { python: Some("3.12".into()), ..described.clone() }));
    let both = EnvironmentSpec { name: Some("ml".into()), ..described.clone() };
    assert_eq!(wanted(&configured, &both), Err(Code::EnvironmentInvalid));
    assert!(configured.wanted(&EnvironmentSpec::named("ml")).is_ok_and(|wanted| wanted.trusted));
    assert!(configured.wanted(&described).is_ok_and(|wanted| !wanted.trusted), "a host cannot make itself trusted");

    let plain = environments(folder.path(), |config| config.functions.allow_inline_environments = false);
    assert_eq!(wanted(&plain, &EnvironmentSpec::default()), Ok(EnvironmentSpec::default()));
    assert_eq!(wanted(&plain, &EnvironmentSpec::named("default")), Ok(EnvironmentSpec::default()));
    assert_eq!(wanted(&plain, &described), Err(Code::EnvironmentRefused));
}

#[tokio::test]
async fn the_id_covers_everything_that_matters() {
    let folder = tempfile::tempdir().unwrap();
    // The package itself is not under test here, and may not be built.
    let environments = environments(folder.path(), |_| ());
    let model = folder.path().join("model.bin");
    fs::write(&model, "1").unwrap();
    let spec = EnvironmentSpec { files: vec![model.clone()], ..Default::default() };
    let first = match environments.resolve(&spec).await {
        Ok(environment) => environment,
        Err(error) => {
            assert_eq!(error.code(), Code::WorkerPackageMissing, "{error:?}");
            return;
        }
    };
    assert!(first.package_dir.join("pillion/__init__.py").is_file());
    assert_eq!(environments.resolve(&spec).await.unwrap(), first);

    let changes: [fn(&mut EnvironmentSpec); 4] = [
        |s| s.preload.push("json".into()),
        |s| drop(s.variables.insert("A".into(), "1".into())),
        |s| s.start = Start::Spawn,
        |s| s.paths.push("/".into()),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut other = spec.clone();
        change(&mut other);
        assert_ne!(environments.resolve(&other).await.unwrap().id, first.id, "change {i}");
    }
    fs::write(&model, "22").unwrap();
    assert_ne!(environments.resolve(&spec).await.unwrap().id, first.id);
    fs::remove_file(&model).unwrap();
    assert_eq!(environments.resolve(&spec).await.unwrap_err().code(), Code::EnvironmentFileMissing);
}

#[test]
fn a_cache_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let config = Config { cache_dir: folder.path().to_owned(), ..Config::default() };
    assert_eq!(Environments::new(&config).err().map(|error| error.code()), Some(Code::CacheUnwritable));
    let config = Config { cache_dir: "/dev/null/cache".into(), ..Config::default() };
    assert_eq!(Environments::new(&config).err().map(|error| error.code()), Some(Code::CacheUnwritable));
}
