"""Ask for a row of state before it is needed: at a million series every row is a cache miss."""

from typing import Any

from greenlang_iot.model.jit import JIT_DISABLED

LINE = 64

if JIT_DISABLED:

    def prefetch(rows: Any, index: int) -> None:
        """Nothing to do: without the JIT nobody waits for memory."""

else:
    from llvmlite import ir  # type: ignore[import-untyped]
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def prefetch(typing_context: Any, rows: Any, index: Any) -> Any:
        """Fetch all cache lines of `rows[index]` (not checked) for writing."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = signature.args[0]
            array = context.make_array(kind)(context, builder, args[0])
            start = builder.ptrtoint(array.data, ir.IntType(64))
            wide = builder.sext(args[1], ir.IntType(64)) if args[1].type.width < 64 else args[1]
            stride = ir.Constant(ir.IntType(64), kind.dtype.size)
            row = builder.add(start, builder.mul(wide, stride))
            pointer = ir.IntType(8).as_pointer()
            function = builder.module.declare_intrinsic(
                "llvm.prefetch",
                [pointer],
                ir.FunctionType(ir.VoidType(), [pointer] + [ir.IntType(32)] * 3),
            )
            for_writing, keep, data = (ir.Constant(ir.IntType(32), n) for n in (1, 3, 1))
            for offset in range(0, kind.dtype.size, LINE):
                at = builder.add(row, ir.Constant(ir.IntType(64), offset))
                builder.call(function, [builder.inttoptr(at, pointer), for_writing, keep, data])
            return cgutils.get_null_value(ir.IntType(8).as_pointer())

        return types.none(rows, index), generate
