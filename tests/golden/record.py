"""Record what the contract is at a release: `python -m tests.golden.record 0.2`.

Writes `tests/golden/VERSION.jsonl`, one message a line as its name, bytes and meaning, and `protos/released/VERSION.binpb`,
the descriptors that `make check` compares with. A recorded version is never recorded again.
"""

import argparse
import base64
import json
import sys

from google.protobuf import json_format

from tests.golden import messages
from tools import protos


def main() -> int:
    """Record one version; the exit status is 1 when it is recorded already."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version")
    version = parser.parse_args().version
    vectors = messages.REPOSITORY / "tests" / "golden" / f"{version}.jsonl"
    image = messages.REPOSITORY / "protos" / "released" / f"{version}.binpb"
    if vectors.exists():
        print(f"{vectors} is recorded: a release does not change.", file=sys.stderr)
        return 1
    lines = (
        json.dumps(
            {
                "type": message.DESCRIPTOR.full_name,
                "wire": base64.b64encode(message.SerializeToString(deterministic=True)).decode(),
                "means": json_format.MessageToDict(message, preserving_proto_field_name=True),
            },
            sort_keys=True,
        )
        for message in messages.messages()
    )
    vectors.write_text("".join(f"{line}\n" for line in lines))
    image.parent.mkdir(exist_ok=True)
    protos.record(image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
