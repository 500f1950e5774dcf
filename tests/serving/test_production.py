"""What docs/production.md gives people to copy."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import yaml
from environments import install, make_environment
from helpers import ROOT, free_port, server
from served import PICTURE, serving
from tiers import needs

PAGE = (ROOT / "docs" / "production.md").read_text()
FILES = dict(re.findall(r'```\w+ title="(?:[^"]*/)?([^"/]+)"\n(.*?)```', PAGE, re.DOTALL))


@pytest.mark.slow
def test_nginx_stands_in_front(trained, tmp_path):
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not nginx:
        pytest.skip(needs("nginx", "apt-get install nginx-light"))
    port = free_port()
    with serving(tmp_path, "colors") as running:
        site = FILES["champion.conf"].replace("127.0.0.1:5001", running.url.removeprefix("http://"))
        site = site.replace("listen 8080", f"listen 127.0.0.1:{port}")
        places = "\n".join(
            f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi")
        )
        whole = f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/errors;\nevents {{}}\nhttp {{ access_log off;\n"
        (tmp_path / "nginx.conf").write_text(f"{whole}{places}\n{site}}}\n")
        url = f"http://127.0.0.1:{port}"
        with server([nginx, "-c", str(tmp_path / "nginx.conf")], f"{url}/ping", tmp_path):

            def ask(_):
                headers = {"Content-Type": "image/png"}
                answer = requests.post(f"{url}/invocations", data=PICTURE, headers=headers, timeout=60)
                return answer.status_code, answer.headers["X-Model-Version"]

            with ThreadPoolExecutor(16) as pool:
                assert set(pool.map(ask, range(200))) == {(200, "1")}
            assert requests.post(f"{url}/invocations", data=bytes(129 * 2**20), timeout=60).status_code == 413
            assert "mlflow_resnet_requests_total" in requests.get(f"{url}/metrics", timeout=60).text


def test_the_unit_is_one_that_systemd_takes(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip(needs("systemd-analyze", "apt-get install systemd"))
    unit = tmp_path / "champion.service"
    unit.write_text(re.sub(r"(?<=ExecStart=)\S+", shutil.which("true"), FILES["champion.service"]))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_manifest_is_one_that_kubernetes_takes(tmp_path):
    python = make_environment(tmp_path / "venv", [])
    install(python, "kubernetes-validate")  # the published schemas
    manifest = tmp_path / "champion.yaml"
    manifest.write_text(FILES["champion.yaml"])
    for release in ("1.27", "1.37"):
        command = [python.with_name("kubernetes-validate"), "--strict", "--kubernetes-version", release, manifest]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_manifest_probes_what_is_there(trained, tmp_path):
    deployment, service = yaml.safe_load_all(FILES["champion.yaml"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    port = container["ports"][0]["name"]
    probed = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    paths = {probe["path"] for probe in probed}
    paths.add(deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"])
    assert {probe["port"] for probe in probed} == {port, service["spec"]["ports"][0]["targetPort"]}
    words = container["args"][1:]
    place = words.index("--host")
    with serving(tmp_path, "colors", *words[:place], *words[place + 2 :]) as running:
        assert {requests.get(running.url + path, timeout=60).status_code for path in paths} == {200}
