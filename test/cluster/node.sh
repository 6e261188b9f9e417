# shellcheck shell=bash disable=SC2034 # for the scripts that source it
# Where a cluster and its nodes are, what they answer, how their processes start, and how all of it
# goes away. Sourced by ./cluster.

SERVICE_CIDR=10.96.0.0/16
POD_CIDR=10.244.0.0/16
API_IP=10.96.0.1
DNS_IP=10.96.0.10

# place NAME: the cluster that everything below is about.
place() {
  NAME=$1
  RUN=$CACHE/run/$NAME
  SLOT=$(cat "$RUN/slot" 2> /dev/null) || SLOT=
  NETWORK=192.168.$SLOT
  SWITCH=dl-test-$SLOT # the namespace with the cluster's switch, and the machine's link to it
}

# at NODE: the node that everything below is about, and its cluster.
at() {
  NODE=$1
  local index=0
  if [[ $NODE =~ ^(.+)-m([0-9]{2})$ ]]; then
    index=$((10#${BASH_REMATCH[2]} - 1))
    place "${BASH_REMATCH[1]}"
  else
    place "$NODE"
  fi
  DIR=$RUN/nodes/$NODE
  LOG=$CACHE/log/$NODE # of its processes; it outlives the node
  IP=$NETWORK.$((2 + index))
  NODE_POD_CIDR=10.244.$index.0/24
  PORT=port$index # of the switch
  CGROUP=devloop-test-$NODE
}

nodes() { ls "$RUN/nodes"; } # sorted: the control plane first

alive() { remembered "$DIR/node" > /dev/null; }

# Sets "inside" to the words that run a command in the node.
enter() {
  local pid
  pid=$(remembered "$DIR/node") || die "node $NODE is not up"
  inside=(nsenter --target "$pid" --mount --uts --ipc --net --pid
    env -i PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
    TERM="${TERM-dumb}" KUBECONFIG=/etc/kubernetes/admin.conf)
}

in_node() { enter && "${inside[@]}" "$@"; } # COMMAND...

# start PROCESS COMMAND...: starts one of the node's processes, and notes how for a restart.
start() {
  local process=$1
  shift
  enter
  printf '%s\0' "$@" > "$DIR/processes/$process.command"
  setsid "${inside[@]}" "$@" < /dev/null >> "$LOG/$process" 2>&1 9>&- &
  remember $! "$DIR/processes/$process"
}

# answers PROCESS: tells whether it does its work.
answers() {
  case $1 in
    containerd) in_node ctr version ;;
    dockerd) in_node docker version ;;
    buildkitd) in_node buildctl debug workers ;;
    cri-dockerd) in_node test -S /run/cri-dockerd.sock ;;
    kube-apiserver) kubectl get --raw /readyz ;;
    kube-controller-manager) kubectl get serviceaccount default ;;
    kubelet) node_ready ;;
    sshd) listens 22 ;;
    dns) listens 53 ;;
  esac
}

# await SECONDS PROCESS: waits until it does.
await() {
  local deadline=$((SECONDS + $1)) process=$2 log=$LOG/$2
  until answers "$process" > /dev/null 2>&1; do
    if gone "$DIR/processes/$process"; then
      tail -5 "$log" >&2
      die "node $NODE: $process ended before it answered: see $log"
    elif [ $SECONDS -ge $deadline ]; then
      tail -5 "$log" >&2
      die "node $NODE: no answer from $process in $1 s: see $log"
    fi
    sleep 0.1
  done
}

kubectl() { "$RUN/bin/kubectl" --kubeconfig "$RUN/kubeconfig" --request-timeout=10s "$@"; }
node_ready() { kubectl get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }
listens() { timeout 1 bash -c "exec 3<> /dev/tcp/$IP/$1"; }

# ---- down ----------------------------------------------------------------------------------------

# Where a node's cgroup is made: below every controller (version 1), or once (version 2).
cgroup_parents() {
  local dir
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; return; fi
  for dir in /sys/fs/cgroup/*/; do
    [ ! -e "$dir/cgroup.procs" ] || echo "${dir%/}"
  done
}

remove_cgroups() {
  local dir left=0
  for dir in $(cgroup_parents); do
    [ ! -d "$dir/$CGROUP" ] || find "$dir/$CGROUP" -depth -type d -exec rmdir {} + || left=1
  done
  return $left
}

# A kubelet changes these of the whole machine.
sysctls=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops)
save_sysctls() {
  local sysctl
  [ ! -e "$CACHE/run/sysctls" ] || return 0 # another node runs: they are changed already
  for sysctl in "${sysctls[@]}"; do echo "$sysctl $(cat "/proc/sys/$sysctl")"; done > "$CACHE/run/sysctls"
}
restore_sysctls() {
  local sysctl value
  while read -r sysctl value; do echo "$value" > "/proc/sys/$sysctl"; done < "$CACHE/run/sysctls"
  rm "$CACHE/run/sysctls"
}

end_node() {
  local pid process
  # What leads into the node from outside first: one that a pause has stopped would never let go of its dead child, nor of the
  # node's mounts.
  for process in "$DIR"/processes/*; do
    [[ $process != *.command ]] && pid=$(remembered "$process") || continue
    kill -KILL "$pid" 2> /dev/null || true # it may just have ended
  done
  # The kernel ends every process of a pid namespace with its first one, stopped ones too; mounts and links go with them.
  for process in node unshare; do
    if pid=$(remembered "$DIR/$process"); then
      kill -KILL "$pid"
      within 300 gone "$DIR/$process" || die "node $NODE: its first process $pid does not end"
    fi
  done
  within 300 remove_cgroups || die "node $NODE: the cgroups $CGROUP could not be removed"
}

down() {
  need_root
  local node
  [ -e "$RUN" ] || { say "cluster $NAME is not up"; return 0; }
  for node in $(nodes); do
    at "$node"
    end_node
  done
  [ -z "$SLOT" ] || remove_switch
  rm -rf --one-file-system "$RUN"
  compgen -G "$CACHE/run/*/" > /dev/null || [ ! -e "$CACHE/run/sysctls" ] || restore_sysctls
}

remove_switch() {
  ip link delete "$SWITCH" 2> /dev/null || true # either may be missing after an "up" that was cut off
  ip netns delete "$SWITCH" 2> /dev/null || true
}
