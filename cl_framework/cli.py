"""`clf`: the verbs, and what a user sees when something is wrong."""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from cl_framework import __version__, completion, dashboard, looking, merge_files, new, stopping, sweep, watch, working
from cl_framework.errors import ClfError, ConfigError, Stopped, is_out_of_memory, printable
from cl_framework.grammar import Command, parse
from cl_framework.registry import see_current_folder, unknown

USAGE = """\
clf VERB {KEY=VALUES}        continual-learning experiments

  clf train scenario=split_digits strategy=er seed=0..4     learn a stream; several values make a product of runs
  clf train scenario=split_cifar strategy=er+lwf            a chain of strategies
  clf resume run=PATH                                       go on with a stopped run
  clf tune scenario=split_digits strategy=er,lwf protocol=gtep_lite    search hyperparameters on the tuning stream
  clf evaluate tuned=PATH                                   the winner on the evaluation stream, and its protocol record
  clf protocol scenario=split_digits strategy=er,lwf protocol=gtep_lite    both phases for several strategies
  clf merge base=A experts=B,C method=opcm out=E            models of one base, in safetensors files, become one
  clf report runs=PATH format=text|json|csv|markdown        mean, deviation and n over seeds
  clf report runs=PATH out=report.html                      a page for the browser, in one file
  clf report runs=PATH experiment=hsu2018                   the same beside published numbers
  clf diagnose run=PATH [out=picture.png]                   what updates did to the weights, and forgetting
  clf list [kind=strategy|scenario|model|metric|dataset|experiment|protocol]    what there is
  clf show strategy=er                                      what one is, and its fields
  clf check strategy=er                                     hold a plugin against its contract
  clf check protocol=PATH                                   hold a protocol record against its 15 rules
  clf data [get=mnist]                                      data sets: where they are, fetch one
  clf completion shell=bash|zsh|fish                        the script that lets your shell complete all this
  clf watch run=PATH                                        runs under way: accuracy so far, time left
  clf dashboard entity=TEAM project=NAME                    a W&B workspace and report over the runs of a project
  clf sweep scenario=split_digits strategy=er               a W&B sweep, for those who tune there
  clf new strategy name=my_method                           begin a plugin of your own (or scenario, metric, model)

Keys of train: scenario strategy model experiment seed order_seed phase, scenario.* strategy.* model.* train.* trainer.*
track.*, out=DIR (default runs), launcher=local workers=2. `clf show train=recipe` lists train.*.
Keys of tune: the same without seed, order_seed and phase, and protocol, search.* (`clf show search=search`).
Keys of evaluate: tuned out launcher workers defaults. Keys of protocol: those of tune, defaults and baselines.
Keys of merge: base experts method out keep embeddings seed, and the method's fields.
Options: --help --version --debug
"""
_AGAIN = "give the same command again, the run goes on from its last checkpoint"
_AGAIN_OF = {"merge": "nothing was written; give the same command again"}
"""What to do after an interruption, of verbs that keep no checkpoints."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status is 0, 2 for a user's mistake, 1 for a failure."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    is_debug = "--debug" in words
    atexit.register(gc.freeze)  # else the end of a process looks through each of torch's 400,000 objects for a second
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once by CUDA; the same bits in each run
    logging.basicConfig(level=logging.DEBUG if is_debug else logging.WARNING, format="%(message)s")
    for noisy in ("matplotlib", "asyncio", "urllib3", "git"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command = Command("")
    try:
        command = parse(words)
        return _run(command)
    except ClfError as error:
        if is_debug:
            raise
        print("\n".join(f"clf: {printable(line)}" for line in str(error).splitlines()), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"clf: interrupted; {_AGAIN_OF.get(command.verb, _AGAIN)}", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print(f"clf: {_stopped(stopped, command.verb, words)}", file=sys.stderr)
        return stopped.exit_status
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich leaves where nobody reads any more
            return 1
        print(f"clf: something called sys.exit({error.code}); finished work is kept", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:
        if is_debug:
            raise
        print(f"clf: {printable(_refused(error))}", file=sys.stderr)
        return 1
    except Exception as error:
        if is_debug:
            raise
        if is_out_of_memory(error):
            print(f"clf: {_refused(MemoryError())}", file=sys.stderr)
            return 1
        print(f"clf: unexpected {type(error).__name__}: {error}\nclf: this is a fault of clf or of a plugin; add "
              "--debug for the traceback. Finished work is kept", file=sys.stderr)
        return 1
    finally:
        if arguments is not None:  # the process goes on; else a late signal must not spoil its exit status
            stopping.restore()


def _stopped(stopped: Stopped, verb: str, words: Sequence[str]) -> str:
    """What has ended a command, what is kept, and the command that goes on."""
    what = "interrupted" if stopped.number == signal.SIGINT else f"stopped by {signal.Signals(stopped.number).name}"
    if verb in _AGAIN_OF:
        return f"{what}; {_AGAIN_OF[verb]}"
    kept = "a checkpoint is written; give the same command again to go on from it" if stopped.is_saved else _AGAIN
    is_secret = any(word.startswith("search.storage=") for word in words)
    return f"{what}; {kept}" if is_secret else f"{what}; {kept}:\n  {shlex.join(['clf', *words])}"


def _refused(error: OSError | MemoryError) -> str:
    """What the operating system did not give."""
    if isinstance(error, MemoryError):
        return "the memory of this machine is full; end other programs, or give fewer rows or smaller batches"
    place = "" if error.filename is None else f" {error.filename}:"
    return (f"the operating system refused:{place} {error.strerror or error}; check the path, its permissions and the "
            "disk. Finished work is kept")


def _run(command: Command) -> int:
    if "--version" in command.options:
        print(f"clf {__version__}")
        return 0
    if "--help" in command.options or not command.verb:
        print(USAGE, end="")
        return 0 if "--help" in command.options else 2
    if command.verb not in VERBS:
        raise ConfigError(unknown("verb", command.verb, VERBS))
    see_current_folder()
    return VERBS[command.verb](command)


VERBS: dict[str, Callable[[Command], int]] = {
    "train": working.train_verb, "tune": working.tune_verb, "evaluate": working.evaluate_verb,
    "protocol": working.protocol_verb, "resume": working.resume_verb, "report": looking.report_verb,
    "list": looking.list_verb, "show": looking.show_verb, "check": looking.check_verb, "data": looking.data_verb,
    "merge": merge_files.merge_verb, "diagnose": looking.diagnose_verb, "new": new.new_verb,
    "watch": watch.watch_verb, "dashboard": dashboard.dashboard_verb, "sweep": sweep.sweep_verb,
}
VERBS["completion"] = completion.completing(VERBS)

if __name__ == "__main__":
    sys.exit(main())
