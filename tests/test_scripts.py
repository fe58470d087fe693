"""A script runs as a child that tells all it says and that nothing of outlives the run."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefect_datastores.errors import ConfigurationError, ScriptFailed, TransferCancelled
from prefect_datastores.scripts.child import run_script, script_environment

SLEEPER = "import time; time.sleep(600)"

# Starts sleepers, each further from the script than the last, and tells their process ids.
GRANDCHILDREN = f"""
import os, subprocess, sys
sleep = [sys.executable, '-c', {SLEEPER!r}]
child = subprocess.Popen(sleep)
session = subprocess.Popen(sleep, start_new_session=True)
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    daemon = os.fork()
    if daemon:
        os.write(write, str(daemon).encode())
        os._exit(0)
    os.execv(sleep[0], sleep)
os.wait()
print('pids', child.pid, session.pid, os.read(read, 32).decode(), flush=True)
"""


class Output:
    """What a script said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.said: dict[str, threading.Event] = {}

    def __call__(self, stream: str, line: str) -> None:
        self.lines.append((stream, line))
        for word, event in self.said.items():
            if line.startswith(word):
                event.set()

    def once(self, word: str) -> threading.Event:
        """An event that is set when a line begins with the word."""
        return self.said.setdefault(word, threading.Event())

    def of(self, stream: str) -> list[str]:
        return [line for where, line in self.lines if where == stream]

    def pids(self) -> list[int]:
        line = next(line for line in self.of("stdout") if line.startswith("pids"))
        return [int(word) for word in line.split()[1:]]


def run(folder: Path, code: str, output: Callable[[Any, str], None], **options: Any) -> None:
    script = folder / "train.py"
    script.write_text(textwrap.dedent(code))
    options = {"environment": script_environment({}), "stop_requested": lambda: False, **options}
    run_script([sys.executable, "train.py"], directory=folder, on_line=output, **options)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(*pids: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while left := [pid for pid in pids if not is_gone(pid)]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.05)


@pytest.fixture
def output() -> Output:
    return Output()


def test_lines_come_in_order_from_both_streams(tmp_path: Path, output: Output) -> None:
    run(
        tmp_path,
        """
        import sys
        for number in range(1000):
            print('out', number)
            print('err', number, file=sys.stderr)
        """,
        output,
    )
    assert output.of("stdout") == [f"out {number}" for number in range(1000)]
    assert output.of("stderr") == [f"err {number}" for number in range(1000)]


def test_lines_come_while_the_script_runs(tmp_path: Path, output: Output) -> None:
    (tmp_path / "go").write_text("")
    answered = output.once("ready")

    def answer() -> bool:
        if answered.is_set():
            (tmp_path / "go").unlink(missing_ok=True)
        return False

    run(
        tmp_path,
        """
        import os, time
        print('ready')
        while os.path.exists('go'):
            time.sleep(0.01)
        print('done')
        """,
        output,
        stop_requested=answer,
    )
    assert output.of("stdout") == ["ready", "done"]


def test_of_a_progress_bar_the_last_state_is_kept(tmp_path: Path, output: Output) -> None:
    run(
        tmp_path,
        r"""
        import sys
        sys.stdout.write('epoch 1%\repoch 50%\repoch 100%\n')
        sys.stdout.write('windows line\r\n')
        sys.stdout.write('no end of line')
        """,
        output,
    )
    assert output.of("stdout") == ["epoch 100%", "windows line", "no end of line"]


def test_bytes_that_are_no_utf_8_are_shown_all_the_same(tmp_path: Path, output: Output) -> None:
    run(tmp_path, r"import os; os.write(1, b'caf\xe9 \xff\n'); os.write(1, 'ä\n'.encode())", output)
    assert output.of("stdout") == ["caf\ufffd \ufffd", "ä"]


def test_a_line_without_end_comes_in_pieces(tmp_path: Path, output: Output) -> None:
    run(tmp_path, "print('x' * 1_000_000, end='')", output)
    assert "".join(output.of("stdout")) == "x" * 1_000_000
    assert max(map(len, output.of("stdout"))) <= 64 * 1024


def test_a_flood_of_lines_on_both_streams_comes_whole(tmp_path: Path, output: Output) -> None:
    run(
        tmp_path,
        r"""
        import os, threading
        def flood(fd, word):
            data = b''.join(b'%s %d\n' % (word, number) for number in range(100_000))
            while data:
                data = data[os.write(fd, data):]
        threads = [threading.Thread(target=flood, args=pair) for pair in ((1, b'out'), (2, b'err'))]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
        output,
    )
    assert output.of("stdout") == [f"out {number}" for number in range(100_000)]
    assert output.of("stderr") == [f"err {number}" for number in range(100_000)]


def test_the_end_of_stderr_is_in_the_message_of_a_failure(tmp_path: Path, output: Output) -> None:
    with pytest.raises(ScriptFailed) as failed:
        run(
            tmp_path,
            """
            import sys
            print('not this, it is stdout')
            for number in range(25):
                print('fault', number, file=sys.stderr)
            sys.exit(3)
            """,
            output,
        )
    error = failed.value
    assert error.exit_code == 3
    assert error.tail == tuple(f"fault {number}" for number in range(5, 25))
    shown = "\n  ".join(error.tail)
    assert (
        str(error)
        == f"The script train.py failed with exit code 3. The end of its stderr:\n  {shown}"
    )


def test_a_silent_failure_says_that_it_was_silent(tmp_path: Path, output: Output) -> None:
    with pytest.raises(ScriptFailed, match=r"exit code 1.*\n.*it wrote nothing to stderr"):
        run(tmp_path, "import os; os._exit(1)", output)


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGKILL, r"SIGKILL, often: out of memory"), (signal.SIGSEGV, r"\(SIGSEGV\)")],
)
def test_a_script_that_a_signal_ended_says_which(
    number: signal.Signals, says: str, tmp_path: Path, output: Output
) -> None:
    with pytest.raises(ScriptFailed, match=says) as failed:
        run(tmp_path, f"import os; os.kill(os.getpid(), {int(number)})", output)
    assert failed.value.exit_code == 128 + number


def test_a_script_that_takes_too_long_is_stopped(tmp_path: Path, output: Output) -> None:
    code = "import os\nprint('pids', os.getpid(), flush=True)\n" + SLEEPER
    with pytest.raises(
        ScriptFailed, match=r"longer than max_run_duration_seconds=2 and was stopped"
    ):
        run(tmp_path, code, output, seconds=2)
    assert all(map(is_gone, output.pids()))


def test_a_script_within_its_time_is_left_alone(tmp_path: Path, output: Output) -> None:
    run(tmp_path, "print('quick')", output, seconds=300)
    assert output.of("stdout") == ["quick"]


def test_a_request_to_stop_ends_the_script(tmp_path: Path, output: Output) -> None:
    ready = output.once("pids")
    with pytest.raises(TransferCancelled, match="stopped because its run was cancelled"):
        run(tmp_path, GRANDCHILDREN + SLEEPER, output, stop_requested=ready.is_set)
    assert len(output.pids()) == 3
    assert all(map(is_gone, output.pids()))


def test_a_stopped_script_may_tidy_up(tmp_path: Path, output: Output) -> None:
    ready = output.once("ready")
    code = """
    import signal, sys, time
    def leave(*_):
        open('tidy', 'w').write('yes')
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
    print('ready')
    time.sleep(600)
    """
    with pytest.raises(TransferCancelled):
        run(tmp_path, code, output, stop_requested=ready.is_set)
    assert (tmp_path / "tidy").read_text() == "yes"


def test_a_script_that_ignores_the_signal_is_ended_all_the_same(
    tmp_path: Path, output: Output
) -> None:
    ready = output.once("pids")
    code = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print('pids', os.getpid())
    while True:
        time.sleep(1)
    """
    with pytest.raises(TransferCancelled):
        run(tmp_path, code, output, stop_requested=ready.is_set)
    assert all(map(is_gone, output.pids()))


def test_what_a_script_left_running_ends_with_it(tmp_path: Path, output: Output) -> None:
    run(tmp_path, GRANDCHILDREN, output)
    assert len(output.pids()) == 3
    assert all(map(is_gone, output.pids()))


def test_what_a_failed_script_left_running_ends_with_it(tmp_path: Path, output: Output) -> None:
    with pytest.raises(ScriptFailed, match="exit code 7"):
        run(tmp_path, GRANDCHILDREN + "sys.exit(7)", output)
    assert len(output.pids()) == 3
    assert all(map(is_gone, output.pids()))


def test_an_exception_in_the_caller_ends_the_script(tmp_path: Path, output: Output) -> None:
    ready = output.once("pids")

    def interrupt() -> bool:
        if ready.is_set():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, GRANDCHILDREN + SLEEPER, output, stop_requested=interrupt)
    assert all(map(is_gone, output.pids()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_run_takes_the_script_with_it(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(GRANDCHILDREN + f"print('me', os.getpid())\n{SLEEPER}")
    program = """
    import sys
    from pathlib import Path
    from prefect_datastores.scripts.child import run_script, script_environment
    run_script(
        [sys.executable, 'train.py'],
        directory=Path(sys.argv[1]),
        environment=script_environment({}),
        on_line=lambda _, line: print(line, flush=True),
        stop_requested=lambda: False,
    )
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        lines = list(itertools.islice(parent.stdout, 2))
        pids = [int(word) for line in lines for word in line.split()[1:]]
        below = [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]
        parent.send_signal(number)
        parent.wait(60)
    assert len(pids) == 4
    assert set(pids) <= set(below)
    wait_until_gone(*below)


def test_what_signs_the_run_in_is_not_the_scripts_to_see(
    tmp_path: Path, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {
        "PREFECT_API_KEY": "pnu_secret",
        "PREFECT_API_AUTH_STRING": "admin:secret",
        "AZURE_CLIENT_SECRET": "client~secret",
        "PREFECT_DATASTORES_ACCOUNT_KEY": "key==",
        "PREFECT_CLIENT_CUSTOM_HEADERS": '{"Authorization": "Bearer secret"}',
        "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql://me:secret@host/db",
        "AZURE_STORAGE_KEY": "key==",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=secret",
        "AZURE_STORAGE_SAS_TOKEN": "sig=secret",
    }
    for name, value in {**secret, "HARMLESS": "seen"}.items():
        monkeypatch.setenv(name, value)
    run(tmp_path, "import os\nfor pair in os.environ.items(): print('%s=%s' % pair)", output)
    said = output.of("stdout")
    assert "HARMLESS=seen" in said
    assert [line for line in said if line.partition("=")[0] in secret] == []
    handed_on = script_environment({"AZURE_STORAGE_KEY": "the script's own"})
    assert handed_on["AZURE_STORAGE_KEY"] == "the script's own"
    assert "PREFECT_API_KEY" not in handed_on


def test_a_script_has_nothing_to_read_and_a_session_of_its_own(
    tmp_path: Path, output: Output
) -> None:
    run(
        tmp_path,
        """
        import os, sys
        print(repr(sys.stdin.read()))
        print(os.getsid(0))
        print(os.getcwd())
        print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4])
        """,
        output,
    )
    stdin, session, directory, files = output.of("stdout")
    assert stdin == "''"
    assert int(session) != os.getsid(0)
    assert directory == str(tmp_path)
    assert files == "[0, 1, 2, 3]"  # 3 is the listing itself: no file of the run is inherited


def test_a_folder_that_is_missing_is_named(tmp_path: Path, output: Output) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be started in .*nowhere: No such file"):
        run_script(
            [sys.executable, "train.py"],
            directory=tmp_path / "nowhere",
            environment=script_environment({}),
            on_line=output,
            stop_requested=lambda: False,
        )


def test_no_thread_and_no_file_is_left_behind(tmp_path: Path, output: Output) -> None:
    def held() -> tuple[int, list[str]]:
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("pds-")]
        return len(list(Path("/proc/self/fd").iterdir())), names

    before = held()
    run(tmp_path, "print('fine')", output)
    with pytest.raises(ScriptFailed):
        run(tmp_path, "import sys; sys.exit(1)", output)
    assert held() == before
    assert before[1] == []
