"""The one planner: what a sweep needs, what of it is stale and why, and in which order it is made.

Keys are hashed from inputs, so the whole plan is known before anything runs. `fovea run`, `fovea status`, the schedule
and the sensor all ask here.
"""

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from assets.chain import Chain, Name
from assets.graph import Need, Waiting
from models.errors import FoveaError


@dataclass(frozen=True)
class Step:
    """One unit of a plan. `why` is "" when the store has it. again: it has, but the partition's last record is of another unit:
    it is called up once more, so that tables and UIs show it, and counted as found."""

    stage: str
    partition: str
    why: str
    again: bool = False

    @property
    def name(self) -> Name:
        """Stage and partition."""
        return self.stage, self.partition

    @property
    def stale(self) -> bool:
        """Whether it has to be made."""
        return bool(self.why)

    @property
    def reason(self) -> str:
        """Why it is carried out; "" where it is not."""
        return self.why or "made before, tables and pages go back to it" * self.again


def planned(chain: Chain, name: Name) -> Step:
    """A unit with the reason why it has to be made.

    One that can't be keyed because something upstream is missing waits for it, and counts as stale. Raises FoveaError for
    one that cannot be made.
    """
    why = chain.why(*name)
    return Step(*name, why, again=not why and chain.moved(*name))


def plan(chain: Chain, wanted: Iterable[Name]) -> list[Step]:
    """Every unit, as `planned` says; one that cannot be made is stale, with the reason. So is a fresh one that will take up
    what it was made without, once that is there. wanted: each after what it is made from."""
    steps = []
    coming: dict[Name, bool] = {}  # by what is stale, whether it can be expected; not where a check failed
    changing = set[Name]()  # what the store has will be made under another key
    for name in dict.fromkeys(wanted):
        try:
            step = planned(chain, name)
            sound = not chain.unfit(*name)
        except Waiting as waiting:
            step, sound = Step(*name, str(waiting)), True
        except FoveaError as error:
            step, sound = Step(*name, f"cannot be made: {error}"), False
        needs = _needs(chain, name)
        later = [n for n in needs if n[:2] in changing or (n.optional and coming.get(n[:2]))]
        if later and not step.stale:
            step = Step(*name, f"waits for {later[0].stage} of {later[0].partition}")
            changing.add(name)
        if step.stale:
            coming[name] = sound and all(coming.get(n[:2], True) for n in needs if not n.optional)
        steps.append(step)
    return steps


def stale(chain: Chain, wanted: Iterable[Name]) -> list[Step]:
    """The stale steps of a plan."""
    return [step for step in plan(chain, wanted) if step.stale]


@dataclass
class Outcome:
    """What a run of a plan did."""

    made: int = 0
    found: int = 0
    failed: int = 0
    skipped: int = 0
    messages: tuple[str, ...] = ()


#: makes one step; returns "" when it went well, else what went wrong. Called in a thread of its own when `parallel` > 1
Maker = Callable[[Step], str]


def carry_out(
    chain: Chain, wanted: list[Name], make: Maker, outcome: Outcome | None = None, *, parallel: int = 1
) -> Outcome:
    """Make what is stale, and only that; tell of what is found again. A failure keeps what does not depend on it going.

    Of what is ready, the first in order is made next, up to `parallel` steps at once. What a failed unit would have fed is
    skipped, except where it is optional: the tables use what there is. Only this thread touches the chain: with
    `parallel` > 1, `make` has to work with one of its own. outcome: is written into, default a new one.
    """
    outcome = outcome or Outcome()
    needs = {name: _needs(chain, name) for name in wanted}
    left = dict.fromkeys(needs)  # neither made nor given up
    running: dict[Future[str], Step] = {}
    broken: dict[Name, str] = {}  # what went wrong; "" where something else did, upstream

    def settle(step: Step, problem: str) -> None:
        del left[step.name]
        if problem:
            outcome.failed += 1
            broken[step.name] = f"{step.stage} {step.partition}: {problem}"
        elif step.stale:
            outcome.made += 1
        else:
            outcome.found += 1

    def start(name: Name, pool: ThreadPoolExecutor | None) -> None:
        if any(n[:2] in broken for n in needs[name] if not n.optional):
            outcome.skipped += 1
            broken[name] = ""
            del left[name]
            return
        try:
            step = planned(chain, name)
        except FoveaError as error:
            settle(Step(*name, why="cannot be planned"), str(error))
            return
        if not step.stale and not step.again:
            settle(step, "")
        elif pool is not None:
            running[pool.submit(make, step)] = step
        else:
            problem = make(step)
            chain.forget(*name)
            settle(step, problem)

    # one step at a time stays in this thread: interrupts reach it, and libraries keep their threads warm
    pool = ThreadPoolExecutor(parallel, "step") if parallel > 1 else None
    try:
        while left:
            under_way = {step.name for step in running.values()}
            waiting = (name for name in left if name not in under_way)
            ready = next((name for name in waiting if not any(n[:2] in left for n in needs[name])), None)
            if ready is not None and len(running) < parallel:
                start(ready, pool)
                continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step = running.pop(future)
                chain.forget(*step.name)
                settle(step, future.result())
    finally:
        if pool is not None:  # after an interrupt the caller ends what is under way
            pool.shutdown(wait=False, cancel_futures=True)
    outcome.messages = tuple(broken[name] for name in needs if broken.get(name))
    return outcome


def _needs(chain: Chain, name: Name) -> list[Need]:
    with contextlib.suppress(FoveaError):  # said when it is planned
        return chain.needs(*name)
    return []
