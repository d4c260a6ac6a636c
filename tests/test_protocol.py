# SPDX-License-Identifier: GPL-3.0-or-later
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import protocol

EXAMPLES = [
    protocol.Hello(),
    protocol.Matte("job.yaml", "1-5"),
    protocol.Preview("job.yaml", 7, "out"),
    protocol.MakePlate("a.mov", "plate.png"),
    protocol.Diagnose("job.yaml"),
    protocol.Deliver("out", ["prores"]),
    protocol.DryRun(3, 0.0),
    protocol.Cancel("1"),
    protocol.Shutdown(),
    protocol.Engine(1, "0.1", "3.11", "2.13", [{"id": "cpu"}], ["default"]),
    protocol.Progress(1, 2, 3, 4.0, 5.0),
    protocol.Warning("Bild fehlt: Größe"),
    protocol.Result({"alpha": "a.png"}),
    protocol.Error("no"),
    protocol.Done("finished"),
]


def test_every_message_has_an_example():
    assert {type(m) for m in EXAMPLES} == set(protocol.COMMANDS + protocol.ANSWERS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: m.type)
def test_messages_survive_the_line(message):
    line = protocol.encode(message, "17")
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert protocol.decode(line) == ("17", message)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"type": "fly"}', "fly"),
        ('{"type": ["matte"]}', "matte"),
        ('{"id": 7, "type": "hello"}', "'id'"),
        ('{"id": "1", "type": "matte"}', "job"),
        ('{"id": "1", "type": "matte", "job": 7}', "'job' holds int"),
        ('{"id": "1", "type": "matte", "job": "a", "speed": 1}', "speed"),
        ('{"id": "1", "type": "preview", "job": "a", "output": "b", "frame_number": true}', "bool"),
        ('{"id": "1", "type": "dry_run", "seconds": 1e999}', "seconds"),
        ("[" * 100_000, "no JSON"),
        (" " * (protocol.MAX_LINE + 1), "over"),
    ],
)
def test_what_is_no_message(line, words):
    with pytest.raises(protocol.ProtocolError, match=words):
        protocol.decode(line)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of the protocol's
@given(st.dictionaries(st.sampled_from(["id", "type", "job", "frames", "seconds", "target", "output"]), json_values))
def test_nonsense_is_a_message_or_a_protocol_error(record):
    try:
        protocol.decode(json.dumps(record))
    except protocol.ProtocolError as error:
        assert str(error)
