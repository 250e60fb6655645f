"""Cycles of a kernel's final program, of a short one."""

import pytest

from tests.model.tpu_schedule import cycles

PROGRAM = """
LB: loop body
     0   :  { %1 = before the grid }
   0x1 LB: > { %2 = a step begins  ;;  %3 = beside it }
   0x2   : > { %4 = in the step }
   0x3 LB: >> { %5 = a loop begins }
   0x4   : >> {} /* End region 2 */
   0x5   : > { %6 = between }
   0x6 LB: >> { %7 = the next loop }
   0x7 PF: > { %8 = after }
   0x8   :  { %9 = after the grid }
"""


def test_bundles_of_a_loop_count_as_often_as_it_runs():
    assert cycles(PROGRAM, (3, 5)) == 4 + 2 * 3 + 1 * 5


def test_a_program_with_other_loops_is_refused():
    with pytest.raises(ValueError, match="expected 3 loops, found 2"):
        cycles(PROGRAM, (1, 2, 3))
