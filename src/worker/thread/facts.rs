//! What must be known of an interpreter to load it into this process: it is run once and asked.

use crate::error::{Code, Error, Result};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Prints the facts as JSON.
const PROBE: &str = r#"
import json, sys, sysconfig
var = sysconfig.get_config_var
release = "%d.%d%s" % (sys.version_info[0], sys.version_info[1], getattr(sys, "abiflags", ""))
folder, triple = var("LIBDIR") or "", var("MULTIARCH") or ""
base = getattr(sys, "base_prefix", sys.prefix)
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3],
    "prefix": sys.prefix,
    "free_threaded": bool(var("Py_GIL_DISABLED")),
    "shared": bool(var("Py_ENABLE_SHARED")),
    "names": [var("INSTSONAME") or "", var("LDLIBRARY") or "", "libpython%s.so.1.0" % release, "libpython%s.so" % release],
    "folders": [folder, folder + "/" + triple, base + "/lib", base + "/lib/" + triple],
}))
"#;

/// What an interpreter says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Facts {
    /// `major.minor.patch`.
    pub version: String,
    /// `sys.prefix`: that of the virtual environment, if it is one.
    pub prefix: PathBuf,
    free_threaded: bool,
    /// Whether it was built with a shared library.
    shared: bool,
    /// What the library may be called, likeliest first.
    names: Vec<String>,
    /// Where it may be.
    folders: Vec<PathBuf>,
}

impl Facts {
    /// Asks the interpreter.
    ///
    /// # Errors
    /// [`Code::InterpreterNotLoadable`] if it does not answer.
    pub fn of(python: &Path) -> Result<Self> {
        let refuse = |detail: String| not_loadable(python, "it does not say where its library is").detail(detail);
        let output = Command::new(python).args(["-I", "-c", PROBE]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| refuse(error.to_string()))?;
        // A start-up hook of the installation may print; the answer is the last line.
        let answer = String::from_utf8_lossy(&output.stdout);
        let answer = answer.lines().rfind(|line| line.starts_with('{')).and_then(|line| serde_json::from_str(line).ok());
        answer.ok_or_else(|| refuse(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// The interpreter's shared library.
    ///
    /// # Errors
    /// [`Code::InterpreterNotLoadable`] with the remedy, if there is none or this process cannot take it.
    pub fn library(&self, python: &Path) -> Result<PathBuf> {
        if cfg!(target_env = "musl") {
            return Err(not_loadable(python, "this sidecar is a static build for musl, which loads no libraries")
                .hint("use the build for glibc, or run the environment in process mode"));
        }
        if self.free_threaded {
            return Err(not_loadable(
                python,
                "it is built without the global lock, and this build's worker package for interpreters that have it",
            )
            .hint("use the ordinary build of this version"));
        }
        let names = self.names.iter().filter(|name| name.contains(".so") || name.contains(".dylib"));
        let candidates = names.flat_map(|name| self.folders.iter().map(move |folder| folder.join(name)));
        match candidates.into_iter().find(|path| path.is_absolute() && path.is_file()) {
            Some(found) => Ok(found),
            None => Err(self.no_library(python)),
        }
    }

    fn no_library(&self, python: &Path) -> Error {
        let release = self.version.rsplit_once('.').map_or(self.version.as_str(), |(release, _)| release);
        let looked = self.folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
        let (problem, hint) = if self.shared {
            let hint = format!("install it (Debian and Ubuntu: `apt install libpython{release}`), or run the environment in process mode");
            ("its shared library is not installed", hint)
        } else {
            let hint = format!(
                "use an interpreter that was built with `--enable-shared` (pyenv: `PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {}`), install \
                 its library (Debian and Ubuntu: `apt install libpython{release}`), or run the environment in process mode",
                self.version
            );
            ("it is linked statically, without a shared library", hint)
        };
        not_loadable(python, problem).hint(hint).detail(format!("looked in {looked}"))
    }
}

/// The error of an interpreter that thread mode cannot use.
pub fn not_loadable(python: &Path, problem: &str) -> Error {
    Error::new(Code::InterpreterNotLoadable, format!("the interpreter `{}` cannot be loaded for thread mode: {problem}", python.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn plain(folder: &Path) -> Facts {
        Facts {
            version: "3.11.7".into(),
            shared: true,
            names: vec!["libpython3.11.a".into(), "libpython3.11.so.1.0".into()],
            folders: vec!["".into(), folder.to_owned()],
            ..Default::default()
        }
    }

    #[test]
    fn what_cannot_be_loaded_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let facts = plain(folder.path());
        let refused = |facts: &Facts| facts.library(Path::new("python")).unwrap_err();
        assert!(refused(&facts).report().contains("apt install libpython3.11"), "{}", refused(&facts).report());
        let linked = Facts { shared: false, ..facts.clone() };
        fs::write(folder.path().join("libpython3.11.a"), "an archive is of no use").unwrap();
        assert!(refused(&linked).report().contains("--enable-shared"), "{}", refused(&linked).report());
        assert_eq!(refused(&linked).code(), Code::InterpreterNotLoadable);
        let library = folder.path().join("libpython3.11.so.1.0");
        fs::write(&library, "").unwrap();
        assert_eq!(linked.library(Path::new("python")).unwrap(), library, "a library beside a static interpreter will do");
        assert!(refused(&Facts { free_threaded: true, ..facts }).report().contains("global lock"));
    }

    #[test]
    fn what_is_no_interpreter_is_refused() {
        for python in ["/bin/true", "/no/such/python"] {
            assert_eq!(Facts::of(Path::new(python)).unwrap_err().code(), Code::InterpreterNotLoadable);
        }
    }
}
