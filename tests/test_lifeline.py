"""A worker ends with the command that started it."""

import fcntl
import signal
import subprocess
import sys
import time

COMMAND = """
import fcntl, sys, time
from cl_framework.local_pool import Processes

def hold_and_sleep(path):
    file = open(path, "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write("held")
    file.flush()
    time.sleep(600)

pool = Processes()
for path in sys.argv[1:]:
    pool.start(hold_and_sleep, path)
time.sleep(600)
"""


def within(seconds, happens):
    """Whether something happens in time."""
    until = time.monotonic() + seconds
    while not happens() and time.monotonic() < until:
        time.sleep(0.05)
    return happens()


def is_held(path):
    """Whether a living process holds the file; the system lets go of it when the process ends."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_workers_do_not_outlive_a_command_that_is_killed(tmp_path):
    files = [tmp_path / "first", tmp_path / "second"]
    command = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, files)])
    try:
        assert within(120, lambda: all(file.exists() and file.read_text() for file in files))
        assert all(map(is_held, files)), "they work in the middle of a task"
    finally:
        command.send_signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    assert within(30, lambda: not any(map(is_held, files)))
