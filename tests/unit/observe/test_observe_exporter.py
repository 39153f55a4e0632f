from prometheus_client.parser import text_string_to_metric_families

from greenlang_iot.observe.catalog import CATALOG, PREFIX, cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.observe.exporter import Exporter


def samples(exporter: Exporter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(exporter.generate().decode())
        for s in family.samples
    }


def test_shards_are_told_apart_by_label() -> None:
    shards = {0: Counters.local(), 1: Counters.local()}
    exporter = Exporter(shards, Counters.local())
    shards[0].add(cell("messages_received"), 3)
    shards[1].add(cell("sink_retries", sink="kafka", reason="timeout"), 2)
    found = samples(exporter)
    name = PREFIX + "messages_received_total"
    assert found[name, (("shard", "0"),)] == 3
    assert found[name, (("shard", "1"),)] == 0
    labels = (("reason", "timeout"), ("shard", "1"), ("sink", "kafka"))
    assert found[PREFIX + "sink_retries_total", labels] == 2


def test_gauges_never_set_are_left_out_and_gateway_metrics_have_no_shard() -> None:
    shards = {0: Counters.local()}
    gateway = Counters.local()
    shards[0].set(cell("sink_up", sink="lake"), 0)
    gateway.set(cell("control_up"), 1)
    found = samples(Exporter(shards, gateway))
    assert [k for k in found if k[0] == PREFIX + "sink_up"] == [
        (PREFIX + "sink_up", (("shard", "0"), ("sink", "lake")))
    ]
    assert found[PREFIX + "control_up", ()] == 1


def test_histograms_are_cumulative_with_sum_and_count() -> None:
    shards = {0: Counters.local()}
    first = cell("sink_request_seconds", sink="influxdb")
    shards[0].observe(first, 0.003, 4)
    shards[0].observe(first, 99.0, 1)
    found = samples(Exporter(shards, Counters.local()))
    name = PREFIX + "sink_request_seconds"
    labels = (("shard", "0"), ("sink", "influxdb"))

    def bucket(le: str) -> float:
        return found[name + "_bucket", tuple(sorted((*labels, ("le", le))))]

    assert [bucket("0.0025"), bucket("0.005"), bucket("10.0"), bucket("+Inf")] == [0, 4, 4, 5]
    assert found[name + "_count", labels] == 5
    assert found[name + "_sum", labels] == 4 * 0.003 + 99.0


def test_ages_are_exported_in_seconds() -> None:
    shards = {0: Counters.local()}
    shards[0].heartbeat()
    age = samples(Exporter(shards, Counters.local()))[
        PREFIX + "heartbeat_age_seconds", (("shard", "0"),)
    ]
    assert 0 <= age < 60


def test_every_exported_name_is_in_the_catalogue() -> None:
    shards = {0: Counters.local()}
    exporter = Exporter(shards, Counters.local())
    families = {
        family.name
        for family in text_string_to_metric_families(exporter.generate().decode())
        if not family.name.startswith(PREFIX + "supervisor_")
    }
    assert families - {PREFIX + "build_info"} == {PREFIX + m.name for m in CATALOG}


def test_shards_may_come_and_go_between_scrapes() -> None:
    shards = {0: Counters.local()}
    exporter = Exporter(shards, Counters.local())
    samples(exporter)
    shards[1] = Counters.local()
    assert (PREFIX + "batches_total", (("shard", "1"),)) in samples(exporter)
