"""SeaweedFS, started as the official MinIO image is: `server /data --address :9000`, credentials in files."""

import json
import os
import pathlib
import sys
import urllib.error
import urllib.request

PORT = 9000


def answers() -> bool:
    """An S3 server refuses a caller without a signature: that is an answer."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def main() -> None:
    """Become the server, or say whether it answers."""
    if sys.argv[1:] == ["--ready"]:
        sys.exit(0 if answers() else 1)
    access, secret = (
        pathlib.Path(os.environ[f"MINIO_ROOT_{name}_FILE"]).read_text() for name in ("USER", "PASSWORD")
    )
    credentials = [{"accessKey": access, "secretKey": secret}]
    accounts = {"identities": [{"name": "aios", "credentials": credentials, "actions": ["Admin"]}]}
    config = pathlib.Path("/tmp/accounts.json")
    config.write_text(json.dumps(accounts))
    program = "/opt/programs/bin/weed"
    options = ["-dir=/data", "-filer", "-s3", f"-s3.port={PORT}", f"-s3.config={config}", "-volume.max=0"]
    options += ["-master.volumeSizeLimitMB=256", "-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-master.peers=none"]
    os.execv(program, [program, "-logtostderr=true", "server", *options])


main()
