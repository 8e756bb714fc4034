"""The benchmark itself still works: a round through Postfix alone, through gatepost, and one that must not count."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from tests.bench.rig import BenchError, Rig
from tests.bench.variant import BASELINE, VARIANTS

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("smtp-source", path="/usr/sbin:/usr/bin") is None,
    reason="needs Postfix and root",
)


@pytest.mark.timeout(600)
def test_rounds_go_through_postfix_alone_and_through_gatepost() -> None:
    variants = [variant for variant in VARIANTS if variant.name in {BASELINE, "commands", "content"}]
    with Rig(variants, Path(tempfile.gettempdir()), loop=None, profile=False) as rig:
        # Before it has warmed up, greylisting refuses its first message: a round with a refusal is no round.
        with pytest.raises(BenchError, match=r"commands: smtp-source: .*450"):
            rig.round("commands", 1)
        for variant in variants:
            rig.warm_up(variant.name, 10)
        rounds = {variant.name: rig.round(variant.name, 30) for variant in variants}
        assert all(one.messages == 30 and one.rate > 0 for one in rounds.values())
        assert rounds[BASELINE].cpu_s == 0
        assert set(rig.peak_rss_bytes()) == {"commands", "content"}
        rig.check_counts()
        # With its daemon gone the variant cannot be measured, and the baseline still can.
        with pytest.raises(BenchError, match="commands: gatepost has ended"):
            rig.round("commands", 10)
        assert rig.round(BASELINE, 10).messages == 10
    assert not rig.directory.exists()
