"""The demonstration, run as `make demo` and `make serve` run it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "feature_repo" / "demo.py")]


def environment() -> dict[str, str]:
    # Wide, so that no line of a table or a message is broken.
    kept = {k: v for k, v in os.environ.items() if k != "HOTFEAST_REDIS"}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}


def test_demo_and_serve(data_dir: Path) -> None:
    """Features of known households, all four statuses, errors and latencies; then a gateway that
    stays, and both lines it prints to try it with."""
    assert data_dir.is_dir()
    done = subprocess.run(
        [*COMMAND, "run"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (line.strip("│ ").split("│") for line in done.stdout.splitlines())
        if len(cells) > 1
    }
    assert rows["baskets_count_7d"][0] == "9"
    assert rows["department"][:3] == ["GROCERY", "DRUG GM", "PRODUCE"]
    assert rows["product_units_count_7d"][1] == "OUTSIDE_MAX_AGE"
    assert rows["avg_basket_usd_7d"][2] == "NULL_VALUE"
    assert rows["brand"][3] == "NOT_FOUND"
    assert rows["cart_item_avg_price_usd"] == ["4.72"] * 4
    assert rows["pair_basket_share_90d"][0] != "0.00"
    assert rows["personalization_score"][3] == "0.00"
    assert rows["discount_is_eligible"][3] == "False"
    assert "did you mean 'recommendation'?" in done.stdout
    # Windows over events: served, of the daily batch view, and of the training set.
    assert rows["revenue_usd_30d"] == ["1,710.63"] * 3 + ["442.39"] * 3
    assert rows["lines_count_1h"] == ["0", "", "0", "67", "", "67"]
    assert re.search(r"4,676 purchases of 50 households as events: \d", done.stdout)
    assert "500 values beside the training set and 300 beside the daily batch view, 0 differ" in (
        done.stdout
    )
    for count in ("1", "100"):
        gateway_p50, gateway_p99 = map(float, rows[count][1:3])
        assert 0 < gateway_p50 <= gateway_p99

    with subprocess.Popen(
        [*COMMAND, "serve", "--bind", "127.0.0.1:0"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as serving:
        try:
            assert serving.stdout is not None
            output = ""
            end = time.monotonic() + 120
            while "Ctrl-C stops it" not in output and time.monotonic() < end:
                line = serving.stdout.readline()
                assert line, output
                output += line
            assert "up to date in Redis" in output
            grpcurl = re.search(
                r"^grpcurl -plaintext -d '(\{.*\})' (\S+) (\S+)/(\w+)$", output, re.M
            )
            assert grpcurl is not None, output
            snippet = output[output.index("from hotfeast.clients") : output.index("Ctrl-C")]
            tried = subprocess.run(
                [sys.executable, "-c", snippet],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert "'department': ['GROCERY']" in tried.stdout, tried.stderr
            asked = ask_by_reflection(*grpcurl.groups())
            assert '"GROCERY"' in asked
        finally:
            serving.send_signal(signal.SIGTERM)
            serving.wait(60)


def ask_by_reflection(request: str, address: str, service: str, method: str) -> str:
    """What grpcurl does: learn the messages from the server, then call it with JSON."""
    import grpc
    from google.protobuf import json_format
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        described = pool.FindServiceByName(service).methods_by_name[method]
        message = json_format.Parse(request, GetMessageClass(described.input_type)())
        call: Any = channel.unary_unary(f"/{service}/{method}")
        answer = GetMessageClass(described.output_type).FromString(
            call(message.SerializeToString(), timeout=30)
        )
        return json_format.MessageToJson(answer)
