"""A walk through a schedule: what runs between a start and its end overlaps, loops multiply."""

import pytest

from owl2_jax.perf import schedule
from owl2_jax.perf.hlo import read_module
from tests.perf.scheduled import estimate, program

COPY = """\
  %x = f32[100]{0} parameter(0)
  %start = (f32[100]{0:S(1)}, f32[100]{0}, u32[]) copy-start(%x)
  %work = f32[8]{0:S(1)} add(%x, %x), """
SECONDS = 1e-9  # of one cycle, one byte of memory, and one byte of the network


def walk(text, network=lambda each: each.total * SECONDS, conditions=True):
    costs = schedule.Costs(
        own=lambda instruction, computation: (instruction.cycles or 0) * SECONDS,
        network=network,
        memory=lambda size: size * SECONDS,
    )
    module = read_module(text)
    return schedule.walk(module if conditions else module.with_false_conditions(), costs)


def waits(timeline):
    return {e.instruction.name: round(e.seconds / SECONDS) for e in timeline.events if e.waits_for}


@pytest.mark.parametrize("cycles", [0, 150, 5000])
def test_a_copy_overlaps_what_runs_before_its_end_and_yields_the_memory_to_it(cycles):
    text = program(COPY + estimate(cycles) + "\n  ROOT %end = f32[100]{0:S(1)} copy-done(%start)")
    timeline = walk(text)
    # 400 bytes are copied; the addition reads 800 itself, before the copy goes on.
    copied = 400 + 800
    expected = max(0, copied - cycles)
    assert waits(timeline) == ({"start": expected} if expected else {})
    assert timeline.seconds == pytest.approx(max(cycles, copied) * SECONDS)


COLLECTIVE = """\
%carried (p: f32[64]) -> (f32[64], f32[256]) {
  %p = f32[64]{0} parameter(0)
  %gather = f32[256]{0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %begin = (f32[64]{0}, f32[256]{0}) custom-call(%gather), custom_call_target="AsyncCollectiveStart"
}

%awaited (q: f32[256]) -> f32[256] {
  %q = f32[256]{0} parameter(0)
  %gather.2 = f32[256]{0} all-gather(%q), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %end = f32[256]{0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}
"""
STARTED = """\
  %x = f32[64]{0} parameter(0)
  %start = (f32[64]{0}, f32[256]{0}) fusion(%x), kind=kCustom, calls=%carried
  %state = f32[256]{0} get-tuple-element(%start), index=1
  %work = f32[8]{0:S(1)} negate(%x), """
DONE = "\n  ROOT %done = f32[256]{0} fusion(%state), kind=kCustom, calls=%awaited"
RECEIVED = 3 * 256  # bytes: a fourth of 256 numbers is there


@pytest.mark.parametrize("cycles", [100, 5000])
def test_a_collective_between_its_fusions_hides_behind_the_work(cycles):
    timeline = walk(program(STARTED + estimate(cycles) + DONE, COLLECTIVE))
    assert timeline.seconds == pytest.approx(max(cycles, RECEIVED) * SECONDS)
    assert sum(waits(timeline).values()) == max(0, RECEIVED - cycles)


CARRIED = """\
%product (p: f32[64]) -> (f32[8], f32[256]) {
  %p = f32[64]{0} parameter(0)
  %gather = f32[256]{0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  %made = f32[8]{0} slice(%p), slice={[0:8]}
  ROOT %both = (f32[8]{0}, f32[256]{0}) tuple(%made, %gather)
}
"""


@pytest.mark.parametrize("cycles", [100, 5000])
def test_a_fusion_that_computes_around_a_whole_collective_takes_the_longer_of_both(cycles):
    body = """\
  %x = f32[64]{0} parameter(0)
  ROOT %work = (f32[8]{0:S(1)}, f32[256]{0}) fusion(%x), kind=kOutput, calls=%product, """
    timeline = walk(program(body + estimate(cycles), CARRIED))
    assert timeline.seconds == pytest.approx(max(cycles, RECEIVED) * SECONDS)
    assert sum(waits(timeline).values()) == max(0, RECEIVED - cycles)


def test_a_fusion_that_goes_on_with_a_collective_started_before_takes_its_own_time():
    work = "\n  %more = (f32[8]{0:S(1)}, f32[256]{0}) fusion(%x), kind=kOutput, calls=%product, "
    timeline = walk(program(STARTED + estimate(100) + work + estimate(50) + DONE, COLLECTIVE + CARRIED))
    assert timeline.seconds == pytest.approx(RECEIVED * SECONDS)
    assert waits(timeline) == {"done": RECEIVED - 150}


def test_a_collective_that_nothing_started_ahead_takes_its_whole_time():
    body = """\
  %x = f32[64]{0} parameter(0)
  %gather = f32[256]{0} all-gather(%x), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %work = f32[8]{0:S(1)} negate(%x), """
    timeline = walk(program(body + estimate(10)))
    assert waits(timeline) == {"gather": RECEIVED}
    assert timeline.seconds == pytest.approx((RECEIVED + 10) * SECONDS)


def test_collectives_that_are_under_way_together_share_the_links():
    body = """\
  %x = f32[64]{0} parameter(0)
  %first = (f32[64]{0}, f32[256]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %second = (f32[64]{0}, f32[256]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %one = f32[256]{0} all-gather-done(%first)
  ROOT %two = f32[256]{0} all-gather-done(%second)"""
    timeline = walk(program(body))
    assert waits(timeline) == {"one": RECEIVED, "two": RECEIVED}


LOOP = f"""\
%less (s: s32[]) -> pred[] {{
  %s = s32[] parameter(0)
  %limit = s32[] constant(6)
  ROOT %is = pred[] compare(%s, %limit), direction=LT
}}

%turn (t: s32[]) -> s32[] {{
  %t = s32[] parameter(0)
  ROOT %step = s32[]{{:S(1)}} negate(%t), metadata={{op_name="layers/mlp/neg"}}, {estimate(50)}
}}

%short (u: s32[]) -> s32[] {{
  ROOT %u = s32[] parameter(0)
}}
"""


def test_a_loop_multiplies_its_body_and_a_condition_takes_its_longest_branch():
    body = """\
  %x = s32[] parameter(0)
  %loop = s32[] while(%x), condition=%less, body=%turn, metadata={op_name="decoder/while"}
  ROOT %either = s32[] conditional(%x, %x, %x), branch_computations={%short, %turn}"""
    timeline = walk(program(body, LOOP))
    assert timeline.seconds == pytest.approx((6 * 50 + 50) * SECONDS)
    assert [(e.times, e.around) for e in timeline.events] == [(6, "decoder/while"), (1, "")]
    assert timeline.unknown_loops == 0


def test_a_condition_that_does_not_hold_takes_its_first_branch():
    body = """\
  %x = s32[] parameter(0)
  ROOT %either = s32[] conditional(%x, %x, %x), branch_computations={%short, %turn}"""
    assert walk(program(body, LOOP), conditions=False).seconds == 0
    turned = program(body.replace("{%short, %turn}", "{%turn, %short}"), LOOP)
    assert walk(turned, conditions=False).seconds == pytest.approx(50 * SECONDS)


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    body = "  %x = s32[] parameter(0)\n  ROOT %loop = s32[] while(%x), condition=%less, body=%turn"
    timeline = walk(program(body, LOOP.replace("constant(6)", "parameter(1)")))
    assert timeline.unknown_loops == 1
    assert timeline.seconds == pytest.approx(50 * SECONDS)
