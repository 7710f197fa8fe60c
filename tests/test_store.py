"""What the ledger asks of git, held over real git and over the remote in memory that fault schedules use."""

from collections.abc import Callable
from pathlib import Path

import pytest
from faults.memory_git import MemoryRemote, MemoryStore
from git_world import Remote

from pushtrain.errors import LedgerUnavailable
from pushtrain.gitstore import GitStore, Store, blob_id
from pushtrain.ledger import _is_race

ONE, TWO, CLAIM = "refs/heads/runs/one", "refs/heads/runs/two", "refs/heads/claims/one"
NewStore = Callable[[], Store]


@pytest.fixture(params=["git", "memory"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """Makes stores, each with a cache of its own, over one remote."""
    if request.param == "memory":
        shared = MemoryRemote()
        return lambda: MemoryStore(shared)
    remote, caches = Remote(tmp_path), iter(range(100))
    return lambda: GitStore(remote.file_url, tmp_path / f"cache-{next(caches)}", token=None, environ=remote.env)


def commit(store: Store, parent: str | None = None, **files: str) -> str:
    named = {path.replace("__", "/"): text.encode() for path, text in files.items()}
    return store.commit(parent, named, b"subject", 1_700_000_000.0)


def test_what_one_pushes_another_reads(new_store: NewStore) -> None:
    mine, other = new_store(), new_store()
    first = commit(mine, spec="a", events__000001="b")
    second = commit(mine, first, events__000002="c")
    assert mine.push({ONE: second}).returncode == 0
    assert other.remote_refs("refs/heads/runs/*") == {ONE: second}
    assert other.remote_refs("refs/heads/claims/*") == {}
    assert other.fetch({ONE: second}) == {ONE: second} and other.exists
    (tree,) = other.trees([second])
    assert tree == {"spec": blob_id(b"a"), "events/000001": blob_id(b"b"), "events/000002": blob_id(b"c")}
    assert other.objects([tree["events/000002"], tree["spec"]]) == [b"c", b"a"]
    assert other.trees([first])[0].keys() == {"spec", "events/000001"}


def test_a_push_that_is_not_on_top_is_a_race_and_changes_nothing(new_store: NewStore) -> None:
    mine, other = new_store(), new_store()
    base = commit(mine, spec="a")
    mine.push({ONE: base})
    other.fetch({ONE: base})
    won, lost = commit(mine, base, mine="1"), commit(other, base, other="1")
    assert mine.push({ONE: won}).returncode == 0
    refused = other.push({ONE: lost})
    assert refused.returncode != 0 and _is_race(refused)
    assert other.remote_refs("refs/heads/runs/*") == {ONE: won}
    assert other.fetch({ONE: won}) == {ONE: won}
    assert other.push({ONE: commit(other, won, other="1")}).returncode == 0


def test_a_push_again_is_a_success(new_store: NewStore) -> None:
    store = new_store()
    tip = commit(store, spec="a")
    assert store.push({ONE: tip}).returncode == store.push({ONE: tip}).returncode == 0


def test_an_older_commit_is_no_success(new_store: NewStore) -> None:
    store = new_store()
    first = commit(store, spec="a")
    second = commit(store, first, more="b")
    store.push({ONE: second})
    refused = store.push({ONE: first})
    assert refused.returncode != 0 and _is_race(refused)


def test_create_only_makes_all_or_none(new_store: NewStore) -> None:
    store = new_store()
    tip = commit(store, spec="a")
    assert store.push({ONE: tip, CLAIM: tip}, create_only=True).returncode == 0
    again = commit(store, spec="b")
    refused = store.push({TWO: again, CLAIM: again}, create_only=True)
    assert refused.returncode != 0 and _is_race(refused)
    assert store.remote_refs("*") == {ONE: tip, CLAIM: tip}
    on_top = commit(store, tip, more="c")
    assert store.push({ONE: on_top}, create_only=True).returncode != 0
    assert store.remote_refs("*") == {ONE: tip, CLAIM: tip}


def test_several_refs_move_together_or_not_at_all(new_store: NewStore) -> None:
    mine, other = new_store(), new_store()
    base = commit(mine, spec="a")
    mine.push({ONE: base, CLAIM: base}, create_only=True)
    other.fetch({ONE: base})
    tip = commit(mine, base, more="b")
    mine.push({ONE: tip})
    closing = commit(other, base, receipt="c")
    refused = other.push({ONE: closing, CLAIM: closing})
    assert refused.returncode != 0 and _is_race(refused)
    assert other.remote_refs("refs/heads/runs/*", "refs/heads/claims/*") == {ONE: tip, CLAIM: base}
    other.fetch({ONE: tip})
    closing = commit(other, tip, receipt="c")
    assert other.push({ONE: closing, CLAIM: closing}).returncode == 0
    assert mine.remote_refs("refs/heads/runs/*", "refs/heads/claims/*") == {ONE: closing, CLAIM: closing}


def test_a_history_says_what_each_commit_changed(new_store: NewStore) -> None:
    store = new_store()
    first = commit(store, spec="a", events__1="b")
    second = commit(store, first, events__2="c", spec="d")
    store.push({ONE: second})
    told = new_store()
    told.fetch({ONE: second})
    assert told.seen([ONE, TWO]) == {ONE: second}
    one, two = told.history(second)
    assert (one.id, one.parents, two.id, two.parents) == (first, (), second, (first,))
    a, b, c, d = (blob_id(text) for text in (b"a", b"b", b"c", b"d"))
    assert [(it.path, it.old, it.new) for it in one.changes] == [("events/1", None, b), ("spec", None, a)]
    assert [(it.path, it.old, it.new) for it in two.changes] == [("events/2", None, c), ("spec", a, d)]


def test_a_fetch_brings_what_is_there_now(new_store: NewStore) -> None:
    mine, other = new_store(), new_store()
    first = commit(mine, spec="a")
    mine.push({ONE: first})
    second = commit(mine, first, more="b")
    mine.push({ONE: second})
    assert other.fetch({ONE: first}) == {ONE: second}
    assert other.fetch({}) == {}


def test_what_is_kept_need_not_be_fetched(new_store: NewStore) -> None:
    store = new_store()
    tip = commit(store, spec="a")
    store.keep(ONE, tip)
    assert store.fetch({ONE: tip}) == {ONE: tip}


def test_what_is_not_there_is_unavailable(new_store: NewStore) -> None:
    store = new_store()
    commit(store, spec="a")
    with pytest.raises(LedgerUnavailable):
        store.fetch({ONE: "0" * 40})
    with pytest.raises(LedgerUnavailable):
        store.objects(["0" * 40])
