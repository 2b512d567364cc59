"""kubectl, metrics, prices and orders: what is counted, what is named, what is never guessed."""

from __future__ import annotations

import json
import tomllib

import openpyxl
import pytest

from offramp import catalog, intake
from offramp.app.check import check
from offramp.app.init import Sources, init
from offramp.core import units
from offramp.core.errors import InputError
from offramp.intake.kubectl import chip_of_product
from offramp.intake.metrics import _spread, increase
from offramp.intake.prometheus import Series, parse_dump


def node(name, resources, labels=None, **more):
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "status": {"capacity": resources, **more},
    }


def deployment(
    name="chat", *, image="vllm/vllm-openai:v0.11.0", args=("--model", "Qwen/Qwen3-8B"), gpu="1", replicas=2
):
    container = {"image": image, "args": list(args), "resources": {"limits": {"nvidia.com/gpu": gpu}}}
    return {"kind": "Deployment", "metadata": {"name": name, "namespace": "推理"},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [container]}}}}  # fmt: skip


def write(folder, *items, name="k.json"):
    path = folder / name
    path.write_text(json.dumps({"kind": "List", "items": list(items)}, ensure_ascii=False), encoding="utf-8")
    return str(path)


H20 = {"nvidia.com/gpu.product": "NVIDIA-H20", "nvidia.com/gpu.memory": "97871"}


def test_every_product_of_the_data_is_in_the_catalogue():
    from offramp.intake.kubectl import _data

    known = catalog.load().chips
    assert [e["chip"] for e in _data()["product"] if "chip" in e and e["chip"] not in known] == []


@pytest.mark.parametrize(
    ("vendor", "product", "gib", "chip"),
    [
        ("nvidia", "NVIDIA-H20", 95.6, "nvidia/h20"), ("nvidia", "NVIDIA-H20", 140.0, "nvidia/h20-141gb"),
        ("nvidia", "NVIDIA-H200", None, "nvidia/h200"), ("nvidia", "NVIDIA-H100-80GB-HBM3", None, "nvidia/h100"),
        ("nvidia", "NVIDIA-H100-PCIe", None, ""), ("nvidia", "NVIDIA-A100-PCIE-40GB", None, ""),
        ("nvidia", "NVIDIA-A100-SXM4-80GB", None, "nvidia/a100"), ("huawei", "910B3", None, "huawei/ascend-910b3"),
        ("huawei", "module-910b-16", None, "huawei/ascend-910b"), ("huawei", "card-910b-2", None, "huawei/ascend-910b"),
        ("nvidia", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", None, ""), ("nvidia", "NVIDIA-H20-SHARED", None, "nvidia/h20"),
        ("nvidia", "nvidia-tesla-a100", None, ""), ("nvidia", "nvidia-h100-mega-80gb", None, "nvidia/h100"),
        ("nvidia", "p5.48xlarge", None, "nvidia/h100"), ("nvidia", "Standard_NC80adis_H100_v5", None, ""),
        ("nvidia", "Standard_ND96isr_H200_v5", None, "nvidia/h200"), ("nvidia", "p4d.24xlarge", None, ""),
        ("huawei", "module-a3-16", None, "huawei/ascend-910c"), ("huawei", "Ascend910", None, ""),
        ("amd", "AMD_Instinct_MI300X_OAM", None, "amd/mi300x"), ("nvidia", "Tesla-T4", None, ""),
    ],
)  # fmt: skip
def test_products(vendor, product, gib, chip):
    assert chip_of_product(vendor, product, memory_gib=gib)[0] == chip


def test_dies_become_packages(tmp_path):
    labels = {"node.kubernetes.io/npu.chip.name": "Ascend910", "accelerator-type": "module-a3-16"}
    result = init(Sources(kubectl=write(tmp_path, node("a", {"huawei.com/Ascend910": "16"}, labels))))
    part = result.answer["fleet"][0]
    assert (part["chip"], part["devices"], part["count"]) == ("huawei/ascend-910c", 16, 8)


def test_shares_are_not_chips(tmp_path):
    labels = {**H20, "nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.count": "8"}
    groups, _ = intake.nodes_of(write(tmp_path, node("a", {"nvidia.com/gpu": "32"}, labels)))
    assert groups[0].devices == 8


def test_two_kinds_in_one_node_and_a_resource_nobody_knows(tmp_path):
    path = write(
        tmp_path,
        node("mix", {"amd.com/gpu": "8", "nvidia.com/gpu": "4", "acme.io/gpu": "2", "nvidia.com/mig-1g.10gb": "3"}),
    )
    groups, notes = intake.nodes_of(path)
    assert {group.resource: group.devices for group in groups} == {"amd.com/gpu": 8, "nvidia.com/gpu": 4}
    assert any("accelerators of 2 kinds" in note for note in notes)
    assert sum("not understood" in note for note in notes) == 2


def test_slices_partitions_and_shares_of_another_name(tmp_path):
    h100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED", "nvidia.com/gpu.replicas": "4"}
    cpx = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/compute-memory-partition": "cpx_nps4"}
    mig = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "nvidia.com/gpu.count": "56"}
    path = write(
        tmp_path, node("a", {"nvidia.com/gpu.shared": "32"}, h100), node("b", {"amd.com/gpu": "64"}, cpx),
        node("c", {"nvidia.com/gpu": "56"}, mig), node("d", {"amd.com/cpx_nps4": "64", "cambricon.com/mlu590": "8"}),
        node("e", {"huawei.com/Ascend910": "8", "huawei.com/Ascend310P": "2"},
             {"node.kubernetes.io/npu.chip.name": "910B3"}),
    )  # fmt: skip
    groups, notes = intake.nodes_of(path)
    assert {g.chip: g.devices for g in groups} == {
        "": 56, "nvidia/h100": 8, "amd/mi300x": 8, "huawei/ascend-910b3": 8, "huawei/ascend-310p": 2,
    }  # fmt: skip
    assert "MIG slices" in next(g for g in groups if not g.chip).notes[0]
    assert sum("amd.com/cpx_nps4" in note or "cambricon.com/mlu590" in note for note in notes) == 2


def test_an_instance_type_tells_where_no_label_does(tmp_path):
    labels = {"node.kubernetes.io/instance-type": "p5.48xlarge"}
    groups, _ = intake.nodes_of(write(tmp_path, node("a", {"nvidia.com/gpu": "8"}, labels)))
    assert groups[0].chip == "nvidia/h100" and "instance type p5.48xlarge" in groups[0].notes[0]


def test_objects_of_kserve_and_flags_with_underscores(tmp_path):
    served = {
        "args": ["--model_name=llama3", "--model_id=meta-llama/Llama-3.1-8B-Instruct", "--tensor_parallel_size=2"],
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
    }
    old = {
        "kind": "InferenceService",
        "metadata": {"name": "a"},
        "spec": {"predictor": {"minReplicas": 3, "model": served}},
    }
    spec = {
        "model": {"uri": "hf://Qwen/Qwen3-8B"}, "replicas": 2,
        "template": {"containers": [{"image": "vllm/vllm-openai:v0.11.0", "resources": {"limits": {"amd.com/gpu": 1}}}]},
    }  # fmt: skip
    new = {"kind": "LLMInferenceService", "metadata": {"name": "b"}, "spec": spec}
    one, two = intake.deployments_of(write(tmp_path, old, new))
    assert (one.model, one.served_name, one.replicas, one.devices) == (
        "meta-llama/Llama-3.1-8B-Instruct",
        "llama3",
        3,
        2,
    )
    assert one.degrees == {"tp": 2}
    assert (two.model, two.replicas, two.devices, two.engine) == ("Qwen/Qwen3-8B", 2, 1, "vllm")


def test_nothing_is_invented_for_an_unlabelled_node(tmp_path):
    result = init(Sources(kubectl=write(tmp_path, node("a", {"nvidia.com/gpu": "8"}), deployment())))
    assert result.answer["baseline"] == ""
    assert not result.answer["assessable"]
    study = tomllib.loads(result.answer["text"])
    assert "fleet" not in study and "workload" not in study and "candidates" not in study
    assert result.answer["text"].count("UNKNOWN") > 5


def test_the_draft_without_demand_is_valid_and_check_says_what_is_missing(tmp_path):
    out = tmp_path / "study.toml"
    result = init(Sources(kubectl=write(tmp_path, node("a", {"nvidia.com/gpu": "8"}, H20), deployment())), out=out)
    assert result.answer["workloads"][0]["missing"] == ["lengths", "demand"]
    problems = check(out).answer["problems"]
    assert [p["what"] for p in problems if p["level"] == "error"] == ["no [[workload]]"]


def test_a_shell_command_and_a_variable(tmp_path):
    item = deployment(args=["vllm serve $(MODEL) --tensor-parallel-size=4 -dp 2"])
    item["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "MODEL", "value": "Qwen/Qwen3-32B"}]
    found = intake.deployments_of(write(tmp_path, item))[0]
    assert (found.model, found.degrees, found.engine, found.engine_version) == (
        "Qwen/Qwen3-32B",
        {"tp": 4, "dp": 2},
        "vllm",
        "0.11.0",
    )
    assert found.name == "推理/chat"


def test_foreign_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"hello": 1}')
    with pytest.raises(InputError, match="nothing that kubectl prints"):
        intake.nodes_of(path)
    with pytest.raises(InputError, match="holds no node"):
        intake.nodes_of(write(tmp_path, deployment()))


def test_counters_that_reset():
    assert increase(Series(name="c", labels={}, times=(0.0, 1.0, 2.0), values=(100.0, 160.0, 40.0))) == (100.0, 1)


DUMP = """# HELP vllm:request_success_total done
{t}{{model_name="qwen3-8b"}} {a} 1763900000000
{t}{{model_name="qwen3-8b"}} {b} 1763903600000
vllm:prompt_tokens_total{{model_name="qwen3-8b"}} 0 1763900000000
vllm:prompt_tokens_total{{model_name="qwen3-8b"}} 720000 1763903600000
vllm:generation_tokens_total{{model_name="qwen3-8b"}} 0 1763900000000
vllm:generation_tokens_total{{model_name="qwen3-8b"}} 72000 1763903600000
"""


def page(instance, bounds, lengths, *, engine="vllm"):
    """Two scrapes, 100 s apart, of a server whose prompts have these lengths."""
    name = {"vllm": "vllm:request_prompt_tokens", "sglang": "sglang:prompt_tokens_histogram"}[engine]
    done = {"vllm": "vllm:request_success_total", "sglang": "sglang:num_requests_total"}[engine]
    mine = f'model_name="q",instance="{instance}"'
    lines = []
    for stamp, share in ((1_800_000_000_000, 0), (1_800_000_100_000, 1)):
        for bound in (*bounds, float("inf")):
            count = share * sum(length <= bound for length in lengths)
            lines.append(f'{name}_bucket{{{mine},le="{"+Inf" if bound == float("inf") else bound}"}} {count} {stamp}')
        lines += [f"{name}_sum{{{mine}}} {share * sum(lengths)} {stamp}",
                  f"{name}_count{{{mine}}} {share * len(lengths)} {stamp}",
                  f"{done}{{{mine}}} {share * len(lengths)} {stamp}"]  # fmt: skip
    return lines


def test_servers_of_two_engines_with_unlike_buckets_are_added():
    lengths = [150] * 50 + [900] * 50
    text = "\n".join(page("a", (100, 200, 500, 1000), lengths) + page("b", (200, 1000, 4000), lengths, engine="sglang"))
    found, _ = intake.traffic_of(parse_dump(text, "x"))
    assert (found[0].requests, found[0].replicas, found[0].isl_mean) == (200, 2, 525)
    spread = found[0].isl
    assert spread.count == 200 and 500 < spread.quantiles["p90"] <= 1000 and spread.quantiles["p50"] <= 200
    alone = intake.traffic_of(parse_dump("\n".join(page("a", (100, 200, 500, 1000), lengths)), "x"))[0][0]
    assert spread.quantiles["p99"] == pytest.approx(alone.isl.quantiles["p99"], rel=0.2)


def test_a_device_outlives_its_exporter():
    lines = [
        f'npu_chip_info_power{{id="0",vdie_id="{die}",modelName="910B3-Ascend-V1",instance="{at}"}} {watts}'
        for die, at, watts in (("x", "10.0.0.1", 200), ("x", "10.0.0.9", 300), ("y", "10.0.0.1", 350))
    ]
    _, devices = intake.traffic_of(parse_dump("\n".join(lines), "x"))
    assert [(d.product, d.devices, d.power_w) for d in devices] == [("910B3-Ascend-V1", 2, 300.0)]


def test_labels_with_backslashes():
    series = parse_dump('vllm:num_requests_running{model_name="C:\\\\q\\"x\\q"} 1', "x")
    assert series[0].labels["model_name"] == 'C:\\q"xq'


def test_means_without_histograms(tmp_path):
    found, _ = intake.traffic_of(parse_dump(DUMP.format(t="vllm:request_success_total", a=0, b=720), "d"))
    assert (found[0].requests_per_s, found[0].isl_mean, found[0].osl_mean) == (pytest.approx(0.2), 1000.0, 100.0)
    assert found[0].isl is None and found[0].peak_to_mean is None


def test_zero_traffic_leaves_the_workload_out(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text(DUMP.format(t="vllm:request_success_total", a=5, b=5))
    result = init(Sources(prometheus=str(path), kubectl=write(tmp_path, node("a", {"nvidia.com/gpu": "8"}, H20))))
    assert "workload" not in tomllib.loads(result.answer["text"])
    assert any("no request finished" in notice.text for notice in result.warnings)


def test_histogram_quantiles_and_spread():
    lines = [
        f'sglang:prompt_tokens_histogram_bucket{{le="{b}"}} {n}' for b, n in (("100", 0), ("200", 100), ("+Inf", 100))
    ]
    lines += [
        "sglang:prompt_tokens_histogram_sum 15000",
        "sglang:prompt_tokens_histogram_count 100",
        "sglang:num_requests_total 100",
    ]
    found, _ = intake.traffic_of(parse_dump("\n".join(lines), "d"))
    isl = found[0].isl
    assert isl is not None and isl.mean == 150.0
    assert isl.quantiles["p50"] == pytest.approx(150.0)
    assert isl.cv == pytest.approx((100 / 12**0.5) / 150, rel=1e-3)  # evenly spread inside the bucket


def test_a_dump_without_engine_metrics(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("node_load1 0.5\n")
    with pytest.raises(InputError, match="no metric of a serving engine"):
        intake.metrics_of(path)
    path.write_text('{"status": "error", "error": "bad"}')
    with pytest.raises(InputError, match="not an answer of Prometheus"):
        intake.metrics_of(path)


def test_prices_and_orders_become_tables_of_the_study(tmp_path):
    prices = tmp_path / "p.csv"
    prices.write_text('chip,chip_price,currency,quarter\nnvidia/h20,"110,000",CNY,2026-Q4\n')
    orders = tmp_path / "o.csv"
    orders.write_text("chip,count,due,cancel_fee\nhuawei/ascend-910c,64,2027-02-15,10 %\n")
    out = tmp_path / "s.toml"
    kubectl = write(tmp_path, node("a", {"nvidia.com/gpu": "8"}, H20))
    init(Sources(prices=str(prices), orders=str(orders), kubectl=kubectl), out=out)
    study = tomllib.loads(out.read_text())
    assert study["price"] == [{"chip": "nvidia/h20", "chip_price": "110000 CNY", "quarter": "2026Q4"}]
    assert study["order"] == [{"chip": "huawei/ascend-910c", "count": 64, "due": "2027Q1", "cancel_fee": "10 %"}]
    assert study["study"]["currency"] == "CNY"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chip,chip_price\nnvidia/h20,110000\n", "names no currency"),
        ("chip,prize\nnvidia/h20,1\n", "means nothing here"),
        ("chip,chip_price,currency\nnvidia/h20,100 USD,CNY\n", "not in the row's currency"),
        ("chip,chip_price,currency\nnvidia/h20,-5,CNY\n", "is not above zero"),
        ("chip;chip_price;currency\nnvidia/h20;1e400;CNY\n", "is no price"),
        ("", "is empty"),
    ],
)
def test_price_lists_that_cannot_be_read(tmp_path, text, said):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        intake.price_rows(path)


def test_opencost_rent(tmp_path):
    path = tmp_path / "oc.json"
    entry = {
        "name": "n1",
        "gpuHours": 100.0,
        "gpuCost": 250.0,
        "properties": {"labels": {"nvidia_com_gpu_product": "NVIDIA-H20"}},
    }
    path.write_text(json.dumps({"code": 200, "data": [{"n1": entry}]}))
    found = intake.price_rows(path)
    assert found.rows == ({"chip": "nvidia/h20", "rent": "2.5000 USD/h"},)
    assert any("no currency" in note for note in found.notes)


def test_a_changed_file_is_kept(tmp_path):
    source, out = write(tmp_path, node("a", {"nvidia.com/gpu": "8"}, H20)), tmp_path / "s.toml"
    init(Sources(kubectl=source), out=out)
    init(Sources(kubectl=source), out=out)
    assert not (tmp_path / "s.toml.old").exists()
    out.write_text(out.read_text() + "# mine\n")
    init(Sources(kubectl=source), out=out)
    assert (tmp_path / "s.toml.old").read_text().endswith("# mine\n")


def test_nothing_given():
    with pytest.raises(InputError, match="nothing to start from"):
        init()


@pytest.mark.parametrize(
    ("option", "text", "said", "where"),
    [
        ("prices", 'chip,chip_price,currency\n"=HYPERLINK(""x"")",5,CNY\n', "unknown chip", "list.csv:2 chip"),
        ("orders", "chip,count,due\nnvidia/h20,1,2026Q4\nnvidia/h20x,1,2026Q4\n", "unknown chip", "list.csv:3 chip"),
        (
            "orders",
            "chip,count,due\nnvidia/h20,99999999999999999999,2026Q4\n",
            "is no number of chips",
            "list.csv:2 count",
        ),
        ("orders", "chip,count,due\nnvidia/h20,10,2026-13-01\n", "is no quarter", "list.csv:2 due"),
    ],
)
def test_a_bad_line_of_a_list_is_named(tmp_path, option, text, said, where):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        init(Sources(**{option: str(path)}))
    assert caught.value.where.endswith(where)


@pytest.mark.parametrize("address", ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:port"])
def test_an_address_that_is_none(address):
    with pytest.raises(InputError, match="is no address"):
        init(Sources(prometheus=address))


def test_nodes_without_accelerators_are_said(tmp_path):
    path = write(tmp_path, node("n1", {"cpu": "8"}), {"kind": "Node", "metadata": "x", "status": [1]})
    groups, notes = intake.nodes_of(path)
    assert groups == [] and any("none of 2 nodes offers an accelerator" in note for note in notes)


def test_a_histogram_without_a_sum_has_a_mean_from_its_buckets_or_none():
    """An exporter may leave the sum out: zero is no mean."""
    buckets = [Series(name="h_bucket", labels={"le": le}, times=(0.0, 9.0), values=(0.0, value))
               for le, value in (("0.5", 80.0), ("1.0", 100.0), ("+Inf", 100.0))]  # fmt: skip
    found = _spread(100.0, 0.0, buckets)
    assert found is not None and not found.exact
    assert found.mean == pytest.approx(0.8 * 0.25 + 0.2 * 0.75)
    assert _spread(100.0, 0.0, []) is None
    assert _spread(100.0, 250.0, []).mean == 2.5


@pytest.mark.parametrize(
    ("text", "value"),
    [("25,000 EUR", 25000.0), ("1,234,567.5 CNY", 1234567.5), ("0.15 EUR/kWh", 0.15 / 3.6e6), ("1_000 USD", 1000.0)],
)
def test_thousands(text, value):
    assert units.parse(text, "any") == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["0,15 EUR/kWh", "25000,50 EUR", "25.000,50 EUR", "1,5 TB/s", "0,150 EUR", "12,34,567 CNY"]
)
def test_a_decimal_comma_is_refused_not_dropped(text):
    with pytest.raises(InputError, match="comma"):
        units.parse(text, "any")


def test_lists_with_decimal_commas_are_refused(tmp_path):
    prices, orders = tmp_path / "p.csv", tmp_path / "o.csv"
    prices.write_text("chip;chip_price;currency\nnvidia/h100;25000,50;EUR\n")
    orders.write_text('chip,count,due\nnvidia/h20,"1,5",2026/11/30\n')
    for read, path in ((intake.price_rows, prices), (intake.order_rows, orders)):
        with pytest.raises(InputError, match="comma"):
            read(path)
    orders.write_text('chip,count,due\nnvidia/h20,"1,024",2026/11/30\n')
    assert intake.order_rows(orders).rows[0] == {"chip": "nvidia/h20", "count": "1024", "due": "2026Q4"}


def test_a_formula_without_a_stored_value_is_named(tmp_path):
    book = openpyxl.Workbook()
    for row in (("chip", "chip_price", "currency"), ("nvidia/h20", "=1+1", "CNY")):
        book.active.append(row)
    book.save(tmp_path / "p.xlsx")
    with pytest.raises(InputError, match="formula") as caught:
        intake.price_rows(tmp_path / "p.xlsx")
    assert caught.value.where.endswith(":B2")
