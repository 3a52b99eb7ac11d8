"""The ledger of a search: an Optuna study that remembers trials and the score of every seed. Optuna is used here alone.

Trials are put down once with their values, so an interrupted search never draws again. A trial's number is its own for
good: where its process died it is taken up again under the same number, with the seeds that it had.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cl_framework.errors import ClfError, ConfigError
from cl_framework.files import write_atomic
from cl_framework.search import Space, draw
from cl_framework.seeding import derive
from cl_framework.trials import Score, State, Trial

JOURNAL = "study.journal"
"""The default storage, in the study's folder."""
STALE = 120.0
"""Seconds without a sign of life after which a trial of another holder is taken up."""

_STATES: dict[State, TrialState] = {"waiting": TrialState.WAITING, "running": TrialState.RUNNING,
                                    "complete": TrialState.COMPLETE, "failed": TrialState.COMPLETE,
                                    "pruned": TrialState.PRUNED}


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _reached(method: Callable[Concatenate[Ledger, _P], _T]) -> Callable[Concatenate[Ledger, _P], _T]:
    """A storage that is lost on the way ends the search with what to do."""
    @wraps(method)
    def kept(ledger: Ledger, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(ledger, *args, **kwargs)
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
            raise ClfError(f"the study in {ledger.where} was lost on the way ({_shown(error)}); finished runs are "
                           "kept. When it can be reached again, give the same command") from error

    return kept


def _shown(error: Exception) -> str:
    """The first line of an error, and of the one behind it."""
    behind = error.__cause__ or error.__context__
    lines = [(str(each).strip() or type(each).__name__).splitlines()[0] for each in (error, behind) if each is not None]
    return ": ".join(dict.fromkeys(lines))


class Ledger:
    """Trials of one study, kept in a file or a database.

    Whoever makes one with the default storage holds the study's folder alone (`tuning` locks it).

    Args:
        name: of the study; the hash of everything that it depends on.
        space: what is searched.
        folder: the study's folder.
        storage: a database URL; None is a journal file in the folder.
        holder: who runs the trials, the same after a restart.

    Raises:
        ConfigError: the storage cannot be reached.
    """

    def __init__(self, name: str, space: Space, folder: Path, storage: str | None, holder: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._holder, self._name = space, holder, name
        self._signs: dict[int, tuple[Any, float]] = {}
        self.where = str(folder / JOURNAL) if storage is None else public(storage)
        self._elsewhere = "out=DIR" if storage is None else "search.storage"
        self._axes: dict[str, BaseDistribution] = {
            key: CategoricalDistribution([_plain(value) for value in grid])
            for key, grid in space.grids.items()}
        try:
            self._storage = _journal(folder / JOURNAL) if storage is None else RDBStorage(storage)
            self._study = optuna.create_study(storage=self._storage, study_name=name, direction="maximize",
                                              load_if_exists=True)
            self._id = self._storage.get_study_id_from_name(name)
        except Exception as error:  # SQLAlchemy, its drivers and Optuna raise dozens of kinds
            shown = _shown(error) if storage is None else _shown(error).replace(storage, self.where)
            raise ConfigError(f"the study cannot be kept in search.storage={self.where}: {shown}; "
                              "check the address and its driver, or leave search.storage out for a file"
                              ) from error

    @_reached
    def begin_on(self, data: Mapping[str, str]) -> None:
        """Note the data that the scores belong to; later starts must have the same.

        Args:
            data: name and digest of each data set of the tuning stream.

        Raises:
            ConfigError: shows both digests.
        """
        known = self._study.user_attrs.get("data")
        if known is None:
            self._study.set_user_attr("data", dict(data))
        elif known != dict(data):
            raise ConfigError(f"the search in {self.where} was begun on other data ({known}, now {dict(data)}); put "
                              f"the old files back, or begin a new search with another {self._elsewhere}")

    @_reached
    def put_down(self, draws: Iterable[Mapping[str, Any]]) -> None:
        """Write down the trials that are not there yet, in order; those that are there stay as they are."""
        there = self._frozen()
        for number, values in enumerate(draws):
            if number not in there:
                self._study.add_trial(optuna.create_trial(
                    state=TrialState.WAITING, distributions=self._axes, user_attrs={"trial": number},
                    params={key: _plain(value) for key, value in values.items()}))

    @_reached
    def ask(self, strategy: str) -> int:
        """A new trial whose values the Parzen estimator proposes; it is running from then on.

        The proposal is a function of the strategy, the number and the trials that are over, so a search that goes on
        proposes what it would have proposed.
        """
        number = len(self._frozen())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(seed=derive(number, "tpe", strategy) % 2**32)
        trial = self._study.ask(self._axes)
        trial.set_user_attr("trial", number)
        self._sign(trial.number)
        return number

    @_reached
    def claim(self, number: int) -> bool:
        """Take a trial that waits, or one whose process died; whether it is ours now."""
        found = self._frozen()[number]
        if found.state == TrialState.WAITING:
            if not self._storage.set_trial_state_values(self._trial_id(found.number), TrialState.RUNNING):
                return False
        elif found.state != TrialState.RUNNING or not self._is_dead(found):
            return False
        self._complete(found, number)
        self._sign(found.number)
        return True

    @_reached
    def beat(self, numbers: Iterable[int]) -> None:
        """Give a sign of life of the trials that run here."""
        for number in numbers:
            self._sign(self._frozen()[number].number)

    @_reached
    def record(self, number: int, seed: int, score: Score) -> None:
        """Write down a seed's score as soon as it is known."""
        found = self._frozen()[number]
        if not found.state.is_finished():
            self._storage.set_trial_user_attr(self._trial_id(found.number), f"seed {seed}", _stored(score))

    @_reached
    def end(self, number: int, state: State, mean: float) -> None:
        """Close a trial; a second time changes nothing."""
        found = self._frozen()[number]
        if not found.state.is_finished():
            trial_id = self._trial_id(found.number)
            self._storage.set_trial_user_attr(trial_id, "state", state)
            self._storage.set_trial_state_values(trial_id, _STATES[state], [mean])

    @_reached
    def spend(self, seconds: float) -> float:
        """Add to the wall-clock time of the search, over all its starts; the sum."""
        total = float(self._study.user_attrs.get("wall_seconds", 0.0)) + seconds
        self._study.set_user_attr("wall_seconds", total)
        return total

    @_reached
    def trials(self) -> dict[int, Trial]:
        """Every trial by its number, as the storage has it now."""
        return {number: self._trial(number, found) for number, found in sorted(self._frozen().items())}

    def _trial(self, number: int, found: FrozenTrial) -> Trial:
        values = {key: next(value for value in grid if _plain(value) == found.params[key])
                  for key, grid in self._space.grids.items() if key in found.params}
        scores = {int(name.removeprefix("seed ")): _score(stored) for name, stored in found.user_attrs.items()
                  if name.startswith("seed ")}
        state: State = "waiting" if found.state == TrialState.WAITING else "running"
        if found.state.is_finished():
            state = found.user_attrs.get("state", "failed")
        return Trial(number=number, values=values, scores=dict(sorted(scores.items())), state=state)

    def _frozen(self) -> dict[int, FrozenTrial]:
        """Optuna's trials by our number; of two with one number (two machines put them down at once) the first."""
        found: dict[int, FrozenTrial] = {}
        for trial in self._storage.get_all_trials(self._id, deepcopy=False):
            found.setdefault(trial.user_attrs.get("trial", trial.number), trial)
        return found

    def _trial_id(self, optuna_number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, optuna_number)

    def _complete(self, found: FrozenTrial, number: int) -> None:
        """Draw what a proposal lacks that was cut short by a kill."""
        for key, value in draw(self._space, self._name, number).items():
            if key not in found.params:
                axis = self._axes[key]
                self._storage.set_trial_param(self._trial_id(found.number), key, axis.to_internal_repr(_plain(value)),
                                              axis)

    def _sign(self, optuna_number: int) -> None:
        self._storage.set_trial_user_attr(self._trial_id(optuna_number), "held", [self._holder, uuid.uuid4().hex])

    def _is_dead(self, found: FrozenTrial) -> bool:
        """A running trial of this holder began before a restart; another holder's is dead without a sign of life.

        Clocks of machines differ and jump, so a sign is a word, and counts as new while this process sees it change.
        """
        holder, sign = found.user_attrs.get("held", [self._holder, ""])
        seen, since = self._signs.get(found.number, (None, 0.0))
        if seen != sign:
            self._signs[found.number] = sign, (since := time.monotonic())
        return bool(holder == self._holder or time.monotonic() - since > STALE)


def public(address: str) -> str:
    """The address of a database without what may be a password.

    >>> public("postgresql://me:secret@host/trials?sslpassword=secret")
    'postgresql://***@host/trials?***'
    """
    return re.sub(r"\?.*", "?***", re.sub(r"//.*@", "//***@", address, flags=re.DOTALL), flags=re.DOTALL)


def _journal(path: Path) -> BaseStorage:
    """The journal file, mended after a kill: a line that was not finished and a lock that was left go away."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomic(path, whole)
    return JournalStorage(JournalFileBackend(str(path)))


def _plain(value: Any) -> bool | int | float | str | None:
    """A value as Optuna takes it; a list or a map as its JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _stored(score: Score) -> dict[str, Any]:
    """JSON has no infinity: null stands for it."""
    return {name: None if value == float("inf") else value for name, value in dataclasses.asdict(score).items()}


def _score(stored: Mapping[str, Any]) -> Score:
    n_parameters = stored["n_parameters"]
    return Score(value=stored["value"], average_accuracy=stored["average_accuracy"], seconds=stored["seconds"],
                 n_parameters=float("inf") if n_parameters is None else n_parameters, failure=stored["failure"])
