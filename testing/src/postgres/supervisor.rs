//! The shell that cleans up after us.

use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

use super::account::Account;

/// Reads process ids, the last of which is the server's now (an empty line: none). When the pipe closes, whoever wrote
/// is gone: the server is told to stop at once, then made to, and its folder removed. A server that was started but
/// not named any more ends by itself when it misses its folder.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
server=
while read -r line; do server=$line; done
if [ -n "$server" ]; then
    kill -QUIT "$server" 2>/dev/null
    tries=0
    while kill -0 "$server" 2>/dev/null && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -KILL "$server" 2>/dev/null
fi
rm -rf -- "$1"
"#;

#[derive(Debug)]
pub(super) struct Supervisor {
    shell: Child,
    /// `None` once it was told to clean up.
    pipe: Option<ChildStdin>,
}

impl Supervisor {
    /// Makes a temporary folder, owned by the account, and the shell that removes it.
    pub(super) fn of_a_new_folder(account: Option<&Account>) -> Result<(PathBuf, Self)> {
        let folder =
            tempfile::Builder::new().prefix("avsweep-postgres-").tempdir().context("make a folder")?;
        if let Some(account) = account {
            chown(folder.path(), Some(account.uid), Some(account.gid)).context("give the folder away")?;
        }
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "avsweep-postgres-supervisor"])
            .arg(folder.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C is for us; the shell notices our end.
            .process_group(0)
            .spawn()
            .context("start the supervising shell")?;
        let pipe = Some(shell.stdin.take().context("the shell has no pipe")?);
        Ok((folder.keep(), Self { shell, pipe }))
    }

    /// Names the server that is to end with us.
    pub(super) fn watch(&mut self, server: Option<u32>) -> Result<()> {
        let line = server.map_or_else(String::new, |pid| pid.to_string());
        let pipe = self.pipe.as_mut().context("the supervising shell is gone")?;
        writeln!(pipe, "{line}").context("tell the supervising shell")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // It waits for nothing without a bound.
        let _ = self.shell.wait();
    }
}
