"""Copying bytes between arrays inside a kernel, sixteen a step.

A loop over two arrays costs LLVM a check for overlap and a prologue each time, and memcpy a call: some
5 ns for each of a record's dozen pieces. Arrays must not overlap, and have SPILL bytes to spare behind
what is read and written.
"""

from typing import Any

from greenlang_iot.model.batches import U8
from greenlang_iot.model.jit import JIT_DISABLED, fused

SPILL = 15


def _copy(source: U8, start: int, stop: int, out: U8, pos: int) -> int:
    """out[pos:] = source[start:stop]; returns the position after it."""
    end = pos + stop - start
    out[pos:end] = source[start:stop]
    return end


def _compiled() -> Any:
    from llvmlite import ir  # type: ignore[import-untyped]
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def put_sixteen(context: Any, source: Any, start: Any, out: Any, pos: Any) -> tuple[Any, Any]:
        def generate(target: Any, builder: Any, signature: Any, args: list[Any]) -> Any:
            kinds = signature.args
            wide = ir.VectorType(ir.IntType(8), 16).as_pointer()
            places = [
                builder.bitcast(
                    builder.gep(target.make_array(kind)(target, builder, array).data, [at]), wide
                )
                for kind, array, at in ((kinds[0], args[0], args[1]), (kinds[2], args[2], args[3]))
            ]
            builder.store(builder.load(places[0], align=1), places[1], align=1)
            return target.get_dummy_value()

        i64 = types.int64
        return types.void(source, i64, out, i64), generate

    @fused
    def copy_bytes(source: U8, start: int, stop: int, out: U8, pos: int) -> int:
        for done in range(0, stop - start, 16):
            put_sixteen(source, start + done, out, pos + done)
        return pos + stop - start

    return copy_bytes


copy_bytes = _copy if JIT_DISABLED else _compiled()
