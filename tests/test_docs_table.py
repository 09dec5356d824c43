"""docs/losses.md says what the code says."""

import collections
import pathlib
import re

import optax
import pytest

import metric_jax as mj
from docs import losses_table

PAGE = losses_table.PAGE.read_text()
LOSSES = {name for name in vars(mj) if name.endswith("_loss")}
LISTED = {name: loss for family in losses_table.losses().values() for name, loss in family.items()}


def test_the_page_is_what_make_docs_writes():
    assert losses_table.page() == PAGE, "run make docs"


def test_every_public_loss_and_miner_has_one_row():
    rows = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(LOSSES | set(losses_table.miners()))
    assert {"mining.batch_hard", "mining.batch_semi_hard"} <= set(losses_table.miners())


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_has_a_formula_and_a_paper(name):
    assert "`" in losses_table.formula(LISTED[name])
    assert losses_table.papers(LISTED[name])


def test_rows_of_known_losses():
    formula = "`L(a) = Σ_p d(a, p)² + Σ_n max(0, margin - d(a, n))²`"
    assert losses_table.formula(mj.batch_contrastive_loss) == formula
    assert losses_table.arguments(mj.batch_contrastive_loss) == ["margin=1", "distance=mj.euclidean"]
    assert losses_table.arguments(mj.zero_mean_loss) == []
    (authors, title, link), *_ = losses_table.papers(mj.koleo_loss)
    assert authors == "Sablayrolles, Douze, Schmid, Jégou (2019)"
    assert title == "Spreading Vectors for Similarity Search"
    assert link == "https://arxiv.org/abs/1806.03198"


def test_a_bar_does_not_end_a_cell():
    for line in PAGE.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 6, line


def test_the_readme_counts_what_the_page_lists():
    rows = LOSSES | set(losses_table.miners())
    peers = collections.Counter(peer for theirs in losses_table.PEERS.values() for peer in theirs)
    counts = " | ".join(
        str(peers[name]) for name in ("pytorch-metric-learning", "OML", "TF Similarity", "optax")
    )
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    assert (
        f"of the {len(rows)} losses and miners in [docs/losses.md](docs/losses.md) | {len(rows)} | {counts} |"
        in readme
    )


def test_peers_are_of_what_there_is():
    assert set(losses_table.PEERS) <= LOSSES | set(losses_table.miners())
    for peers in losses_table.PEERS.values():
        if losses_table.OPTAX in peers:
            assert hasattr(optax.losses, peers[losses_table.OPTAX])
