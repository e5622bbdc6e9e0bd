"""`microgpt scale`: the law that is fitted, and the command."""

import pytest
from sweeping import TEXT

from microgpt import commands
from microgpt.sweep import Results, scaling
from microgpt.sweep.trial import Result

SMALL = ["--data=text", "--n-head=2", "--block-size=8", "--val=0.3", "--save-every=99"]
GRID = ["--n-embd=2,4,8", "--num-steps=4,8,16", "--learning-rate=0.01,0.05"]


def trials_of(law, noise=0.0):
    """Return trials whose losses are a law's, apart from noise of alternating sign."""
    found = []
    for weights in (500, 2_000, 8_000, 32_000):
        for tokens in (1_000, 8_000, 64_000, 512_000):
            sign = (-1) ** len(found)
            loss = law(weights, tokens) * (1 + sign * noise)
            found.append(Result(len(found), "", {}, val_loss=loss, weights=weights, tokens=tokens))
    return found


def known(weights, tokens):
    return 1.6 + 12 / weights**0.45 + 40 / tokens**0.55


def test_a_law_is_found_again_from_its_own_losses():
    law = scaling.fit(trials_of(known), draws=3)
    assert law.values["E"] == pytest.approx(1.6, rel=0.01)
    assert law.values["alpha"] == pytest.approx(0.45, rel=0.02)
    assert law.values["beta"] == pytest.approx(0.55, rel=0.02)
    assert law.values["share"] == pytest.approx(0.55, rel=0.02)
    for low, high in law.intervals.values():
        assert high - low < 0.05 * high


def test_intervals_widen_with_noise_and_hold_the_truth():
    law = scaling.fit(trials_of(known, noise=0.01), draws=40)
    for name, value in (("E", 1.6), ("alpha", 0.45), ("beta", 0.55)):
        low, high = law.intervals[name]
        assert low < value < high
        assert high - low > 0.01


def test_the_optimum_has_the_lowest_loss_for_its_compute():
    law = scaling.fit(trials_of(known), draws=3)
    compute = 1e9
    weights, tokens = law.optimum(compute)
    assert scaling.FLOPS * weights * tokens == pytest.approx(compute)
    best = law.loss(weights, tokens)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert law.loss(weights * factor, tokens / factor) > best


def test_scale_trains_fits_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    flags = [*SMALL, *GRID, "--out=out", "--jobs=1"]
    assert commands.main(["scale", *flags]) == 0
    shown = capsys.readouterr().out.partition("weights  ")[2]
    results = Results("out")
    points = scaling.points(results)
    assert len(results.trials) == 18
    assert len(points) == 9
    assert "optimal weights grow as compute**" in shown
    assert all(f"{point.val_loss:.4f}" in shown for point in points)
    for point in points:
        same = [
            r
            for r in results.trials.values()
            if r.weights == point.weights and r.tokens == point.tokens
        ]
        assert len(same) == 2
        assert point.val_loss == min(r.val_loss for r in same)
        lines = (results.path(point.number) / "log.jsonl").read_text().splitlines()
        assert point.tokens == sum(int(line.split('"tokens": ')[1].split(",")[0]) for line in lines)
    assert (tmp_path / "out/scale.svg").read_text().startswith("<?xml")
    assert commands.main(["scale", "--resume", "out"]) == 0
    assert capsys.readouterr().out.partition("weights  ")[2] == shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n-embd=8,16"], "a law needs 3 sizes"),
        (["--num-steps=10,20"], "a law needs 3 sizes"),
        (["--n-embd=15,17,19"], "a space without a trial"),
        (["--dropout=0:0.3"], "a grid needs values of dropout"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    assert commands.main(["scale", "--data=text", "--out=out", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
