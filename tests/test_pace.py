"""As many threads as are worth while, by models of what they work on; no thread is started."""

import pytest

from prefect_datastores.staging.pace import Pace, Worked, cores


class Link:
    """A model: threads that work on objects and wait for each of them; only one runs Python at a time."""

    def __init__(self, most: int = 64, of_cores: int = 8) -> None:
        self.now = 0.0
        self.pace = Pace(most, lambda: self.now, of_cores)
        self.threads = 1

    def move(self, objects: int, *, work: float, wait: float, python: float | None = None) -> int:
        """Return how many threads there are after that many objects of one kind."""
        alone = work if python is None else python
        for _ in range(objects):
            # What all of them can do in a second is bound by each one's turn, and by Python.
            self.now += max((work + wait) / self.threads, alone)
            self.pace.worked(Worked(work, 1), self.threads)
            self.threads = self.pace.wanted
        return self.threads


def test_one_thread_is_enough_where_nothing_is_waited_for() -> None:
    assert Link().move(2000, work=0.0001, wait=0.0) == 1


def test_a_wait_wants_as_many_threads_as_keep_python_at_work() -> None:
    threads = {wait: Link().move(5000, work=0.0001, wait=wait) for wait in (0.0005, 0.001, 0.02)}
    assert 3 <= threads[0.0005] <= 6
    assert 7 <= threads[0.001] <= 11
    assert threads[0.02] == 64


def test_there_are_never_more_than_there_may_be() -> None:
    assert Link(most=5).move(1000, work=0.0001, wait=0.1) == 5
    assert Link(most=1).move(1000, work=0.0001, wait=0.1) == 1


def test_threads_are_fewer_again_when_the_wait_is_over() -> None:
    link = Link()
    assert link.move(3000, work=0.0001, wait=0.02) == 64
    assert link.move(3000, work=0.0001, wait=0.0) == 1


def test_digests_and_copies_of_larger_objects_are_no_reason_for_one_thread() -> None:
    link = Link(of_cores=8)
    assert link.move(500, work=0.004, wait=0.001, python=0.0002) >= 4


def test_threads_do_not_grow_where_the_cores_are_at_work_already() -> None:
    link = Link(of_cores=1)
    assert link.move(500, work=0.004, wait=0.0, python=0.0002) == 1


def test_small_objects_that_one_thread_has_many_of_under_way_want_no_other() -> None:
    now = 0.0
    pace = Pace(64, lambda: now, 8)
    for _ in range(1000):
        now += 0.02  # what one thread waits for with all that it may have begun
        pace.worked(Worked(small=0.0001), 1)
        assert pace.wanted == 1


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_small_objects_send_threads_away_that_only_wait_for_python(threads: int) -> None:
    now = 0.0
    pace = Pace(64, lambda: now, 8)
    for _ in range(3000):
        now += 0.0001
        pace.worked(Worked(small=0.0001), threads)
        if now > 0.03:  # after the first look
            threads = min(threads, pace.wanted)
    assert threads == 1


def test_what_was_seen_before_a_new_look_does_not_count() -> None:
    link = Link()
    link.now = 10.0  # nothing was done for long, which says nothing
    link.pace.begin_look()
    assert link.move(1000, work=0.0001, wait=0.0) == 1


def test_this_process_has_a_core() -> None:
    assert cores() >= 1
