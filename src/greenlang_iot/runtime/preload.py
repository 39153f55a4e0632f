"""What the fork server imports and compiles once, so that shards start at once and share it.

Kernels are compiled (or loaded from the cache) here and nowhere else: a shard that is killed can never
leave a half-written cache entry behind, and a restarted one is ready in milliseconds.

What is imported stays, so nobody looks for garbage in it: not meanwhile, and not in a shard, which would copy every page
that it shares.
"""

import gc
import signal


def load() -> None:
    """Import a shard, and load every kernel."""
    gc.disable()
    # Only the parent ends the fork server, which tells how shards ended: a SIGTERM may be for the whole group.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    from greenlang_iot.mqtt.tls import without_system_cas

    with without_system_cas():
        import greenlang_iot.runtime.shard
        import greenlang_iot.sinks.influx
        import greenlang_iot.sinks.kafka  # noqa: F401
    from greenlang_iot.decode.warm import warm as warm_decode
    from greenlang_iot.detect.warm import warm as warm_detect
    from greenlang_iot.encode.warm import warm as warm_encode
    from greenlang_iot.model.kernel_cache import seal
    from greenlang_iot.mqtt.warm import warm as warm_mqtt
    from greenlang_iot.quality.warm import warm as warm_quality
    from greenlang_iot.runtime.warm import warm as warm_meter

    warm_mqtt()
    warm_decode()
    warm_detect()
    warm_quality()
    warm_encode()
    warm_meter()
    seal()
    gc.freeze()
    gc.enable()


load()
