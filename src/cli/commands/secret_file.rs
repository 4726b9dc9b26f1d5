//! A new file that holds a key: readable by its owner alone, never over an existing file, and gone again unless it is
//! kept.

use crate::cli::errors::file_failure;
use crate::cli::failure::Failure;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file being made. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct SecretFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl SecretFile {
    /// Makes an empty file.
    ///
    /// # Errors
    /// Exit code 24 when there is one; else as the system says.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            let failure = file_failure("create", path, &error);
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                failure.hint("name another file; nothing was touched")
            } else {
                failure
            }
        })?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    /// Writes the whole contents, durably.
    ///
    /// # Errors
    /// As the system says; the file is removed then.
    pub(crate) fn write(mut self, contents: &[u8]) -> Result<Self, Failure> {
        let written = self.file.write_all(contents).and_then(|()| self.file.sync_all()).and_then(|()| self.sync_name());
        written.map_err(|error| file_failure("write", &self.path, &error))?;
        Ok(self)
    }

    /// The key is only safe when the file's name is durable too.
    fn sync_name(&self) -> std::io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.kept {
            // Whoever failed to write it has said so already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit_code::ExitCode;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_stays_only_when_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        drop(SecretFile::create(&path).unwrap().write(b"secret").unwrap());
        assert!(!path.exists());
        assert_eq!(SecretFile::create(&path).unwrap().write(b"secret").unwrap().keep(), path);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let failure = SecretFile::create(&path).unwrap_err();
        assert_eq!(failure.exit, ExitCode::Refused);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
    }
}
