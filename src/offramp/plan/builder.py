"""A small labelled builder of linear programmes: blocks of columns and rows over named index sets, COO assembly, HiGHS.

model = Model()
x = model.columns("place", (quarters, chips), upper=10.0, cost=1.0)   # an integer array of column numbers
rows = model.rows("capacity", (quarters,), upper=5.0)                 # an integer array of row numbers
model.entries(rows[:, None], x, 1.0)                                  # broadcast; sum over chips <= 5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from offramp.core.errors import BackendError

F8 = npt.NDArray[np.floating[Any]]
I8 = npt.NDArray[np.int64]
INF: Final = math.inf
Number = float | F8


@dataclass(frozen=True)
class Block:
    """A run of columns or rows that share a name; ``labels`` holds one list per axis."""

    name: str
    start: int
    shape: tuple[int, ...]
    labels: tuple[Sequence[str], ...]

    def label(self, offset: int) -> tuple[str, ...]:
        """The labels of one member."""
        where = np.unravel_index(offset, self.shape) if self.shape else ()
        return tuple(str(axis[int(i)]) for axis, i in zip(self.labels, where, strict=True))


@dataclass
class Solution:
    """What the solver found.

    Attributes:
        status: "optimal", "infeasible", "time-limit" or "unbounded".
        objective: of the solution; NaN where there is none.
        bound: best proven bound on the objective.
        columns: values of the columns.
        row_values: activity of the rows.
        row_duals: change of the objective per unit of the row's right-hand side.
        reduced_costs: of the columns.
        basis: where a solution of the same programme with other numbers may start.
    """

    status: str
    objective: float
    bound: float
    columns: F8
    row_values: F8
    row_duals: F8
    reduced_costs: F8
    iterations: int = 0
    seconds: float = 0.0
    basis: Any = None

    @property
    def has_point(self) -> bool:
        """Whether there is a solution to read."""
        return math.isfinite(self.objective)


@dataclass
class Model:
    """Columns with bounds and costs, rows with bounds, and entries; minimised."""

    column_blocks: list[Block] = field(default_factory=list)
    row_blocks: list[Block] = field(default_factory=list)
    _lower: list[F8] = field(default_factory=list)
    _upper: list[F8] = field(default_factory=list)
    _cost: list[F8] = field(default_factory=list)
    _integer: list[I8] = field(default_factory=list)
    _row_lower: list[F8] = field(default_factory=list)
    _row_upper: list[F8] = field(default_factory=list)
    _at: list[tuple[I8, I8, F8]] = field(default_factory=list)
    n_columns: int = 0
    n_rows: int = 0

    def columns(
        self,
        name: str,
        labels: tuple[Sequence[str], ...],
        *,
        lower: Number = 0.0,
        upper: Number = INF,
        cost: Number = 0.0,
        integer: bool = False,
    ) -> I8:
        """Adds a block of columns and returns their numbers in the shape of the labels."""
        block = _block(name, self.n_columns, labels)
        index = self._add(block, self.column_blocks, ((self._lower, lower), (self._upper, upper), (self._cost, cost)))
        self.n_columns += index.size
        if integer:
            self._integer.append(index.ravel())
        return index

    def rows(self, name: str, labels: tuple[Sequence[str], ...], *, lower: Number = -INF, upper: Number = INF) -> I8:
        """Adds a block of rows and returns their numbers in the shape of the labels."""
        block = _block(name, self.n_rows, labels)
        index = self._add(block, self.row_blocks, ((self._row_lower, lower), (self._row_upper, upper)))
        self.n_rows += index.size
        return index

    @staticmethod
    def _add(block: Block, blocks: list[Block], parts: tuple[tuple[list[F8], Number], ...]) -> I8:
        size = math.prod(block.shape)
        for store, value in parts:
            store.append(np.broadcast_to(np.asarray(value, dtype=np.float64), block.shape).ravel().astype(np.float64))
        blocks.append(block)
        return np.arange(block.start, block.start + size, dtype=np.int64).reshape(block.shape)

    def entries(self, rows: I8, columns: I8, values: Number) -> None:
        """Adds coefficients; the three arrays are broadcast together. Repeated places add up; zeros are dropped."""
        values_array = np.asarray(values, dtype=np.float64)
        shape = np.broadcast_shapes(rows.shape, columns.shape, values_array.shape)
        flat = np.broadcast_to(values_array, shape).ravel()
        keep = flat != 0.0
        at = [np.broadcast_to(part, shape).ravel()[keep] for part in (rows, columns)]
        self._at.append((at[0], at[1], flat[keep]))

    def bound(self, columns: I8, *, lower: Number | None = None, upper: Number | None = None) -> None:
        """Replaces bounds of columns that exist."""
        for store, value in ((self._lower, lower), (self._upper, upper)):
            if value is not None:
                whole = np.concatenate(store)
                whole[columns] = value
                store[:] = [whole]

    def set_cost(self, cost: F8) -> None:
        """Replaces the costs of all columns."""
        self._cost[:] = [np.asarray(cost, dtype=np.float64)]

    def arrays(self) -> Arrays:
        """The programme as plain arrays."""
        rows, cols, values = (np.concatenate([part[i] for part in self._at]) for i in range(3))
        matrix = sparse.csc_matrix((values, (rows, cols)), shape=(self.n_rows, self.n_columns))
        return Arrays(
            cost=np.concatenate(self._cost),
            lower=np.concatenate(self._lower),
            upper=np.concatenate(self._upper),
            row_lower=np.concatenate(self._row_lower),
            row_upper=np.concatenate(self._row_upper),
            matrix=matrix,
            integer=np.concatenate(self._integer) if self._integer else np.empty(0, dtype=np.int64),
        )

    def name_of_row(self, index: int) -> tuple[str, tuple[str, ...]]:
        """Block name and labels of a row."""
        return _name(self.row_blocks, index)

    def name_of_column(self, index: int) -> tuple[str, tuple[str, ...]]:
        """Block name and labels of a column."""
        return _name(self.column_blocks, index)


@dataclass(frozen=True)
class Arrays:
    """minimise cost @ x, row_lower <= matrix @ x <= row_upper, lower <= x <= upper, some x whole."""

    cost: F8
    lower: F8
    upper: F8
    row_lower: F8
    row_upper: F8
    matrix: Any
    integer: I8


def _block(name: str, start: int, labels: tuple[Sequence[str], ...]) -> Block:
    return Block(name=name, start=start, shape=tuple(len(axis) for axis in labels), labels=labels)


def _name(blocks: list[Block], index: int) -> tuple[str, tuple[str, ...]]:
    for block in reversed(blocks):
        if index >= block.start and math.prod(block.shape) > 0:
            return block.name, block.label(index - block.start)
    raise IndexError(index)


def solve(
    arrays: Arrays, *, time_limit_s: float | None = None, threads: int = 0, solver: str = "choose", basis: Any = None
) -> tuple[Solution, Any]:
    """Minimises and returns the solution and the solver (for a warm re-solve or an IIS).

    Raises:
        BackendError: HiGHS refuses the programme (a coefficient that is not a number, say) or fails.
    """
    highs = load(arrays, time_limit_s=time_limit_s, threads=threads, solver=solver)
    if basis is not None:
        highs.setBasis(basis)
    return run(highs, arrays), highs


def load(arrays: Arrays, *, time_limit_s: float | None = None, threads: int = 0, solver: str = "choose") -> Any:
    """A HiGHS instance that holds the programme.

    Raises:
        BackendError: a value is not a number, or HiGHS refuses the programme.
    """
    import highspy
    from highspy._core import _Highs  # highspy.Highs prints a banner on stdout when it is made

    _check_finite(arrays)
    highs = _Highs()
    highs.setOptionValue("output_flag", False)
    if threads:
        highs.setOptionValue("threads", threads)
    highs.setOptionValue("simplex_scale_strategy", 0)  # the programme is scaled already; scaling again costs a third
    if solver != "choose":
        highs.setOptionValue("solver", solver)
    if time_limit_s is not None:
        highs.setOptionValue("time_limit", float(time_limit_s))
    lp: Any = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = arrays.cost.size, arrays.row_lower.size
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = arrays.cost, arrays.lower, arrays.upper
    lp.row_lower_, lp.row_upper_ = arrays.row_lower, arrays.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = arrays.matrix.indptr
    lp.a_matrix_.index_ = arrays.matrix.indices
    lp.a_matrix_.value_ = arrays.matrix.data
    if arrays.integer.size:
        kinds = np.zeros(arrays.cost.size, dtype=np.int64)
        kinds[arrays.integer] = 1
        choices = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [choices[kind] for kind in kinds]
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        raise BackendError("the solver refuses the programme", mend="Report the study; this is a defect.")
    return highs


def _check_finite(arrays: Arrays) -> None:
    good = np.isfinite(arrays.cost).all() and np.isfinite(arrays.matrix.data).all()
    good = good and not (np.isnan(arrays.lower).any() or np.isnan(arrays.upper).any())
    good = good and not (np.isnan(arrays.row_lower).any() or np.isnan(arrays.row_upper).any())
    if not good:
        raise BackendError("a coefficient of the plan is not a finite number", mend="Check prices, demand and rates.")


def run(highs: Any, arrays: Arrays) -> Solution:
    """Solves what the instance holds.

    Raises:
        BackendError: the solver stops for another reason than an answer or its time limit.
    """
    import highspy

    highs.run()
    status = highs.getModelStatus()
    words = {
        highspy.HighsModelStatus.kOptimal: "optimal",
        highspy.HighsModelStatus.kInfeasible: "infeasible",
        highspy.HighsModelStatus.kUnbounded: "unbounded",
        highspy.HighsModelStatus.kUnboundedOrInfeasible: "infeasible",
        highspy.HighsModelStatus.kTimeLimit: "time-limit",
    }
    if status not in words:
        raise BackendError(f"the solver stopped: {highs.modelStatusToString(status)}", mend="Try fewer scenarios.")
    info, found = highs.getInfo(), highs.getSolution()
    usable = status == highspy.HighsModelStatus.kOptimal or info.primal_solution_status == 2
    bound = info.mip_dual_bound if arrays.integer.size else _lp_bound(words[status], info.objective_function_value)
    return Solution(
        status=words[status],
        objective=float(info.objective_function_value) if usable else math.nan,
        bound=float(bound),
        columns=np.asarray(found.col_value, dtype=np.float64),
        row_values=np.asarray(found.row_value, dtype=np.float64),
        row_duals=np.asarray(found.row_dual, dtype=np.float64),
        reduced_costs=np.asarray(found.col_dual, dtype=np.float64),
        iterations=int(max(info.simplex_iteration_count, info.ipm_iteration_count)),
        seconds=float(highs.getRunTime()),
        basis=highs.getBasis(),
    )


def _lp_bound(status: str, objective: float) -> float:
    return objective if status == "optimal" else -INF


def conflict(highs: Any) -> tuple[list[int], list[int]]:
    """Rows and columns of an irreducible infeasible subset of the instance's programme."""
    highs.setOptionValue("iis_strategy", 2 + 4)  # from the LP, irreducible
    _, iis = highs.getIis()
    return [int(i) for i in iis.row_index_], [int(i) for i in iis.col_index_]
