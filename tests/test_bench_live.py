"""The live benchmark: what it compares is the same work, and weights are counted once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import STOP, tiny_head, tiny_model, tiny_pair  # noqa: E402

SCRIPTS = Path(__file__).parents[1] / "scripts"
LIMIT = 12


pytestmark = pytest.mark.usefixtures("one_thread", "scripts")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def prompts(count: int) -> list[list[int]]:
    return [[6 + (i * k) % 16 for k in range(1, 4 + i % 5)] for i in range(1, count + 1)]


@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
def test_all_contenders_write_the_same_texts(drafter: str) -> None:
    from live_throughput import contenders, equal

    pair = tiny_pair(drafter)
    found, _ = contenders(pair, LIMIT, 9, (0, 2))
    names = {contender.name.partition(",")[2].split(",")[0].strip() for contender in found}
    assert names == {"plain", "no draft", "ngram", pair.drafter_kind}
    for given in (prompts(1), prompts(11)):
        texts = [c.generate(given, **setting) for c in found for setting in c.settings]
        assert all(own == texts[0] for own in texts)
        assert all(1 <= len(t) <= LIMIT for t in texts[0])
        assert all(len(t) == LIMIT or t[-1] == STOP for t in texts[0])
        assert equal(texts[1], texts[0]) == len(given)
    assert equal([[1], [2, 3]], [[1], [2]]) == 1


def test_weights_are_counted_once() -> None:
    from live_floor import pass_bytes

    model = tiny_model()
    table = model.get_input_embeddings().weight.nbytes
    rest = sum(p.nbytes for p in model.model.layers.parameters()) + model.model.norm.weight.nbytes
    assert pass_bytes(None, model) == 0
    assert pass_bytes(model, model) == rest + table
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert pass_bytes(model, model) == rest + table
    head = tiny_head(model)
    own = sum(p.numel() for p in head.parameters())
    tokens, width = head.config.frequent_tokens, head.config.width
    assert pass_bytes(head, model) == 4 * (own + tokens * width)
    model.to(torch.bfloat16)
    assert pass_bytes(model, model) == (rest + table) // 2
    assert pass_bytes(head, model) == 2 * (own + tokens * width)


def test_the_script_writes_its_figures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import bench_live
    import live_floor

    monkeypatch.setattr(bench_live, "load_pair", lambda *args, **options: tiny_pair())
    monkeypatch.setitem(live_floor.READ_BYTES, "cpu", 4000)
    out = tmp_path / "bench-live.json"
    few = ["--num-prompts", "3", "--draft-lengths", "0", "2", "--limit", "8", "--repeats", "1"]
    bench_live.main([*few, "--out", str(out)])
    document = json.loads(out.read_text(encoding="utf-8"))
    assert {row["equal_texts"] for row in document["throughput"]} == {3}
    assert [row["draft_length"] for row in document["rounds"]] == [0, 2]
    assert all(row["ratio"] > 0 for row in document["ratios"])
    assert all(row["share"] > 0 for row in document["scheduling"])
    printed = capsys.readouterr().out
    assert all(f"| {row['name']} |" in printed for row in document["throughput"])


def test_wrong_options_are_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import bench_live

    for options in (["--repeats", "0"], ["--draft-lengths", "0"], ["--scenario", "none"]):
        with pytest.raises(SystemExit):
            bench_live.main(options)
        assert "expected" in capsys.readouterr().err
