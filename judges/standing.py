"""What a judge may do: train a model, gate a promotion. From what is known of how often it is right.

The measure is J = TPR + TNR - 1 (Youden, "Index for rating diagnostic tests", Cancer 3, 1950): 1 for a judge
that is always right, 0 for one that guesses. Its lower 95 % limit counts, so that few labels earn little.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeGuard, get_args

import msgspec

from gateway.config.judges import JudgeConfig
from judges.calibration.stored import latest_calibration

if TYPE_CHECKING:
    from gateway.traces.store import Store
    from gateway.traces.types import Calibration

# Labels with the errors of a judge teach as well as clean ones while J is above 0, at 1 / J^2 times the rows
# (Natarajan et al., "Learning with noisy labels", NeurIPS 2013: their 1 - rho(+1) - rho(-1) is J): six times
# as many at 0.4, and below that soon more than anybody has.
J_TRAIN = 0.4
# A true difference of two arms looks J times as large to a judge: at 0.6 a loss of five points looks like
# three, the default margin of quality. With less, a promotion within the margin would promise little.
J_GATE = 0.6
# One line in an answer that talks the judge round once will do so for every answer that learnt it.
INJECTED_MAX = 0.0
# Zheng et al., "Judging LLM-as-a-judge", NeurIPS 2023: what changes with the order is the order's verdict.
ORDER_CONSISTENCY_MIN = 0.9

# A problem of a calibration is told as "NAME: what and how much". Those with these words in their name forbid
# both, whatever J is, since a model that is trained against them learns to use them; others forbid nothing.
FLAWS = ("injection", "position", "length")

Role = Literal["train", "gate"]
State = Literal["uncalibrated", "calibrated"]

_KINDS = {"llm": "LLM judge", "pairwise": "pairwise LLM judge", "jury": "jury of LLMs"}


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What one version of a judge may do. `why` is one line; `accepted` are the entries that were needed.

    `flaws` are those problems that no entry of `accept` lifts.
    """

    judge: str
    version: str
    kind: str
    state: State
    may_train: bool
    may_gate: bool
    why: str
    accepted: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()

    def may(self, role: Role) -> bool:
        """Whether it may *role*."""
        return self.may_train if role == "train" else self.may_gate

    @property
    def may_what(self) -> str:
        """In two words at most."""
        allowed = [role for role in get_args(Role) if self.may(role)]
        return ", ".join(allowed) or "neither"

    def refusal(self, role: Role) -> str:
        """One line: the judge, its version, its number and what to do; of one that may not *role*."""
        return f"judge {self.judge!r} ({self.version}) may not {role}: {self.why}; {self._remedy(role)}"

    def caveat(self, role: Role) -> str | None:
        """What every report on something that it may *role* has to say; None where it earned its say."""
        lifted = [entry for entry in self.accepted if entry.endswith(f"_{role}s")]
        if lifted:
            return f"judge {self.judge!r} may {role} by accept: {', '.join(lifted)} alone: {self.why}"
        if self.state == "uncalibrated":
            return f"judge {self.judge!r} is uncalibrated; tracetune judge calibrate {self.judge}"
        return None

    def note(self, role: Role) -> str | None:
        """The line that a report on *role* owes its reader: its refusal, its caveat, or nothing."""
        return self.caveat(role) if self.may(role) else self.refusal(role)

    def _remedy(self, role: Role) -> str:
        calibrate = f"tracetune judge calibrate {self.judge}"
        if self.flaws:
            return f"correct the judge, then `{calibrate}`"
        bar = "uncalibrated" if self.state == "uncalibrated" else "weak"
        first = "" if bar == "uncalibrated" else "correct the judge, then "
        return f"{first}`{calibrate}`, or write accept: [{bar}_{role}s] at it"


def standing_of(
    config: JudgeConfig,
    version: str,
    deterministic: bool,
    calibration: Calibration | None,
) -> Standing:
    """What *version* of a judge may do. Pure. *deterministic*: the same answer always gets the same verdict.

    Without labels it is uncalibrated: a deterministic judge of Python may train and gate, others neither.
    With them J's lower limit decides. `accept` lifts these two bars, and no flaw.
    """
    flaws = _flaws(calibration)
    j_low = None if calibration is None or not _known(calibration.j_low) else calibration.j_low
    if j_low is None:
        earned = config.kind == "python" and deterministic
        bars = {"train": earned, "gate": earned}
    else:
        bars = {"train": j_low >= J_TRAIN, "gate": j_low >= J_GATE}
    prefix = "uncalibrated" if j_low is None else "weak"
    accepted: list[str] = []
    may: dict[str, bool] = {}
    for role, passed in bars.items():
        lifting = [entry for entry in config.accept if entry == f"{prefix}_{role}s"]
        if lifting and not passed and not flaws:
            accepted.append(lifting[0])
        may[role] = not flaws and (passed or bool(lifting))
    return Standing(
        judge=config.name,
        version=version,
        kind=config.kind,
        state="uncalibrated" if j_low is None else "calibrated",
        may_train=may["train"],
        may_gate=may["gate"],
        why=_why(config, calibration, j_low, flaws, deterministic=deterministic),
        accepted=tuple(accepted),
        flaws=flaws,
    )


def standing_in(store: Store, judge: JudgeConfig, version: str) -> Standing:
    """What *version* of *judge* may do by the calibration in force. Raises StoreError."""
    return standing_by(judge, version, latest_calibration(store, judge.name, version))


def standing_by(judge: JudgeConfig, version: str, calibration: Calibration | None) -> Standing:
    """The same of *calibration*, which is the one in force. Pure."""
    # Of Python it is taken for granted until a calibration saw it say two things of one answer.
    flips = calibration is not None and _known(calibration.flip_rate) and calibration.flip_rate > 0
    return standing_of(judge, version, judge.kind == "python" and not flips, calibration)


def calibration_text(calibration: Calibration | None, standing: Standing | None) -> str:
    """State, or J and its lower limit, for a cell of a table. Pure."""
    if standing is None:
        return "—"
    if calibration is None or standing.state == "uncalibrated":
        return "uncalibrated"
    assert calibration.j_low is not None, "it is calibrated"
    value = f"J {calibration.j:.2f}, " if _known(calibration.j) else "J "
    return f"{value}at least {_limit(calibration.j_low)}"


def _flaws(calibration: Calibration | None) -> tuple[str, ...]:
    """What forbids both: as the calibration named it, and by the numbers where it did not."""
    if calibration is None:
        return ()
    flaws: dict[str, str] = {}
    for problem in _problems(calibration):
        named = problem.partition(":")[0].lower()
        flaws.update({name: problem for name in FLAWS if name in named and name not in flaws})
    injected, order = calibration.injected, calibration.order_consistency
    if "injection" not in flaws and _known(injected) and injected > INJECTED_MAX:
        flaws["injection"] = f"injection: {injected:.0%} of the injection cases passed as good"
    if "position" not in flaws and _known(order) and order < ORDER_CONSISTENCY_MIN:
        flaws["position"] = (
            f"position: {order:.0%} of the verdicts are the same in both orders, "
            f"under {ORDER_CONSISTENCY_MIN:.0%}"
        )
    return tuple(flaws[name] for name in FLAWS if name in flaws)


def _why(
    config: JudgeConfig,
    calibration: Calibration | None,
    j_low: float | None,
    flaws: tuple[str, ...],
    *,
    deterministic: bool,
) -> str:
    if flaws:
        return "; ".join(flaws)
    if calibration is None or j_low is None:
        steady = config.kind != "python" or deterministic
        return f"uncalibrated {_KINDS.get(config.kind, 'code judge')}" + (
            "" if steady else " that says different things of the same answer"
        )
    value = f"{calibration.j:.2f} " if _known(calibration.j) else ""
    numbers = f"J {value}on {calibration.labels} labels, lower limit {_limit(j_low)}"
    bounds = [(J_TRAIN, "to train"), (J_GATE, "to gate")]
    under = " and ".join(f"{bound:g} {what}" for bound, what in bounds if j_low < bound)
    told = [f"{numbers}, under {under}" if under else numbers, *_problems(calibration)]
    return "; ".join(told)


def _problems(calibration: Calibration) -> list[str]:
    """Each on one line."""
    return [" ".join(problem.split()) for problem in calibration.problems]


def _limit(value: float) -> str:
    """Two digits, cut and not rounded: 0.5996 is under 0.6 and does not look like it."""
    return f"{math.floor(round(value * 100, 6)) / 100:.2f}"


def _known(value: float | None) -> TypeGuard[float]:
    # A number that the store keeps as NaN was not measured either.
    return value is not None and not math.isnan(value)
