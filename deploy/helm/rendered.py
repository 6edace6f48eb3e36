"""What deploy/check asks of rendered manifests. Needs PyYAML.

  rendered.py standard FILE        prints the resources that Kubernetes itself has; names the others on stderr
  rendered.py bridge FILE BINARY   has the bridge check the configuration of its container, and compares the container's
                                   memory limit with what the bridge says that it takes
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

MIB = 1 << 20


def resources(file):
    return [resource for resource in yaml.safe_load_all(Path(file).read_text()) if resource]


def is_standard(resource):
    group = resource["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io") and group != "gateway.networking.k8s.io"


def standard(file):
    for resource in resources(file):
        if is_standard(resource):
            yaml.safe_dump(resource, sys.stdout, explicit_start=True)
        else:
            print(resource["kind"], f"({resource['apiVersion']})", file=sys.stderr)


def container(manifests):
    """The container of the bridge, also as a sidecar."""
    for manifest in manifests:
        pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
        for one in pod.get("containers", []) + pod.get("initContainers", []):
            if one["name"] == "terra-bridge":
                return one
    raise SystemExit("no container has the name terra-bridge")


def environment(bridge, manifests, root):
    """As the kubelet would set it, with any secret."""
    data = {manifest["metadata"]["name"]: manifest.get("data", {}) for manifest in manifests}
    variables = {"PATH": os.environ["PATH"], "STATE_DIRECTORY": f"{root}/var/lib/terra-bridge"}
    for source in bridge.get("envFrom", []):
        variables |= data[source["configMapRef"]["name"]]
    for variable in bridge.get("env", []):
        variables[variable["name"]] = variable.get("value", "a secret of the check")
    return variables


def lay(root, text):
    """Lays the files that a configuration names below `root`, and returns the configuration that names them there."""
    for path in re.findall(r"file:(/[^\"]+)", text):
        secret = root / path[1:]
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("a secret of the check")
    certificate, key = root / "run/tls/tls.crt", root / "run/tls/tls.key"
    if "/run/tls/" in text:
        certificate.parent.mkdir(parents=True)
        issue = "openssl req -x509 -newkey ed25519 -nodes -subj /CN=check -days 1".split()
        subprocess.run([*issue, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    (root / "var/lib/terra-bridge").mkdir(parents=True)
    return re.sub(r"(/run/secrets/|/run/tls/|/var/lib/)", rf"{root}\1", text)


def bridge(file, binary):
    manifests = resources(file)
    ports = [port for manifest in manifests if manifest["kind"] == "Service" for port in manifest["spec"]["ports"]]
    if any(port["targetPort"] not in ("http", "read", "terra") for port in ports):
        raise SystemExit("a Service leads to the admin port")
    one = container(manifests)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        variables = environment(one, manifests, root)
        if "TERRA_BRIDGE_CONFIG" in variables:
            text = next(m["data"]["terra-bridge.toml"] for m in manifests if m["kind"] == "ConfigMap")
            config = root / "terra-bridge.toml"
            config.write_text(lay(root, text))
            variables["TERRA_BRIDGE_CONFIG"] = str(config)
        run = lambda *arguments: subprocess.run([binary, "check", *arguments], env=variables, capture_output=True, text=True)
        checked = run()
        print(checked.stdout, checked.stderr)
        if checked.returncode != 0:
            raise SystemExit("the bridge refuses its configuration, see above")
        takes = -(-int(run("--memory").stdout) // MIB)
    limit = one["resources"]["limits"]["memory"]
    print(f"the bridge takes {takes} MiB, and the limit is {limit}")
    if not limit.endswith("Mi"):
        raise SystemExit("the limit has to be in Mi")
    return takes, int(limit[:-2])


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "standard":
        standard(*arguments)
    else:
        file, binary, *exactly = arguments
        takes, limit = bridge(file, binary)
        if limit < takes or exactly and limit != takes:
            raise SystemExit(f"set memory.bound to {takes}")
