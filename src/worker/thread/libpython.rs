//! Loads an interpreter into this process, and takes the runtime's table from it.
//!
//! Nothing here is linked: the functions of Python's stable interface are looked up in the library of the environment's own interpreter.

use super::{
    facts::{Facts, not_loadable},
    table::Calls,
};
use crate::error::{Code, Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use pillion_wire::table::{CAPSULE, Table};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    os::fd::{AsRawFd, BorrowedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

type Object = *mut c_void;

/// Python's module that sets the interpreter up.
const MODULE: &CStr = c"pillion.threads";

/// An interpreter in this process. It is never unloaded.
pub struct Loaded {
    /// The runtime.
    pub calls: Calls,
    /// Whether the host had started it before.
    pub joined: bool,
    // SAFETY: see `dump`.
    dump: Option<unsafe extern "C" fn(c_int, Object, Object) -> *const c_char>,
}

impl Loaded {
    /// Writes the stacks of all threads to a file without taking the GIL, if this version of Python can do that. Only when the GIL does not come free: then its
    /// holder is in native code, and its frames stand still.
    pub fn dump(&self, file: BorrowedFd<'_>) {
        if let Some(dump) = self.dump {
            // SAFETY: the function takes any descriptor; it was made for signal handlers, and allocates nothing and locks nothing.
            let _ = unsafe { dump(file.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
        }
    }
}

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)+) => {
        /// The functions of Python that starting it takes.
        #[allow(non_snake_case, reason = "as Python names them")]
        struct Python {
            // SAFETY: see `find`, and each call.
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
        }

        impl Python {
            fn find(library: &Library) -> std::result::Result<Self, libloading::Error> {
                // SAFETY: the signatures are those of CPython's headers, the same in all versions from 3.10 on.
                Ok(unsafe { Self { $($name: *library.get(concat!(stringify!($name), "\0").as_bytes())?,)+ } })
            }
        }
    };
}

functions! {
    Py_IsInitialized: fn() -> c_int;
    Py_GetVersion: fn() -> *const c_char;
    Py_DecodeLocale: fn(*const c_char, *mut usize) -> *mut c_void;
    Py_SetProgramName: fn(*const c_void);
    Py_InitializeEx: fn(c_int);
    Py_DecRef: fn(Object);
    PyEval_SaveThread: fn() -> Object;
    PyGILState_Ensure: fn() -> c_int;
    PyGILState_Release: fn(c_int);
    PySys_GetObject: fn(*const c_char) -> Object;
    PyList_Insert: fn(Object, isize, Object) -> c_int;
    PyImport_ImportModule: fn(*const c_char) -> Object;
    PyObject_GetAttrString: fn(Object, *const c_char) -> Object;
    PyObject_CallObject: fn(Object, Object) -> Object;
    PyTuple_New: fn(isize) -> Object;
    PyTuple_SetItem: fn(Object, isize, Object) -> c_int;
    PyObject_Str: fn(Object) -> Object;
    PyUnicode_DecodeFSDefault: fn(*const c_char) -> Object;
    PyUnicode_FromString: fn(*const c_char) -> Object;
    PyUnicode_AsUTF8AndSize: fn(Object, *mut isize) -> *const c_char;
    PyCapsule_IsValid: fn(Object, *const c_char) -> c_int;
    PyCapsule_GetPointer: fn(Object, *const c_char) -> *mut c_void;
    PyErr_Fetch: fn(*mut Object, *mut Object, *mut Object);
}

/// Loads the interpreter `python` and sets it up: `package_dir` becomes the first entry of `sys.path`, `settings` goes to `pillion.threads.start`. Must be called
/// once, on a thread that lives as long as the process: Python takes it for its main thread.
///
/// # Errors
/// [`Code::InterpreterNotLoadable`]; [`Code::InterpreterTaken`] if the host runs another Python; [`Code::EnvironmentStartFailed`] if the set-up raises.
pub fn load(python: &Path, facts: &Facts, package_dir: &Path, settings: impl FnOnce(bool) -> String) -> Result<Loaded> {
    let present = Library::this();
    // SAFETY: the signature is that of CPython's headers.
    let hosted = unsafe { present.get::<unsafe extern "C" fn() -> c_int>(b"Py_IsInitialized\0") }.is_ok();
    let library = if hosted { present } else { open(&facts.library(python)?, python)? };
    let missing = |error: libloading::Error| not_loadable(python, &format!("a function is missing in its library: {error}"));
    let functions = Python::find(&library).map_err(missing)?;
    // SAFETY: the signature is that of CPython; the function is not public, and may be missing.
    let dump = unsafe { library.get(b"_Py_DumpTracebackThreads\0") }.ok().map(|dump| *dump);
    // Loaded for good: threads and extensions keep pointers into it.
    let _ = library.into_raw();
    let version = functions.version();
    if version != facts.version {
        return Err(if hosted {
            taken(&format!("this process has Python {version} linked in, and the environment needs {}", facts.version))
        } else {
            not_loadable(python, &format!("its library is of version {version}, the interpreter of {}", facts.version))
        });
    }
    // SAFETY: has no preconditions.
    let joined = unsafe { (functions.Py_IsInitialized)() } != 0;
    if !joined && std::env::var_os("PYTHONHOME").is_some() {
        return Err(not_loadable(python, "`PYTHONHOME` is set, which would make it take another installation for its own").hint("unset it"));
    }
    let table = functions.with_gil(joined, python, || {
        if joined {
            functions.check_prefix(facts)?;
        }
        functions.set_up(package_dir, &settings(joined))
    })?;
    Ok(Loaded { calls: Calls::new(table)?, joined, dump })
}

fn open(path: &Path, python: &Path) -> Result<Library> {
    // SAFETY: loading libpython runs its initialisers, which have no preconditions. Its symbols are global, since extensions are not linked with it.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|error| {
        not_loadable(python, &format!("its library `{}` does not load", path.display()))
            .hint("it must be built for the same platform as the sidecar; or run the environment in process mode")
            .detail(error.to_string())
    })
}

fn taken(message: &str) -> Error {
    Error::new(Code::InterpreterTaken, message).hint("a process has room for one interpreter: run this environment in process mode")
}

impl Python {
    /// `major.minor.patch`.
    fn version(&self) -> String {
        // SAFETY: returns a static text, also before Python is initialised.
        let text = unsafe { CStr::from_ptr((self.Py_GetVersion)()) }.to_string_lossy();
        text.split(|c: char| c.is_whitespace() || c == '+').next().unwrap_or_default().to_owned()
    }

    /// Takes the GIL, for which Python is started if need be, and releases it again.
    fn with_gil<T>(&self, joined: bool, python: &Path, call: impl FnOnce() -> Result<T>) -> Result<T> {
        if joined {
            // SAFETY: Python is initialised; the two calls are balanced.
            let state = unsafe { (self.PyGILState_Ensure)() };
            let result = call();
            // SAFETY: as above.
            unsafe { (self.PyGILState_Release)(state) };
            return result;
        }
        let name = CString::new(python.as_os_str().as_bytes()).map_err(|_| not_loadable(python, "there is a NUL character in its path"))?;
        // SAFETY: Python is not initialised. The name, which stays allocated, makes it find the environment's packages as if it had been run. No signal handlers
        // are installed: those are the host's. Afterwards this thread holds the GIL.
        unsafe {
            let wide = (self.Py_DecodeLocale)(name.as_ptr(), std::ptr::null_mut());
            if wide.is_null() {
                return Err(not_loadable(python, "its path cannot be decoded"));
            }
            (self.Py_SetProgramName)(wide);
            (self.Py_InitializeEx)(0);
        }
        let result = call();
        // SAFETY: this thread holds the GIL. Its thread state is Python's main one and is never used again.
        unsafe { (self.PyEval_SaveThread)() };
        result
    }

    /// Refuses a Python of the host that is another installation or virtual environment. Needs the GIL.
    fn check_prefix(&self, facts: &Facts) -> Result<()> {
        // SAFETY: the GIL is held; the reference is borrowed from `sys`, and may be null, which `text` takes.
        let found = unsafe { self.text((self.PySys_GetObject)(c"prefix".as_ptr())) };
        if Path::new(&found) == facts.prefix {
            return Ok(());
        }
        Err(taken(&format!("this process already runs Python in `{found}`, and the environment is in `{}`", facts.prefix.display())))
    }

    /// Imports the worker package and calls its set-up; gives the runtime's table. Needs the GIL.
    fn set_up(&self, package_dir: &Path, settings: &str) -> Result<&'static Table> {
        let nul = |_| Error::new(Code::EnvironmentInvalid, "there is a NUL character in the environment");
        let folder = CString::new(package_dir.as_os_str().as_bytes()).map_err(nul)?;
        let settings = CString::new(settings).map_err(nul)?;
        // SAFETY: the GIL is held, and every reference is checked before it is used. New references are not given back: they are few, and their objects live
        // as long as the process.
        let answer = unsafe {
            let path = (self.PySys_GetObject)(c"path".as_ptr());
            let folder = (self.PyUnicode_DecodeFSDefault)(folder.as_ptr());
            if path.is_null() || folder.is_null() || (self.PyList_Insert)(path, 0, folder) != 0 {
                return Err(self.failed("`sys.path` cannot be changed"));
            }
            let module = (self.PyImport_ImportModule)(MODULE.as_ptr());
            if module.is_null() {
                return Err(self.failed("the worker package cannot be imported"));
            }
            let start = (self.PyObject_GetAttrString)(module, c"start".as_ptr());
            let settings = (self.PyUnicode_FromString)(settings.as_ptr());
            let arguments = (self.PyTuple_New)(1);
            if start.is_null() || settings.is_null() || arguments.is_null() || (self.PyTuple_SetItem)(arguments, 0, settings) != 0 {
                return Err(self.failed("the worker package cannot be used"));
            }
            (self.PyObject_CallObject)(start, arguments)
        };
        if answer.is_null() {
            return Err(self.failed("the set-up of the interpreter raised"));
        }
        // SAFETY: the GIL is held and the reference is valid. What a capsule of this name points to is a table, and a static.
        unsafe {
            if (self.PyCapsule_IsValid)(answer, CAPSULE.as_ptr()) != 0 {
                return Ok(&*(self.PyCapsule_GetPointer)(answer, CAPSULE.as_ptr()).cast::<Table>());
            }
        }
        let traceback = self.text(answer);
        let last = traceback.trim_end().lines().last().unwrap_or_default().to_owned();
        Err(Error::new(Code::EnvironmentStartFailed, format!("the environment could not be set up in this process: {last}"))
            .detail(traceback))
    }

    /// A text object as text; empty if it is none. Needs the GIL.
    fn text(&self, object: Object) -> String {
        if object.is_null() {
            return String::new();
        }
        // SAFETY: the GIL is held and the reference valid; the text belongs to the object and is copied at once. `Py_DecRef` takes null.
        unsafe {
            let shown = (self.PyObject_Str)(object);
            let text = if shown.is_null() { std::ptr::null() } else { (self.PyUnicode_AsUTF8AndSize)(shown, std::ptr::null_mut()) };
            let text = if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() };
            (self.Py_DecRef)(shown);
            text
        }
    }

    /// The pending exception as an error. Needs the GIL.
    fn failed(&self, what: &str) -> Error {
        let mut raised = [std::ptr::null_mut(); 3];
        let [kind, value, traceback] = &mut raised;
        // SAFETY: the GIL is held, and the pointers are valid for writing.
        unsafe { (self.PyErr_Fetch)(kind, value, traceback) };
        let text = self.text(if raised[1].is_null() { raised[0] } else { raised[1] });
        Error::new(Code::EnvironmentStartFailed, format!("{what}: {text}"))
    }
}
