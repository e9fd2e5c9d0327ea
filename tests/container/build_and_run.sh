#!/usr/bin/env bash
# Builds the image and runs it as a real container, on a machine that has no Docker engine. --help says more.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: tests/container/build_and_run.sh [OPTION...]

Builds the Dockerfile with buildah, runs the image with podman (root file system read-only and no tmpfs, no
capabilities, 256 MiB, 1.5 cores), and checks what the Dockerfile promises. Needs root, buildah, podman, runc,
debootstrap, and a Python with pip and this project's dependencies for the client.

  --base IMAGE     base image (default: a Debian made with debootstrap, once)
  --suite NAME     Debian's release for that base image (default: bookworm)
  --extra NAME     cpu, gpu or openvino: which onnxruntime is built in (default: cpu)
  --build-only     build, print the sizes, run nothing (for an image whose hardware is not here)
  --python FILE    Python for the client (default: python3)
  --work-dir DIR   images and caches (default: $WORK_DIR, else ${XDG_CACHE_HOME:-~/.cache}/convserve)
  --help           this text

pip in the build gets this machine's pip configuration. Exit codes: 0 all holds; 1 something does not; 2 wrong options.
USAGE
}

say() { printf '%s\n' "$*"; }
fail() { printf 'build_and_run.sh: %s\n' "$*" >&2; exit 1; }

base="" suite=bookworm extra=cpu build_only=false python=python3
work=${WORK_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/convserve}
while (($#)); do
    case $1 in
        --help) usage; exit 0 ;;
        --build-only) build_only=true; shift; continue ;;
        --base | --suite | --extra | --python | --work-dir) ;;
        *) printf 'build_and_run.sh: %s is no option; --help lists them\n' "$1" >&2; exit 2 ;;
    esac
    (($# > 1)) || { printf 'build_and_run.sh: %s needs a value\n' "$1" >&2; exit 2; }
    case $1 in
        --base) base=$2 ;;
        --suite) suite=$2 ;;
        --extra) extra=$2 ;;
        --python) python=$2 ;;
        --work-dir) work=$2 ;;
    esac
    shift 2
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
((EUID == 0)) || fail "it must run as root: it makes a base image and runs containers"
tools=(buildah podman runc)
[[ -n $base ]] || tools+=(debootstrap)
for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed; on Debian: apt-get install --no-install-recommends ${tools[*]}"
done

mkdir -p "$work/run"
work=$(cd "$work" && pwd)
exec 9>"$work/lock"
flock --nonblock 9 || fail "another run uses $work; wait for its end, or choose another --work-dir"
scratch=$(mktemp -d)
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
containers=()

buildah() { command buildah "${storage[@]}" "$@"; }
podman() { command podman "${storage[@]}" --runtime runc "$@"; }

cleanup() {
    for container in "${containers[@]}"; do
        podman rm --force --time 0 "$container" >/dev/null 2>&1 || true
    done
    buildah rm --all >/dev/null 2>&1 || true
    buildah rmi --prune >/dev/null 2>&1 || true # the images that the new ones took the names of
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A Debian with Python and nothing else, as a base image.
make_base() {
    local container
    base=localhost/convserve-base:$suite
    if buildah inspect --type image "$base" >/dev/null 2>&1; then
        return
    fi
    say "making the base image $base ..."
    debootstrap --variant=minbase --include=python3,python3-venv "$suite" "$scratch/debian" >"$scratch/debootstrap.log" 2>&1 ||
        { tail -n 5 "$scratch/debootstrap.log" >&2; fail "debootstrap failed"; }
    # What debootstrap leaves of its downloads, and of this machine; and, as python:*-slim has none, the bytecode.
    find "$scratch/debian/var/cache/apt" "$scratch/debian/var/lib/apt/lists" -type f -delete
    find "$scratch/debian/usr/lib/python3"* -name '*.pyc' -delete
    rm -f "$scratch/debian/etc/resolv.conf" "$scratch/debian/etc/hostname"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$scratch/debian" / >/dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --rm --format docker "$container" "$base" >/dev/null
    rm -rf "$scratch/debian"
}

# Writes pip's configuration here to a file for the build; prints the volumes that bring it and what it names in.
pip_volumes() {
    python3 - "$scratch/pip.conf" <<'PYTHON'
import ast, pathlib, subprocess, sys

target = pathlib.Path(sys.argv[1])
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
options, volumes = {}, {f"{target}:/etc/pip.conf:ro"}
for line in listed.stdout.splitlines():
    key, _, quoted = line.partition("=")
    name = key.rpartition(".")[2]
    if name == "config-file":
        continue
    words = str(ast.literal_eval(quoted)).split()
    options[name] = " ".join(words)
    # An index on disk keeps its files beside the folder of its pages.
    paths = [pathlib.Path(word[7:]).parent if word.startswith("file://") else pathlib.Path(word) for word in words]
    volumes |= {f"{path}:{path}:ro" for path in paths if path.is_absolute() and path.exists()}
target.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
print(*sorted(volumes), sep="\n")
PYTHON
}

build() {
    local volumes=() volume
    while read -r volume; do
        volumes+=(--volume "$volume")
    done < <(pip_volumes)
    # One layer: the vfs driver would copy the whole image for each.
    buildah build --isolation chroot --format docker --layers=false "${volumes[@]}" \
        --build-arg "BASE=$base" --build-arg "EXTRA=$extra" --tag "$image" "$root" >"$scratch/build.log" 2>&1 ||
        { tail -n 30 "$scratch/build.log" >&2; fail "the build failed"; }
}

megabytes() { say $(($(podman image inspect --format '{{.Size}}' "$1") / 1000000)); }

tell_sizes() {
    local mounted
    say "size: $(megabytes "$image") MB, of which the base image $(megabytes "$base") MB; by folder:"
    mounted=$(podman image mount "$image")
    (cd "$mounted" && du --block-size=MB --summarize opt/convserve/lib opt/convserve/pycache models)
    podman image unmount "$image" >/dev/null
}

# Starts the image with further options of podman run; sets container, address and started_ms.
start() {
    local before limit
    limit=$(ulimit -Hn)
    [[ $limit != unlimited ]] && ((limit < 65536)) || limit=65536
    container=$(podman create --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges \
        --memory 256m --memory-swap 256m --cpus 1.5 --ulimit "nofile=$limit:$limit" --ulimit nproc=4096:4096 \
        --publish 127.0.0.1::8001 --publish 127.0.0.1::8002 "$@" "$image")
    containers+=("$container")
    before=$(date +%s%3N)
    # Without systemd, podman complains that it cannot repeat the health check by itself; we ask for it below.
    podman start "$container" >"$scratch/start.log" 2>&1 || { cat "$scratch/start.log" >&2; fail "it cannot be started"; }
    until podman healthcheck run "$container" >/dev/null 2>&1; do
        [[ $(podman inspect --format '{{.State.Running}}' "$container") == true ]] ||
            { podman logs "$container" >&2; fail "the server ended by itself"; }
        (($(date +%s%3N) - before < 60000)) || { podman logs "$container" >&2; fail "not healthy after 60 s"; }
    done
    started_ms=$(($(date +%s%3N) - before))
    address=$(podman port "$container" 8001/tcp)
}

inside() { podman exec "$container" "$@"; }
client() { (cd "$root" && "$python" -m service.client --address "$address" "$@"); }

# check SENTENCE COMMAND...: the sentence holds if the command succeeds.
check() {
    local sentence=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        say "ok: $sentence"
    else
        cat "$scratch/output" >&2
        fail "it does not hold that $sentence"
    fi
}

not() { ! "$@"; }
equal() { [[ $1 == "$2" ]] || { say "'$1' is not '$2'"; return 1; }; }
lists() { client list --json | grep --quiet "\"$1\""; }
top_label() {
    client classify "$root/tests/pictures/$2" --model "$1" --json |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["pictures"][0]["classes"][0]["label"])'
}
configured() { podman image inspect --format "{{$1}}" "$image"; }

stop_and_check() {
    check "SIGTERM to process 1 ends it" podman stop --time 40 "$container" # then SIGKILL, and 137
    check "it exits with 0" equal "$(podman inspect --format '{{.State.ExitCode}}' "$container")" 0
    check "it drained before it stopped" grep --quiet '"event": "stopped"' <(podman logs "$container" 2>&1)
}

# The metrics, read from outside.
metrics() {
    local where
    where=$(podman port "$container" 8002/tcp)
    python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(f"http://{sys.argv[1]}/metrics").read().decode())' "$where"
}

tells_metrics() { metrics >"$scratch/metrics" && grep --quiet '^convserve_requests_total{' "$scratch/metrics"; }
# What a path answers over HTTP; standard input is posted, if it has anything.
http() {
    python3 -c 'import sys, urllib.request
print(urllib.request.urlopen("http://" + "".join(sys.argv[1:]), sys.stdin.buffer.read() or None).read().decode())' \
        "$(podman port "$container" 8000/tcp)" "$1"
}
http_label() {
    http "/v1/classify?model=$1" <"$root/tests/pictures/$2" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["results"][0]["classes"][0]["label"])'
}

# SIGTERM so many tenths of a second after the start, when its handler may be all there is yet.
stop_early() {
    container=$(podman create --read-only --read-only-tmpfs=false --cap-drop all --memory 256m "$image")
    containers+=("$container")
    podman start "$container" >/dev/null 2>&1
    sleep "0.$1"
    podman stop --time 10 "$container" >/dev/null
    equal "$(podman inspect --format '{{.State.ExitCode}}' "$container")" 0
}

image=localhost/convserve:$extra
[[ -n $base ]] || make_base
say "building $image from $base ..."
SECONDS=0
build
say "built in $SECONDS s"

check "its user is a number, and not root" equal "$(configured .Config.User)" 10001:10001
check "it stops by SIGTERM" equal "$(configured .Config.StopSignal)" SIGTERM
check "it has a health check" grep --quiet "convserve health" <(configured .Config.Healthcheck.Test)
tell_sizes
if [[ $extra == cpu ]]; then
    check "it has no more than 460 MB" test "$(megabytes "$image")" -le 460
fi
if $build_only; then
    exit 0
fi

say "starting it ..."
start
say "healthy after $started_ms ms; once imported, the server itself took:"
podman logs "$container" 2>&1 | grep '"event": "ready"'
say "memory of the server: $(inside grep VmHWM /proc/1/status)"
check "process 1 is the server" grep --quiet --text 'python.*/bin/convserve' <(inside cat /proc/1/cmdline)
check "it runs as user 10001" equal "$(inside python -c 'import os; print(os.getuid(), os.getgid())')" "10001 10001"
check "its root cannot be written" not inside python -c 'open("/models/new", "w")'
check "torch, pip and training are not in it" inside python -c '
import importlib.util, sys
sys.exit(any(importlib.util.find_spec(name) for name in ("torch", "torchvision", "onnx", "pip", "convserve.training")))'
check "no compiler is in it" inside python -c '
import shutil, sys
sys.exit(any(map(shutil.which, ("cc", "gcc", "c++", "g++", "clang", "make", "ld"))))'
check "every module it loads is there as bytecode" inside python -c '
import pathlib, sys, convserve.service.server
cached = [module.__spec__.cached for module in sys.modules.values() if getattr(module, "__spec__", None)]
sys.exit(not all(pathlib.Path(file).exists() for file in cached if file))'
check "its bill of materials names what is installed" inside python -c '
import importlib.metadata, json
told = json.load(open("/usr/share/doc/convserve/sbom.json"))
names = {(part["name"], part["version"]) for part in told["components"]}
for each in importlib.metadata.distributions(path=["/opt/convserve/lib/python%d.%d/site-packages" % __import__("sys").version_info[:2]]):
    name = each.name.lower().replace("_", "-").replace(".", "-")
    assert name == "convserve" or (name, each.version) in names, name
assert ("mnist-tiny", "1") in names'
check "its request path is compiled" grep --quiet '"compiled": true' <(podman logs "$container" 2>&1)
check "the health check passes" podman healthcheck run "$container"
check "the health check fails for a model that is not there" not inside convserve health model/nothing
for file in "$root"/models/*/*/model.onnx; do # large models have a page here and no file
    model=$(basename "$(dirname "$(dirname "$file")")")
    check "the model $model is listed" lists "$model"
    check "the model $model answers" top_label "$model" seven.png
done
check "mnist-tiny takes seven.png for a 7" equal "$(top_label mnist-tiny seven.png)" 7
check "metrics are told on port 8002" tells_metrics
# The limit itself holds only where the kernel has a memory controller.
peak_kb=$(inside sed -n "s/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p" /proc/1/status)
say "most memory of the server, after a request of each model: $peak_kb kB"
check "256 MiB are enough" test "$peak_kb" -le 262144
stop_and_check
for tenths in 0 1 3 5 8; do
    check "SIGTERM after 0.$tenths s ends it with 0" stop_early "$tenths"
done

say "starting it with other models on /models ..."
mkdir "$scratch/models"
cp -r "$root/models/mnist-tiny" "$scratch/models/mounted"
chmod -R a+rX "$scratch"
start --volume "$scratch/models:/models:ro" --env CONVSERVE_HTTP_PORT=8000 --publish 127.0.0.1::8000
check "the mounted model is listed" lists mounted
check "the bundled ones are not" not lists mnist-tiny
check "the mounted model takes seven.png for a 7" equal "$(top_label mounted seven.png)" 7
check "it does so over HTTP" equal "$(http_label mounted seven.png)" 7
check "the page is there" grep --quiet '<title>' <(http / </dev/null)
stop_and_check

say "starting it with a tokens file, two workers and 256 MiB ..."
mkdir "$scratch/access"
token=$(cd "$root" && "$python" -m service.tokens new container --rights infer,metrics 2>&1 >"$scratch/access/tokens.toml")
chmod -R a+rX "$scratch"
start --volume "$scratch/access:/access:ro" -e CONVSERVE_TOKENS_FILE=/access/tokens.toml \
    -e CONVSERVE_WORKERS=2 -e CONVSERVE_MODELS=mnist-tiny,cifar10-tiny
say "healthy after $started_ms ms; most memory of its processes: $(inside python -c '
import pathlib
told = [path.read_text() for path in pathlib.Path("/proc").glob("[0-9]*/status")]
print(*(line.split()[1] for text in told if "VmHWM" in text for line in text.splitlines() if line.startswith("VmHWM")))') kB"
check "without a token nothing is answered" not top_label mnist-tiny seven.png
check "nor are metrics" not metrics
export CONVSERVE_TOKEN=$token
check "with the token mnist-tiny takes seven.png for a 7" equal "$(top_label mnist-tiny seven.png)" 7
check "health needs no token" podman healthcheck run "$container"
unset CONVSERVE_TOKEN
stop_and_check
say "all holds, in $SECONDS s"
