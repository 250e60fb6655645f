from owl2_jax.perf import hlo

TEXT = """\
HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%cond.1 (arg: (s32[], f32[8])) -> pred[] {
  %arg = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %limit = s32[]{:T(128)} constant(32)
  %counter = s32[]{:T(128)} get-tuple-element(%arg), index=0
  ROOT %less = pred[]{:T(512)} compare(%counter, %limit), direction=LT, backend_config={"x":[]}
}

%body.1 (arg.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %arg.1 = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(256)}) parameter(0)
}

ENTRY %main.2 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0), metadata={op_name="x"}
  %kept = bf16[4,16]{1,0:T(8,128)(2,1)S(1)} custom-call(%x), custom_call_target="AllocateBuffer", notes={{
"note":"{of = a kernel}"
}}, metadata={}
  %start = (s32[], f32[8]{0}) tuple(%x, %x)
  %while.3 = (s32[], f32[8]{0}) while(%start), condition=%cond.1, body=%body.1
  ROOT %out = f32[8]{0} get-tuple-element(%while.3), index=1
}
"""


def test_instructions_have_shapes_operands_and_calls():
    module = hlo.read_module(TEXT)
    assert module.entry == "main.2"
    main = module.computations["main.2"]
    assert main["x"].arrays == (hlo.Array(32, False, (8,)),)
    assert (main["kept"].size, main["kept"].memory_size) == (128, 0)
    assert main["start"].operands == ("x", "x")
    assert main["while.3"].called() == ["body.1"]
    assert hlo.root(main).name == "out"
    assert [array.size for array in module.computations["body.1"]["arg.1"].arrays] == [4, 32]
    assert hlo.parameter(main, 0).name == "x"


def test_trips_are_read_from_the_condition_or_the_compilers_note():
    module = hlo.read_module(TEXT)
    loop = module.computations["main.2"]["while.3"]
    assert module.trips(loop) == 32
    noted = hlo.read_module(TEXT.replace("body=%body.1", 'body=%body.1, x={"known_trip_count":{"n":"7"}}'))
    assert noted.trips(noted.computations["main.2"]["while.3"]) == 7
    unknown = hlo.read_module(TEXT.replace("constant(32)", "parameter(1)"))
    assert unknown.trips(unknown.computations["main.2"]["while.3"]) is None


NOTED = """\
HloModule jit_f, is_scheduled=true

FileNames
1 "/site-packages/flax/core/axes_scan.py"
2 "/home/me/owl2_jax/model/decoder.py"

FunctionNames
1 "scan"

FileLocations
1 {file_name_id=2 function_name_id=1 line=217 end_line=217 column=4 end_column=4}
2 {file_name_id=1 function_name_id=1 line=40 end_line=40 column=4 end_column=4}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=2 parent_frame_id=3}

%body (p: f32[8]) -> f32[8] {
  ROOT %p = f32[8]{0} parameter(0)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %ours = f32[8]{0} fusion(%x), calls=%body, metadata={op_name="jit(f)/decoder/mul" stack_frame_id=2}, \
backend_config={"window_config":{"estimated_cycles":"2133"}}
  %theirs = f32[8]{0} add(%x, %x), metadata={stack_frame_id=3}
  %kernel = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", notes={{
    "block": "512"
}}, metadata={op_name="jit(f)/attention"}
  ROOT %plain = f32[8]{0} add(%x, %x)
}
"""


def test_notes_of_the_compiler_are_read_with_the_innermost_line_of_ours():
    module = hlo.read_module(NOTED)
    main = module.computations["main"]
    assert (main["ours"].cycles, main["ours"].scope) == (2133, "jit(f)/decoder/mul")
    assert module.line(main["ours"]) == "model/decoder.py:217"
    assert module.line(main["theirs"]) == "core/axes_scan.py:40"
    # Its notes go on over three lines.
    assert (main["kernel"].target, main["kernel"].scope) == ("tpu_custom_call", "jit(f)/attention")
    plain = main["plain"]
    assert (plain.cycles, plain.scope, plain.target, module.line(plain)) == (None, "", "", "")
