# Sourced after tests/setup.sh by tests/run and tests/bench: starts the brokers that the environment does not name on
# free loopback ports, names them there, and stops them at exit.
# shellcheck shell=bash
# shellcheck disable=SC2154 # `kafka` and `venv` are set_up's

UP_WITHIN=60 # seconds

work=$(mktemp -d)
pids=()

stop() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Waits for a pattern in a log of a process; fails when the process ends or the time is up.
await() {
    local pid=$1 log=$2 pattern=$3 end=$((SECONDS + UP_WITHIN))
    until grep -q "$pattern" "$log" 2>/dev/null; do
        if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then return 1; fi
        read -r -t 0.1 <> <(:) || true
    done
}

start_kafka() {
    local port controller dir log pid
    for _ in 1 2 3; do
        port=$(free_port) controller=$(free_port) dir=$(mktemp -d -p "$work") log="$dir/log"
        cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
PROPERTIES
        java -cp "$kafka/libs/*" kafka.tools.StorageTool format -t dGVycmEtYnJpZGdlLXRlcw -c "$dir/server.properties" >"$log" 2>&1
        java -Xmx768m -XX:TieredStopAtLevel=1 -Dlog4j2.level=info -cp "$kafka/libs/*" kafka.Kafka "$dir/server.properties" >>"$log" 2>&1 &
        pid=$!
        pids+=("$pid")
        if answers "$pid" "$port"; then
            export TERRA_BRIDGE_TEST_KAFKA="127.0.0.1:$port"
            return 0
        fi
        say "Kafka did not come up:" && tail -20 "$log" >&2
    done
    exit 1
}

answers() {
    local pid=$1 port=$2
    "$venv/bin/python" - "$pid" "$port" "$UP_WITHIN" <<'PYTHON'
import os, sys, time
from confluent_kafka.admin import AdminClient
pid, port, within = sys.argv[1:]
client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
end = time.monotonic() + int(within)
while time.monotonic() < end:
    os.kill(int(pid), 0)
    try:
        if client.list_topics(timeout=1).brokers:
            sys.exit(0)
    except Exception:
        pass
sys.exit(1)
PYTHON
}

start_nats() {
    local dir log pid
    dir=$(mktemp -d -p "$work") log="$dir/log"
    cat >"$dir/nats.conf" <<CONF
listen: "127.0.0.1:-1"
max_payload: 16MB
jetstream { store_dir: "$dir/jetstream", max_file: 8GB }
CONF
    "$venv/bin/nats-server" -c "$dir/nats.conf" --ports_file_dir "$dir" >"$log" 2>&1 &
    pid=$!
    pids+=("$pid")
    await "$pid" "$log" "Server is ready" || { say "nats-server did not come up:"; tail -20 "$log" >&2; exit 1; }
    TERRA_BRIDGE_TEST_NATS=$(grep -o 'nats://127.0.0.1:[0-9]*' "$dir"/nats-server_*.ports | head -1)
    export TERRA_BRIDGE_TEST_NATS
}

start_brokers() {
    [ -n "${TERRA_BRIDGE_TEST_KAFKA:-}" ] || start_kafka
    [ -n "${TERRA_BRIDGE_TEST_NATS:-}" ] || start_nats
}
